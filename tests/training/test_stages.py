"""Every stage of the embedded model in miniature, in the order of `make tiny`, each from the parts that the
earlier ones left; then the finished folder is published, loaded as users load it, and asked for everything at
once.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from codi.joint.encoders import EnvironmentEncoders
from codi.models.codi import DENOISERS
from codi.models.denoisers import UNetDenoiser
from codi.types import Modality
from tests.training.shared import built_once
from training.config import load_config
from training.main import main
from training.plan import writes
from training.publish import publish
from training.stages.common import load_part

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "world").glob("*.yaml"))
ABLATION = sorted((ROOT / "configs" / "world" / "ablation").glob("*.yaml"))


def listed(name: str) -> list[str]:
    """The stages that the Makefile has under a name, in order."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.search(rf"^{name} := (.*)$", text, re.MULTILINE).group(1).split()


def stages() -> list[str]:
    """All of them, the optional ones last."""
    return listed("STAGES") + listed("OPTIONAL_STAGES")


def test_make_tiny_runs_every_config() -> None:
    assert sorted(stages()) == sorted(path.stem for path in CONFIGS)


@pytest.mark.parametrize("path", CONFIGS + ABLATION, ids=lambda path: path.stem)
def test_config_parses_strictly_with_its_miniature(path: Path) -> None:
    assert load_config(path).samples > load_config(path, small=True).samples


def places(folder: Path, stage: str) -> list[str]:
    return [f"model={folder}/model", f"output={folder}/runs/{stage}"]


def run(config: Path, settings: list[str]) -> int:
    """A stage in miniature."""
    return main(
        ["--config", str(config), "--small", *(word for setting in settings for word in ("--set", setting))]
    )


def train_all(folder: Path) -> None:
    for stage in stages():
        code = run(ROOT / "configs" / "world" / f"{stage}.yaml", places(folder, stage))
        assert code == 0, f"stage {stage} ended with {code}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `runs/<stage>/` of every stage in miniature. Tests add to it, and leave what
    is there alone.
    """
    return built_once(tmp_path_factory, "tiny", train_all)


def made(published: Path) -> dict[str, Any]:
    return json.loads((published / "provenance.json").read_text())


def test_every_stage_logs_previews_and_exports_where_a_dry_run_says(trained: Path) -> None:
    for stage in stages():
        folder = trained / "runs" / stage
        exported = json.loads((folder / "exported.json").read_text())["files"]
        said = writes(
            load_config(
                ROOT / "configs" / "world" / f"{stage}.yaml", small=True, overrides=places(trained, stage)
            )
        )
        assert {
            trained / "model" / Path(name).parent for name in exported if not name.startswith("scheduler/")
        } == set(said), stage
        assert any(path.is_file() for path in (folder / "previews").rglob("*")), stage


@pytest.mark.parametrize("step", ["released", "tokens", "clean_pooled"])
def test_a_variant_of_the_ablation_leaves_the_model_as_it_was_and_generates(trained: Path, step: str) -> None:
    from codi import CoDiPipeline

    into, published = trained / "ablation" / step, trained / "ablation" / f"{step}-published"
    before = {path: path.read_bytes() for path in (trained / "model").rglob("*.safetensors")}
    both_attend = ["options.attending={}"] if step == "tokens" else []
    settings = [*places(trained, f"ablation-{step}"), f"options.into={into}", *both_attend]
    config = ROOT / "configs" / "world" / "ablation" / f"{step}.yaml"
    assert into / "environment_encoders" in writes(load_config(config, small=True, overrides=settings))
    assert run(config, settings) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    publish(into, published, trained / "runs")
    assert (
        {f"ablation-{step}", "noisy_latent_encoders", "align_video"}
        <= set(made(published)["stages"])
        <= {f"ablation-{step}", *stages()}
    )
    pipe = CoDiPipeline.from_pretrained(published)
    pipe.set_progress_bar_config(disable=True)
    pair = (Modality.AUDIO, Modality.VIDEO)
    assert pipe.model.attends_to == (
        {m: {m} for m in pair} if step == "released" else dict(zip(pair, ({pair[1]}, {pair[0]})))
    )
    out = pipe(text="a red ball", outputs=["audio", "video"], seed=0, num_inference_steps=2)
    assert torch.isfinite(out.audios[0]).all() and torch.isfinite(out.videos[0].float()).all()


def test_adapters_that_start_anew_are_at_zero_where_a_side_does_not_attend(trained: Path) -> None:
    """A variant of the ablation in which the clip alone attends: the sound's finished adapters would
    attend to encoders that they never met.
    """
    into, output = trained / "ablation" / "reset", f"output={trained}/runs/ablation-reset"
    config = ROOT / "configs" / "world" / "ablation" / "negatives.yaml"  # contrast trains both encoders
    settings = [f"model={trained}/model", output, f"options.into={into}"]
    assert into / "audio_denoiser" in writes(load_config(config, small=True, overrides=settings))
    assert run(config, settings) == 0
    encoders = load_part(EnvironmentEncoders, into / "environment_encoders", "").by_modality()
    shapes = {Modality.AUDIO: (1, 8, 50, 4), Modality.VIDEO: (1, 8, 16, 8, 8)}
    t, context = torch.zeros(1, dtype=torch.long), torch.randn(1, 1, 128)
    for modality, partner in (shapes, reversed(shapes)):
        denoiser = load_part(UNetDenoiser, into / DENOISERS[modality], "")
        x, env = torch.randn(shapes[modality]), encoders[partner](torch.randn(shapes[partner]), t)
        with torch.no_grad():
            differs = not torch.equal(denoiser(x, t, context, partners=env), denoiser(x, t, context))
        assert differs == (modality is Modality.VIDEO)
    before = load_file(trained / "model" / "environment_encoders" / "diffusion_pytorch_model.safetensors")
    after = load_file(into / "environment_encoders" / "diffusion_pytorch_model.safetensors")
    assert {
        name.split(".")[1] for name in after if name in before and not torch.equal(before[name], after[name])
    } == {"audio", "video"}


def test_the_sides_of_a_pair_train_apart_and_pairs_one_after_another(trained: Path) -> None:
    model = trained / "pairs"
    shutil.copytree(trained / "model", model, ignore=shutil.ignore_patterns("environment_encoders"))
    pair = ["options.pairs={audio+video: 1.0}", "preview_every=0", f"model={model}"]
    anew = "options.continue_from=false"
    assert (
        run(ROOT / "configs/world/joint_audio.yaml", [*pair, anew, f"output={trained}/pair-runs/audio"]) == 0
    )
    first = load_file(model / "environment_encoders" / "diffusion_pytorch_model.safetensors")
    audio = (model / "audio_denoiser" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert run(ROOT / "configs/world/joint_video.yaml", [*pair, f"output={trained}/pair-runs/video"]) == 0
    both = load_file(model / "environment_encoders" / "diffusion_pytorch_model.safetensors")
    changed = {name.split(".")[1] for name in both if not torch.equal(first[name], both[name])}
    # what the picture attends to; the environment of the clip stays as the sound's run left it
    assert changed == {"audio"}
    assert (model / "audio_denoiser" / "diffusion_pytorch_model.safetensors").read_bytes() == audio
    more = [*pair, "options.continue_from=true", "seed=1", f"output={trained}/pair-runs/more"]
    assert run(ROOT / "configs/world/joint_video.yaml", more) == 0
    pairs = json.loads((model / "environment_encoders" / "config.json").read_text())["pairs"]
    assert pairs == [["audio", "video"]]


def test_published_model_generates_everything_at_once(trained: Path) -> None:
    publish(trained / "model", trained / "published", trained / "runs")
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained(trained / "published")
    pipe.set_progress_bar_config(disable=True)
    out = pipe(text="a red ball", outputs=["text", "image", "audio", "video"], seed=0, num_inference_steps=2)
    assert (
        out.videos[0].shape == (16, 3, 64, 64)
        and out.audios[0].shape == (32000,)
        and out.images[0].size == (64, 64)
    )
    assert torch.isfinite(out.audios[0]).all() and isinstance(out.texts[0], str)
    about = made(trained / "published")
    beside = {"phase_seeded_vocoder", "vocoder", "distil_audio", "distil_vision", "super_resolution"}
    assert (
        set(about["stages"]) == {*listed("STAGES"), *beside, "joint_text_image", "joint_text_audio"}
        and "unknown" not in about
    )
    assert about["data"] == ["codi.world"]
