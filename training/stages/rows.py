"""This module counts the rows of media files by the media in them, for stages that train on some of them.

A row of a manifest need not have every medium. A stage takes for each thing that it learns the rows that have
what this takes, and says what it cannot learn for want of rows.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from codi.modalities import in_words
from codi.types import InputError, Modality
from data.sources import Options, count_rows
from data.world import PAIRS
from training.config import VALIDATION, Config, check_names
from training.stages.common import planning, say

SAMPLES = 256  # held-out samples that are measured, unless the section says another number
# What the held-out data do not share with those that train: where they come from, and random changes.
OWN = ("manifests", "shards", "world", "augment", VALIDATION)


def held_out(data: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the section `data` of held-out samples, and how many of them are measured.

    Args:
        data: the section of the run, with the key `validation`.

    Returns:
        The settings of the run (geometry, workers, ...) with those under `validation` laid over them, and the
        number under `samples`.

    Raises:
        InputError: for an unknown key, or a number that is none.
    """
    where = f"data: {VALIDATION}"
    own = data.get(VALIDATION)
    if not isinstance(own, Mapping):
        raise InputError(f"{where} is {own!r}: expected a mapping such as {{manifests: [held_out.jsonl]}}")
    own = dict(own)
    samples = own.pop("samples", SAMPLES)
    check_names(own, [f.name for f in dataclasses.fields(Options) if f.name != "media"], where)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"{where}: samples is {samples!r}: expected a whole number, 1 or more")
    shared = {name: value for name, value in data.items() if name not in OWN}
    return {**shared, **own}, samples


def num_rows(data: Mapping[str, Any], media: Iterable[Modality] = ()) -> int:
    """Return how many rows of files the section `data` of a configuration has, of those with some media."""
    return count_rows({name: value for name, value in data.items() if name != VALIDATION}, media)


def has_rows(data: Mapping[str, Any], media: Iterable[Modality]) -> bool:
    """Return whether something can train on rows with some media.

    Args:
        data: the section `data` of a configuration; an empty one stands for scenes of the world.
        media: what a row must have, all of it.

    Returns:
        Whether there is such a row, or scenes show these media together.
    """
    wanted = frozenset(media)
    scenes = not data or data.get("world") is not None
    if scenes and (len(wanted) == 1 or wanted in PAIRS):
        return True
    return bool(data) and num_rows(data, wanted) > 0


def with_partners(
    config: Config, modality: Modality, shares: Mapping[str, float], option: str
) -> dict[str, float]:
    """Return an option that names other media of a sample without those that no row has.

    Args:
        config: the run. On scenes, and while a run is planned, nothing is left out.
        modality: what is learned.
        shares: the value of the option, by the name of a modality.
        option: the name of the option, for the line that says what is left out.

    Returns:
        The option. Captions are never left out: rows without them are for the source to refuse.
    """
    if not config.data or planning():
        return dict(shares)
    lacking = []
    for name in shares:
        other = Modality.parse(name)
        if other is not modality and not in_words(other) and not has_rows(config.data, (modality, other)):
            lacking.append(name)
    if lacking:
        say(f"no row has {modality} and {' or '.join(lacking)}: left out of {option}")
    return {name: share for name, share in shares.items() if name not in lacking}


def rows_in_words(data: Mapping[str, Any]) -> str:
    """Return how many rows have each medium and each pair of media, in a line for people.

    Args:
        data: the section `data` of a configuration.

    Returns:
        The line; "" where all samples are scenes of the world.
    """
    total = num_rows(data) if data else 0
    if not total:
        return ""
    counts: dict[str, int] = {}
    for size in (1, 2):
        for media in combinations(Modality, size):
            counts["+".join(media)] = num_rows(data, media)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    lacking = [name for name, count in counts.items() if not count]
    none = f"; none has {', '.join(lacking)}" if lacking else ""
    return f"{total:,} rows: {listed}{none}"
