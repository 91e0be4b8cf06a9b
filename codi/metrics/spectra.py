"""Measure how far the spectra of two sounds are apart, at several resolutions in time and frequency.

The distance is that of arXiv 1910.11480: spectral convergence and the L1 of log-magnitudes. Phases do not
count.

Letters: B sounds, S samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SIZES = (256, 512, 1024, 2048)  # samples of the windows
FLOOR = 1e-3  # added to magnitudes, times the root of the window's size, with which those of noise grow


def magnitudes(predicted: Tensor, true: Tensor, size: int) -> tuple[Tensor, Tensor, float]:
    """Return the magnitudes of two sounds at one resolution, and the floor of their logarithms.

    Without the floor the logarithm of silence would count for most.

    Args:
        predicted: waveforms (B, S) in [-1, 1].
        true: waveforms (B, S) in [-1, 1].
        size: samples of the window, of which a quarter is the hop.

    Returns:
        The magnitudes of both, (B, K, T) each, and what is added to them before the logarithm is taken.
    """
    window = torch.hann_window(size, device=true.device)
    first, second = (
        torch.stft(wave, size, size // 4, window=window, return_complex=True).abs()
        for wave in (predicted, true)
    )
    return first, second, FLOOR * size**0.5


def spectral_distance(predicted: Tensor, true: Tensor, size: int) -> Tensor:
    """Return the two distances at one resolution.

    Args:
        predicted: waveforms (B, S) in [-1, 1].
        true: waveforms (B, S) in [-1, 1].
        size: samples of the window, of which a quarter is the hop.

    Returns:
        The spectral convergence, the norm of the difference of magnitudes relative to that of the true ones,
        and the mean absolute difference of log-magnitudes, (2, B).
    """
    assert predicted.shape == true.shape, f"{tuple(predicted.shape)} and {tuple(true.shape)}"
    first, second, floor = magnitudes(predicted, true, size)
    convergence = (first - second).norm(dim=(1, 2)) / (second.norm(dim=(1, 2)) + floor)
    log = ((first + floor).log() - (second + floor).log()).abs().mean((1, 2))
    return torch.stack([convergence, log])


def multi_resolution_distance(predicted: Tensor, true: Tensor, sizes: Sequence[int] = SIZES) -> Tensor:
    """Return the sum of both distances of `spectral_distance`, averaged over resolutions, (B,)."""
    by_size = [spectral_distance(predicted, true, size).sum(0) for size in sizes]
    return torch.stack(by_size).mean(0)
