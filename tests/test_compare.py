"""`codi compare`: both sides make the same, measures are what they say, and nothing is made twice."""

import json
import math

import numpy as np
import pytest
import torch

from codi import cli, compare_command, io, world
from codi.bench.pairs import Pair, distances_of, measure
from codi.metrics.distances import psnr, ssim
from codi.types import InputError, Modality
from codi.world import sample_scenes
from tests import tiny_pipeline

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


# Distances -------------------------------------------------------------


def test_psnr_has_its_closed_form():
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert psnr(black, black) == 99.0
    assert psnr(black, black + 51) == pytest.approx(20 * math.log10(255 / 51))
    assert psnr(black, black + 255) == 0.0


def test_ssim_is_1_for_equal_ones_and_has_its_closed_form_for_flat_ones():
    picture = torch.randint(0, 255, (2, 3, 24, 20), dtype=torch.uint8, generator=torch.manual_seed(0))
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, 255 - picture) < 0
    dark, bright = (
        torch.full((3, 16, 16), 51, dtype=torch.uint8),
        torch.full((3, 16, 16), 204, dtype=torch.uint8),
    )
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert ssim(dark, bright) == pytest.approx(expected, abs=1e-6)


# Measures of pairs -----------------------------------------------------


def written(folder, scene, name):
    """A scene as four files."""
    clip, sound = world.render_videos([scene])[0], world.render_sounds([scene])[0]
    return {
        TEXT: io.save_text(folder / f"{name}.txt", world.caption(scene) + "\n"),
        IMAGE: io.save_image(folder / f"{name}.png", world.render_images([scene])[0]),
        AUDIO: io.save_audio(folder / f"{name}.wav", sound, 16000),
        VIDEO: io.save_video(folder / f"{name}.mp4", clip, 8.0, sound, 16000),
    }


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(3, seed=5)


@pytest.fixture(scope="module")
def pairs(scenes, tmp_path_factory):
    """Side A is right, side B is another scene."""
    folder = tmp_path_factory.mktemp("scenes")
    files = [written(folder, scene, str(k)) for k, scene in enumerate(scenes)]
    found = []
    for k, scene in enumerate(scenes):
        caption = world.caption(scene)
        sides = {"first": files[k], "second": files[(k + 1) % len(files)], "seconds": (1.0, 3.0)}
        found.append(Pair(name=str(k), prompt=caption, facts=world.parse(caption), seed=k, **sides))
    return found


def test_the_right_side_scores_as_the_worlds_evaluators_say(pairs, scenes):
    lines = {line.name: line for line in measure(pairs)}
    for name in ("image: colour as prompted", "video: motion as prompted", "audio: tempo as prompted"):
        assert lines[name].first.value == 1 and lines[name].count == 3
    for attribute in ("colour", "shape"):
        right = [
            getattr(a, attribute) == getattr(b, attribute) for a, b in zip(scenes, scenes[1:] + scenes[:1])
        ]
        line = lines[f"image: {attribute} as prompted"]
        assert line.second.value == pytest.approx(np.mean(right))
        assert line.difference.value == pytest.approx(np.mean(right) - 1)
    agree = next(line for name, line in lines.items() if name.startswith("image and audio agree"))
    assert agree.first.value == agree.second.value == 1  # each side is of one piece
    onsets = next(line for name, line in lines.items() if name.startswith("onset F1 of audio and video"))
    assert "the world's evaluators" in onsets.name and onsets.first.value > 0.9
    assert lines["seconds for one sample"].difference.value == 2
    assert lines["image: PSNR, A against B"].first is None
    assert 0 < lines["image: PSNR, A against B"].difference.value < 40


def test_prompts_of_no_world_are_measured_without_it(pairs):
    plain = [Pair(**{**vars(pair), "facts": dict.fromkeys(pair.facts)}) for pair in pairs]
    names = [line.name for line in measure(plain)]
    assert not [name for name in names if "as prompted" in name or "agree" in name]
    assert [name for name in names if name.startswith("onset F1") and "plain detectors" in name]


def test_equal_sides_are_no_distance_apart_and_other_sizes_have_none(pairs, tmp_path):
    same = Pair(**{**vars(pairs[0]), "second": pairs[0].first})
    found = distances_of(same)
    assert found["image: PSNR (dB)"] == 99 and found["video: SSIM ()"] == pytest.approx(1)
    assert found["audio: log-mel distance ()"] == 0 and found["text: the same words (%)"] == 1
    large = io.save_image(tmp_path / "a.png", torch.zeros(3, 128, 128, dtype=torch.uint8))
    other = Pair(**{**vars(pairs[0]), "second": {**pairs[0].second, IMAGE: large}})
    assert not [name for name in distances_of(other) if name.startswith("image")]


# The command -----------------------------------------------------------


def test_two_settings_on_a_file_of_jobs(model, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "a red ball", "num_samples": 2},
        {"id": 7, "text": "a blue cube at night", "seed": 3},
    ]
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    call = [
        "compare",
        "steps=1",
        "steps=2",
        "--jobs",
        str(jobs),
        "--to",
        "image,audio,text",
        "--model",
        model,
    ]
    call += ["-o", str(out), "--device", "cpu", "--quiet"]
    assert cli.main(call) == 0
    assert capsys.readouterr().out.split() == [str(out / "compare.md"), str(out / "compare.html")]
    found = json.loads((out / "compare.json").read_text())
    assert [(row["id"], row["seed"]) for row in found["rows"]] == [("a-000", 0), ("a-001", 1), ("7", 3)]
    assert found["pairs"] == 3 and found["a"] == "steps=1"
    for row in found["rows"]:
        one, two = (io.load_image(out / row[side]["image"]) for side in ("a", "b"))
        assert row["distances"]["image: PSNR (dB)"] == pytest.approx(psnr(one, two))
    line = next(line for line in found["measures"] if line["name"] == "image: PSNR, A against B")
    mean = np.mean([row["distances"]["image: PSNR (dB)"] for row in found["rows"]])
    assert line["difference"]["value"] == pytest.approx(mean)
    assert json.loads((out / "a" / "a.json").read_text())["resolved"]["num_inference_steps"] == 1
    assert json.loads((out / "b" / "a.json").read_text())["resolved"]["num_inference_steps"] == 2
    page, table = (out / "compare.html").read_text(), (out / "compare.md").read_text()
    assert (
        page.count("<audio") == 6
        and "B: steps=2" in page
        and "| image: PSNR, A against B, dB | - | - |" in table
    )
    before = {path: path.stat().st_mtime_ns for path in out.glob("?/*.png")}
    assert cli.main(call) == 0  # nothing is made twice
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("?/*.png")}


def test_a_model_and_a_setting_on_scenes_of_the_world(tmp_path):
    call = [
        "compare",
        "codi-tiny",
        "model=codi-tiny,guidance=1",
        "--scenes",
        "2",
        "--to",
        "image",
        "--steps",
        "1",
    ]
    assert cli.main([*call, "-o", str(tmp_path), "--device", "cpu", "--quiet"]) == 0
    found = json.loads((tmp_path / "compare.json").read_text())
    assert [row["seed"] for row in found["rows"]] == [2305, 2306]
    names = [line["name"] for line in found["measures"]]
    assert "image: colour as prompted" in names and "image: SSIM, A against B" in names


def test_sides_as_they_are_typed():
    side = compare_command.parse_side("A", 'guidance={"image": 3},model=codi-tiny,scheduler=ddim')
    assert side.line == {"guidance_scale": {"image": 3}} and side.options == {
        "model": None,
        "scheduler": "ddim",
    }
    assert compare_command.parse_side("B", "some/model").options == {"model": "some/model"}
    assert compare_command.parse_side("B", "codi-tiny").options == {"model": None}
    for text, said in [
        ("stepz=3", "sets stepz"),
        ("seed=3", "sets seed"),
        ("steps=", "expected settings"),
        ("", "empty"),
    ]:
        with pytest.raises(InputError, match=said):
            compare_command.parse_side("A", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["steps=1", "steps=1", "--to", "image"], "are both steps=1"),
        (["steps=1", "steps=2"], "nothing to make"),
        (["steps=1", "steps=2", "--to", "image", "--text", "a"], "--text beside compare"),
        (["steps=1", "steps=2", "--to", "image", "--scenes", "1"], "--scenes 1: expected 2"),
        (["steps=1", "steps=2", "--to", "image", "--seed", "random"], "expected a whole number"),
        (["steps=1", "steps=2", "--jobs", "gone.jsonl", "--to", "image"], "no such file"),
        (["steps=1", "steps=2", "--jobs", "gone.jsonl", "--scenes", "3"], "expected one of them"),
        (["steps=1", "steps=2", "--samples", "3", "--to", "image"], "--samples beside compare"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *arguments, "-o", "out"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("codi: error: ") and said in error and "\n" not in error
