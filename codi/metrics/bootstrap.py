"""Intervals by resampling scenes. A scene with several seeds is one unit: it is drawn with all its rows."""

from collections.abc import Callable
from dataclasses import dataclass

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
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Interval(value=float(statistic(rows[None])[0]), low=float(low), high=float(high))
