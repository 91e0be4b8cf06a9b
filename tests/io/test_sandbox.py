"""Prompts are read in a worker that may die: what comes back, what is refused, what asks for too much."""

import os
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from codi import io
from codi.io import sandbox
from codi.types import InputError
from codi.world import render_sounds, render_videos, sample_scene

MOST = 1536 << 20  # bytes that a worker may take at its peak


@pytest.fixture
def files(tmp_path):
    scene = [sample_scene(np.random.default_rng(3))]
    clip, sound = render_videos(scene)[0], render_sounds(scene)[0]
    io.save_image(tmp_path / "a.png", clip[0])
    io.save_audio(tmp_path / "a.wav", sound, 16000)
    io.save_video(tmp_path / "a.mp4", clip, 8, sound, 16000)
    return tmp_path


def workers() -> list[int]:
    return [worker.pid for worker in sandbox._IDLE if worker.pid]


def peak(pid: int) -> int:
    """The most bytes that a process has had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_what_is_read_there_is_what_is_read_here(files):
    calls = [
        lambda: io.load_image(files / "a.png"),
        lambda: io.load_audio(files / "a.wav", 1.0),
        lambda: vars(io.load_video(files / "a.mp4")),
    ]
    for call in calls:
        there = call()
        with sandbox.here():
            here = call()
        flat = [value.values() if isinstance(value, dict) else value for value in (there, here)]
        pairs = [(there, here)] if isinstance(there, torch.Tensor) else zip(*flat)
        for one, other in pairs:
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert workers() and os.getpid() not in workers()


def test_notes_and_errors_come_back(files, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.warns(UserWarning, match=r"a\.wav lasts 2\.0 s: only its beginning is used"):
        io.load_audio("a.wav", 0.5)
    with pytest.raises(InputError, match=r"a\.wav is a recording: expected a picture"):
        io.load_image("a.wav")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"^cut\.png "):
        io.load_image("cut.png")
    with pytest.raises(InputError, match="no such file: none.png.*relative names start at"):
        io.load_image("none.png")


def test_a_worker_that_is_killed_harms_one_file_alone(files):
    io.load_image(files / "a.png")
    pid = workers()[-1]
    os.kill(pid, 9)
    assert io.load_image(files / "a.png").shape == (3, 64, 64)
    assert pid not in workers()


def test_what_a_record_says_of_a_file_is_found_out_there(files, monkeypatch):
    def refuse(path):
        raise AssertionError("a file was opened in the program itself")

    monkeypatch.setattr("codi.io.read.probe", refuse)
    io.load_image(files / "a.png")  # so that there is a worker
    assert [io.describe(files / name)["kind"] for name in ("a.png", "a.wav", "a.mp4")] == [
        "image",
        "audio",
        "video",
    ]


def test_threads_have_workers_of_their_own(files):
    found, clip = [], io.load_video(files / "a.mp4")
    threads = [
        threading.Thread(target=lambda: found.append(io.load_video(files / "a.mp4"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(one.frames, clip.frames) for one in found)


def test_a_mistake_in_our_own_code_is_no_mistake_of_the_file(files):
    with pytest.raises(sandbox.ReadingError, match="a mistake in our own code at .*a.wav:"):
        sandbox._ask("codi.io.read.load_smell", (files / "a.wav",), {}, 1 << 30)


def test_what_a_worker_states_is_not_taken_on_trust(files):
    worker = sandbox.Worker("codi.io.sandbox:serve", 1 << 30)
    for dtype, shape in (("object", [1]), ("uint8", [-1]), ("uint8", [1 << 20, 1 << 20]), ("uint8", ["3"])):
        with pytest.raises(ValueError):
            sandbox._received(worker.connection, dtype, shape)
    worker.stop()


def film(path: Path, pictures: list[np.ndarray], times: list[float], codec: str, **settings) -> Path:
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000, options=settings.pop("options", {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = settings.pop("pix_fmt", "yuv420p")
        stream.codec_context.time_base = base
        for picture, at in zip(pictures, times):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(at / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def two_frames_far_apart(folder, gap, height=480, width=640):
    pictures = [np.full((height, width, 3), grey, np.uint8) for grey in (10, 200)]
    return film(folder / "gap.mkv", pictures, [0, gap], "libx264", options={"preset": "ultrafast"})


def many_scans(folder):
    """A progressive JPEG of 48 megapixels whose last scan comes again and again."""
    path = folder / "scans.jpg"
    Image.new("RGB", (8000, 6000), "red").save(path, progressive=True, quality=30)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    path.write_bytes(content[:last] + scan * 400 + b"\xff\xd9")
    return path


def large_frames(folder):
    one = np.zeros((6000, 6000, 3), np.uint8)
    return film(folder / "large.mov", [one] * 2, [0, 0.05], "png", pix_fmt="rgb24")


def many_channels(folder):
    path = folder / "channels.ogg"
    soundfile.write(path, np.zeros((16000, 255), np.float32), 16000)
    return path


def sparse(folder):
    """A WAV that states 1024 channels and gigabytes of samples, of which nearly all is a hole."""
    path = folder / "sparse.wav"
    soundfile.write(path, np.zeros((2, 1024), np.int16), 16000, subtype="PCM_16")
    with path.open("r+b") as file:
        head = file.read(200)
        size = (1 << 31) - 4096
        file.truncate(size)
        for at, value in ((4, size - 8), (head.index(b"data") + 4, size - 44)):
            file.seek(at)
            file.write(value.to_bytes(4, "little"))
    return path


BOMBS = {
    "9.9 s at 1000 frames/s": (lambda folder: two_frames_far_apart(folder, 9.9), "video"),
    "599,001 frames": (lambda folder: two_frames_far_apart(folder, 599.0, 16, 16), "video"),
    "progressive JPEG": (many_scans, "image"),
    "PNG frames in a MOV": (large_frames, "video"),
    "255 channels of Vorbis": (many_channels, "audio"),
    "sparse WAV": (sparse, "audio"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["beginning", "whole"]
)
def test_a_bomb_is_read_or_refused_in_one_line(name, whole, tmp_path, monkeypatch):
    make, kind = BOMBS[name]
    if not whole:
        monkeypatch.setattr(sandbox, "CPU_SECONDS", 2.0)  # of what takes longer nothing more would be learned
    path = make(tmp_path)
    io.save_image(tmp_path / "plain.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    io.load_image(tmp_path / "plain.png")
    pid = workers()[-1]
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "image":
                io.load_image(path)
            elif kind == "audio":
                io.load_audio(path, None if whole else 2.5)
            else:
                io.load_video(
                    path, *((None, None) if whole else (2.5, 64)), sound=False, fps=None if whole else 8.0
                )
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    assert time.process_time() - began < 1.0  # of this process, which only waits
    if Path(f"/proc/{pid}").exists():
        assert peak(pid) < MOST
    assert io.load_image(tmp_path / "plain.png").shape == (3, 8, 8)
