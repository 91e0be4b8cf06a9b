"""`upscale` in calls, jobs, records and commands: pictures and clips larger, everything else as it was."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codi import io, jobs, records, upscale_command
from codi.border import parse_upscale
from codi.cli import build_parser, main
from codi.continuing import extend
from codi.pipeline import CoDiPipeline
from codi.serve.making import _size
from codi.types import InputError, Modality
from codi.upscaling import NOISE_AUG_STRENGTH, STEPS, Upscale
from tests import tiny_pipeline

ASKED = {"factor": 4, "noise_aug_strength": 0.1, "num_inference_steps": 2}
CALL = dict(text="a red ball", outputs=["image", "video", "audio"], seed=3, num_inference_steps=2)


@pytest.fixture(scope="module")
def pipe() -> CoDiPipeline:
    pipe = CoDiPipeline.from_pipe(tiny_pipeline.pipeline(), image_upscaler=tiny_pipeline.upscaler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("upscaling") / "model"
    pipe.save_pretrained(place)
    return str(place)


def small_of(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels.float(), 4)


def test_a_call_with_upscale_makes_the_same_and_shows_more_of_it(pipe):
    plain = pipe(**CALL, num_samples=2, output_type="pt")
    large = pipe(**CALL, num_samples=2, output_type="pt", upscale=ASKED)
    for before, after in zip([*plain.images, *plain.videos], [*large.images, *large.videos]):
        assert after.shape[-2:] == (128, 128) and after.shape[:-2] == before.shape[:-2]
        error = (small_of(after) - before.float()).square().mean()
        assert 10 * torch.log10(255**2 / error) > 35
    assert all(torch.equal(a, b) for a, b in zip(plain.audios, large.audios))
    assert large.record(0)["resolved"]["upscale"] == ASKED
    assert large.record(0)["resolved"]["height"] == 32  # that of what is denoised
    assert "upscale" not in plain.record(0)["resolved"]


def test_a_sample_is_the_same_alone_as_in_a_batch(pipe):
    both = pipe(**{**CALL, "outputs": "image"}, num_samples=2, upscale=ASKED, output_type="pt").images
    alone = pipe(**{**CALL, "outputs": "image", "seed": 4}, upscale=ASKED, output_type="pt").images
    assert (both[1].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(both[0], both[1])


def test_only_those_candidates_are_made_larger_that_are_kept(pipe, monkeypatch):
    rows = []
    monkeypatch.setattr(Upscale, "one", lambda self, m, raw, seed, part: rows.append(seed) or raw)
    out = pipe(text="a red ball", outputs="image", seed=0, candidates=3, num_inference_steps=1, upscale=4)
    assert rows == out.seeds


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"upscale": 2}, "upscale is 2: this model makes image 4 times as large; expected 4"),
        (
            {"upscale": {"factor": 4, "noise_aug_strength": 0.5}},
            "noise_aug_strength is 0.5: expected 0 to 0.3",
        ),
        ({"upscale": 1}, "upscale is 1: expected a whole number from 2 to 16"),
        ({"upscale": {"factor": 4, "steps": 3}}, "upscale has 'steps': expected some of factor"),
        ({"upscale": "four"}, "upscale is 'four'"),
        ({"upscale": 4, "outputs": "audio"}, "none is made"),
        ({"upscale": 4, "output_type": "latent"}, "another output_type"),
    ],
)
def test_what_cannot_be_made_larger_is_refused_in_one_line(pipe, changes, expected):
    with pytest.raises(InputError, match=expected) as error:
        pipe(**{**CALL, **changes})
    assert "\n" not in str(error.value)


def test_a_model_without_the_part_names_it():
    with pytest.raises(InputError, match="no image_upscaler: expected one that was trained"):
        tiny_pipeline.pipeline()(**CALL, upscale=4)


def test_it_is_saved_with_the_model_and_loaded_again(pipe, folder):
    again = CoDiPipeline.from_pretrained(folder)
    assert set(again.model.upscalers) == {Modality.IMAGE, Modality.VIDEO}
    again.set_progress_bar_config(disable=True)
    made = [
        p(**{**CALL, "outputs": "image"}, upscale=ASKED, output_type="pt").images[0] for p in (pipe, again)
    ]
    assert (made[0].int() - made[1].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("4", {"factor": 4}),
        ("4:noise_aug_strength=0.1:num_inference_steps=3", {**ASKED, "num_inference_steps": 3}),
        (4, {"factor": 4}),
        (ASKED, ASKED),
    ],
)
def test_the_command_line_and_lines_of_jobs_say_it_alike(text, expected):
    assert parse_upscale(text, "--upscale") == expected
    if expected is not None:
        assert Upscale.parse(expected).described() == {
            "noise_aug_strength": NOISE_AUG_STRENGTH,
            "num_inference_steps": STEPS,
            **expected,
        }


@pytest.mark.parametrize("text", ["x", "2.5", ":noise_aug_strength=1", True, [4]])
def test_what_is_no_factor(text):
    with pytest.raises(InputError, match="--upscale is"):
        parse_upscale(text, "--upscale")


def test_a_job_has_it_from_options_from_a_line_and_from_its_record(pipe, tmp_path):
    typed = build_parser().parse_args(
        ["generate", "--text", "a", "--to", "image", "-o", "x", "--upscale", "4:noise_aug_strength=0.1"]
    )
    assert jobs.from_arguments(typed).settings["upscale"] == {"factor": 4, "noise_aug_strength": 0.1}
    line = json.dumps({"id": "a", "text": "a", "to": "image", "upscale": 4})
    job = jobs.from_line(line, tmp_path, "")
    assert job.settings["upscale"] == {"factor": 4}
    [path] = pipe(**{**CALL, "outputs": "image"}, upscale=ASKED).save(tmp_path)
    record = records.read_record(path)
    again = pipe(**record.arguments())
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    "wrong",
    [{"factor": 4}, 4, {**ASKED, "factor": 1}, {**ASKED, "more": 0}, {**ASKED, "noise_aug_strength": -1}],
)
def test_a_record_that_says_something_else_is_refused(wrong):
    assert not records.RESOLVED["upscale"](wrong)
    assert records.RESOLVED["upscale"](ASKED)


def test_what_is_continued_goes_on_in_the_models_own_size(pipe):
    with pytest.raises(InputError, match="upscale was given: windows go on in the model's own size"):
        extend(pipe, {"audio": sound()}, seconds=2, upscale=4)


def test_a_server_counts_the_pixels_and_the_steps_that_are_made(pipe):
    plain = pipe.resolve(given=(), outputs="image", num_inference_steps=2)
    large = pipe.resolve(given=(), outputs="image", num_inference_steps=2, upscale=4)
    assert _size(large)["pixels"] == 16 * _size(plain)["pixels"] == 128**2
    assert (_size(plain)["steps"], _size(large)["steps"]) == (2, STEPS)


# codi upscale ----------------------------------------------------------


def sound(seconds: float = 1.0, rate: int = 16000) -> torch.Tensor:
    return 0.5 * torch.sin(torch.arange(int(seconds * rate)) * 0.2)


def packets(path: Path) -> list[bytes]:
    """What a file has of its sound, as it is stored."""
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_picture_and_a_clip_come_out_larger_and_the_sound_as_it_was(folder, tmp_path, capsys):
    Image.new("RGB", (12, 20), "red").save(tmp_path / "a.png")
    frames = torch.arange(5)[:, None, None, None].expand(-1, 3, 16, 24).mul(40).to(torch.uint8)
    io.save_video(tmp_path / "b.mp4", frames.contiguous(), 5.0, sound(), 16000)
    out = tmp_path / "large"
    command = ["upscale", str(tmp_path / "a.png"), str(tmp_path / "b.mp4"), "-o", str(out), "--model", folder]
    assert main([*command, "--factor", "4:num_inference_steps=1"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "a.png"), str(out / "b.mp4")]
    assert Image.open(out / "a.png").size == (48, 80)
    clip = io.load_video(out / "b.mp4")
    assert tuple(clip.frames.shape) == (5, 3, 64, 96) and clip.fps == 5.0
    assert packets(out / "b.mp4") == packets(tmp_path / "b.mp4")
    assert (small_of(clip.frames) - frames.float()).abs().mean() < 8
    assert main([*command]) == 2  # they are there already
    assert "a.png is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.wav", [], "a.wav is a file of audio: expected a picture or a clip"),
        ("a.png", ["--factor", "3"], "this model makes image 4 times as large"),
        ("a.png", ["--factor", "big"], "--factor is 'big'"),
        ("a.png", ["--seed", "-1"], "--seed is -1"),
        ("gone.png", [], "gone.png"),
    ],
)
def test_a_command_that_cannot_be_done_writes_nothing(folder, tmp_path, capsys, name, options, expected):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    io.save_audio(tmp_path / "a.wav", sound(), 16000)
    out = tmp_path / "large"
    assert main(["upscale", str(tmp_path / name), "-o", str(out), "--model", folder, *options]) == 2
    assert expected in capsys.readouterr().err
    assert not out.is_dir() or not any(out.iterdir())


def test_a_model_without_the_part_refuses_the_command(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    plain = tiny_pipeline.saved(tmp_path / "plain")
    parser = argparse.ArgumentParser()
    args = upscale_command.add_command(parser.add_subparsers()).parse_args(
        [str(tmp_path / "a.png"), "-o", str(tmp_path / "large"), "--model", plain]
    )
    with pytest.raises(InputError, match="no image_upscaler"):
        upscale_command.run(args, print)
