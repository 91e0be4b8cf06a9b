"""`codi serve` makes jobs of a composed model, several at once, with progress and previews of all outputs."""

import base64
import io
import json

import pytest
from PIL import Image

from codi.compose import folder as folders
from codi.compose.references import Reference
from codi.serve.making import Maker
from tests.compose import tiny_foreign


class Server:
    """Notes what a maker reports, and looks at every job."""

    def __init__(self):
        self.said = []

    def send(self, *message):
        self.said.append(message)

    def is_cancelled(self, id_):
        return False

    def is_watched(self, id_):
        return True

    def of(self, kind, id_):
        return [data for what, job, data in self.said if (what, job) == (kind, id_)]


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    base = tmp_path_factory.mktemp("serve")
    place = base / "my-codi"
    names = {"image": "sd15", "video": "animatediff", "audio": "audioldm"}
    references = [
        Reference.read(m, tiny_foreign.folder(name), tiny_foreign.SIZES[name]) for m, name in names.items()
    ]
    folders.write(place, references)
    (base / "inputs").mkdir()
    settings = {"models": {"my-codi": str(place)}, "device": "cpu", "dtype": "float32", "batch": 4}
    settings |= {"results": base / "results", "filter": None, "certificate": None, "key": None}
    (base / "results").mkdir()
    return Maker(settings, Server())


def sent(maker, id_, **line):
    job = {"id": id_, "line": {"text": "a red ball", "steps": 3, **line}, "model": "my-codi"}
    return job | maker.check(job)


def test_a_model_says_what_it_makes(maker):
    [model] = maker.described()
    assert model["outputs"] == ["image", "audio", "video"] and model["prompts"][0] == "text"
    assert model["defaults"]["image"]["num_inference_steps"] and "height" in model["sizes"]["image"]


def test_jobs_are_made_together_with_previews_of_all_outputs(maker):
    batch = [sent(maker, f"job-{k}", to="image,video,audio", seed=k) for k in range(2)]
    assert batch[0]["batch_key"] == batch[1]["batch_key"] and batch[0]["pixels"] == 32 * 32
    took = maker.make(batch)
    assert took["jobs"] == 2 and took["rows"] == 2
    for job in batch:
        [done] = maker._server.of("done", job["id"])
        assert {file["modality"] for file in done["files"]} == {"image", "video", "audio"}
        assert done["record"]["samples"][0]["batch"]["rows"] == 2
        assert "/" not in done["record"]["model"]["name"]
        last = maker._server.of("progress", job["id"])[-1]
        assert last["progress"] == 1.0 and all(taken == total for taken, total in last["outputs"].values())
        shown = maker._server.of("preview", job["id"])[0]["outputs"]
        assert set(shown) == {"image", "video", "audio"}
        for each in shown.values():
            Image.open(io.BytesIO(base64.b64decode(each["data"]))).load()


def test_what_it_cannot_make_is_refused(maker):
    found = sent(maker, "bad", to="text")
    assert "text" in found["error"] and "\n" not in found["error"]
    json.dumps(found)  # plain values alone
