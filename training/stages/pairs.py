"""This module is about pairs of modalities, which ones training may see, and where their samples come from.

Training sees no more than two modalities of one sample together.
"""

from collections.abc import Collection, Set
from typing import Any

from codi.types import InputError, Modality
from data.source import Source
from data.world import PAIRS
from training.config import Config

Pair = tuple[Modality, Modality]


Rule = Collection[Set[Modality]] | None


def rule_of(config: Config) -> Rule:
    """Return the pairs of modalities that a run may see together.

    On scenes these are the pairs of the world, which holds out all others so that tests on them show what was
    learned. On one's own files any two modalities may meet, which None stands for.
    """
    scenes = not config.data or config.data.get("world") is not None
    return PAIRS if scenes else None


def may_meet(first: Modality, second: Modality, rule: Rule) -> bool:
    """Return whether training may see two modalities of one sample together."""
    return first is not second and (rule is None or {first, second} in rule)


def parse_pair(name: str, rule: Rule) -> Pair:
    """Return the two modalities that a pair's name lists.

    Args:
        name: two modalities, such as "audio+video".
        rule: the pairs that the run may see (`rule_of`).

    Returns:
        The modalities, in the order of the name.

    Raises:
        InputError: for anything but two modalities that training may see together.
    """
    pair = tuple(Modality.parse(part) for part in name.split("+"))
    if len(pair) != 2 or not may_meet(*pair, rule):
        raise InputError(
            f"options: pairs names {name!r}: expected two modalities that training may see together, such as "
            "audio+video"
        )
    return pair


class PairSource(Source):
    """A source that gives one batch of every pair at once, each as large as its share says.

    Args:
        sources: the samples of each pair.
        shares: the size of each pair's batch, in parts of the batch size of the run.
    """

    def __init__(self, sources: dict[Pair, Source], shares: dict[Pair, float]):
        self.sources = sources
        self.shares = shares

    def __len__(self) -> int:
        return min(map(len, self.sources.values()))

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """Return the batches of all pairs by name, {"audio+video": batch, ...}.

        A pair with a share above one takes more indices than were asked for, those that follow. "ids", if
        there are any, name the samples of all pairs.
        """
        batches: dict[str, Any] = {}
        ids: list[str] = []
        for pair, source in self.sources.items():
            batch = source.fetch(_stretched(indices, self.shares[pair]))
            batches["+".join(pair)] = batch
            ids += batch.ids or []
        if ids:
            batches["ids"] = ids
        return batches

    @property
    def bad(self) -> int:  # type: ignore[override]
        """The number of bad samples met so far."""
        return sum(source.bad for source in self.sources.values())

    def close(self) -> None:
        """End what the sources have running."""
        for source in self.sources.values():
            source.close()


def _stretched(indices: list[int], share: float) -> list[int]:
    """Return about len(indices) * share indices, disjoint from those of the neighbouring batches."""
    count = max(1, round(len(indices) * share))
    start = round(indices[0] * share)
    return list(range(start, start + count))
