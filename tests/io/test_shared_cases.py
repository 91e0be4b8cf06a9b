"""The files of kinds that users reported as read wrongly, where they are kept beside this checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from codi import io, media
from codi.io.frames import read_frames
from codi.io.media_file import MediaFile
from codi.io.pictures import read_image
from codi.io.sounds import read_sound
from codi.libraries import loads
from codi.types import InputError, Modality
from data.shards import Shards

FOLDER = os.environ.get("CODI_CASES_DIR") or Path(__file__).parents[3] / "shared" / "cases"
MAKE = Path(FOLDER) / "make.py"
pytestmark = pytest.mark.skipif(not MAKE.is_file(), reason=f"there is no {MAKE}")
BACKENDS = ["av", "decord"] if loads("decord") else ["av"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    subprocess.run([sys.executable, str(MAKE), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def right(folder):
    return json.loads((folder / "expected.json").read_text())


def near(found, wanted, tolerance) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted))


def first_pictures(path: Path) -> list:
    """The picture, or the first frame, by prompts and by training."""
    source = MediaFile(path, path.name)
    if io.probe(path) is Modality.IMAGE:
        with Image.open(path) as image:
            opened = [media.load_picture(image), media.load_clip([image, image], 8, 1, 64)[0][1]]
        return [io.load_image(path), read_image(source), *opened]
    trained = [read_frames(source, 0, 1, 8, None, backend)[0] for backend in BACKENDS]
    return [io.load_video(path, sound=False).frames[0], *trained]


def test_frames(folder, right):
    for name, known in right.items():
        if "frames" not in known:
            continue
        path, fps, count = folder / name, known.get("fps", 8), len(known["frames"])
        source = MediaFile(path, name)
        found = [read_frames(source, 0, count, fps, None, backend) for backend in BACKENDS]
        frames = io.load_video(path, count / fps, sound=False, fps=fps).frames
        video = io.load_video(path, sound=False)
        found += [io.from_unit(io.fit_video(frames, fps, count, fps, 32))]
        found += [io.from_unit(io.fit_video(video.frames, video.fps, count, fps, 32))]
        for frames in found:
            levels = frames.float().mean((1, 2, 3)).tolist()
            assert near(levels, known["frames"], known["tolerance"]), (name, levels)


def test_pictures(folder, right):
    for name, known in right.items():
        if not known.keys() & {"size", "pixel", "quarters"}:
            continue
        for picture in first_pictures(folder / name):
            height, width = picture.shape[1:]
            if "size" in known:
                assert [width, height] == known["size"], name
            if "pixel" in known:
                x, y, colour = known["pixel"]
                assert near(picture[:, y, x].tolist(), colour, known["tolerance"]), name
            if "quarters" in known:
                places = [
                    (y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)
                ]
                found = [picture[0, y, x].item() for y, x in places]
                assert near(found, known["quarters"], known["tolerance"]), name


def test_flash_and_sound(folder, right):
    for name, known in right.items():
        if "flash" not in known:
            continue
        video = io.load_video(folder / name)
        flash = int((video.frames.float().mean((1, 2, 3)) > 128).nonzero()[0]) / video.fps
        assert abs(flash - known["flash"]) <= known["tolerance"]
        source = MediaFile(folder / name, name)
        for wave, rate in ((video.audio, video.sampling_rate), read_sound(source, clip=True)):
            heard = int((wave.abs() > 0.2).nonzero()[0]) / rate
            assert abs(heard - known["sound"]) <= known["tolerance"]


def test_what_is_refused(folder, right):
    for name, known in right.items():
        if "refused_or_scaled" in known:
            for read in (io.load_audio, lambda path: read_sound(MediaFile(path, path.name))):
                with pytest.raises(InputError, match="floats up to"):
                    read(folder / name)


def test_archives(folder, right):
    for name, known in right.items():
        if "samples" in known:
            shards = Shards(folder / name)
            assert len(shards) == known["samples"] and shards.ignored == 0
            assert list(shards[0].captions) == known["captions"]
