"""Sizes and lengths that `codi generate` is asked for, as flags and in files of jobs."""

import json
from pathlib import Path

import pytest
import torch

from codi import cli, io
from codi.models.codi import FASTEST, SLOWEST

STEPS = ("--steps", "1", "--device", "cpu", "--quiet")
ALL = ("--height", "40", "--width", "24", "--num-frames", "3", "--fps", "6.5", "--seconds", "0.2")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with an untrained model of the real classes: 32 x 32 pixels, 4 frames at 8 per second, 0.5 s at 16 kHz."""
    from tests import tiny_pipeline

    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.pipeline().save_pretrained(folder)
    return str(folder)


def generate(model: str, out: Path, *arguments: str) -> int:
    return cli.main(["generate", *arguments, "-o", str(out), "--model", model, *STEPS])


def refused(capsys, model: str, out: Path, *arguments: str) -> str:
    """The one line of a request that must fail and write nothing."""
    assert generate(model, out, *arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("codi: error: "), captured
    assert not out.exists() or list(out.iterdir()) == []
    return lines[0]


def test_what_is_written_has_the_size_that_was_asked_for(model, tmp_path):
    out = tmp_path / "out"
    assert generate(model, out, "--text", "a red ball", "--to", "video,audio,image", *ALL) == 0
    assert io.load_image(out / "000.png").shape == (3, 40, 24)
    wave, rate = io.load_audio(out / "000.wav")
    assert rate == 16000 and len(wave) == 3200
    clip = io.load_video(out / "000.mp4")
    assert clip.frames.shape == (3, 3, 40, 24) and clip.fps == 6.5
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    sizes = {"height": 40, "width": 24, "num_frames": 3, "fps": 6.5, "audio_length_in_s": 0.2}
    assert {name: settings.get(name) for name in sizes} == sizes


def test_one_size_leaves_the_others_to_the_model(model, tmp_path):
    assert generate(model, tmp_path, "--text", "a ball", "--to", "video,audio", "--num-frames", "2") == 0
    clip = io.load_video(tmp_path / "000.mp4")
    assert clip.frames.shape == (2, 3, 32, 32) and clip.fps == 8 and len(io.load_audio(tmp_path / "000.wav")[0]) == 8000
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings["num_frames"] == 2 and not {"height", "width", "fps", "audio_length_in_s"} & set(settings)


def test_lines_have_sizes_of_their_own_or_those_of_the_command(model, tmp_path, capsys):
    rows = [
        {"id": "own", "text": "a ball", "to": "image,audio", "height": 24, "seconds": 0.1},
        {"id": "shared", "text": "a ball", "to": "image"},
        {"id": "sound", "text": "a ball", "to": "audio"},  # has no height: that of the command is not about it
    ]
    file, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert generate(model, out, "--jobs", str(file), "--height", "40") == 0
    assert io.load_image(out / "own.png").shape == (3, 24, 32) and len(io.load_audio(out / "own.wav")[0]) == 1600
    assert io.load_image(out / "shared.png").shape == (3, 40, 32) and len(io.load_audio(out / "sound.wav")[0]) == 8000
    capsys.readouterr()
    assert generate(model, out, "--jobs", str(file), "--height", "40") == 0 and capsys.readouterr().out == ""  # all finished
    assert generate(model, out, "--jobs", str(file), "--height", "24") == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == ["shared.png"]  # the one that it is about
    assert io.load_image(out / "shared.png").shape == (3, 24, 32)


@pytest.mark.parametrize("fps", [SLOWEST, 23.976, FASTEST])
def test_every_rate_that_is_taken_can_be_written(tmp_path, fps):
    frames = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    io.save_video(tmp_path / "a.mp4", frames, fps, torch.ones(1600) / 2, 16000)
    clip = io.load_video(tmp_path / "a.mp4")
    assert len(clip.frames) == 3 and clip.fps == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize(
    "to, size, message",
    [
        ("image", ("--height", "0"), "height is 0: expected a number above 0"),
        ("image", ("--width", "-8"), "width is -8: expected a number above 0"),
        ("image", ("--height", "1.5"), "invalid int value"),
        ("image", ("--height", "30"), "height is 30: expected whole pixels that divide by 4"),
        ("image", ("--width", "80000", "--height", "80000"), "6400 megapixels"),
        ("image", ("--width", "9999999999999999999"), "expected a number above 0"),
        ("video", ("--num-frames", "0"), "num_frames is 0: expected a number above 0"),
        ("video", ("--num-frames", "5"), "num_frames is 5: expected a whole number from 1 to 4"),
        ("video", ("--fps", "nan"), "fps is nan: expected a number above 0"),
        ("video", ("--fps", "inf"), "fps is inf: expected a number above 0"),
        ("video", ("--fps", "1e9"), "fps is 1000000000.0: expected"),
        ("video", ("--fps", "1e-9"), "fps is 1e-09: expected"),
        ("audio", ("--seconds", "-1"), "seconds is -1: expected a number above 0"),
        ("audio", ("--seconds", "0.51"), "audio_length_in_s is 0.51: expected at least one sample (6.25e-05 s) and at most 0.5 s"),
        ("audio", ("--seconds", "1e-9"), "audio_length_in_s is 1e-09"),
        ("audio", ("--num-frames", "3"), "num_frames is 3, but no video is made"),
        ("text", ("--height", "32"), "height is 32, but no image or video is made"),
        ("image,video", ("--seconds", "0.2"), "seconds is 0.2, but no audio is made"),
        ("image", ("--height", "40", "--candidates", "2"), "expected either candidates or another size, not both"),
    ],
)
def test_sizes_that_cannot_be(model, tmp_path, capsys, to, size, message):
    assert message in refused(capsys, model, tmp_path / "out", "--text", "a ball", "--to", to, *size)


@pytest.mark.parametrize(
    "size, message",
    [
        ('"height": "40"', 'height is "40": expected a whole number'),
        ('"height": 40.5', "height is 40.5: expected a whole number"),
        ('"height": true', "height is true: expected a whole number"),
        ('"height": Infinity', "height is Infinity: expected a whole number"),
        ('"width": 30', "width is 30: expected whole pixels that divide by 4"),
        ('"fps": NaN', "fps is NaN: expected a number"),
        ('"fps": 0', "fps is 0: expected a number above 0"),
        ('"seconds": 0.1', "seconds is 0.1, but no audio is made"),
        ('"frames": 3', "unknown key 'frames'"),
        ('"num_frames": 3, "candidates": 2', "not both"),
    ],
)
def test_mistakes_in_a_line_name_it_before_anything_is_made(model, tmp_path, capsys, size, message):
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"id": "ok", "text": "a", "to": "image"}\n{"id": "bad", "text": "a", "to": "image,video", ' + size + "}\n")
    line = refused(capsys, model, tmp_path / "out", "--jobs", str(file))
    assert f"{file} line 2: " in line and message in line
