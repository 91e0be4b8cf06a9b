"""Every stage of the embedded model in miniature, in the order of `make tiny`, each from the parts that the earlier ones left; then the
finished folder is published, loaded as users load it, and asked for everything at once."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from codi.types import Modality
from training.config import load_config
from training.main import main
from training.publish import publish

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "world").glob("*.yaml"))
LADDER = sorted((ROOT / "configs" / "world" / "ladder").glob("*.yaml"))


def stages() -> list[str]:
    """The stages of the Makefile, in order, the optional ones last."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return " ".join(re.search(rf"^{name} := (.*)$", text, re.MULTILINE).group(1) for name in ("STAGES", "OPTIONAL_STAGES")).split()


def test_make_tiny_runs_every_config() -> None:
    assert sorted(stages()) == sorted(path.stem for path in CONFIGS)


@pytest.mark.parametrize("path", CONFIGS + LADDER, ids=lambda path: path.stem)
def test_config_parses_strictly_with_its_miniature(path: Path) -> None:
    assert load_config(path).samples > load_config(path, small=True).samples


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `runs/<stage>/` of every stage in miniature."""
    folder = tmp_path_factory.mktemp("tiny")
    for stage in stages():
        config = ROOT / "configs" / "world" / f"{stage}.yaml"
        places = [f"model={folder}/model", f"output={folder}/runs/{stage}"]
        code = main(["--config", str(config), "--small", *(word for place in places for word in ("--set", place))])
        assert code == 0, f"stage {stage} ended with {code}"
    return folder


def test_every_stage_logs_previews_and_exports(trained: Path) -> None:
    for stage in stages():
        run = trained / "runs" / stage
        assert json.loads((run / "exported.json").read_text())["files"], stage
        assert any(path.is_file() for path in (run / "previews").rglob("*")), stage


@pytest.mark.parametrize("step", ["released", "tokens", "negatives"])
def test_a_step_of_the_ladder_leaves_the_model_as_it_was_and_generates(trained: Path, step: str) -> None:
    from codi import CoDiPipeline

    config, into = ROOT / "configs" / "world" / "ladder" / f"{step}.yaml", trained / "ladder" / step
    before = {path: path.read_bytes() for path in (trained / "model").rglob("*.safetensors")}
    places = [f"model={trained}/model", f"output={trained}/ladder-runs/{step}", f"options.into={into}"]
    assert main(["--config", str(config), "--small", *(word for place in places for word in ("--set", place))]) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    publish(into, trained / "ladder" / f"{step}-published", trained / "runs")
    pipe = CoDiPipeline.from_pretrained(trained / "ladder" / f"{step}-published")
    pipe.set_progress_bar_config(disable=True)
    pair = (Modality.AUDIO, Modality.VIDEO)
    assert pipe.model.hears == ({m: {m} for m in pair} if step == "released" else dict(zip(pair, ({pair[1]}, {pair[0]}))))
    out = pipe(text="a red ball", outputs=["audio", "video"], seed=0, num_inference_steps=2)
    assert torch.isfinite(out.audios[0]).all() and torch.isfinite(out.videos[0].float()).all()


def test_pairs_may_be_trained_one_after_another(trained: Path) -> None:
    config, model = ROOT / "configs" / "world" / "joint.yaml", trained / "pairs"
    shutil.copytree(trained / "model", model, ignore=shutil.ignore_patterns("environments"))
    for pair, more in (("text+audio", []), ("audio+video", ["options.continue_from=true"])):
        places = [f"model={model}", f"output={trained}/pair-runs/{pair}", "preview_every=0", f"options.pairs={{{pair}: 1.0}}"]
        settings = [*places, "options.timestep_shift={}", *more]
        assert main(["--config", str(config), "--small", *(word for setting in settings for word in ("--set", setting))]) == 0
    pairs = json.loads((model / "environments" / "config.json").read_text())["pairs"]
    assert sorted(map(sorted, pairs)) == [["audio", "text"], ["audio", "video"]]


def test_published_model_generates_everything_at_once(trained: Path) -> None:
    publish(trained / "model", trained / "published", trained / "runs")
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained(trained / "published")
    pipe.set_progress_bar_config(disable=True)
    out = pipe(text="a red ball", outputs=["text", "image", "audio", "video"], seed=0, num_inference_steps=2)
    assert out.videos[0].shape == (16, 3, 64, 64) and out.audios[0].shape == (32000,) and out.images[0].size == (64, 64)
    assert torch.isfinite(out.audios[0]).all() and isinstance(out.texts[0], str)
    made = json.loads((trained / "published" / "provenance.json").read_text())
    assert set(made["stages"]) == set(stages())
