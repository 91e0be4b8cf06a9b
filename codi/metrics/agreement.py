"""Compare what probes read from media with the facts of a scene, or with what they read from another medium.

`Facts` maps every attribute to its value, or to None where a probe could not tell. An attribute that was not
read never agrees.

Letters: N scenes or samples, M modalities.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Facts = Mapping[str, str | None]


def agreement(
    readings: Sequence[Facts], facts: Sequence[Facts], attributes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return for each attribute in which scenes the reading equals the fact.

    Args:
        readings: what a probe read, one mapping for each scene.
        facts: the facts of the same scenes, in the same order.
        attributes: the names to compare.

    Returns:
        A row (N,) for each attribute, 1.0 where the two are equal and 0.0 elsewhere.
    """
    assert len(readings) == len(facts), f"{len(readings)} readings for {len(facts)} scenes"
    rows = {}
    for attribute in attributes:
        row = []
        for read, fact in zip(readings, facts):
            row.append(_equal(read.get(attribute), fact.get(attribute)))
        rows[attribute] = np.array(row)
    return rows


def mutual_agreement(outputs: Sequence[Sequence[Facts]], attributes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return for each attribute in which samples all outputs read the same.

    Args:
        outputs: one list of readings for each modality, with the samples in the same order.
        attributes: the names to compare.

    Returns:
        A row (N,) for each attribute, 1.0 where all the outputs of one sample agree and 0.0 elsewhere.
    """
    first, *others = outputs
    pairs = [agreement(first, other, attributes) for other in others]
    rows = {}
    for attribute in attributes:
        rows[attribute] = np.min([pair[attribute] for pair in pairs], axis=0)
    return rows


def mutual_closeness(values: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
    """Return in which samples the numbers of all outputs lie within `tolerance` of each other.

    Args:
        values: one row (N,) for each modality. NaN stands for a number that is not there, and is close to
            none.
        tolerance: the largest difference that still counts as close, in the unit of `values`.

    Returns:
        A row (N,), 1.0 where the numbers of one sample are close and 0.0 elsewhere.
    """
    rows = np.stack([np.asarray(row, dtype=np.float64) for row in values])  # (M, N)
    return (rows.max(axis=0) - rows.min(axis=0) <= tolerance + 1e-9).astype(np.float64)


def all_agree(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return in which samples every attribute agrees.

    Args:
        parts: a row (N,) of 1.0 and 0.0 for each attribute, as `agreement` and `mutual_agreement` return
            them.

    Returns:
        A row (N,), 1.0 where every attribute agrees and 0.0 elsewhere.
    """
    return np.min(list(parts.values()), axis=0)


def shuffled(items: Sequence, seed: int = 0) -> list:
    """Return the items in an order in which none stays in its place.

    This makes the control of shuffled partners. A single item has no other place and stays where it is.

    Args:
        items: the readings or onsets of all samples.
        seed: the seed of the order.

    Returns:
        A new list of the same items.
    """
    n = len(items)
    if n < 2:
        return list(items)
    order = np.random.default_rng(seed).permutation(n)  # one cycle through a random order has no fixed point
    result = [None] * n
    for here, there in zip(order, np.roll(order, 1)):
        result[here] = items[there]
    return result


def _equal(a: str | None, b: str | None) -> float:
    """Return 1.0 where both values are known and equal, else 0.0."""
    return float(a is not None and a == b)
