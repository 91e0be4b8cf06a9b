"""`codi serve` as a program: it says where it is, ends when told to, and loses nothing when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codi import cli
from codi.server_client import Client

ROOT = Path(__file__).parent.parent.parent
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
PATIENCE = 300.0

pytestmark = pytest.mark.slow


@contextmanager
def serving(data):
    """Starts a server, and yields its process and a client."""
    command = [sys.executable, "-m", "codi.cli", "serve", "--no-page", "--port", "0", "--data", str(data)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        yield process, Client(address)
    finally:
        process.kill()
        process.communicate()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nothing_is_lost_or_made_twice_over_three_kills(tmp_path):
    jobs = []
    for k, colour in enumerate(COLOURS * 2):
        jobs.append({"text": f"a {colour} ball", "to": "image,text", "seed": k, "steps": 4})
    data, made, ids = tmp_path / "data", {}, []
    for kill in range(4):
        with serving(data) as (process, client):
            ids = ids or [client.submit(job, {})["id"] for job in jobs]

            def done(client=client, ids=ids):
                return [id_ for id_ in ids if client.job(id_)["state"] == "done"]

            wanted = min(len(ids), len(done()) + 2) if kill < 3 else len(ids)
            wait_for(lambda done=done, wanted=wanted: len(done()) >= wanted)
            for id_ in done():
                for path in (data / "results").glob(f"{id_}*"):
                    stamp = path.stat().st_mtime_ns
                    assert made.setdefault(path.name, stamp) == stamp  # not made again
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert len(made) == 3 * len(ids)  # a picture, a sentence and a record of each
    lines = [json.dumps({"id": id_, **job}) for id_, job in zip(ids, jobs)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    solo = tmp_path / "solo"
    options = ["--jobs", str(tmp_path / "jobs.jsonl"), "--batch", "1", "--device", "cpu", "-o", str(solo)]
    assert cli.main(["generate", "--quiet", *options]) == 0
    for id_ in ids:
        ours, alone = (
            np.asarray(Image.open(folder / f"{id_}.png")).astype(int) for folder in (data / "results", solo)
        )
        assert np.abs(ours - alone).max() <= 1
        assert (data / "results" / f"{id_}.txt").read_text() == (solo / f"{id_}.txt").read_text()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_within_seconds_and_keeps_what_it_was_at(tmp_path, sign):
    with serving(tmp_path / "data") as (process, client):
        id_ = client.submit({"text": "a red ball", "to": "image", "steps": 250, "num_samples": 8}, {})["id"]
        wait_for(lambda: client.job(id_)["state"] == "running")
        began = time.monotonic()
        process.send_signal(sign)
        assert process.wait(PATIENCE) == 0 and time.monotonic() - began < 15
        assert "Traceback" not in process.stderr.read()
    with serving(tmp_path / "data") as (process, client):
        assert client.job(id_)["state"] in ("queued", "running")
        client.cancel(id_)
        wait_for(lambda: client.job(id_)["state"] == "cancelled")
