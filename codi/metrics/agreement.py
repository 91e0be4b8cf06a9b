"""Agreement of attributes: what probes read from media, against the facts of a scene or against another
medium.

`facts` is a mapping attribute -> value, or None for what a probe could not tell. An unread attribute never
agrees.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Facts = Mapping[str, str | None]


def agreement(
    readings: Sequence[Facts], facts: Sequence[Facts], attributes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Per attribute, per scene (N,): 1.0 where the reading equals the fact, else 0.0."""
    assert len(readings) == len(facts), f"{len(readings)} readings for {len(facts)} scenes"
    return {a: np.array([_equal(r.get(a), f.get(a)) for r, f in zip(readings, facts)]) for a in attributes}


def mutual_agreement(outputs: Sequence[Sequence[Facts]], attributes: Sequence[str]) -> dict[str, np.ndarray]:
    """Per attribute, per sample (N,): 1.0 where all the outputs of one sample read the same, else 0.0.

    `outputs` holds one list of readings per modality, samples in the same order.
    """
    first, *others = outputs
    pairs = [agreement(first, other, attributes) for other in others]
    return {a: np.min([pair[a] for pair in pairs], axis=0) for a in attributes}


def mutual_closeness(values: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
    """Per sample (N,): 1.0 where the numbers of all outputs lie within `tolerance` of each other, else 0.0.

    `values` holds one row (N,) per modality, NaN where there is no such number: it is close to none.
    """
    rows = np.stack([np.asarray(row, dtype=np.float64) for row in values])  # (M, N)
    return (rows.max(axis=0) - rows.min(axis=0) <= tolerance + 1e-9).astype(np.float64)


def all_agree(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Per sample (N,): 1.0 where every attribute agrees."""
    return np.min(list(parts.values()), axis=0)


def shuffled(items: Sequence, seed: int = 0) -> list:
    """The items in an order in which none stays in its place: the shuffled-partner control."""
    n = len(items)
    if n < 2:
        return list(items)
    order = np.random.default_rng(seed).permutation(n)  # one cycle through a random order has no fixed point
    result = [None] * n
    for here, there in zip(order, np.roll(order, 1)):
        result[here] = items[there]
    return result


def _equal(a: str | None, b: str | None) -> float:
    return float(a is not None and a == b)
