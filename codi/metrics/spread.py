"""Measure whether generation chooses with variety.

The measure is the total variation between the values that were drawn and the world's own distribution.
"""

from collections.abc import Sequence

import numpy as np


def total_variation(values: Sequence[str | None], support: Sequence[str], probabilities: np.ndarray) -> float:
    """Return half the L1 distance between the frequencies of `values` and `probabilities`.

    Values that could not be read (None) are mass outside the support, so that an illegible output cannot look
    varied.

    Args:
        values: the values that were drawn.
        support: the values that are possible.
        probabilities: (len(support),) the probability of each of them.

    Returns:
        The total variation in [0, 1], or NaN where `values` is empty.
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
    """Return the total variation of a number over bins in which `reference` is spread evenly.

    NaNs are left out of both.

    Args:
        values: the numbers that were drawn, one dimension.
        reference: the numbers whose quantiles separate the bins, one dimension.
        num_bins: how many bins there are.

    Returns:
        The total variation in [0, 1], or NaN where `values` or `reference` holds no number.
    """
    values = _finite(values)
    reference = _finite(reference)
    if not len(values) or not len(reference):
        return float("nan")
    inner = np.quantile(reference, np.arange(1, num_bins) / num_bins)
    shares = np.bincount(np.searchsorted(inner, values), minlength=num_bins) / len(values)
    return float(np.abs(shares - 1 / num_bins).sum() / 2)


def _finite(numbers: np.ndarray) -> np.ndarray:
    """Return those numbers that are finite, in float64."""
    numbers = np.asarray(numbers, dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def expected_total_variation(
    num_values: int, probabilities: np.ndarray, num_draws: int = 2000, seed: int = 0
) -> float:
    """Return the mean total variation that as many honest draws from the distribution would show.

    A perfect generator would score this much for reasons of counting alone.

    Args:
        num_values: how many values are drawn each time.
        probabilities: the probability of each value.
        num_draws: over how many sets of values the mean is taken.
        seed: the seed of the draws.

    Returns:
        The mean total variation in [0, 1].
    """
    draws = np.random.default_rng(seed).multinomial(num_values, probabilities, size=num_draws) / num_values
    return float(np.abs(draws - probabilities).sum(axis=1).mean() / 2)


def world_distribution(attribute: str) -> np.ndarray:
    """Return the probability of each value of an attribute among the scenes that training may show.

    Args:
        attribute: a name out of `codi.world.ATTRIBUTES`.

    Returns:
        The probabilities, in the order of the world's table.
    """
    from codi.world import ATTRIBUTES, COLOURS, SHAPES

    if attribute not in ("shape", "colour"):
        return np.full(len(ATTRIBUTES[attribute]), 1 / len(ATTRIBUTES[attribute]))
    i, j = np.meshgrid(np.arange(len(SHAPES)), np.arange(len(COLOURS)), indexing="ij")
    shown = (3 * i + j) % 8 != 0  # leaves out the pairs of codi.world.scene.is_held_out
    counts = shown.sum(axis=1 if attribute == "shape" else 0)
    return counts / counts.sum()
