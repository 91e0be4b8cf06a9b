"""Distances of spectra against what they are in closed form."""

import math

import pytest
import torch

from codi.metrics.spectra import FLOOR, multi_resolution_distance, spectral_distance


def noise(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(seed))


def test_equal_sounds_have_no_distance_and_phases_do_not_count():
    sound = noise(0)
    assert spectral_distance(sound, sound, 512).abs().max() == 0
    assert multi_resolution_distance(sound, -sound).abs().max() < 1e-6


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_louder_sound_is_apart_by_its_factor(factor):
    convergence, log = spectral_distance(factor * noise(0), noise(0), 512)
    assert convergence.tolist() == pytest.approx([abs(factor - 1)] * 2, abs=2e-3)
    assert log.tolist() == pytest.approx([abs(math.log(factor))] * 2, abs=0.05)  # but for the floor


def test_silence_counts_as_the_floor():
    silence = torch.zeros(1, 8000)
    faint = 1e-6 * noise(1)[:1]
    assert multi_resolution_distance(faint, silence).item() < 0.1
    tone = torch.sin(torch.arange(8000) * 2 * math.pi * 0.125)[None]
    convergence, log = spectral_distance(silence, tone, 512)
    assert convergence.item() == pytest.approx(1, abs=1e-3)
    loudest = math.log(512 / 4 / (FLOOR * 512**0.5))
    assert 0 < log.item() < loudest
