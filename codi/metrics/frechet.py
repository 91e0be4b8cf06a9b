"""Distances between two sets of features: Frechet (FID, FAD, FVD by extractor) and kernel (KID, KAD).

The extractor is the caller's; a published number names it, with sampling rate and count. Everything is
float64.
"""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^1/2) of features (N, D) and (M, D); Heusel et al.,
    arXiv 1706.08500.

    The trace of the root comes from eigh of the symmetric S_x^1/2 S_y S_x^1/2, so no complex part can appear.
    """
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    root = _sqrt_psd(cov_x)
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 of features (N, D) and (M, D); Binkowski et al.,
    arXiv 1801.01401.

    Zero in expectation for equal distributions, so small negative values are right.
    """
    x, y = _features(x), _features(y)
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (_kernel(x, x), _kernel(y, y))]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _features(x: Tensor) -> Tensor:
    assert x.ndim == 2 and len(x) > 1, f"features are (N, D) with N of at least 2, got {tuple(x.shape)}"
    return x.detach().double()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D)."""
    x = _features(x)
    return x.mean(dim=0), torch.atleast_2d(torch.cov(x.T))


def _sqrt_psd(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
