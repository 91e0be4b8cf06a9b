"""One reader: every case gives what a player shows, through prompts and through training alike."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from codi import io, media
from codi.io.clip_header import gate
from codi.io.frames import read_frames
from codi.io.media_file import MediaFile
from codi.io.pictures import read_image
from codi.io.sounds import read_sound, seconds_of
from codi.libraries import loads
from codi.modalities import Cut, Padded, kind_of
from codi.types import InputError, Modality, ModalitySpec
from tests.io import cases
from tests.io.cases import CLIPS, LOUD, PICTURES, SOUNDS

BACKENDS = ["av", "decord"] if loads("decord") else ["av"]
VIDEO = ModalitySpec(raw_shape=(cases.COUNT, 3, 32, 32), latent_shape=(), rate=cases.FPS)
AUDIO = ModalitySpec(raw_shape=(2 * cases.RATE,), latent_shape=(), rate=cases.RATE)
IMAGE = ModalitySpec(raw_shape=(3, 8, 8), latent_shape=())


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Makes a case once a session, and returns its file."""
    files = {}

    def make(name, case):
        key = (type(case).__name__, name)
        if key not in files:
            folder = tmp_path_factory.mktemp("cases")
            files[key] = case(folder) if callable(case) else case.make(folder)
        return files[key]

    return make


def value_of(found: torch.Tensor | Padded) -> torch.Tensor:
    """What training reads, whether or not a part of it is padding."""
    return found.value if isinstance(found, Padded) else found


def levels(frames: torch.Tensor) -> list[int]:
    return frames.float().mean((1, 2, 3)).round().int().tolist()


def near(found, wanted, tolerance) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted))


def seen(picture: torch.Tensor, case) -> None:
    """Fail unless the first frame has the quarters, the size and the colour of a case."""
    height, width = picture.shape[1:]
    if case.size:
        assert (width, height) == case.size
    if case.quarters:
        halves = [(slice(0, 24), slice(40, 64))[k] for k in (0, 1)]
        found = [picture[:, rows, columns].float().mean().item() for rows in halves for columns in halves]
        assert near(found, case.quarters, 8), found
    if case.colour:
        assert near(picture[:, 4, 4].tolist(), case.colour, 4), picture[:, 4, 4]


@pytest.mark.parametrize("name", CLIPS)
def test_clips_as_a_player_shows_them(made, name):
    case = CLIPS[name]
    path = made(name, case)
    source = MediaFile(path, name)
    kind = kind_of(Modality.VIDEO)
    read = {backend: kind.read(source, VIDEO, Cut(backend=backend)) for backend in BACKENDS}
    read["bytes"] = kind.read(MediaFile(path.read_bytes(), name), VIDEO, Cut(backend="av"))
    read["prompt"] = io.from_unit(kind.prepare(str(path), VIDEO))
    read["bytes of a prompt"] = io.from_unit(kind.prepare(path.read_bytes(), VIDEO))
    read = {way: value_of(frames) for way, frames in read.items()}
    for way, frames in read.items():
        assert torch.equal(frames, read["av"]), way
    assert gate(source, 1).decord or not case.decord
    if case.grey is not None:
        assert near(levels(read["av"]), case.grey, case.tolerance), (levels(read["av"]), list(case.grey))
        video = io.load_video(path, sound=False)
        again = io.from_unit(io.fit_video(video.frames, video.fps, cases.COUNT, cases.FPS, 32))
        assert video.fps <= 60 and near(levels(again), case.grey, case.tolerance), (video.fps, levels(again))
    for backend in BACKENDS:
        seen(read_frames(source, 0, 1, 8, None, backend)[0], case)
    seen(io.load_video(path, sound=False).frames[0], case)


@pytest.mark.parametrize("name", [name for name, case in CLIPS.items() if case.grey])
def test_a_cut_of_a_clip_is_that_part_of_it(made, name):
    source = MediaFile(made(name, CLIPS[name]), name)
    for backend in BACKENDS:
        for start in (0.375, 1.0625):
            whole = read_frames(source, 0, 32, 16, None, backend)
            try:
                cut = read_frames(source, start, 8, 16, None, backend)
            except InputError as error:
                assert "no frame from" in str(error)  # the clip has ended by then
                continue
            first = round(start * 16)
            assert torch.equal(cut, whole[first : first + 8]), (backend, start)


@pytest.mark.parametrize("name", [name for name, case in CLIPS.items() if case.sound is not None])
def test_sound_and_picture_of_a_clip_share_one_zero(made, name):
    case = CLIPS[name]
    path = made(name, case)
    source = MediaFile(path, name)
    sounds = [io.load_audio(path), read_sound(source, clip=True), read_sound(source)]
    video = io.load_video(path)
    sounds.append((video.audio, video.sampling_rate))
    for wave, rate in sounds:
        assert begins(wave, rate) == pytest.approx(case.sound, abs=0.003)
    later, rate = read_sound(source, 0.75, 1.0, clip=True)
    assert begins(later, rate) == pytest.approx(case.sound - 0.75, abs=0.003)
    kind = kind_of(Modality.AUDIO)
    trained = value_of(kind.read(source, AUDIO, Cut(), Modality.VIDEO))
    assert torch.allclose(kind.prepare(str(path), AUDIO), trained, atol=1e-6)


def begins(wave: torch.Tensor, rate: int) -> float:
    """The second at which a tone begins, which is louder than the echo before it that codecs make."""
    return int((wave.abs() > 0.25 * wave.abs().max()).nonzero()[0]) / rate


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_as_a_listener_hears_them(made, name):
    case = SOUNDS[name]
    path = made(name, case)
    found = [io.load_audio(path), read_sound(MediaFile(path, name))]
    for wave, rate in [*found, read_sound(MediaFile(path.read_bytes(), name))]:
        if case.begins is not None:
            assert begins(wave, rate) == pytest.approx(case.begins, abs=case.early)
        if case.seconds is not None:
            assert len(wave) / rate == pytest.approx(case.seconds, abs=0.001)
        for second, level in case.levels.items():
            peak = wave[round((second - 0.05) * rate) : round((second + 0.05) * rate)].abs().max().item()
            assert peak == pytest.approx(level, abs=0.02), second
    kind = kind_of(Modality.AUDIO)
    trained = value_of(kind.read(MediaFile(path, name), AUDIO, Cut()))
    assert torch.equal(kind.prepare(str(path), AUDIO), trained)


@pytest.mark.parametrize("name", LOUD)
def test_numbers_that_are_no_sound_are_refused(made, name):
    make, message = LOUD[name]
    path = made(name, make)
    for read in (io.load_audio, lambda path: read_sound(MediaFile(path, name))):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_cover_is_no_clip(made):
    path = made("cover.mp3", SOUNDS["cover.mp3"])
    assert io.probe(path) is Modality.AUDIO
    with pytest.raises(InputError, match="pass it as --audio"):
        io.load_video(path)
    with pytest.raises(InputError, match="holds no picture"):
        read_frames(MediaFile(path, "cover.mp3"), 0, 4, 8)


@pytest.mark.parametrize("name", ["a.webp", "clear.webp", "a.avif", "a.gif", "c.png"])
def test_animated_pictures_are_clips_without_sound(made, name):
    path = made(name, CLIPS[name])
    video = io.load_video(path)
    assert video.audio is None and video.frames.shape[0] > 1
    assert read_sound(MediaFile(path, name), clip=True) is None


def test_the_size_of_a_clip_does_not_change(tmp_path):
    parts = [
        cases.film(tmp_path / f"{side}.ts", [cases.grey(99, side, side)] * 8).read_bytes()
        for side in (64, 96)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="changes its size from 64 x 64 to 96 x 96"):
        io.load_video(tmp_path / "both.ts")


def test_a_bit_rate_says_nothing_of_the_length(tmp_path):
    path = cases.recorded(tmp_path / "a.aac", "aac", container="adts")
    assert seconds_of(MediaFile(path, "a.aac"), clip=False) == 0  # FFmpeg says 7.6 s
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that only the beginning is used
        wave, rate = io.load_audio(path, 2.1)
    assert len(wave) / rate == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_as_a_viewer_shows_them(made, name):
    case = PICTURES[name]
    path = made(name, case)
    found = {"prompt": io.load_image(path), "bytes": media.load_picture(path.read_bytes())}
    found["training"] = read_image(MediaFile(path, name))
    if not name.endswith(".heic"):  # which Pillow does not open
        with Image.open(path) as image:
            found["opened"] = media.load_picture(image)
            found["frame"] = media.load_clip([image, image], 8, 1, 64)[0][1]
    for way, picture in found.items():
        assert torch.equal(picture, found["prompt"]), way
        if case.size:
            assert picture.shape[:0:-1] == case.size, way
        for (x, y), colour in case.pixels.items():
            assert near(picture[:, y, x].tolist(), colour, case.tolerance), (way, picture[:, y, x], colour)
    kind = kind_of(Modality.IMAGE)
    trained = kind.read(MediaFile(path, name), IMAGE, Cut())
    assert torch.equal(io.from_unit(kind.prepare(str(path), IMAGE)), trained)


@pytest.mark.parametrize("value", [[2.0, 3.0], [-1.0, 1.0], [0.0, 1e6], [0.5, np.nan]])
def test_floats_whose_range_says_nothing_are_refused(tmp_path, value):
    Image.fromarray(np.array([value] * 2, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="a.tiff has floats"):
        io.load_image(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="the picture has floats"), Image.open(tmp_path / "a.tiff") as image:
        media.load_picture(image)
