"""Measure features of one's own files: retrieval, agreement, distances to a reference.

Letters: N rows, Q queries, K keys, D width of the features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.bench.collection import ASKED, Item, Part
from codi.bench.features import Features
from codi.bench.lines import Line
from codi.metrics.bootstrap import Interval, bootstrap, nanmean, share_interval
from codi.metrics.frechet import frechet_distance, kernel_distance_of_subsets
from codi.metrics.retrieval import chance_of_hit, ranks_of_relevant
from codi.types import Modality

DEPTHS = (1, 5, 10)  # of retrieval: a hit is a right key among so many
BLOCK = 512  # queries that are compared at once
SUBSETS, SUBSET = 100, 1000  # of the kernel distance, as KID is published


def measure_pairs(items: Sequence[Item], features: Features) -> list[Line]:
    """Return retrieval and agreement of every two kinds of parts that an extractor reads.

    Args:
        items: the rows.
        features: those of one extractor.

    Returns:
        The lines; none of parts of which fewer than two rows have both.
    """
    names = _names(items, features)
    lines: list[Line] = []
    for first, second in combinations(names, 2):
        if first.startswith(ASKED) and second.startswith(ASKED):
            continue
        there = _both(items, first, second, features)
        if there.rows > 1:
            lines += _retrieval(there, features)
            lines += _agreement(there, features)
    return lines


def _names(items: Sequence[Item], features: Features) -> list[str]:
    """Return the names of parts that an extractor reads, prompts first and words before media."""
    found = {name: part.modality for item in items for name, part in item.parts.items()}
    order = list(Modality)
    known = [name for name, modality in found.items() if modality in features.extractor.modalities]
    return sorted(known, key=lambda name: (not name.startswith(ASKED), order.index(found[name])))


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One kind of part in all rows: each content once.

    Attributes:
        name: the name of the part.
        modality: what it is.
        vectors: (Q, D) features of length one.
        rows: for each of them the rows in which it stands.
        of_row: for each row the numbers of its contents.
    """

    name: str
    modality: Modality
    vectors: Tensor
    rows: list[list[int]]
    of_row: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class _Both:
    """Two kinds of parts of the rows that have both."""

    rows: int
    sides: tuple[_Side, _Side]


def _both(items: Sequence[Item], first: str, second: str, features: Features) -> _Both:
    """Return two kinds of parts of the rows that have both."""
    found: list[list[Part]] = []
    for item in items:
        parts = [item.parts[name] for name in (first, second) if name in item.parts]
        if len(parts) == 2 and all(features.of(part) for part in parts):
            found.append(parts)
    if len(found) < 2:
        empty = _Side(name="", modality=Modality.TEXT, vectors=torch.zeros(0), rows=[], of_row=[])
        return _Both(rows=len(found), sides=(empty, empty))
    sides = [_side(name, [parts[k] for parts in found], features) for k, name in enumerate((first, second))]
    return _Both(rows=len(found), sides=(sides[0], sides[1]))


def _side(name: str, parts: Sequence[Part], features: Features) -> _Side:
    """Return one kind of part of all rows; what is in several rows is one content."""
    numbers: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    rows: list[list[int]] = []
    of_row: list[list[int]] = []
    for row, part in enumerate(parts):
        own = []
        for digest, feature in features.of(part):
            if digest not in numbers:
                numbers[digest] = len(numbers)
                vectors.append(feature)
                rows.append([])
            if row not in rows[numbers[digest]]:
                rows[numbers[digest]].append(row)
                own.append(numbers[digest])
        of_row.append(own)
    unit = torch.nn.functional.normalize(torch.from_numpy(np.stack(vectors)), dim=-1)
    return _Side(name=name, modality=parts[0].modality, vectors=unit, rows=rows, of_row=of_row)


def _blocks(queries: _Side, keys: _Side) -> Iterator[tuple[slice, Tensor]]:
    """Yield some queries and which keys are right for each: those that stand in a row with it, (B, K)."""
    for start in range(0, len(queries.rows), BLOCK):
        block = slice(start, start + BLOCK)
        relevant = torch.zeros(len(queries.rows[block]), len(keys.rows), dtype=torch.bool)
        for at, rows in enumerate(queries.rows[block]):
            for row in rows:
                relevant[at, keys.of_row[row]] = True
        yield block, relevant


def _rates(features: Features, *sides: _Side) -> str:
    """Return at which sizes and rates parts were read."""
    return "; ".join(f"{side.modality} {features.extractor.rate(side.modality)}" for side in sides)


def _retrieval(both: _Both, features: Features) -> Iterator[Line]:
    """Yield recall at several depths, both ways."""
    for queries, keys in (both.sides, both.sides[::-1]):
        ranks, chances = [], []
        for block, relevant in _blocks(queries, keys):
            ranks.append(ranks_of_relevant(queries.vectors[block], keys.vectors, relevant))
            chances.append([len(relevant) * chance_of_hit(relevant, depth) for depth in DEPTHS])
        found = torch.cat(ranks).numpy()
        for depth, chance in zip(DEPTHS, np.sum(chances, axis=0) / len(found)):
            if depth > 1 and depth >= len(keys.rows) / 2:
                continue  # half of all keys prove nothing
            interval = share_interval((found <= depth).astype(float))
            yield Line(
                section="Retrieval",
                measure=f"R@{depth}",
                what=f"{queries.name} -> {keys.name}",
                extractor=features.extractor.name,
                rate=_rates(features, queries, keys),
                count=f"{len(found)} in {len(keys.rows)}",
                value=interval.value,
                low=interval.low,
                high=interval.high,
                share=True,
                beside={"chance": float(chance)},
            )


def _agreement(both: _Both, features: Features) -> Iterator[Line]:
    """Yield the cosine of what belongs together, and how far it lies above that of strangers."""
    first, second = both.sides
    own: list[list[float]] = [[] for _ in first.of_row]
    strange: list[list[float]] = [[] for _ in first.of_row]
    for block, relevant in _blocks(first, second):
        cosines = first.vectors[block] @ second.vectors.T  # (B, K)
        others = (cosines * ~relevant).sum(1) / (~relevant).sum(1)  # NaN where all keys are right
        for at, rows in enumerate(first.rows[block]):
            for row in rows:
                own[row].append(float(cosines[at, second.of_row[row]].mean()))
                strange[row].append(float(others[at]))
    together = np.array([np.mean(values) for values in own])
    apart = np.array([np.mean(values) for values in strange])
    shared: dict[str, Any] = dict(
        section="Agreement",
        what=f"{first.name}, {second.name}",
        extractor=features.extractor.name,
        rate=_rates(features, first, second),
        count=f"{both.rows}",
    )
    cosine = bootstrap(together)
    above = bootstrap(together - apart, nanmean)
    floor = {"shuffled": float(nanmean(apart[None])[0])}
    yield _line(shared, "cosine", cosine, floor)
    yield _line(shared, "cosine above shuffled", above, {})


def _line(shared: dict[str, Any], measure: str, interval: Interval, beside: dict[str, float]) -> Line:
    """Return a line with an interval."""
    value, low, high = interval.value, interval.low, interval.high
    return Line(measure=measure, value=value, low=low, high=high, beside=beside, **shared)


# Distances -------------------------------------------------------------


def measure_distances(
    items: Sequence[Item], reference: Sequence[Item], features: Features, seed: int = 0
) -> list[Line]:
    """Return the distances of every kind of part to the same kind in a reference.

    Args:
        items: the rows.
        reference: the rows of the reference.
        features: those of one extractor, of both.
        seed: of subsets and halves.

    Returns:
        Frechet and kernel distances, each beside that between two halves of the reference.
    """
    lines: list[Line] = []
    for name in _names(items, features):
        if name.startswith(ASKED):
            continue
        sets = [_vectors(rows, name, features) for rows in (items, reference)]
        if min(map(len, sets)) > 1:
            lines += _distances(name, _modality(items, name), sets[0], sets[1], features, seed)
    return lines


def _modality(items: Sequence[Item], name: str) -> Modality:
    return next(item.parts[name].modality for item in items if name in item.parts)


def _vectors(items: Sequence[Item], name: str, features: Features) -> Tensor:
    """Return the features (N, D) of one kind of part, in all rows that have it."""
    found = [feature for item in items if name in item.parts for _, feature in features.of(item.parts[name])]
    return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, 0)


def _distances(
    name: str, modality: Modality, x: Tensor, y: Tensor, features: Features, seed: int
) -> Iterator[Line]:
    """Yield both distances of one kind of part."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    halves = y[order[: len(y) // 2]], y[order[len(y) // 2 :]]
    # Of small sets half is drawn, so that subsets differ and their deviation says something.
    size = min(SUBSET, max(2, min(len(x), len(y)) // 2))
    shared: dict[str, Any] = dict(
        section="Distances",
        what=f"{name}, reference",
        extractor=features.extractor.name,
        rate=features.extractor.rate(modality),
        count=f"{len(x)}, {len(y)}",
    )
    few = f"fewer samples than the {x.shape[1]} features" if min(len(x), len(y)) <= x.shape[1] else ""
    floors: list[dict[str, float]] = [{}, {}]
    if len(y) > 3:
        floors[0]["halves of the reference"] = frechet_distance(*halves)
        floors[1]["halves of the reference"] = kernel_distance_of_subsets(
            *halves, SUBSETS, min(size, max(2, len(y) // 4)), seed
        )[0]
    value = frechet_distance(x, y)
    yield Line(measure="Frechet distance", value=value, beside=floors[0], note=few, **shared)
    mean, deviation = kernel_distance_of_subsets(x, y, SUBSETS, size, seed)
    subsets = f"{SUBSETS} subsets of {size}"
    measure = "kernel distance (KID)"
    yield Line(measure=measure, value=mean, deviation=deviation, beside=floors[1], note=subsets, **shared)
