"""Measure agreement in time between two lists of onsets.

Onsets are matched one to one, optimally; from the matches follow F1, signed bias and the spread of the error.
All times are in seconds. Offsets are predicted minus true: positive means that the prediction is late.

Letters: N scenes, K matched pairs, P predicted and Q true onsets of one scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Onsets = Sequence[np.ndarray]  # one array of seconds per scene


@dataclass(frozen=True, kw_only=True)
class OnsetScore:
    """Hold scores that are pooled over scenes.

    Times are in seconds. `bias`, `mae` and `p95` are NaN where no pair matches, `count_accuracy` where there
    is no scene.

    Attributes:
        f1: the harmonic mean of precision and recall.
        precision: the share of predicted onsets that have a match.
        recall: the share of true onsets that have a match.
        bias: the mean signed offset of matched pairs.
        mae: the mean absolute offset of matched pairs.
        p95: the 95th percentile of the absolute offset of matched pairs.
        count_accuracy: the share of scenes in which both lists are equally long.
    """

    f1: float
    precision: float
    recall: float
    bias: float
    mae: float
    p95: float
    count_accuracy: float


def match_onsets(predicted: np.ndarray, true: np.ndarray, tolerance: float) -> np.ndarray:
    """Match onsets one to one within `tolerance`, as many as possible, and then as close as possible.

    Args:
        predicted: (P,) seconds.
        true: (Q,) seconds.
        tolerance: the largest distance of a pair in seconds.

    Returns:
        Indices (K, 2) of the matched pairs, into `predicted` and into `true`.
    """
    from scipy.optimize import linear_sum_assignment

    predicted = np.asarray(predicted, dtype=np.float64)
    true = np.asarray(true, dtype=np.float64)
    if predicted.size == 0 or true.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    distance = np.abs(predicted[:, None] - true[None, :])  # (P, Q)
    allowed = distance <= tolerance + 1e-9
    # One pair farther apart than the tolerance costs more than all pairs within it together, so that the
    # number of matches comes first.
    far = (tolerance + 1e-9) * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, far))
    keep = allowed[rows, columns]
    return np.stack([rows[keep], columns[keep]], axis=1).astype(np.int64)


def onset_counts(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Count matched, predicted and true onsets of every scene.

    F1 follows from the sums of the rows (`f1_of_counts`); a bootstrap resamples the rows.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerance: the largest distance of a pair in seconds.

    Returns:
        Counts (N, 3), in columns for matched pairs, predicted onsets and true onsets.
    """
    assert len(predicted) == len(true), f"{len(predicted)} predicted lists for {len(true)} true ones"
    rows = [(len(match_onsets(p, t, tolerance)), len(p), len(t)) for p, t in zip(predicted, true)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return the F1 of counts that are pooled over scenes.

    Two sets without any onset score 0, because silence proves nothing.

    Args:
        counts: (..., N, 3) as `onset_counts` returns them.

    Returns:
        The scores (...).
    """
    matched, predicted, true = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return 2 * matched / np.maximum(predicted + true, 1)


def matched_offsets(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Return the offset in seconds, predicted minus true, of every matched pair of every scene.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerance: the largest distance of a pair in seconds.

    Returns:
        The offsets (K,) of all scenes, one after another.
    """
    parts = []
    for p, t in zip(predicted, true):
        pairs = match_onsets(p, t, tolerance)
        if len(pairs):
            parts.append(np.asarray(p)[pairs[:, 0]] - np.asarray(t)[pairs[:, 1]])
        else:
            parts.append(np.zeros(0))
    return np.concatenate(parts) if parts else np.zeros(0)


def offset_sums(predicted: Onsets, true: Onsets, tolerance: float) -> np.ndarray:
    """Sum the offsets of matched pairs for every scene.

    The ratio of the two sums over all rows is the bias.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerance: the largest distance of a pair in seconds.

    Returns:
        Rows (N, 2), the sum of the offsets in seconds and the number of pairs.
    """
    rows = []
    for p, t in zip(predicted, true, strict=True):
        offsets = matched_offsets([p], [t], tolerance)
        rows.append((offsets.sum(), len(offsets)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def onset_f1(predicted: Onsets, true: Onsets, tolerance: float) -> OnsetScore:
    """Score predicted onsets against the true ones.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerance: the largest distance of a pair in seconds.

    Returns:
        All scores, pooled over scenes.
    """
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
    """Return the F1 at each of several tolerances.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerances: the largest distances of a pair in seconds.

    Returns:
        The scores (len(tolerances),).
    """
    return np.array([f1_of_counts(onset_counts(predicted, true, tolerance)) for tolerance in tolerances])


def best_constant_offset(
    predicted: Onsets, true: Onsets, tolerance: float, reach: float = 0.5, step: float = 0.02
) -> tuple[float, list[np.ndarray]]:
    """Find the one shift that, added to every prediction, gives the highest F1.

    Args:
        predicted: one array of seconds for each scene.
        true: one array of seconds for each of the same scenes.
        tolerance: the largest distance of a pair in seconds.
        reach: shifts between -reach and reach seconds are tried.
        step: the seconds between two shifts that are tried.

    Returns:
        The shift in seconds, the smallest one where several are equally good, and the predictions so shifted.
    """
    # Sorted by size, because argmax takes the first of equals and the smallest shift is wanted then.
    shifts = np.array(sorted(np.arange(-round(reach / step), round(reach / step) + 1) * step, key=abs))
    scores = []
    for shift in shifts:
        counts = onset_counts(_shifted(predicted, shift), true, tolerance)
        scores.append(float(f1_of_counts(counts)))
    best = float(shifts[int(np.argmax(scores))])
    return best, _shifted(predicted, best)


def _shifted(onsets: Onsets, shift: float) -> list[np.ndarray]:
    """Return onsets that all come `shift` seconds later."""
    return [np.asarray(times) + shift for times in onsets]
