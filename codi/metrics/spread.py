"""Does generation choose with variety? Total variation between the values drawn and the world's own
distribution.
"""

from collections.abc import Sequence

import numpy as np


def total_variation(values: Sequence[str | None], support: Sequence[str], probabilities: np.ndarray) -> float:
    """Half the L1 distance between the frequencies of `values` and `probabilities` over `support`, in [0, 1].

    Unreadable values (None) are mass outside the support, so an illegible output cannot look varied.
    """
    assert len(support) == len(probabilities), f"{len(probabilities)} probabilities for {len(support)} values"
    if not len(values):
        return float("nan")
    index = {value: i for i, value in enumerate(support)}
    counts = np.zeros(len(support) + 1)
    for value in values:
        counts[index.get(value, len(support))] += 1
    return float(np.abs(counts / len(values) - np.append(probabilities, 0.0)).sum() / 2)


def quantile_bins(values: np.ndarray, reference: np.ndarray, num_bins: int) -> float:
    """Total variation of a number: `values` over equally likely bins that `reference` sets. NaNs are left
    out; NaN of nothing.
    """
    values, reference = (
        x[np.isfinite(x)]
        for x in (np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64))
    )
    if not len(values) or not len(reference):
        return float("nan")
    inner = np.quantile(reference, np.arange(1, num_bins) / num_bins)
    shares = np.bincount(np.searchsorted(inner, values), minlength=num_bins) / len(values)
    return float(np.abs(shares - 1 / num_bins).sum() / 2)


def expected_total_variation(
    num_values: int, probabilities: np.ndarray, num_draws: int = 2000, seed: int = 0
) -> float:
    """Mean total variation of `num_values` honest draws: what a perfect generator would score for reasons of
    counting alone.
    """
    draws = np.random.default_rng(seed).multinomial(num_values, probabilities, size=num_draws) / num_values
    return float(np.abs(draws - probabilities).sum(axis=1).mean() / 2)


def world_distribution(attribute: str) -> np.ndarray:
    """Probability of each value of `attribute`, in the world's order, among scenes that training may show."""
    from codi.world import ATTRIBUTES, COLOURS, SHAPES

    if attribute not in ("shape", "colour"):
        return np.full(len(ATTRIBUTES[attribute]), 1 / len(ATTRIBUTES[attribute]))
    i, j = np.meshgrid(np.arange(len(SHAPES)), np.arange(len(COLOURS)), indexing="ij")
    shown = (3 * i + j) % 8 != 0  # pairs held out: world.md, "A scene"
    counts = shown.sum(axis=1 if attribute == "shape" else 0)
    return counts / counts.sum()
