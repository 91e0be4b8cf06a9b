"""Measure how far two media are apart that were made in two ways from one prompt and seed.

Letters: B batch, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as nnf

WINDOW, SIGMA = 11, 1.5  # of the structural similarity: pixels
C1, C2 = 0.01**2, 0.03**2  # its constants, for values in [0, 1]
MOST_DB = 99.0  # what two equal pictures have, whose ratio is infinite


def psnr(first: Tensor, second: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two pictures or clips in decibels, at most `MOST_DB`.

    Args:
        first: uint8, of any shape.
        second: uint8, of the same shape.

    Returns:
        The ratio; more is closer.
    """
    assert first.shape == second.shape, f"{tuple(first.shape)} and {tuple(second.shape)}"
    error = (first.float() - second.float()).square().mean().item() / 255**2
    return MOST_DB if error == 0 else min(MOST_DB, -10 * math.log10(error))


def ssim(first: Tensor, second: Tensor) -> float:
    """Return the mean structural similarity of two pictures or clips (Wang et al., 2004).

    Args:
        first: uint8 (..., 3, H, W), sides of at least `WINDOW` pixels.
        second: uint8, of the same shape.

    Returns:
        The similarity, at most 1; 1 for equal ones.
    """
    assert first.shape == second.shape, f"{tuple(first.shape)} and {tuple(second.shape)}"
    x, y = (
        media.reshape(-1, 1, *media.shape[-2:]).double() / 255 for media in (first, second)
    )  # (B C, 1, H, W)
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = torch.exp(-(place**2) / (2 * SIGMA**2))
    bell = bell / bell.sum()

    def smooth(media: Tensor) -> Tensor:
        return nnf.conv2d(nnf.conv2d(media, bell[None, None, :, None]), bell[None, None, None])

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * both + C2)
    return (top / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean().item()
