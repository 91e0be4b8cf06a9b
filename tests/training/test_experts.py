"""Training one expert by noise range: its timesteps alone, and the other half stays what it was."""

import shutil
from pathlib import Path

import pytest
import torch

from codi.diffusion import NoiseProcess
from codi.models.denoisers import TextDenoiser
from codi.models.denoisers.experts import Experts, first_noisy_timestep, split
from codi.types import InputError
from tests.tiny_pipeline import scheduler
from training.config import load_config
from training.main import main
from training.stages.common import load_part
from training.stages.new_model import spread_timesteps

ROOT = Path(__file__).parents[2]
TINY = ROOT / "codi" / "assets" / "tiny"
PARTS = ("scheduler", "text_autoencoder", "text_denoiser", "text_tower", "noisy_latent_encoders")


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_timesteps_of_a_range_are_drawn_as_often_as_before(shift):
    draws = spread_timesteps(40_000, 1000, torch.Generator().manual_seed(0), shift)
    for first, last in ((0, 300), (300, 1000)):
        part = spread_timesteps(20_000, 1000, torch.Generator().manual_seed(1), shift, (first, last))
        assert part.min() >= first and part.max() < last
        kept = draws[(draws >= first) & (draws < last)].float()
        for share in (0.25, 0.5, 0.75):
            assert part.float().quantile(share) == pytest.approx(kept.quantile(share).item(), abs=12)


def train(model: Path, run: str, *settings: str) -> int:
    """One expert of sentences in miniature."""
    own = [f"model={model}", f"output={model.parent / run}", "options.continue_from=true"]
    own += ["options.prompts={text: 1.0}", "options.partner_estimates={}", *settings]
    words = [word for setting in own for word in ("--set", setting)]
    return main(["--config", str(ROOT / "configs/world/denoise_text.yaml"), "--small", *words])


def test_experts_are_trained_one_after_the_other(tmp_path, capsys):
    model = tmp_path / "model"
    for name in PARTS:
        shutil.copytree(TINY / name, model / name)
    shutil.copy(TINY / "model_index.json", model)
    halves = [split(load_part(TextDenoiser, model / "text_denoiser", "copy it"))]
    for name in ("noisy", "clean"):
        assert train(model, name, f"options.expert={name}", "options.expert_boundary=1.0") == 0
        pair = load_part(TextDenoiser, model / "text_denoiser", "train it")
        assert isinstance(pair, Experts) and pair.config.boundary == 1.0
        halves.append(split(pair))
    process = NoiseProcess.from_scheduler(scheduler())
    assert pair.config.boundary_timestep == first_noisy_timestep(process, 1.0)
    (clean, noisy), (clean_1, noisy_1), (clean_2, noisy_2) = halves

    def same(a, b):
        return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())

    assert same(clean, clean_1) and not same(noisy, noisy_1)
    assert same(noisy_1, noisy_2) and not same(clean_1, clean_2)
    capsys.readouterr()
    assert train(model, "other", "options.expert=clean", "options.expert_boundary=0.0") == 2
    assert "expert_boundary is 0: expected 1, where the experts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"expert": "noisiest"}, "expert"),
        ({"expert": "noisy", "continue_from": False}, "continue_from"),
    ],
)
def test_bad_options_are_named(settings, words):
    from training.config import strict
    from training.stages.denoise import DenoiseOptions

    with pytest.raises(InputError, match=words):
        strict(DenoiseOptions, {"modality": "text", "prompts": {"text": 1.0}, **settings}, where="options")


@pytest.mark.parametrize("name", ["noisy", "clean"])
def test_the_configurations_of_experts_parse(name):
    config = load_config(ROOT / "configs" / "world" / "experts" / f"{name}.yaml")
    assert config.options["expert"] == name and config.options["continue_from"]
    assert config.samples > load_config(ROOT / f"configs/world/experts/{name}.yaml", small=True).samples
