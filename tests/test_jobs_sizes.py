"""Sizes and lengths that `codi generate` is asked for, as flags and in files of jobs."""

import json
from pathlib import Path

import av
import pytest
import torch

from codi import cli, io
from codi.modalities.video import FASTEST, SLOWEST

STEPS = ("--steps", "1", "--device", "cpu", "--quiet")
ALL = (
    "--height",
    "40",
    "--width",
    "24",
    "--num-frames",
    "3",
    "--fps",
    "6.5",
    "--seconds",
    "0.2",
    "--lengths",
    "free",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with an untrained model of the real classes: 32 x 32 pixels, 4 frames at 8 per second, 0.5 s
    at 16 kHz.
    """
    from tests import tiny_pipeline

    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


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
    assert (
        clip.frames.shape == (2, 3, 32, 32)
        and clip.fps == 8
        and len(io.load_audio(tmp_path / "000.wav")[0]) == 4000
    )
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings["num_frames"] == 2 and not {"height", "width", "fps", "audio_length_in_s"} & set(settings)


def test_lines_have_sizes_of_their_own_or_those_of_the_command(model, tmp_path, capsys):
    rows = [
        {"id": "own", "text": "a ball", "to": "image,audio", "height": 24, "audio_length_in_s": 0.1},
        {"id": "shared", "text": "a ball", "to": "image"},
        # has no height: that of the command is not about it
        {"id": "sound", "text": "a ball", "to": "audio"},
    ]
    file, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert generate(model, out, "--jobs", str(file), "--height", "40") == 0
    assert (
        io.load_image(out / "own.png").shape == (3, 24, 32) and len(io.load_audio(out / "own.wav")[0]) == 1600
    )
    assert (
        io.load_image(out / "shared.png").shape == (3, 40, 32)
        and len(io.load_audio(out / "sound.wav")[0]) == 8000
    )
    capsys.readouterr()
    # all finished
    assert generate(model, out, "--jobs", str(file), "--height", "40") == 0 and capsys.readouterr().out == ""
    assert generate(model, out, "--jobs", str(file), "--height", "24") == 2  # another request under an old id
    assert "shared.json is there already and was not made by this request" in capsys.readouterr().err
    assert generate(model, out, "--jobs", str(file), "--height", "24", "--overwrite") == 0
    # the one that it is about
    assert [Path(line).name for line in capsys.readouterr().out.split()] == ["shared.png"]
    assert io.load_image(out / "shared.png").shape == (3, 24, 32)


def streams(path: Path) -> dict[str, float]:
    """Seconds of each stream of a file."""
    with av.open(str(path)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


@pytest.mark.parametrize(
    "size, frames, fps, seconds",
    [
        ((), 4, 8, 0.5),
        (("--fps", "6"), 3, 6, 0.5),
        (("--fps", "4"), 2, 4, 0.5),
        # 2.5 frames would last as long as the sound: clip and sound end with the second
        (("--fps", "5"), 2, 5, 0.4),
        (("--fps", "16"), 4, 16, 0.25),  # no more frames than the model makes
        (("--fps", "23.976"), 4, 23.976, 4 / 23.976),
        (("--num-frames", "1"), 1, 8, 0.125),
        (("--num-frames", "3", "--fps", "10"), 3, 10, 0.3),
        (("--seconds", "0.3"), 2, 8, 0.3),
        (("--seconds", "0.05"), 1, 8, 0.05),
        (("--seconds", "0.3", "--fps", "10"), 3, 10, 0.3),
        (("--seconds", "0.3", "--num-frames", "4"), 4, 4 / 0.3, 0.3),
        (("--seconds", "0.3", "--num-frames", "3", "--fps", "10"), 3, 10, 0.3),
    ],
)
def test_a_clip_and_its_sound_end_together(model, tmp_path, size, frames, fps, seconds):
    assert generate(model, tmp_path, "--text", "a ball", "--to", "video,audio", *size) == 0
    clip, (wave, rate) = io.load_video(tmp_path / "000.mp4"), io.load_audio(tmp_path / "000.wav")
    assert (
        len(clip.frames) == frames
        and clip.fps == pytest.approx(fps, rel=1e-3)
        and len(wave) == round(seconds * rate)
    )
    lasting = streams(tmp_path / "000.mp4")
    assert abs(lasting["video"] - lasting["audio"]) <= 1 / fps and lasting["audio"] == pytest.approx(
        seconds, abs=1e-3
    )
    assert abs(lasting["video"] - lasting["audio"]) <= 0.5 / fps + 1e-3 or frames == 1
    settled = json.loads((tmp_path / "manifest.json").read_text())["resolved"]
    assert (settled["num_frames"], settled["lengths"]) == (frames, "agree") and settled[
        "fps"
    ] == pytest.approx(fps)
    assert settled["audio_length_in_s"] == pytest.approx(seconds, abs=1e-3)


def test_a_length_sets_that_of_a_clip_alone(model, tmp_path):
    assert (
        generate(model, tmp_path, "--text", "a ball", "--to", "video", "--seconds", "0.4", "--fps", "5") == 0
    )
    assert streams(tmp_path / "000.mp4") == {"video": 0.4}
    assert (
        generate(model, tmp_path, "--text", "a ball", "--to", "video", "--seconds", "2", "--num-frames", "4")
        == 0
    )
    assert streams(tmp_path / "001.mp4") == {"video": 2.0}  # longer than any sound of this model
    assert generate(model, tmp_path, "--text", "a ball", "--to", "video", "--fps", "4") == 0
    assert streams(tmp_path / "002.mp4") == {"video": 1.0}  # nothing to agree with: as many frames as ever


def test_lengths_may_differ_if_that_is_named(model, tmp_path):
    named = ("--num-frames", "4", "--fps", "4", "--seconds", "0.2", "--lengths", "free")
    assert generate(model, tmp_path, "--text", "a ball", "--to", "video,audio", *named) == 0
    assert streams(tmp_path / "000.mp4") == {"video": 1.0, "audio": pytest.approx(0.2, abs=1e-3)}


def test_what_the_model_was_not_trained_at_is_said_once(model, tmp_path, capsys):
    sizes = ("--height", "40", "--fps", "16", "--samples", "3", "--batch", "1")
    assert generate(model, tmp_path, "--text", "a ball", "--to", "image,video,audio", *sizes) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("codi: note: ")]
    assert notes == [
        "codi: note: clip and sound last 0.25 s each, as long as both can: 4 frames at 16 per second",
        "codi: note: made at 40 x 32, 0.25 s of sound, 4 frames at 16 per second; this model was trained at "
        "32 x 32, 0.5 s of sound, 4 frames at 8 per second",
    ]
    assert (
        generate(
            model, tmp_path, "--text", "a ball", "--to", "image,video,audio", "--fps", "8", "--height", "32"
        )
        == 0
    )
    assert "trained at" not in capsys.readouterr().err


@pytest.mark.parametrize("fps", [SLOWEST, 23.976, FASTEST])
def test_every_rate_that_is_taken_can_be_written(tmp_path, fps):
    frames = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    io.save_video(tmp_path / "a.mp4", frames, fps, torch.ones(1600) / 2, 16000)
    facts = io.facts(tmp_path / "a.mp4")
    assert facts["video"]["frames"] == 3 and facts["video"]["stated_fps"] == pytest.approx(fps, rel=1e-3)
    assert len(io.load_video(tmp_path / "a.mp4", fps=fps).frames) == 3


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
        ("audio", ("--seconds", "-1"), " seconds is -1: expected a number above 0"),
        ("audio", ("--audio-length-in-s", "-1"), " audio_length_in_s is -1: expected a number above 0"),
        (
            "audio",
            ("--seconds", "0.51"),
            "audio_length_in_s is 0.51: expected at least one sample (6.25e-05 s) and at most 0.5 s",
        ),
        ("audio", ("--seconds", "1e-9"), "audio_length_in_s is 1e-09"),
        ("audio", ("--num-frames", "3"), "num_frames is 3, but no video is made"),
        ("text", ("--height", "32"), "height is 32, but no image or video is made"),
        ("image", ("--seconds", "0.2"), "seconds is 0.2, but no audio or video is made"),
        (
            "video",
            ("--seconds", "0.7"),
            "0.7 s at 8 frames per second are 6 frames: this model makes at most 4, so expected at most 0.5 "
            "s",
        ),
        (
            "video",
            ("--seconds", "0.5", "--fps", "4", "--num-frames", "4"),
            "4 frames at 4 per second last 1 s, the length named is 0.5 s",
        ),
        (
            "audio,video",
            ("--seconds", "0.2", "--fps", "8", "--num-frames", "4"),
            "last 0.5 s, the sound lasts 0.2 s; expected two of",
        ),
        (
            "audio,video",
            ("--fps", "4", "--num-frames", "3"),
            "3 frames at 4 per second last 0.75 s, and this model makes at most 0.5 s",
        ),
        (
            "audio,video",
            ("--fps", "1"),
            "one frame at 1 per second lasts 1 s, and this model makes at most 0.5 s of sound",
        ),
        (
            "image",
            ("--height", "40", "--candidates", "2"),
            "expected either candidates or another size, not both",
        ),
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
        ('"height": Infinity', "Infinity is no number"),
        ('"width": 30', "width is 30: expected whole pixels that divide by 4"),
        ('"fps": NaN', "NaN is no number"),
        ('"fps": 0', "fps is 0: expected a number above 0"),
        ('"lengths": "equal"', "lengths is \"equal\": expected 'agree' or 'free'"),
        ('"seconds": 0.7', "at most 4"),
        ('"audio_length_in_s": 0.7', "at most 4"),
        ('"seconds": 0', ": seconds is 0: expected a number above 0"),
        ('"audio_length_in_s": 0', ": audio_length_in_s is 0: expected a number above 0"),
        ('"frames": 3', "unknown key 'frames'"),
        ('"num_frames": 3, "candidates": 2', "not both"),
    ],
)
def test_mistakes_in_a_line_name_it_before_anything_is_made(model, tmp_path, capsys, size, message):
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        '{"id": "ok", "text": "a", "to": "image"}\n{"id": "bad", "text": "a", "to": "image,video", '
        + size
        + "}\n"
    )
    line = refused(capsys, model, tmp_path / "out", "--fail-fast", "--jobs", str(file))
    assert f"{file} line 2: " in line and message in line
