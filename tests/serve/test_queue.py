"""The parts of the server that need no model: the queue on disk, events, limits, uploads, pace, options."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from codi import cli
from codi.serve import dispatch
from codi.serve.feed import Feed
from codi.serve.limits import Limits
from codi.serve.pace import Pace
from codi.serve.store import NUMBERS, Store
from codi.serve.uploads import Files, check_name
from codi.serve.values import DONE, FAILED, QUEUED, RUNNING, STARTED, LimitError
from codi.types import InputError

ROW = {
    "owner": "me",
    "model": "codi-tiny",
    "request": {"text": "a"},
    "line": {"text": "a"},
    "batch_key": "k",
    "kind": "image",
    "rows": 1,
    "notes": [],
    "inputs": [],
}
FILE = {"name": "a.png", "bytes": 10}


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path)
    yield found
    found.close()


@pytest.fixture
def feed(store):
    return Feed(store, lambda id_, watched: None)


def add(feed, store, id_, **row):
    return feed.publish(id_, QUEUED, {}, lambda event: store.add({"id": id_, **ROW, **row}, event) or True)


def start(feed, store, id_):
    return feed.publish(id_, STARTED, {}, lambda event: store.start(id_, event))


def finish(feed, store, id_):
    return feed.publish(id_, DONE, {}, lambda event: store.finish(id_, [FILE], {"a": 1}, event))


def refused(call, *values, **named):
    with pytest.raises(InputError) as caught:
        call(*values, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Store -----------------------------------------------------------------


def test_a_queue_is_there_after_it_was_closed_without_a_word(tmp_path):
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from tests.serve.test_queue import *\n"
        "store = Store(Path(sys.argv[1])); feed = Feed(store, print)\n"
        "add(feed, store, 'a'); add(feed, store, 'b'); start(feed, store, 'a')\n"
        "feed.publish('a', 'progress', {'step': 1})\n"
        "os.kill(os.getpid(), 9)"
    )
    root = str(Path(__file__).parent.parent.parent)
    ended = subprocess.run([sys.executable, "-c", script, tmp_path, root])
    assert ended.returncode == -9
    store = Store(tmp_path)  # the lock went with the process
    assert [row["id"] for row in store.in_state(RUNNING)] == ["a"]
    assert store.next_job()["id"] == "b"
    feed = Feed(store, print)
    assert feed.publish("a", QUEUED, {}, lambda event: store.requeue("a", event, died=False))
    assert store.next_job()["id"] == "a"  # its old place, before b
    numbers = [event.number for event in store.events("a")]
    assert numbers == sorted(set(numbers)) and numbers[-1] > NUMBERS  # beyond what listeners have seen
    store.close()


def test_two_servers_on_one_folder_are_refused(store, tmp_path):
    assert "another server is at work" in refused(Store, tmp_path)


def test_a_queue_of_another_version_is_refused(tmp_path):
    store = Store(tmp_path)
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    assert "another version" in refused(Store, tmp_path)


def test_a_job_ends_once(feed, store):
    add(feed, store, "a")
    assert start(feed, store, "a") and not start(feed, store, "a")
    assert finish(feed, store, "a") and not finish(feed, store, "a")
    assert not feed.publish("a", "cancelled", {}, lambda event: store.cancel("a", event))
    assert [event.kind for event in store.events("a")] == [QUEUED, STARTED, DONE]
    assert store.get("a")["record"] == {"a": 1} and store.get("a")["bytes"] == 10


def test_deaths_are_counted_only_where_the_process_died(feed, store):
    add(feed, store, "a")
    for died in (False, True):
        start(feed, store, "a")
        feed.publish("a", QUEUED, {}, lambda event, died=died: store.requeue("a", event, died))
    assert store.get("a")["deaths"] == 1
    add(feed, store, "b")
    assert [row["id"] for row in store.alike(store.get("b"), 9)] == ["b"]  # a is made alone


def test_jobs_are_listed_newest_first_and_by_owner(feed, store):
    for id_, owner in (("a", "me"), ("b", "you"), ("c", "me"), ("d", "me")):
        add(feed, store, id_, owner=owner)
    assert [row["id"] for row in store.listed("me", 2, None)] == ["d", "c"]
    assert [row["id"] for row in store.listed("me", 9, store.get("c")["number"])] == ["a"]
    assert store.listed("nobody", 9, None) == []


def test_what_is_alike_is_found_in_the_order_of_the_queue(feed, store):
    for id_, key in (("a", "k"), ("b", "other"), ("c", "k"), ("d", "k")):
        add(feed, store, id_, batch_key=key)
    start(feed, store, "c")
    assert [row["id"] for row in store.alike(store.next_job(), 9)] == ["a", "d"]


def order(feed, store):
    """The ids of all queued jobs in the order in which they are made one by one."""
    found = []
    while (job := store.next_job()) is not None:
        assert store.position(job["id"]) == 1
        found.append(job["id"])
        assert start(feed, store, job["id"])
        finish(feed, store, job["id"])
    return "".join(found)


def test_owners_take_turns(feed, store):
    for id_ in "abcd":
        add(feed, store, id_, owner="me", batch_key="image")
    add(feed, store, "x", owner="you", batch_key="image")
    add(feed, store, "y", owner="you")
    assert [row["id"] for row in store.alike(store.next_job(), 3)] == ["a", "x", "b"]  # in a batch, too
    assert [store.position(id_) for id_ in "axbycd"] == [1, 2, 3, 4, 5, 6]
    start(feed, store, "a")
    assert store.position("a") is None and store.next_job()["id"] == "x"
    add(feed, store, "z", owner="third")
    assert store.position("z") == 2  # both have had no turn yet
    feed.publish("a", QUEUED, {}, lambda event: store.requeue("a", event, died=False))
    assert store.next_job()["id"] == "a"  # it gives its turn back
    assert order(feed, store) == "axzbycd"


def test_the_oldest_finished_jobs_are_removed_first(feed, store):
    for id_ in "abcd":
        add(feed, store, id_)
    for id_ in "bac":
        start(feed, store, id_)
        finish(feed, store, id_)
    assert store.beyond(2, 1000) == ["b"]
    assert store.beyond(9, 20) == ["b"]
    assert store.beyond(9, 1) == ["a", "b"]  # the newest stays, however large
    assert store.beyond(9, 1000) == []


# Events ----------------------------------------------------------------


def test_events_come_as_they_happen_and_end_with_the_last(feed, store):
    add(feed, store, "a")
    found = []
    listening = threading.Event()
    feed._watched = lambda id_, watched: listening.set()

    def follow():
        found.extend(feed.follow("a", 0, 10))

    thread = threading.Thread(target=follow)
    thread.start()
    assert listening.wait(10)
    start(feed, store, "a")
    feed.publish("a", "progress", {"step": 1})
    finish(feed, store, "a")
    thread.join(10)
    assert not thread.is_alive()
    kinds = [event.kind for event in found]
    assert kinds[0] == QUEUED and kinds[-1] == DONE
    assert [e.number for e in found] == sorted({e.number for e in found})
    assert feed._live == {}  # nothing is kept of a job that is over
    assert [e.kind for e in feed.follow("a", found[-1].number, None)] == []


def test_events_for_a_loop_of_asyncio(feed, store):
    add(feed, store, "a")

    async def follow():
        async def work():
            await asyncio.sleep(0.05)
            await asyncio.to_thread(finish, feed, store, "a")

        task = asyncio.create_task(work())
        found = [event.kind async for event in feed.afollow("a", 0, 10)]
        await task
        return found

    assert asyncio.run(follow()) == [QUEUED, DONE]


def test_only_the_newest_progress_is_kept_and_none_of_a_job_that_is_over(feed, store):
    add(feed, store, "a")
    for step in range(50):
        feed.publish("a", "progress", {"step": step})
    feed.publish("a", "preview", {"sample": 0})
    assert [e.data for e in feed.since("a", 0)] == [{}, {"step": 49}, {"sample": 0}]
    assert feed.latest("a", "progress") == {"step": 49}
    finish(feed, store, "a")
    assert [e.kind for e in feed.since("a", 0)] == [QUEUED, DONE]
    assert not feed.publish("a", "progress", {"step": 50})  # too late
    assert not feed.publish("nobody", "progress", {})


def test_whoever_waits_is_let_go_at_the_end_and_after_a_while(feed, store):
    add(feed, store, "a")
    assert [e.kind for e in feed.follow("a", 0, 0.01)] == [QUEUED]
    thread = threading.Thread(target=lambda: list(feed.follow("a", 0, None)))
    thread.start()
    feed.close()
    thread.join(10)
    assert not thread.is_alive()
    feed.wait_empty()


# Limits and uploads ----------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ([], "the request is a list"),
        ({"text": "a" * 2001}, "a text has 2001 letters: this server takes at most 2000"),
        ({"control": [{"value": ["a" * 2001]}]}, "a text has 2001 letters"),
        ({"a" * 2001: 1}, "a text has 2001 letters"),
        ({"text": ["a" * 1999] * 200}, "bytes: this server takes at most 262144"),
        ({"seed": float("nan")}, "the request holds what JSON has not"),
        ({"seed": {1, 2}}, "the request holds what JSON has not"),
        ({"continue": {"files": [], "seconds": 61}}, "what is to be made lasts 61 seconds"),
    ],
)
def test_requests_beyond_the_limits_are_refused(request_, expected):
    assert expected in refused(Limits().check_request, request_, 0)


def test_deep_requests_are_refused():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in refused(Limits().check_request, {"text": deep}, 0)


def test_sizes_beyond_the_limits_are_refused():
    size = {"rows": 1, "steps": 20, "windows": 9, "seconds": 2.0, "pixels": 4096}
    Limits().check_size(size)
    for name in size:
        with pytest.raises(LimitError, match="at most"):
            Limits().check_size({**size, name: 10**9})
    assert "files: this server takes at most 16" in refused(Limits().check_request, {}, 17)
    assert "--max-queue is 0" in refused(Limits, max_queue=0)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b.png", "a\\b.png", "C:a.png", ".hidden", "-o", "a\0b", "a\nb", "x" * 200, "a."],
)
def test_names_that_no_upload_may_have(name):
    assert "an upload is called" in refused(check_name, name)


def test_names_that_uploads_have():
    for name in ("photo.png", "Grüße aus Köln.jpg", "image_0", "写真.webp"):
        check_name(name)


def upload(folder: Path, name: str = "photo.png") -> dict[str, Path]:
    path = folder / "part-0"
    path.write_bytes(b"content")
    return {name: path}


def no_earlier(id_: str, name: str) -> Path:
    raise InputError("there is no such job")


def test_uploads_are_moved_to_their_job_under_their_names(tmp_path):
    files = Files(tmp_path, Limits())
    given = upload(tmp_path)
    request = {"image": "photo.png::0.5", "keep": {"image": "photo.png"}, "to": "image"}
    line = files.take("a" * 16, request, given, no_earlier)
    assert line["image"] == {"value": "photo.png", "weight": 0.5} and line["keep"] == {"image": "photo.png"}
    assert files.uploads("a" * 16) == ["photo.png"] and not given["photo.png"].exists()
    files.remove("a" * 16)
    assert list(files.inputs.iterdir()) == []


@pytest.mark.parametrize(
    "request_",
    [
        {"image": "/etc/passwd"},
        {"image": "../queue.sqlite"},
        {"image": [{"value": "other.png", "weight": 1}]},
        {"negative_audio": "other.wav"},
        {"start": {"image": "/etc/passwd"}},
        {"keep": {"image": [True, "/etc/passwd"]}},
        {"keyframes": {"video": {"0": "/etc/passwd"}}},
        {"regions": [{"text": "a", "mask": "/etc/passwd"}]},
        {"regions": {"image": "/etc/passwd"}},
        {"control": {"sketch": "/etc/passwd"}},
        {"control": {"video": {"sketch": {"value": {"path": "/etc/passwd", "sha256": "0"}}}}},
        {"control": ["video.sketch=/etc/passwd"]},
        {"control": {"layout": {"map": "/etc/passwd", "words": {"1": "a"}}}},
        {"continue": {"files": ["/etc/passwd"], "seconds": 4}},
        {"continue": {"files": "/etc/passwd", "seconds": 4}},
    ],
)
def test_no_request_can_name_another_file(tmp_path, request_):
    files = Files(tmp_path, Limits())
    assert "is no file of this request" in refused(files.take, "b" * 16, request_, {}, no_earlier)


def test_uploads_that_are_too_large_or_not_named_are_refused(tmp_path):
    files = Files(tmp_path, Limits(max_upload_bytes=3))
    said = refused(files.take, "a" * 16, {"image": "photo.png"}, upload(tmp_path), no_earlier)
    assert said == "photo.png has 7 bytes: this server takes at most 3"
    files = Files(tmp_path, Limits())
    assert "named nowhere" in refused(files.take, "b" * 16, {"text": "a"}, upload(tmp_path), no_earlier)


def test_what_a_killed_server_left_is_removed(tmp_path):
    files = Files(tmp_path, Limits())
    known, unknown = "a" * 16, "b" * 16
    for id_ in (known, unknown):
        (files.inputs / id_).mkdir()
        (files.results / f"{id_}.png").write_bytes(b"x")
    (files.results / ".half").mkdir()
    files.tidy({known})
    assert [path.name for path in files.inputs.iterdir()] == [known]
    assert [path.name for path in files.results.iterdir()] == [f"{known}.png"]


# Work that hangs --------------------------------------------------------


class Hanging:
    """In place of the process: it takes batches, says nothing of a job called "bad", and dies when killed."""

    ready = True

    def __init__(self, settings, handle, died):
        self._handle, self._died = handle, died
        self.batches, self.kills = [], 0

    def start(self):
        """There is nothing to start."""

    def stop(self):
        """There is nothing to stop."""

    def send(self, kind, batch=None, *_):
        if kind == "make":
            ids = [job["id"] for job in batch]
            self.batches.append(ids)
            if "bad" not in ids:
                threading.Thread(target=self._make, args=(ids,)).start()
        return True

    def _make(self, ids):
        for id_ in ids:
            self._handle(("done", id_, {"files": [FILE], "record": {}}))
        self._handle(("idle", {"kind": "image", "rows": len(ids), "jobs": len(ids), "seconds": 1.0}))

    def kill(self):
        self.kills += 1
        threading.Thread(target=self._died).start()


def test_a_step_that_hangs_costs_its_own_job_alone(feed, store, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "Link", Hanging)
    files = Files(tmp_path, Limits())
    settings = {"models": {"codi-tiny": None}, "batch": 16}
    dispatcher = dispatch.Dispatcher(store, feed, files, settings, step_timeout=0.1)
    for id_ in ("good", "bad", "late"):
        add(feed, store, id_)
    dispatcher.start()
    for id_ in ("good", "bad", "late"):
        for _ in feed.follow(id_, 0, 20):
            pass
    dispatcher.stop()
    assert [store.get(id_)["state"] for id_ in ("good", "bad", "late")] == [DONE, FAILED, DONE]
    assert "took more than 0.1 s" in store.get("bad")["error"]
    assert dispatcher.link.batches == [["good", "bad", "late"], ["good"], ["bad"], ["late"]]
    assert dispatcher.link.kills == 2


# Pace ------------------------------------------------------------------


def test_more_are_made_at_once_only_where_that_is_faster():
    pace = Pace()
    for _ in range(8):  # of pictures a batch takes as long as a sample
        rows = pace.rows("image", 16)
        pace.took("image", rows, rows, 1.0)
    assert pace.rows("image", 16) == 16
    for _ in range(8):  # of clips a batch takes longer than its samples one by one
        rows = pace.rows("video", 16)
        pace.took("video", rows, rows, rows * (1 + rows))
    assert pace.rows("video", 16) == 1
    assert pace.rows("video", 1) == 1


def test_how_long_to_wait_follows_how_long_jobs_take():
    pace = Pace()
    assert pace.retry_after() >= 1
    for _ in range(50):
        pace.took("video", 1, 1, 30.0)
    assert 29 <= pace.retry_after() <= 31
    for _ in range(50):
        pace.took("image", 16, 16, 1.0)
    assert pace.retry_after() == 1


# Options ---------------------------------------------------------------


def serve(capsys, *options):
    code = cli.main(["serve", *options])
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return code, said.err


def test_others_are_not_let_in_without_a_token(capsys, tmp_path):
    code, said = serve(capsys, "--host", "0.0.0.0", "--data", str(tmp_path / "data"))
    assert code == 2 and "--token" in said and not (tmp_path / "data").exists()


def test_an_address_that_is_taken_is_named(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = serve(capsys, "--port", str(port), "--data", str(tmp_path / "data"))
    assert code == 2 and f"port {port}" in said


def test_options_that_cannot_be_are_refused(capsys):
    assert serve(capsys, "--max-queue", "0")[0] == 2
    assert serve(capsys, "--port", "99999")[0] == 2
    assert "--max-quue" in serve(capsys, "--max-quue", "3")[1]


@pytest.mark.parametrize(("lacking", "advice"), [("gradio", "--no-page"), ("fastapi", "codi[serve]")])
def test_without_the_extra_a_line_says_what_to_install(tmp_path, lacking, advice):
    script = (
        f"import sys; sys.modules['{lacking}'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == '{lacking}' else find(name, *a)\n"
        "from codi.cli import main; sys.exit(main(['serve', '--data', sys.argv[1]]))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "data"], capture_output=True, text=True, env=env
    )
    assert ended.returncode == 2 and "pip install 'codi[serve]'" in ended.stderr and advice in ended.stderr
    assert ended.stderr.count("\n") == 1
