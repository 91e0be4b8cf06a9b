"""The stage of super-resolution: its crops are where they should be, and it tells what it gives."""

from pathlib import Path

import pytest
import torch

from codi.io import to_unit
from training.config import load_config
from training.stages import open_stage

CONFIG = Path(__file__).parents[2] / "configs" / "world" / "super_resolution.yaml"


def stage(*overrides: str):
    return open_stage(load_config(CONFIG, small=True, overrides=overrides))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crops_are_the_same_places_large_and_small_and_lie_on_what_is_seen():
    made = stage("options.plain=0.0", "options.crop=32", "options.size=128")
    module = made.build()
    pictures = -torch.ones(2, 3, 128, 128)
    pictures[0, :, 90:101, 21:30] = 1.0  # the only details
    large, small = made.crops(module, pictures, noise())
    assert large.shape == (4, 3, 32, 32) and small.shape == (4, 3, 8, 8)
    torch.testing.assert_close(module.downsampled(large), small)
    assert (large[:2].amax(dim=(1, 2, 3)) == 1).all()  # of the second picture any place will do


def test_the_share_without_noise_and_the_range_of_the_others():
    made = stage("options.unaugmented=0.5")
    level = made.levels(made.build(), 4000, noise())
    assert (level == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert 0.29 < level.max() <= 0.3
    assert level[level > 0].mean() == pytest.approx(0.15, abs=0.01)


def test_a_perfect_network_has_no_loss(monkeypatch):
    """A network that answers the velocity of x_0 = details: what it is told agrees with what it is given."""
    made = stage()
    module = made.build()
    frames = made.data().fetch([0, 1])["frames"]
    seen = {}
    real = type(module).details
    monkeypatch.setattr(
        type(module), "details", lambda self, *given: seen.setdefault("x_0", real(self, *given))
    )

    def answer(self, x, t, given, level):
        alpha_bar = made.scheduler.alphas_cumprod[t][:, None, None, None]
        eps = (x - alpha_bar.sqrt() * seen["x_0"]) / (1 - alpha_bar).sqrt()
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * seen["x_0"]

    monkeypatch.setattr(type(module), "__call__", answer, raising=False)
    loss, log = made.loss(module, {"frames": frames}, noise())
    assert loss < 1e-4
    assert len(log["bins"][0]) == 4


def test_gradients_reach_every_weight_and_the_truth_is_large_frames():
    made = stage()
    module = made.build()
    frames = made.data().fetch([0, 1])["frames"]
    assert frames.dtype == torch.uint8 and frames.shape == (2, 3, 64, 64)
    assert to_unit(frames).min() >= -1
    made.loss(module, {"frames": frames}, noise())[0].backward()
    still = [name for name, weight in module.named_parameters() if weight.grad is None]
    assert not still


@pytest.mark.parametrize("crop", ["30", "128", "0"])
def test_a_crop_that_does_not_fit_is_named(crop):
    from codi.types import InputError

    with pytest.raises(InputError, match="crop"):
        stage(f"options.crop={crop}").build()
