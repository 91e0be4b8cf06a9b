"""`codi submit` against a server of HTTP: what it sends, what it writes, how it waits, resumes and fails."""

import hashlib
import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from codi import server_client, submitting  # noqa: E402
from codi.cli import main  # noqa: E402
from codi.serve.access import Settings  # noqa: E402
from codi.serve.app import create_app  # noqa: E402
from codi.serve.values import QueueFull  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402


class Running:
    """A server on a free port of this machine, in a thread."""

    def __init__(self, service, port=0, **settings):
        self.service = service
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            create_app(service, Settings(**settings)), log_level="error", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.delenv("CODI_SERVER", raising=False)
    monkeypatch.delenv("CODI_TOKEN", raising=False)
    monkeypatch.setattr(server_client, "PAUSE", 0.05)
    folder = tmp_path / "server"
    folder.mkdir()
    found = Running(FakeService(folder))
    yield found
    found.stop()


@pytest.fixture
def submit(running, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*words, server=None):
        code = main(["submit", "-o", "out", "--server", server or running.url, *words])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.strip()

    run.here, run.out = here, here / "out"
    return run


def lines(here, *rows):
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "jobs.jsonl"


def test_a_request_is_made_and_written_as_generate_does(running, submit):
    (submit.here / "a.png").write_bytes(b"PNG")
    code, paths, err = submit(
        "--text", "a ball::0.5", "--image", "a.png", "--to", "image,audio", "--samples", "2"
    )
    assert (code, err) == (0, "")
    assert paths == ["out/000.png", "out/000.wav", "out/001.png", "out/001.wav"]
    assert (submit.out / "001.png").read_bytes() == b"image 1"
    line, owner, files, model = running.service.taken[0]
    assert line == {
        "text": [{"value": "a ball", "weight": 0.5}],
        "image": [{"value": "a.png", "weight": 1.0}],
        "to": ["image", "audio"],
        "seed": 0,
        "num_samples": 2,
    }
    assert (owner, files, model) == ("local", {"a.png": b"PNG"}, None)
    manifest = json.loads((submit.out / "manifest.json").read_text())
    assert [sample["files"] for sample in manifest["samples"]] == [paths_of(paths[:2]), paths_of(paths[2:])]
    assert manifest["samples"][1]["sha256"]["001.png"] == hashlib.sha256(b"image 1").hexdigest()
    assert "request" not in manifest
    code, paths, _ = submit("--text", "a", "--to", "image")  # numbers go on
    assert paths == ["out/002.png"] and (submit.out / "manifest-000.json").exists()
    assert not list(submit.out.glob(".codi*"))


def paths_of(paths):
    return [path.removeprefix("out/") for path in paths]


def test_jobs_of_a_file_are_written_under_their_ids_and_resumed(running, submit):
    (submit.here / "take.wav").write_bytes(b"WAV")
    rows = [
        {"id": "a", "text": "a ball", "to": "image"},
        {"id": "b", "audio": "take.wav", "to": ["image"], "samples": 2, "seed": "random"},
    ]
    file = lines(submit.here, *rows)
    code, paths, err = submit(file)
    assert (code, paths, err) == (0, ["out/a.png", "out/b-000.png", "out/b-001.png"], "")
    assert running.service.taken[1][2] == {"take.wav": b"WAV"}
    record = json.loads((submit.out / "b.json").read_text())
    assert [sample["files"] for sample in record["samples"]] == [["b-000.png"], ["b-001.png"]]
    assert json.loads((submit.out / "manifest.json").read_text())["jobs"] == ["a.json", "b.json"]
    assert submit(file)[:2] == (0, []) and len(running.service.taken) == 2  # nothing is asked again
    (submit.out / "b-001.png").write_bytes(b"edited")
    assert submit(file)[1] == ["out/b-000.png", "out/b-001.png"]  # fetched again, not made again
    assert len(running.service.taken) == 2 and (submit.out / "b-001.png").read_bytes() == b"image 1"
    (submit.here / "take.wav").write_bytes(b"another")
    code, _, err = submit(file)
    assert code == 2 and "belongs to another request" in err and "--overwrite" in err
    assert submit(file, "--overwrite")[0] == 0 and len(running.service.taken) == 4


def test_a_run_that_was_cut_off_goes_on_with_the_same_jobs(running, submit, monkeypatch):
    file = lines(submit.here, *({"id": f"j{k}", "text": "a", "to": "image"} for k in range(3)))
    written = submitting._Submission._write

    def cut(self, task, found):
        if task.job.id == "j1":
            raise KeyboardInterrupt
        written(self, task, found)

    monkeypatch.setattr(submitting._Submission, "_write", cut)
    assert submit(file)[0] == 130
    monkeypatch.setattr(submitting._Submission, "_write", written)
    code, paths, _ = submit(file)
    assert (code, paths) == (0, ["out/j1.png", "out/j2.png"]) and len(running.service.taken) == 3
    running.service.jobs.clear()  # the server has forgotten them: they are here
    assert submit(file)[:2] == (0, []) and len(running.service.taken) == 3


def test_an_interrupt_cancels_what_nobody_could_ask_for_again(running, submit, monkeypatch):
    running.service.ends = None

    def interrupted(self, *_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(server_client.Client, "events", interrupted)
    assert submit("--text", "a", "--to", "image")[0] == 130
    assert [view.state for view in running.service.jobs.values()] == ["cancelled"]


def test_a_full_server_is_waited_for(running, submit):
    submitted, tries = running.service.submit, []

    def full_at_first(*arguments):
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise QueueFull("3 jobs wait already", 0.7)  # Retry-After is in whole seconds
        return submitted(*arguments)

    running.service.submit = full_at_first
    code, paths, err = submit("--text", "a", "--to", "image")
    assert (code, paths, err) == (0, ["out/000.png"], "")
    assert len(tries) == 2 and tries[1] - tries[0] >= 1.0


def test_bad_jobs_fail_alone(running, submit):
    rows = [
        {"id": "a", "text": "nothing", "to": "image"},
        {"id": "b", "text": "a ball", "to": "image"},
        {"id": "c", "image": "gone.png", "to": "text"},
        {"id": "d", "text": "a", "to": "smell"},
        {"id": "e", "image": "https://a.example/x.png", "to": "text"},
    ]
    code, paths, err = submit(lines(submit.here, *rows))
    assert (code, paths) == (2, ["out/b.png"])
    said = err.splitlines()
    assert len(said) == 5 and said[-1].endswith("4 of 5 jobs failed; the others are in out")
    assert any("line 1: the server answers 422: nothing can be made of it" in line for line in said)
    assert any("line 3: no such file: gone.png" in line for line in said)
    running.service.ends = "failed"
    code, paths, err = submit("--text", "x", "--to", "image")
    assert (code, paths, err) == (2, [], "codi: error: it broke")
    assert not list(submit.out.glob("*.tmp")) and not list(submit.out.glob(".codi*"))


def test_a_server_that_is_not_there(submit, tmp_path):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{free.getsockname()[1]}"
    free.close()
    code, paths, err = submit("--text", "a", "--to", "image", server=url)
    assert (code, paths) == (2, []) and err.count("\n") == 0
    assert f"no answer from {url}" in err and "codi serve" in err


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:port", "http://a:99999"])
def test_addresses_of_no_server(submit, url):
    code, _, err = submit("--text", "a", "--to", "image", server=url)
    assert code == 2 and "expected an address such as http://127.0.0.1:7860" in err


def test_a_server_of_something_else(submit):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    code, _, err = submit(
        "--text", "a", "--to", "image", server=f"http://127.0.0.1:{listener.getsockname()[1]}"
    )
    assert code == 2 and "something else than JSON" in err and err.count("\n") == 0
    listener.close()


def test_tokens(tmp_path, submit, monkeypatch):
    folder = tmp_path / "another"
    folder.mkdir()
    running = Running(FakeService(folder), tokens={"ann-token-0123": "ann"})
    code, _, err = submit("--text", "a", "--to", "image", server=running.url)
    assert code == 2 and "401" in err and err.count("\n") == 0
    assert submit("--text", "a", "--to", "image", "--token", "ann-token-0123", server=running.url)[0] == 0
    monkeypatch.setenv("CODI_TOKEN", "ann-token-0123")
    monkeypatch.setenv("CODI_SERVER", running.url)
    assert main(["submit", "-o", "out", "--text", "a", "--to", "image"]) == 0
    assert {view.owner for view in running.service.jobs.values()} == {"ann"}
    running.stop()


def test_a_server_that_is_restarted_is_waited_for(running, submit):
    """The stream of events breaks; the client goes on when the server is back."""
    running.service.ends = None
    second = []

    def restart():
        while not running.service.jobs:
            time.sleep(0.01)
        time.sleep(0.2)
        running.stop()
        time.sleep(0.2)
        second.append(Running(running.service, port=running.port))
        (id_,) = running.service.jobs
        running.service.end(id_)

    thread = threading.Thread(target=restart)
    thread.start()
    code, paths, _ = submit("--text", "a", "--to", "image")
    thread.join()
    second[0].stop()
    assert (code, paths) == (0, ["out/000.png"]) and len(running.service.taken) == 1


def test_files_that_come_damaged_are_not_kept(running, submit):
    kept = running.service.file

    def damaged(*arguments):
        path = kept(*arguments)
        path.write_bytes(b"damaged")
        return path

    running.service.file = damaged
    code, paths, err = submit("--text", "a", "--to", "image")
    assert code == 2 and "damaged" in err and paths == []
    assert [path.name for path in submit.out.iterdir()] == []


def test_progress_is_shown_on_a_terminal_alone(running, submit, monkeypatch, capsys):
    monkeypatch.setattr(submitting.sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["submit", "-o", "out", "--server", running.url, "--text", "a", "--to", "image"]) == 0
    said = capsys.readouterr()
    assert "the job: image 1/2" in said.err and "1 of 1 done" in said.err and said.out == "out/000.png\n"
    assert (
        main(["submit", "-o", "o", "--server", running.url, "--text", "a", "--to", "image", "--quiet"]) == 0
    )
    assert capsys.readouterr().err == ""


def test_names_of_uploads_are_apart(running, submit):
    for folder in ("x", "y"):
        (submit.here / folder).mkdir()
        (submit.here / folder / "a b.png").write_bytes(folder.encode())
    (submit.here / "ä.png").write_bytes(b"3")
    words = ["--image", "x/a b.png", "--image", "y/a b.png::2", "--image", "ä.png", "--image", "x/a b.png"]
    assert submit(*words, "--to", "text")[0] == 0
    line, _, files, _ = running.service.taken[0]
    assert files == {"a_b.png": b"x", "1-a_b.png": b"y", "png": b"3"} or sorted(files.values()) == [
        b"3",
        b"x",
        b"y",
    ]
    assert len(line["image"]) == 4 and line["image"][0]["value"] == line["image"][3]["value"]
