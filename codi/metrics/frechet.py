"""Measure the distance between two sets of features.

The distances are that of Frechet (FID, FAD or FVD, by extractor) and that of a kernel (KID, KAD).

The caller chooses the extractor; a published number names it, with sampling rate and count. Everything is
computed in float64.

Letters: N features of one set, M of the other, D width.
"""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return the Frechet distance between two sets of features (Heusel et al., arXiv 1706.08500).

    It is |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^1/2). The trace of the root comes from `eigvalsh`
    of the symmetric S_x^1/2 S_y S_x^1/2, so that no complex part can appear.

    Args:
        x: (N, D) features of one set, N at least 2.
        y: (M, D) features of the other set, M at least 2.

    Returns:
        The squared distance, 0 for sets of equal mean and covariance.
    """
    mean_x, cov_x = _moments(x)
    mean_y, cov_y = _moments(y)
    root = _sqrt_psd(cov_x)
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased squared MMD between two sets of features (Binkowski et al., arXiv 1801.01401).

    The kernel is (x.y / D + 1)^3. The expectation is zero for equal distributions, so small negative values
    are right.

    Args:
        x: (N, D) features of one set, N at least 2.
        y: (M, D) features of the other set, M at least 2.

    Returns:
        The squared distance.
    """
    x = _features(x)
    y = _features(y)
    within = _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y))
    return float(within - 2 * _kernel(x, y).mean())


def kernel_distance_of_subsets(
    x: Tensor, y: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return mean and standard deviation of `kernel_distance` over random subsets, as KID is published.

    Args:
        x: (N, D) features of one set, N at least 2.
        y: (M, D) features of the other set, M at least 2.
        num_subsets: how many subsets of both sets are drawn.
        subset_size: features of a subset, drawn without replacement; at most as many as the smaller set has.
        seed: the seed of the draws.

    Returns:
        The mean and the standard deviation over subsets.
    """
    x = _features(x)
    y = _features(y)
    size = min(subset_size, len(x), len(y))
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(num_subsets):
        picked = [features[torch.randperm(len(features), generator=draw)[:size]] for features in (x, y)]
        found.append(kernel_distance(*picked))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    """Return the mean of a kernel (N, N) without its diagonal.

    So the estimate is unbiased: a feature is not compared with itself.
    """
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return the cubic kernel (N, M) between features (N, D) and (M, D)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _features(x: Tensor) -> Tensor:
    """Return features (N, D) in float64 without gradients, after a check of their shape."""
    assert x.ndim == 2 and len(x) > 1, f"features are (N, D) with N of at least 2, got {tuple(x.shape)}"
    return x.detach().double()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of features (N, D)."""
    x = _features(x)
    return x.mean(dim=0), torch.atleast_2d(torch.cov(x.T))


def _sqrt_psd(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semidefinite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding can turn an eigenvalue of zero slightly negative.
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
