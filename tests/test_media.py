"""Prompt values of every form that other libraries hand out: the same picture, sound or clip is the same
prompt.
"""

import io as streams
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codi import cli, io, media
from codi.prompts import Prompt, collect
from codi.types import InputError, Modality
from tests.tiny_pipeline import pipeline

GENERATOR = torch.Generator().manual_seed(5)
FRAMES = torch.randint(0, 256, (6, 3, 20, 26), generator=GENERATOR, dtype=torch.uint8)
SHOWN = FRAMES[0]  # (3, H, W)
LAST = SHOWN.permute(1, 2, 0)  # (H, W, 3)
PICTURE = Image.fromarray(LAST.numpy())
GREY = FRAMES[1, 0]
ALPHA = torch.cat([SHOWN, FRAMES[1, :1]])  # (4, H, W)
WAVE = (torch.rand(6000, generator=GENERATOR) - 0.5) * 1.8
STEREO = torch.stack([WAVE, WAVE.flip(0)])


class Named(os.PathLike):
    """A path of somebody else's making."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


class Broken(streams.BytesIO):
    """A connection that has gone."""

    def read(self, size=-1):
        raise RuntimeError("gone")


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    io.save_image(folder / "a.png", SHOWN)
    io.save_audio(folder / "a.wav", WAVE, 16000)
    io.save_video(folder / "a.mp4", FRAMES, 8)
    return {
        Modality.IMAGE: folder / "a.png",
        Modality.AUDIO: folder / "a.wav",
        Modality.VIDEO: folder / "a.mp4",
    }


def error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pictures --------------------------------------------------------------

SAME = {
    "PIL": PICTURE,
    "tensor": SHOWN,
    "array": LAST.numpy(),
    "array, channels first": SHOWN.numpy(),
    "tensor, channels last": LAST,
    "batch of one": SHOWN[None],
    "batch of one, channels last (ComfyUI)": (LAST.float() / 255)[None],
    "floats": SHOWN.float() / 255,
    "doubles": LAST.double().numpy() / 255,
    "big endian": (LAST.numpy() / 255).astype(">f4"),
    "strided": np.repeat(LAST.numpy(), 2, axis=0)[::2],
    "with a gradient": (SHOWN.float() / 255).requires_grad_(),
    "opaque": np.dstack([LAST.numpy(), np.full(LAST.shape[:2], 255, np.uint8)]),
}


@pytest.mark.parametrize("name", SAME)
def test_one_picture_in_every_form(name):
    assert torch.equal(media.load_picture(SAME[name]), SHOWN)


@pytest.mark.parametrize(
    "value", [GREY, GREY[None], GREY[..., None].numpy(), GREY.numpy(), GREY.float() / 255], ids=range(5)
)
def test_grey_is_grey(value):
    assert torch.equal(media.load_picture(value), GREY.expand(3, -1, -1))


@pytest.mark.parametrize(
    "value", [ALPHA, ALPHA.permute(1, 2, 0).numpy(), ALPHA.float() / 255], ids=["tensor", "array", "floats"]
)
def test_opacity_shows_white_as_in_a_file(value):
    expected = io.image_to_tensor(Image.fromarray(ALPHA.permute(1, 2, 0).numpy(), "RGBA"))
    assert (media.load_picture(value).int() - expected.int()).abs().max() <= 1


def test_where_both_ends_may_be_channels_arrays_have_them_last_and_tensors_first():
    both = FRAMES[0, :, :, :3]  # (3, H, 3)
    assert torch.equal(media.load_picture(both), both)
    assert torch.equal(media.load_picture(both.numpy()), both.permute(2, 0, 1))


BAD_PICTURES = {
    "[-1, 1]": (SHOWN.float() / 127.5 - 1, r"from -1 to 1: .*\(x \+ 1\) / 2"),
    "0..255": (LAST.float().numpy(), "from 0 to 255: .*x / 255"),
    "beyond both": (SHOWN.float() - 300, "outside \\[0, 1\\]"),
    "16 bits": (LAST.numpy().astype(np.uint16), "of uint16"),
    "a mask": (LAST.numpy() > 3, "of bool"),
    "a batch": (FRAMES, r"a batch of 6: expected one; give a list .*video="),
    "two channels": (SHOWN[:2], "an image is a Tensor"),
    "no pixel": (SHOWN[:, :0], "an image is a Tensor"),
    "a dict": ({"composite": PICTURE}, "an image is a dict"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_what_is_no_picture_is_told_why(pipe, name):
    value, message = BAD_PICTURES[name]
    with pytest.raises(InputError, match=message):
        pipe(image=value, outputs="text")


# Sounds ----------------------------------------------------------------

INT16 = (WAVE * 32767).round().to(torch.int16)
HEARD = INT16.double() / 32768
MONO = {
    "floats": HEARD.float(),
    "doubles": HEARD.numpy(),
    "int16": INT16.numpy(),
    "int16 tensor": INT16,
    "big endian": INT16.numpy().astype(">i2"),
    "int32": INT16.numpy().astype(np.int32) << 16,
    "one channel first": INT16[None],
    "one channel last": INT16[:, None].numpy(),
    "batch of one": HEARD.float()[None, None],
}


@pytest.mark.parametrize("name", MONO)
def test_one_sound_in_every_form(name):
    assert (media.waveform(MONO[name]) - HEARD).abs().max() < 1e-6


def test_bytes_of_8_bits_are_silent_in_their_middle():
    wave = media.waveform(np.array([0, 128, 255], np.uint8))
    assert torch.allclose(wave, torch.tensor([-1.0, 0.0, 127 / 128]))


@pytest.mark.parametrize(
    "value",
    [STEREO, STEREO.T, STEREO.T.numpy(), STEREO[None]],
    ids=["first", "last", "soundfile", "batch of one"],
)
def test_two_channels_are_averaged_whichever_axis_they_are(value):
    assert torch.allclose(media.waveform(value), STEREO.mean(0), atol=1e-7)


RATED = {
    "pair": (WAVE, 22050),
    "rate first, as scipy and Gradio": (22050, WAVE.numpy()),
    "rate of numpy": (WAVE.numpy(), np.int64(22050)),
    "rate of torch": (WAVE, torch.tensor(22050)),
    "datasets": {"array": WAVE.numpy(), "sampling_rate": 22050, "path": None},
    "transformers": {"raw": WAVE.numpy(), "sampling_rate": 22050},
    "torchaudio and ComfyUI": {"waveform": WAVE[None, None], "sample_rate": 22050},
}


@pytest.mark.parametrize("name", RATED)
def test_a_sound_with_its_rate_in_every_form(name):
    wave, rate = media.load_sound(RATED[name], 16000, 1.0)
    assert rate == 22050 and torch.equal(wave, WAVE)


BAD_SOUNDS = {
    "a batch": (torch.zeros(3, 2, 600), "a batch of 3: expected one; give a list"),
    "int16 in floats": (WAVE * 30000, r"floats up to .*divided by 32768"),
    "int64": (np.zeros(60, np.int64), "of int64"),
    "bool": (np.zeros(60, bool), "of bool"),
    "no rate": ({"array": WAVE}, "a dict of array: expected the keys"),
    "two rates": ((16000, 8000), "a pair"),
    "three": ((16000, WAVE, 1), "a pair"),
    "a rate that is none": ((True, WAVE), "a pair"),
    "a list of numbers": ([0.1, 0.2], "a sound is a float"),
}


@pytest.mark.parametrize("name", BAD_SOUNDS)
def test_what_is_no_sound_is_told_why(pipe, name):
    value, message = BAD_SOUNDS[name]
    with pytest.raises(InputError, match=message):
        pipe(audio=value, outputs="text")


# Clips -----------------------------------------------------------------

PILS = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in FRAMES]
CLIPS = {
    "tensor": FRAMES,
    "array": FRAMES.permute(0, 2, 3, 1).numpy(),
    "array, channels first": FRAMES.numpy(),
    "tensor, channels last (ComfyUI)": FRAMES.permute(0, 2, 3, 1).float() / 255,
    "batch of one": FRAMES[None],
    "list of PIL images": PILS,
    "list of arrays": [np.asarray(frame) for frame in PILS],
    "tuple of PIL images": tuple(PILS),
    "tuple and rate": (tuple(PILS), 8),
    "list of tensors and rate": (list(FRAMES), 8),
    "rate first": (np.float32(8), FRAMES),
    "opaque": [frame.convert("RGBA") for frame in PILS],
}


@pytest.mark.parametrize("name", CLIPS)
def test_one_clip_in_every_form(name):
    [prompt] = collect({Modality.VIDEO: CLIPS[name]})[Modality.VIDEO]
    frames, rate = media.load_clip(prompt.value, 8.0, 1.0, 32)
    assert rate == 8 and torch.equal(frames, FRAMES)


def test_a_list_of_pictures_is_one_clip_and_any_other_list_is_several(files):
    count = lambda **given: len(
        collect({Modality.parse(k): v for k, v in given.items()})[Modality.parse(next(iter(given)))]
    )
    assert count(video=PILS) == 1 and count(video=[PILS, PILS]) == 2 and count(video=[FRAMES, FRAMES]) == 2
    assert count(video=[files[Modality.VIDEO], str(files[Modality.VIDEO])]) == 2 and count(image=PILS) == 6


def test_a_picture_alone_is_no_clip(pipe):
    assert "a single PIL image" in error(pipe, video=PICTURE, outputs="text")
    assert "a batch of 2" in error(pipe, video=torch.stack([FRAMES, FRAMES]), outputs="text")


# Files, open files, bytes ----------------------------------------------


def opened(path):
    return open(path, "rb")  # noqa: SIM115


def wrapped(path):
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(path.read_bytes())
    return file


FORMS = {
    "str": str,
    "PathLike": Named,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": opened,
    "BytesIO": lambda path: streams.BytesIO(path.read_bytes()),
    "temporary file": wrapped,
    "record of datasets": lambda path: {"bytes": path.read_bytes(), "path": None},
    "record with a path": lambda path: {"bytes": None, "path": str(path)},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.AUDIO, Modality.VIDEO], ids=str)
def test_a_file_in_every_form(pipe, files, modality, form):
    spec = pipe.model.specs[modality]

    def tensor(value):
        [batch] = pipe._prepared(
            modality, collect({modality: value})[modality], pipe.model.autoencoders[modality], spec
        )
        return batch

    assert torch.equal(tensor(FORMS[form](files[modality])), tensor(files[modality]))


def test_an_open_file_is_read_from_its_start_and_left_where_it_was(pipe, files):
    stream = streams.BytesIO()
    PICTURE.save(stream, "PNG")
    end = stream.tell()
    made = pipe(image=stream, outputs="text", num_inference_steps=2, seed=0)
    assert (
        stream.tell() == end
        and made.texts == pipe(image=PICTURE, outputs="text", num_inference_steps=2, seed=0).texts
    )


def test_a_stream_that_cannot_be_rewound_is_read_once(pipe, files):
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        PICTURE.save(file, "PNG")
    with open(reader, "rb") as file:
        assert pipe(image=file, outputs="video", num_inference_steps=2, seed=0).videos


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_what_is_no_medium_is_one_line(pipe, files, kind, monkeypatch):
    message = error(pipe, outputs="text", **{kind: b"\x00\x01 no medium at all"})
    assert (
        f"what was given as 19 bytes of {kind} is damaged" in message and tempfile.gettempdir() not in message
    )
    assert f"{kind} holds no bytes" in error(pipe, outputs="text", **{kind: b""})
    assert "opened as text" in error(pipe, outputs="text", **{kind: streams.StringIO("x")})
    closed = streams.BytesIO(b"x")
    closed.close()
    assert "closed" in error(pipe, outputs="text", **{kind: closed})
    assert "cannot be read (gone)" in error(pipe, outputs="text", **{kind: Broken()})
    monkeypatch.setattr(media, "MAX_BYTES", 10)
    assert "holds more than" in error(pipe, outputs="text", **{kind: streams.BytesIO(bytes(11))})


def test_the_gates_of_files_hold_for_bytes(pipe, files, monkeypatch):
    assert "is a picture: expected a recording" in error(
        pipe, audio=files[Modality.IMAGE].read_bytes(), outputs="text"
    )
    assert "as --video instead" in error(pipe, image=files[Modality.VIDEO].read_bytes(), outputs="text")
    monkeypatch.setattr("codi.io.gates.MAX_PIXELS", 100)
    assert "megapixels" in error(pipe, image=files[Modality.IMAGE].read_bytes(), outputs="text")


def test_a_note_on_bytes_speaks_of_the_bytes(pipe):
    stream = streams.BytesIO()
    import soundfile

    soundfile.write(stream, torch.rand(48000).sub(0.5).numpy(), 16000, format="WAV")
    with pytest.warns(UserWarning, match="what was given as .* bytes of audio lasts 3.0 s"):
        pipe(audio=stream, outputs="text", num_inference_steps=1)


ADDRESSES = [
    "http://a.b/c.png",
    "https://a.b/c.png",
    "ftp://a/b.wav",
    "s3://bucket/key",
    "data:image/png;base64,AAAA",
    "HTTPS://A.B",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_addresses_are_refused_with_the_reason(pipe, tmp_path, capsys, address, kind):
    expected = "is an address: no network is opened for a prompt; download it first"
    assert expected in error(pipe, outputs="text", **{kind: address})
    assert expected in error(pipe, outputs="text", **{f"negative_{kind}": Prompt(address)})
    for option in (f"--{kind}", f"--negative-{kind}"):
        assert (
            cli.main(
                [
                    "generate",
                    option,
                    f"{address}::0.5",
                    "--text",
                    "a",
                    "--to",
                    "text",
                    "-o",
                    str(tmp_path / "out"),
                ]
            )
            == 2
        )
        assert expected in capsys.readouterr().err
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"id": "a", "to": "text", kind: address}))
    assert cli.main(["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path / "out")]) == 2
    assert "jobs.jsonl line 1: " in (said := capsys.readouterr().err) and expected in said


def test_other_names_that_are_no_file(pipe):
    assert "without file://" in error(pipe, image="file:///tmp/a.png", outputs="text")
    assert "is no name of a file" in error(pipe, image="iVBORw0KGgo" * 400, outputs="text")
    assert "download it first" in error(pipe, image=Path("https://a.b/c.png"), outputs="text")


@pytest.mark.parametrize(
    "value", [b"a ball", 3, {"text": "a"}, Path("a"), np.array(["a"]), None.__class__], ids=str
)
def test_words_are_strings(pipe, value):
    assert "a text prompt is a" in error(pipe, text=value, outputs="image")


def test_weights_may_be_numpys():
    [prompt] = collect({Modality.TEXT: Prompt("a", np.float32(0.5))})[Modality.TEXT]
    assert prompt.weight == 0.5 and isinstance(prompt.weight, float)


def test_grey_that_was_multiplied_by_its_opacity():
    picture = media.load_picture(Image.new("LA", (4, 4), (100, 0)).convert("La"))
    assert picture.tolist() == torch.full((3, 4, 4), 255).tolist()


@pytest.mark.parametrize("value", [torch.ones(3, 4, 4).to_sparse(), torch.ones(3, 4, 4, device="meta")])
def test_tensors_without_plain_numbers_are_refused(value):
    for load in (media.load_picture, media.waveform):
        with pytest.raises(InputError, match="is a Tensor"):
            load(value)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(InputError, match="0 x 8 pixels: expected at least one"):
        media.load_picture(Image.new("RGB", (0, 8)))
