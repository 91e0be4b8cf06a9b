"""Jobs of a file on the workers of a Ray cluster, which is this machine here."""

import json
import os
import pickle
import re
import shutil

import pytest

from codi import cli, jobs, ray_jobs
from codi.records import read_record
from tests import tiny_pipeline

ROWS = [
    {"id": "a", "text": "a red ball", "to": "image", "num_samples": 3},
    {"id": "b", "text": "a blue ball", "to": "audio,text", "seed": 5},
    {"id": "c", "text": "a red cube at night", "to": "image", "seed": 7},
]
BAD = {"id": "bad", "image": "nothing.png", "to": "image"}


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray", reason="pip install 'codi[ray]'")
    # Ray lets its workers step back behind everything else, so behind the other tests as well
    os.environ["RAY_worker_niceness"] = "0"
    found.init(num_cpus=2, logging_level="error", log_to_driver=False, include_dashboard=False)
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ray")
    tiny_pipeline.saved(path / "model")
    return path


def written(folder, rows):
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(folder, out, rows=ROWS):
    asked = [
        "generate",
        "--jobs",
        str(written(folder, rows)),
        "-o",
        str(out),
        "--model",
        str(folder / "model"),
    ]
    return [*asked, "--steps", "2", "--batch", "2", "--device", "cpu", "--quiet"]


def media(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"}


def test_results_are_those_of_one_process_and_a_run_goes_on(ray, folder, capsys):
    """Samples of "a" are in two batches, the second of which they share with "c"."""
    alone, shared = folder / "alone", folder / "shared"
    assert cli.main(command(folder, alone)) == 0
    capsys.readouterr()
    assert cli.main([*command(folder, shared), "--ray", "--workers", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert media(shared) == media(alone) and len(printed) == len(media(alone)) == 6
    for name in ("a", "b", "c"):
        one, two = (json.loads((out / f"{name}.json").read_text()) for out in (alone, shared))
        assert one["request"] == two["request"] and one["resolved"] == two["resolved"]
        assert [row["sha256"] for row in one["samples"]] == [row["sha256"] for row in two["samples"]]
    (shared / "a-001.png").unlink()
    assert cli.main([*command(folder, shared), "--ray", "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(shared / "a-001.png")]
    assert media(shared) == media(alone)
    assert read_record(shared / "a-001.png").samples[0]["seed"] == 1


def test_a_bad_line_fails_alone(ray, folder, capsys):
    out = folder / "some"
    assert cli.main([*command(folder, out, [ROWS[2], BAD]), "--ray", "--workers", "1"]) == 2
    assert [path.name for path in out.glob("*.png")] == ["c.png"]
    said = capsys.readouterr().err
    assert "jobs.jsonl line 2: no such file" in said and "1 of 2 jobs failed" in said


def test_what_a_worker_cannot_load_comes_back_in_words(folder):
    broken = folder / "broken"
    shutil.copytree(folder / "model", broken)
    for weights in broken.rglob("*.safetensors"):
        weights.write_bytes(b"no weights")
    asked = command(folder, folder / "none", [ROWS[2]])
    asked[asked.index(str(folder / "model"))] = str(broken)
    args = cli.build_parser().parse_args(asked)
    todo = jobs.from_file(args)
    jobs.fill(args)
    worker = ray_jobs.Worker(vars(args), os.getcwd())
    made = pickle.loads(worker({"batch": pickle.dumps([(todo[0], 0)])})["made"])
    assert "broken" in made["refused"] and "\n" not in made["refused"]
    assert made["samples"] == 1 and not made["paths"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray"], "--ray spreads the lines of a file over machines: expected --jobs"),
        (["--workers", "2"], "--workers says how many machines share the work: expected --ray"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker says .*expected --ray"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, capsys, options, message):
    assert cli.main(["generate", "--text", "a ball", "--to", "image", "-o", str(tmp_path), *options]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers is 0: expected at least 1"),
        (["--workers", "99"], "this Ray cluster can hold 2 at once"),
        (["--gpus-per-worker", "3"], "has 0 GPUs in all"),
        (["--overwrite"], "--overwrite beside --ray"),
    ],
)
def test_what_a_cluster_cannot_do_is_one_line(ray, folder, capsys, options, message):
    assert cli.main([*command(folder, folder / "refused"), "--ray", *options]) == 2
    assert message in capsys.readouterr().err
