"""The stage of controls: the branch learns and nothing else does, a run resumes, and the model finds it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import control as benchmark
from codi import pretrained
from codi.pipeline import CoDiPipeline
from codi.types import InputError, Modality
from data.batch import Batch
from training.config import load_config
from training.main import main
from training.stages import open_stage
from training.stages.control import MAP

ROOT = Path(__file__).parents[2]
FEW = "{text: 1.0}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the embedded model, which a run may write into."""
    return Path(shutil.copytree(pretrained.resolve(), tmp_path_factory.mktemp("control") / "tiny"))


def arguments(model, name, *overrides, run="run"):
    given = (f"model={model}", f"output={model.parent / 'runs' / run}", f"options.prompts={FEW}", *overrides)
    return ["--config", str(ROOT / "configs" / "world" / f"{name}.yaml"), "--small"] + [
        word for each in given for word in ("--set", each)
    ]


def stage_of(model, name, *overrides):
    path = ROOT / "configs" / "world" / f"{name}.yaml"
    given = [f"model={model}", f"options.prompts={FEW}", *overrides]
    stage = open_stage(load_config(path, small=True, overrides=given))
    module = stage.build()
    stage.to(torch.device("cpu"))
    return stage, module


def loss_of(stage, module, batch):
    return stage.loss(module, batch, torch.Generator().manual_seed(0))[0]


def test_a_branch_learns_while_its_denoiser_stays(model):
    stage, module = stage_of(model, "control_sketch")
    batch = stage.data().fetch([0, 1, 2, 3])
    assert batch[MAP].shape == (4, 64, 8, 8)
    frozen = {name: p.clone() for name, p in stage.base.named_parameters()}
    start = loss_of(stage, module, batch)
    assert start == stage.inner.loss(stage.base, batch, torch.Generator().manual_seed(0))[0]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss_of(stage, module, batch).backward()
        optimizer.step()
    assert loss_of(stage, module, batch) < 0.9 * start
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert all(p.grad is None and torch.equal(p, frozen[n]) for n, p in stage.base.named_parameters())


def test_a_run_resumes_to_the_bit_and_the_model_finds_its_branch(model):
    short = ("checkpoint_every=4", "lr_schedule=constant", "preview_every=8")
    assert main(arguments(model, "control_beats_audio", "samples=8", *short)) == 0
    branch = model / "controls" / "audio_beats" / "diffusion_pytorch_model.safetensors"
    whole = load_file(branch)
    shutil.rmtree(branch.parent)
    for samples in (4, 8):
        again = arguments(model, "control_beats_audio", f"samples={samples}", *short, run="halves")
        assert main(again) == 0
    halves = load_file(branch)
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())
    assert any(tensor.any() for name, tensor in whole.items() if name.startswith("ends."))
    pipe = CoDiPipeline.from_pretrained(model)
    assert pipe.controls == ((Modality.AUDIO, "beats"),)
    row = benchmark.measure(pipe, "beats", Modality.AUDIO, benchmark.sample_scenes(2, 5), 2, 2)
    assert row["ceiling"] > 0.9 and 0 <= row["floor"] <= 1 and 0 <= row["with"] <= 1


def test_a_dry_run_says_what_it_costs(model, capsys):
    for name in ("control_beats_video", "control_layout"):
        assert main([*arguments(model, name), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "controls/video_beats" in said and "controls/image_layout" in said and "GFLOP" in said


def test_controls_are_computed_from_media(model):
    stage, _ = stage_of(model, "control_loudness")
    sounds = torch.zeros(2, 32000)
    sounds[1, 16000:] = 0.5
    loud = stage.of_media(Batch(named={"audio": sounds}))
    assert loud.shape == (2, 5, 50) and not loud[0, :4].any() and loud[1, 0, 40] > loud[1, 0, 10]
    stage, _ = stage_of(model, "control_layout")
    with pytest.raises(InputError, match="layout cannot be computed from media"):
        stage.of_media(Batch(named={"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("options.control=beat", "control names 'beat': expected some of"),
        ("options.control=beats", "control is 'beats' of image: expected one that has time"),
        ("options.pictures=0.3", "pictures is 0.3: expected 0"),
        ("part.width=6", "width is 6"),
    ],
)
def test_mistakes_are_named(model, override, expected):
    with pytest.raises(InputError, match=expected):
        stage_of(model, "control_sketch", override)


def test_the_measures_know_what_is_right():
    scenes = benchmark.sample_scenes(4, 1)
    image = benchmark.RENDERERS[Modality.IMAGE](scenes)
    assert benchmark.box_iou(scenes, image, image, Modality.IMAGE) == 1
    assert benchmark.silhouette_iou(scenes, image, image.flip(0), Modality.IMAGE) < 0.9
    sound = benchmark.RENDERERS[Modality.AUDIO](scenes)
    assert benchmark.semitone_share(scenes, sound, sound, Modality.AUDIO) == 1
    assert benchmark.level_correlation(scenes, sound, sound, Modality.AUDIO) == pytest.approx(1, abs=1e-4)
    assert benchmark.beat_f1(scenes, sound, sound, Modality.AUDIO) > 0.95
