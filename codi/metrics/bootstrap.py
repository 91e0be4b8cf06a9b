"""Estimate intervals by resampling scenes.

A scene with several seeds is one unit: it is drawn with all its rows.

Letters: N scenes, R resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Hold an estimate with the ends of its percentile interval.

    Attributes:
        value: the estimate from the scenes themselves.
        low: the lower end of the interval.
        high: the upper end of the interval.
    """

    value: float
    low: float
    high: float


def bootstrap(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate a statistic over scenes and its percentile interval.

    Args:
        rows: (N, ...), one row for each scene.
        statistic: a function that maps resamples (R, N, ...) to their values (R,). None takes the mean of
            everything in a resample.
        num_resamples: how many resamples are drawn.
        confidence: the share of resamples that lies inside the interval.
        seed: the seed of the resampling.

    Returns:
        The statistic of `rows` with its interval. All three numbers are NaN where there are no scenes.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if not len(rows):
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"))
    statistic = statistic or (lambda x: x.reshape(len(x), -1).mean(axis=1))
    picks = np.random.default_rng(seed).integers(len(rows), size=(num_resamples, len(rows)))
    samples = statistic(rows[picks])  # (R,)
    tail = (1 - confidence) / 2 * 100
    # A resample of scenes in which nothing was asked is NaN; the others still give an interval.
    low, high = (
        np.nanpercentile(samples, [tail, 100 - tail]) if np.isfinite(samples).any() else (np.nan, np.nan)
    )
    return Interval(value=float(statistic(rows[None])[0]), low=float(low), high=float(high))


def share_interval(rows: np.ndarray, confidence: float = 0.95) -> Interval:
    """Estimate the mean of shares over scenes and its interval.

    Where every scene is right, or none is, all resamples are alike and say nothing of the next scene. One
    bound is then exact (Clopper and Pearson, Biometrika 26, 1934): it is the share at which N scenes in a
    row, those in which something was asked, come out so with a probability of (1 - confidence) / 2.

    Args:
        rows: (N, ...) shares in [0, 1], one row for each scene, NaN where nothing was asked.
        confidence: the share of resamples that lies inside the interval.

    Returns:
        The mean of the shares that are there, with its interval.
    """
    interval = bootstrap(rows, nanmean, confidence=confidence)
    if interval.low == interval.high == interval.value and interval.value in (0.0, 1.0):
        rows = np.asarray(rows, dtype=np.float64)
        asked = np.isfinite(rows.reshape(len(rows), -1)).any(axis=1).sum()
        least = float(((1 - confidence) / 2) ** (1 / asked))
        return replace(interval, low=least) if interval.value else replace(interval, high=1 - least)
    return interval


def ratio_of_sums(rows: np.ndarray) -> np.ndarray:
    """Return for each resample the sum of numerators divided by the sum of denominators.

    Args:
        rows: (R, N, ..., 2), numerators and denominators in the last axis.

    Returns:
        The ratios (R,), NaN where there is nothing to divide by.
    """
    top, bottom = np.moveaxis(rows.reshape(len(rows), -1, 2).sum(axis=1), -1, 0)
    return np.divide(top, bottom, out=np.full(len(rows), np.nan), where=bottom > 0)


def nanmean(rows: np.ndarray) -> np.ndarray:
    """Return for each resample the mean of the numbers that are there.

    Args:
        rows: (R, N, ...), NaN where there is no number.

    Returns:
        The means (R,), NaN where there is no number at all. Unlike `numpy.nanmean` it does not warn of that.
    """
    rows = rows.reshape(len(rows), -1)
    there = np.isfinite(rows)
    count = there.sum(axis=1)
    return np.divide(
        np.where(there, rows, 0.0).sum(axis=1), count, out=np.full(len(rows), np.nan), where=count > 0
    )
