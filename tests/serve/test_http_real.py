"""A real server, from its start to its end: asked over HTTP, killed in the middle, started again."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from PIL import Image  # noqa: E402

from codi.server_client import Client, Full  # noqa: E402
from codi.types import InputError  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
STAR = {"text": "a red star", "to": "image", "steps": 2}


class Server:
    """`codi serve` in a process of its own, on a free port of this machine."""

    def __init__(self, data: Path):
        self.data, self.answers = data, []
        self.start()

    def start(self):
        command = [sys.executable, "-m", "codi.cli", "serve", "--no-page", "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--data", str(self.data), "--max-queue", "3", "--max-upload-bytes", "100000"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = self.process.stdout.readline().strip().rstrip("/")
        assert self.url.startswith("http://127.0.0.1:"), self.process.stderr.read()
        self.client = Client(self.url)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, method, path, body=None, headers=()):
        """The status, the headers and the body of an answer; every body is kept."""
        connection = HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]), timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
        self.answers.append(content)
        return answer.status, dict(answer.getheaders()), content

    def ended(self, id_):
        """A job after its last event, and the kinds of its events."""
        kinds = [kind for kind, _ in self.client.events(id_, 300)]
        return self.client.job(id_), kinds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("served") / "data")
    yield found
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(60) == 0


@pytest.fixture(scope="module")
def first(server):
    """A job that was made at the beginning."""
    job = server.client.submit({**STAR, "steps": 60}, {})
    return server.ended(job["id"])


def test_a_job_is_made_followed_and_fetched(server, first):
    job, kinds = first
    assert kinds[-1] == "done" and {"queued", "started", "progress", "preview"} <= {*kinds}
    assert job["state"] == "done" and job["record"]["inputs"][0]["text"] == "a red star"
    (file,) = job["files"]
    status, headers, content = server.ask("GET", file["url"])
    assert (status, headers["content-type"]) == (200, "image/png")
    picture = Image.open(io.BytesIO(content))
    assert picture.size == (64, 64) and "codi" in picture.text
    status, headers, part = server.ask("GET", file["url"], headers={"Range": "bytes=1-3"})
    assert (status, part) == (206, b"PNG")
    status, _, record = server.ask("GET", f"/v1/jobs/{job['id']}/files/{job['id']}.json")
    assert status == 200 and json.loads(record) == job["record"]


def test_files_go_up_and_are_checked_before_a_job_is_taken(server, first, tmp_path):
    job, _ = first
    picture = tmp_path / "p.png"
    picture.write_bytes(server.ask("GET", job["files"][0]["url"])[2])
    line = {"image": "p.png::2", "to": "text", "steps": 2}
    made, _ = server.ended(server.client.submit(line, {"p.png": picture})["id"])
    assert made["state"] == "done" and made["record"]["inputs"][0]["path"] == "p.png"
    again = {"image": f"job:{job['id']}/{job['files'][0]['name']}", "to": "text", "steps": 2}
    assert server.ended(server.client.submit(again, {})["id"])[0]["state"] == "done"
    for content in (
        b"",
        b"no picture",
        b"\x89PNG\r\n\x1a\nhalf",
        picture.read_bytes()[:300],
        b"RIFF\0\0\0\0WAVE",
    ):
        picture.write_bytes(content)
        with pytest.raises(InputError, match="the server answers 422") as caught:
            server.client.submit(line, {"p.png": picture})
        assert str(server.data) not in str(caught.value) and "\n" not in str(caught.value)
    picture.write_bytes(b"x" * 200_000)
    with pytest.raises(InputError, match="the server answers 413"):
        server.client.submit(line, {"p.png": picture})
    with pytest.raises(InputError, match="the server answers 422"):
        server.client.submit({"image": "/etc/passwd", "to": "text"}, {})
    assert not list((server.data / "uploads").iterdir())
    known = {row["id"] for row in json.loads(server.ask("GET", "/v1/jobs")[2])["data"]}
    assert {path.name for path in (server.data / "inputs").iterdir()} <= known


BAD_LINES = [
    {},
    {"text": "a", "to": "smell"},
    {"text": 5, "to": "image"},
    {"text": "a", "to": "image", "steps": 10**9},
    {"text": "a", "to": "image", "steps": "many"},
    {"text": "a", "to": "image", "num_samples": 10**6},
    {"text": "a", "to": "image", "seed": -1},
    {"text": "a", "to": "image", "height": 100_000, "width": 100_000},
    {"text": "a", "to": "image", "height": 7},
    {"text": "a", "to": "audio", "seconds": 1e9},
    {"text": "a" * 100_000, "to": "image"},
    {"text": "a", "to": "image", "model": "../../secret"},
    {"text": "a", "to": "image", "guidance": "<script>"},
    {"text": "a", "to": "image", "what": 1},
    {"text": "a", "to": "image", "start": {"image": "../queue.sqlite"}},
    {"text": "a", "to": "image", "start": {"image": "job:0123456789abcdef/x.png"}},
    {"text": "a", "to": "image", "regions": [{"text": "b", "mask": "/etc/passwd"}]},
    {"text": "a", "to": "image", "control": {"layout": "/etc/hostname.json"}},
    {"text": "a", "to": "image", "control": {"layout": {"map": "/etc/passwd", "words": {"1": "x"}}}},
    {"text": "a", "to": "video", "keyframes": {"video": {"0": "/etc/passwd"}}},
]


@pytest.mark.parametrize("line", BAD_LINES, ids=[str(k) for k in range(len(BAD_LINES))])
def test_lines_that_cannot_be_made(server, line):
    status, _, content = server.ask(
        "POST", "/v1/jobs", json.dumps(line), {"Content-Type": "application/json"}
    )
    assert status in (400, 413, 422), content
    text = json.loads(content)["error"]["message"]
    assert "\n" not in text and "Traceback" not in text and str(ROOT) not in text


def test_what_came_through_a_proxy_needs_a_token(server):
    assert server.ask("GET", "/v1/jobs", headers={"X-Forwarded-For": "203.0.113.9"})[0] == 401
    assert server.ask("GET", "/v1/jobs", headers={"X-Forwarded-For": "127.0.0.1, 203.0.113.9"})[0] == 401


def test_clients_of_openai(server):
    headers = {"Content-Type": "application/json"}
    asked = json.dumps({"prompt": "a red star", "num_inference_steps": 2, "response_format": "url"})
    status, _, content = server.ask("POST", "/v1/images/generations", asked, headers)
    assert status == 200
    url = json.loads(content)["data"][0]["url"]
    assert server.ask("GET", url.removeprefix(server.url))[2].startswith(b"\x89PNG")
    asked = json.dumps({"input": "a red star bounces", "num_inference_steps": 2})
    status, headers, content = server.ask("POST", "/v1/audio/speech", asked, headers)
    assert (status, headers["content-type"]) == (200, "audio/mpeg") and len(content) > 1000


def test_a_client_that_hangs_up_cancels_what_it_waited_for(server):
    connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=60)
    asked = json.dumps({"prompt": "a red star", "num_inference_steps": 250, "n": 10})
    connection.request("POST", "/v1/images/generations", asked, {"Content-Type": "application/json"})
    until = time.monotonic() + 60
    while not (jobs := [j for j in listed(server) if j["ended"] is None]):
        assert time.monotonic() < until
        time.sleep(0.05)
    connection.close()
    while jobs[0]["id"] in {job["id"] for job in listed(server)}:
        assert time.monotonic() < until
        time.sleep(0.05)


def listed(server):
    return json.loads(server.ask("GET", "/v1/jobs")[2])["data"]


def test_what_was_taken_outlives_a_kill_and_nothing_is_made_twice(server, first):
    job, _ = first
    ids = [server.client.submit({**STAR, "steps": 80, "seed": k}, {})["id"] for k in range(2)]
    for kind, _ in server.client.events(ids[0], 120):
        if kind == "progress":  # it is in the middle
            break
    taken = []
    with pytest.raises(Full) as caught:
        for k in range(9):
            taken.append(server.client.submit({**STAR, "seed": k, "to": "text"}, {})["id"])
    assert caught.value.seconds > 0
    server.kill()
    stale = server.data / "uploads" / "half"
    stale.mkdir()
    server.start()
    assert not stale.exists()
    for id_ in (*ids, *taken):
        assert server.ended(id_)[0]["state"] == "done"
    assert server.client.job(job["id"]) == job


def test_no_answer_names_a_folder_of_the_server(server):
    server.ask("GET", "/v1/models")
    server.ask("GET", "/v1/health")
    server.ask("GET", "/openapi.json")
    assert len(server.answers) > 20
    for content in server.answers:
        assert str(server.data).encode() not in content and str(ROOT).encode() not in content
