"""This module counts the rows of media files by the media in them, for stages that train on some of them.

A row of a manifest need not have every medium. A stage takes for each thing that it learns the rows that have
what this takes, and says what it cannot learn for want of rows.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from codi.rows import bits_of
from codi.types import Modality
from data.sources import media_of_rows
from data.world import PAIRS
from training.config import VALIDATION


def num_rows(data: Mapping[str, Any], media: Iterable[Modality]) -> int:
    """Return how many rows have some media.

    Args:
        data: the section `data` of a configuration.
        media: what a row must have, all of it.

    Returns:
        The number of rows of all manifests and shards. The sound of every clip counts: whether a clip has
        one shows only when it is opened, unless its row says that it has none.

    Raises:
        InputError: for a manifest or shard that cannot be read.
    """
    needed = bits_of(media)
    return int(((_masks(data) & needed) == needed).sum())


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


def rows_in_words(data: Mapping[str, Any]) -> str:
    """Return how many rows have each medium and each pair of media, in a line for people.

    Args:
        data: the section `data` of a configuration.

    Returns:
        The line; "" where all samples are scenes of the world.
    """
    masks = _masks(data) if data else np.empty(0, dtype=np.uint16)
    if not len(masks):
        return ""
    counts: dict[str, int] = {}
    for size in (1, 2):
        for media in combinations(Modality, size):
            needed = bits_of(media)
            counts["+".join(media)] = int(((masks & needed) == needed).sum())
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    lacking = [name for name, count in counts.items() if not count]
    return f"data: {len(masks):,} rows: {listed}{f'; none has {", ".join(lacking)}' if lacking else ''}"


def _masks(data: Mapping[str, Any]) -> np.ndarray:
    """Return the bit masks of the media of all rows."""
    return media_of_rows({name: value for name, value in data.items() if name != VALIDATION})
