"""Contrast in time: closed forms, what counts as a repetition, and that it teaches encoders when things
happen.
"""

import math

import pytest
import torch
from torch.nn import functional

from codi.diffusion.losses import info_nce, timed_nce
from codi.joint.encoders import EnvironmentEncoders
from codi.types import Modality
from training.stages.contrast import TimedContrast, repeats

PAIR = (Modality.AUDIO, Modality.VIDEO)
LATENTS = {
    "audio": dict(latent_shape=[2, 20, 2], latent_rate=10.0, tokens_per_step=1),
    "video": dict(latent_shape=[2, 8, 4, 4], latent_rate=4.0, tokens_per_step=2),
}


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))), dim=-1
    )


def test_without_time_it_is_the_ordinary_contrast():
    a, b = unit(5, 1, 8), unit(5, 1, 8).flip(0)
    assert torch.allclose(timed_nce(a, b, 1.5), info_nce(a[:, 0], b[:, 0], 1.5), atol=1e-6)


def test_a_shift_is_a_further_wrong_partner():
    a = unit(1, 6, 4)
    same, moved = 1.0, (a[:, :4] * a[:, 2:]).sum(-1).mean().item()
    expected = -math.log(math.exp(same) / (math.exp(same) + math.exp(moved)))
    assert timed_nce(a, a, 0.0, (2,)).item() == pytest.approx(expected, abs=1e-6)
    scale = torch.zeros((), requires_grad=True)
    without = timed_nce(a, a, scale, (2,), torch.tensor([[False]]))
    assert without.item() == pytest.approx(0.0, abs=1e-6)
    without.sum().backward()
    assert scale.grad.isfinite()


def test_a_rhythm_moved_by_its_period_is_a_repetition():
    steps = torch.arange(64) / 32
    rhythm = (2 * math.pi * 2 * steps).sin()  # twice a second, two seconds
    once = torch.exp(-((steps - 0.7) ** 2) / 0.01)
    x = torch.stack([rhythm, once])[..., None]
    found = repeats(x, 16, (2, 4, -4), alike=0.8)  # sixteen segments of 1/8 s: the period is four of them
    assert found.tolist() == [[False, True, True], [False, False, False]]
    assert repeats(x, 16, (), alike=0.8).shape == (2, 0)


def test_without_hard_negatives_only_other_clips_are_wrong():
    contrast = TimedContrast(list(PAIR), dim=8, segment=0.25, shifts=())
    encoders = EnvironmentEncoders(LATENTS, dim=8, num_layers=1, num_heads=2).by_modality()
    sounds, clips = (torch.randn(3, *LATENTS[m.value]["latent_shape"]) for m in PAIR)
    envs = tuple(encoders[m](x, torch.zeros(3)) for m, x in zip(PAIR, (sounds, clips)))
    losses = contrast(PAIR, envs, sounds.transpose(1, 2).flatten(2))
    a, b = (contrast.segments(m, env) for m, env in zip(PAIR, envs))
    assert torch.allclose(losses, timed_nce(a, b, contrast.log_scale), atol=1e-6)


def test_segments_follow_the_clock_whatever_the_rate():
    contrast = TimedContrast(list(PAIR), dim=8, segment=0.25)
    encoders = EnvironmentEncoders(LATENTS, dim=8, num_layers=1, num_heads=2).by_modality()
    sides = [
        contrast.segments(m, encoders[m](torch.randn(3, *LATENTS[m.value]["latent_shape"]), torch.zeros(3)))
        for m in PAIR
    ]
    assert [side.shape for side in sides] == [(3, 8, 64)] * 2
    assert all(torch.allclose(side.norm(dim=-1), torch.ones(3, 8), atol=1e-5) for side in sides)


def test_it_teaches_when_things_happen():
    """A burst at the same random second in both; which clip belongs to which sound can be told
    by time alone.
    """
    torch.manual_seed(0)
    encoders = EnvironmentEncoders(LATENTS, dim=16, num_layers=1, num_heads=2)
    contrast = TimedContrast(list(PAIR), dim=16, segment=0.25, shifts=(2, 3))
    optimizer = torch.optim.AdamW([*encoders.parameters(), *contrast.parameters()], lr=3e-3)
    first = None
    for _ in range(60):
        when = torch.randint(8, (16,))
        audio, video = 0.3 * torch.randn(16, 2, 20, 2), 0.3 * torch.randn(16, 2, 8, 4, 4)
        for row, at in enumerate(when.tolist()):
            audio[row, :, int(2.5 * at) : int(2.5 * at) + 2] += 2.0
            video[row, :, at] += 2.0
        t = torch.zeros(16)
        envs = tuple(encoders.by_modality()[m](x, t) for m, x in zip(PAIR, (audio, video)))
        loss = contrast(PAIR, envs, audio.transpose(1, 2).flatten(2)).mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75 * first
