"""Decoding in processes that may die: the same results whatever happens to them, bad samples named, our own
mistakes never hidden.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codi import io
from codi.fork_server import ForkServer
from codi.types import InputError, Modality
from data.decode import Size
from data.workers import BadSample, Decoder, DecodingError
from tests.data.files import clicks, digest, job_of, mutate, numbered, save_clip, tiny

FORMATS = ("png", "jpg", "webp", "wav", "flac", "mp3", "ogg", "mp4", "webm")
MUTATIONS = 500


@pytest.fixture(scope="module")
def decoder():
    with Decoder(workers=2, timeout=120) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


def test_workers_give_what_this_process_gives(decoder, originals, tmp_path):
    jobs = []
    for suffix, content in originals.items():
        (tmp_path / f"a.{suffix}").write_bytes(content)
        jobs.append(job_of(tmp_path / f"a.{suffix}"))
    jobs.append(job_of(save_clip(tmp_path / "short.mp4", numbered(2), 8)))
    jobs[-1] = replace(jobs[-1], sizes={Modality.VIDEO: Size((4, 3, 16, 16), 8)})
    here, there = Decoder(workers=0).decode(jobs), decoder.decode(jobs)
    assert there[-1].content == {Modality.VIDEO: ((0, 2), (0, 3), (0, 16), (0, 16))}
    for job, one, two in zip(jobs, here, there):
        assert one.keys() == two.keys() == job.sizes.keys(), job.id
        assert all(torch.equal(one[m], two[m]) and one[m].dtype == two[m].dtype for m in one), job.id
        assert one.content == two.content, job.id


def test_relative_names_start_where_the_program_is(decoder, originals, tmp_path, monkeypatch):
    found = []
    for shade in (0, 255):
        folder = tmp_path / str(shade)
        folder.mkdir()
        monkeypatch.chdir(folder)
        io.save_image(folder / "a.png", torch.full((3, 16, 16), shade, dtype=torch.uint8))
        job = job_of(Path("a.png"))
        found.append(decoder.decode([job] * 4))
    for shade, media in zip((0, 255), found):
        assert all((each[Modality.IMAGE] == shade).all() for each in media)


@pytest.mark.parametrize("suffix", FORMATS)
def test_mutated_files(decoder, originals, tmp_path, suffix):
    """Every mutation is either decoded, in the right form, or refused with a reason; nothing else happens."""
    rng, good = np.random.default_rng((5, FORMATS.index(suffix))), originals[suffix]
    jobs = []
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(mutate(good, rng))
        jobs.append(job_of(path, number, backend=("decord", "av")[number % 2]))
    results = decoder.decode(jobs)
    refused = [result for result in results if isinstance(result, BadSample)]
    for job, result in zip(jobs, results):
        if isinstance(result, BadSample):
            assert result.id == job.id and result.path == job.path and result.reason.strip()
        else:
            assert all(
                value.shape == job.sizes[m].shape and value.float().isfinite().all()
                for m, value in result.items()
            )
    assert 10 < len(refused) < MUTATIONS, f"{len(refused)} of {MUTATIONS} {suffix} refused"
    # with its digest known, damage never passes
    (tmp_path / f"good.{suffix}").write_bytes(good)
    sha256 = digest(tmp_path / f"good.{suffix}")
    checked = [
        replace(job, refs={m: replace(ref, sha256=sha256) for m, ref in job.refs.items()})
        for job in jobs[:20]
    ]
    same = [job.refs[next(iter(job.refs))].path.read_bytes() == good for job in checked]
    assert [not isinstance(result, BadSample) for result in decoder.decode(checked)] == same


def test_killed_workers_are_replaced_and_nothing_is_lost(originals, tmp_path):
    (tmp_path / "a.flac").write_bytes(originals["flac"])
    jobs = [job_of(tmp_path / "a.flac", number) for number in range(12)]
    with Decoder(workers=2) as decoder:
        before = decoder.decode(jobs)
        for worker in decoder._idle:
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)
        after = decoder.decode(jobs)
        pids = {worker.pid for worker in decoder._idle}
    assert all(torch.equal(one[Modality.AUDIO], two[Modality.AUDIO]) for one, two in zip(before, after))
    assert len(pids) == 2 and decoder.bad == 0


def test_the_nursery_may_die_too(originals, tmp_path):
    (tmp_path / "a.png").write_bytes(originals["png"])
    jobs = [job_of(tmp_path / "a.png", number) for number in range(4)]
    with Decoder(workers=1) as decoder:
        before = decoder.decode(jobs)
        fork_server, pid = ForkServer.shared(), decoder._workers[0].pid
        fork_server._process.kill()
        fork_server._process.wait()
        os.kill(pid, signal.SIGKILL)
        after = decoder.decode(jobs)
    assert all(torch.equal(one[Modality.IMAGE], two[Modality.IMAGE]) for one, two in zip(before, after))
    assert ForkServer.shared() is not fork_server and decoder.bad == 0


def pipe_that_never_speaks(tmp_path):
    """A job whose file never ends: opening it waits for someone to write."""
    os.mkfifo(tmp_path / "stuck.wav")
    return job_of(tmp_path / "stuck.wav")


def test_a_worker_killed_at_work_tries_again_and_then_the_sample_is_bad(tmp_path, originals):
    (tmp_path / "a.wav").write_bytes(originals["wav"])
    good, stuck = job_of(tmp_path / "a.wav", 1), pipe_that_never_speaks(tmp_path)
    with Decoder(workers=2, timeout=100) as decoder:
        decoder.decode([good, good])
        stop = threading.Event()

        def killer() -> None:
            while not stop.wait(0.3):
                for worker in list(decoder._workers):
                    if worker.pid is not None and worker.job is not None and worker.job.id == "stuck.wav":
                        os.kill(worker.pid, signal.SIGKILL)

        thread = threading.Thread(target=killer)
        thread.start()
        first, bad, last = decoder.decode([good, stuck, good])
        stop.set()
        thread.join()
    assert (
        isinstance(bad, BadSample) and "kills the process (SIGKILL)" in bad.reason and decoder.restarts == 2
    )
    assert torch.equal(first[Modality.AUDIO], last[Modality.AUDIO])


def test_a_sample_that_takes_too_long_is_bad(tmp_path, originals):
    (tmp_path / "a.wav").write_bytes(originals["wav"])
    good, stuck = job_of(tmp_path / "a.wav"), pipe_that_never_speaks(tmp_path)
    with Decoder(workers=1, timeout=60) as decoder:
        decoder.decode([good])
        decoder.timeout = 0.5
        result = decoder.decode([stuck])[0]
        decoder.timeout = 60
        assert "longer than the time allowed" in result.reason
        assert not isinstance(decoder.decode([good])[0], BadSample)


def test_our_own_mistakes_stop_the_run(tmp_path, originals):
    (tmp_path / "a.png").write_bytes(originals["png"])
    wrong = replace(job_of(tmp_path / "a.png"), sizes={Modality.IMAGE: Size(("sixteen",))})
    with Decoder(workers=1) as decoder:
        with pytest.raises(DecodingError, match="(?s)our own code at sample a.png.*Traceback.*Error"):
            decoder.first_valid([iter([wrong])])
        assert not isinstance(decoder.decode([job_of(tmp_path / "a.png")])[0], BadSample)
    with pytest.raises(IndexError):
        Decoder(workers=0).first_valid([iter([wrong])])


def bad_jobs(tmp_path, count):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return [replace(job_of(tmp_path / "bad.png", number), id=f"bad{number}") for number in range(count)]


def test_a_hundred_bad_in_a_row_stop_the_run(tmp_path):
    jobs = bad_jobs(tmp_path, 150)
    decoder = Decoder(workers=0, bad_list=tmp_path / "out" / "bad.jsonl")
    with pytest.raises(InputError, match="100 bad samples in a row, the last one bad99: .*bad.jsonl"):
        decoder.first_valid([iter(jobs)])
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"bad{k}" for k in range(100)] and decoder.bad == 100
    assert all(line["path"].endswith("bad.png") and "cannot be decoded" in line["reason"] for line in lines)


def test_a_good_one_between_starts_the_count_again(tmp_path, originals):
    (tmp_path / "a.png").write_bytes(originals["png"])
    good, bad = job_of(tmp_path / "a.png"), bad_jobs(tmp_path, 240)
    decoder = Decoder(workers=0)
    for start in (0, 80, 160):
        assert decoder.first_valid([iter([*bad[start : start + 80], good])])[0][0] is good
    assert decoder.bad == 240


def test_bad_samples_are_listed_once_over_resumes(tmp_path, originals):
    (tmp_path / "a.png").write_bytes(originals["png"])
    for _ in range(2):
        decoder = Decoder(workers=0, bad_list=tmp_path / "bad.jsonl")
        for _ in range(2):
            decoder.first_valid([iter([*bad_jobs(tmp_path, 3), job_of(tmp_path / "a.png")])])
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3


def test_the_end_of_a_chain_is_said(tmp_path):
    with pytest.raises(InputError, match="no good sample is left \\(3 are bad"):
        Decoder(workers=0).first_valid([iter(bad_jobs(tmp_path, 3))])


def test_workers_end_with_the_process_that_started_them(tmp_path):
    save_clip(tmp_path / "a.mp4", numbered(4), 8, clicks(0.5, 0.2))
    code = (
        "import os, sys; from pathlib import Path; from data.workers import Decoder; from codi.fork_server "
        "import ForkServer\n"
        "from tests.data.files import job_of\n"
        f"decoder = Decoder(workers=1); decoder.decode([job_of(Path({str(tmp_path / 'a.mp4')!r}))])\n"
        "print(decoder._idle[0].pid, ForkServer.shared()._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(pids) == 2, done.stderr
    for _ in range(300):
        if not any(os.path.exists(f"/proc/{pid}") and _state(pid) not in "ZX" for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {pids}")


def _state(pid: int) -> str:
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
