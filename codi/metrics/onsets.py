"""Agreement in time between two lists of onsets: optimal one-to-one matching, F1, signed bias, spread of the
error.

All times are seconds. Offsets are predicted minus true: positive means that the prediction is late.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Onsets = Sequence[np.ndarray]  # one array of seconds per scene


@dataclass(frozen=True, kw_only=True)
class OnsetScore:
    """Scores pooled over scenes. Seconds where there is a unit; NaN for what has no matched pair
    to stand on.
    """

    f1: float
    precision: float
    recall: float
    bias: float  # mean signed offset of matched pairs
    mae: float  # mean absolute offset of matched pairs
    p95: float  # 95th percentile of the absolute offset
    count_accuracy: float  # scenes in which both lists are equally long


def match_onsets(predicted: np.ndarray, true: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices (K, 2) of the pairs (predicted, true) within `tolerance`: as many as possible, then as close as
    possible.
    """
    from scipy.optimize import linear_sum_assignment

    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.size == 0 or true.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    distance = np.abs(predicted[:, None] - true[None, :])  # (P, N)
    allowed = distance <= tolerance + 1e-9
    # One pair out of reach costs more than all pairs within it, so the number of matches comes first.
    far = (tolerance + 1e-9) * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, far))
    keep = allowed[rows, columns]
    return np.stack([rows[keep], columns[keep]], axis=1).astype(np.int64)


def onset_counts(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Per scene (N, 3): matched pairs, predicted onsets, true onsets. Sums of rows give F1; rows are what a
    bootstrap resamples.
    """
    assert len(predicted) == len(true), f"{len(predicted)} predicted lists for {len(true)} true ones"
    rows = [(len(match_onsets(p, t, tolerance)), len(p), len(t)) for p, t in zip(predicted, true)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """F1 (...,) of counts (..., N, 3), pooled over N. Two sets without any onset score 0: silence proves
    nothing.
    """
    matched, predicted, true = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return 2 * matched / np.maximum(predicted + true, 1)


def matched_offsets(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Predicted minus true seconds of every matched pair of every scene, (K,)."""
    parts = []
    for p, t in zip(predicted, true):
        pairs = match_onsets(p, t, tolerance)
        parts.append(np.asarray(p)[pairs[:, 0]] - np.asarray(t)[pairs[:, 1]] if len(pairs) else np.zeros(0))
    return np.concatenate(parts) if parts else np.zeros(0)


def offset_sums(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Per scene (N, 2): sum of the offsets of matched pairs, and how many pairs there are. Their ratio over
    rows is the bias.
    """
    parts = [matched_offsets([p], [t], tolerance) for p, t in zip(predicted, true, strict=True)]
    return np.array([(part.sum(), len(part)) for part in parts], dtype=np.float64).reshape(-1, 2)


def onset_f1(predicted: Onsets, true: Onsets, tolerance: float) -> OnsetScore:
    """Score of lists of onsets, one array per scene, against the true ones."""
    counts = onset_counts(predicted, true, tolerance)
    matched, num_predicted, num_true = counts.sum(axis=0) if len(counts) else (0.0, 0.0, 0.0)
    offsets = matched_offsets(predicted, true, tolerance)
    has = offsets.size > 0
    return OnsetScore(
        f1=float(f1_of_counts(counts)),
        precision=float(matched / max(num_predicted, 1)),
        recall=float(matched / max(num_true, 1)),
        bias=float(offsets.mean()) if has else float("nan"),
        mae=float(np.abs(offsets).mean()) if has else float("nan"),
        p95=float(np.percentile(np.abs(offsets), 95)) if has else float("nan"),
        count_accuracy=float((counts[:, 1] == counts[:, 2]).mean()) if len(counts) else float("nan"),
    )


def f1_over_tolerance(predicted: Onsets, true: Onsets, tolerances: Sequence[float]) -> np.ndarray:
    """F1 at each tolerance, (len(tolerances),)."""
    return np.array([f1_of_counts(onset_counts(predicted, true, tolerance)) for tolerance in tolerances])


def best_constant_offset(
    predicted: Onsets, true: Onsets, tolerance: float, reach: float = 0.5, step: float = 0.02
) -> tuple[float, list[np.ndarray]]:
    """The one shift in [-reach, reach] s that, added to every prediction, gives the highest F1, and the
    predictions so shifted.
    """
    # of equals the smallest
    shifts = np.array(sorted(np.arange(-round(reach / step), round(reach / step) + 1) * step, key=abs))
    scores = [
        float(f1_of_counts(onset_counts([np.asarray(p) + s for p in predicted], true, tolerance)))
        for s in shifts
    ]
    best = float(shifts[int(np.argmax(scores))])
    return best, [np.asarray(p) + best for p in predicted]
