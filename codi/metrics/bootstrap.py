"""Intervals by resampling scenes. A scene with several seeds is one unit: it is drawn with all its rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with the ends of its percentile interval."""

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
    """Interval of `statistic` over scenes.

    rows       (N, ...) one row per scene
    statistic  maps resamples (R, N, ...) to (R,); the mean of everything in a resample when None
    """
    rows = np.asarray(rows, dtype=np.float64)
    if not len(rows):
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"))
    statistic = statistic or (lambda x: x.reshape(len(x), -1).mean(axis=1))
    picks = np.random.default_rng(seed).integers(len(rows), size=(num_resamples, len(rows)))
    samples = statistic(rows[picks])  # (R,)
    tail = (1 - confidence) / 2 * 100
    low, high = (
        np.nanpercentile(samples, [tail, 100 - tail]) if np.isfinite(samples).any() else (np.nan, np.nan)
    )
    return Interval(value=float(statistic(rows[None])[0]), low=float(low), high=float(high))


def share_interval(rows: np.ndarray, confidence: float = 0.95) -> Interval:
    """Interval of the mean of shares (N, ...) in [0, 1], one row per scene, NaN where nothing was asked.

    Where all are right, or none is, resamples are all alike and say nothing of the next scene. The bound is
    then exact (Clopper and Pearson, Biometrika 26, 1934): the share that lets N scenes in a row come out so
    with no more than the chance that is left.
    """
    interval = bootstrap(rows, nanmean, confidence=confidence)
    if interval.low == interval.high == interval.value and interval.value in (0.0, 1.0):
        rows = np.asarray(rows, dtype=np.float64)
        asked = np.isfinite(rows.reshape(len(rows), -1)).any(axis=1).sum()
        least = float(((1 - confidence) / 2) ** (1 / asked))
        return replace(interval, low=least) if interval.value else replace(interval, high=1 - least)
    return interval


def ratio_of_sums(rows: np.ndarray) -> np.ndarray:
    """Statistic of rows (R, N, ..., 2) of numerators and denominators: sum by sum, (R,). NaN where there is
    nothing to divide by.
    """
    top, bottom = np.moveaxis(rows.reshape(len(rows), -1, 2).sum(axis=1), -1, 0)
    return np.divide(top, bottom, out=np.full(len(rows), np.nan), where=bottom > 0)


def nanmean(rows: np.ndarray) -> np.ndarray:
    """Statistic of rows (R, N, ...): mean of the numbers that are there, (R,). NaN where there is none."""
    rows = rows.reshape(len(rows), -1)
    there = np.isfinite(rows)
    count = there.sum(axis=1)
    return np.divide(
        np.where(there, rows, 0.0).sum(axis=1), count, out=np.full(len(rows), np.nan), where=count > 0
    )
