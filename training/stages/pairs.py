"""Pairs of modalities of one sample, as much as training sees together; which of them it may see; and where
their samples come from.
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
    """Returns the pairs that a run may see together: of scenes those of the world, where what is held out
    shows what was learned; of one's own files None, which is any two.
    """
    scenes = not config.data or config.data.get("world") is not None
    return PAIRS if scenes else None


def may_meet(first: Modality, second: Modality, rule: Rule) -> bool:
    """Returns whether training may see two modalities of one sample together."""
    return first is not second and (rule is None or {first, second} in rule)


def parse_pair(name: str, rule: Rule) -> Pair:
    """ "audio+video" -> its modalities. Raises `InputError` for a pair that training may not see."""
    pair = tuple(Modality.parse(part) for part in name.split("+"))
    if len(pair) != 2 or not may_meet(*pair, rule):
        raise InputError(
            f"options: pairs names {name!r}: expected two modalities that training may see together, such as "
            "audio+video"
        )
    return pair


class PairSource(Source):
    """One batch of every pair, each as large as its share says."""

    def __init__(self, sources: dict[Pair, Source], shares: dict[Pair, float]):
        self.sources, self.shares = sources, shares

    def __len__(self) -> int:
        return min(map(len, self.sources.values()))

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """{"audio+video": batch, ...}; a pair with a share over one takes the indices that follow. "ids" are
        of all pairs.
        """
        batches = {
            "+".join(pair): source.fetch(_stretched(indices, self.shares[pair]))
            for pair, source in self.sources.items()
        }
        ids = [name for batch in batches.values() for name in batch.ids or []]
        return batches | ({"ids": ids} if ids else {})

    @property
    def bad(self) -> int:  # type: ignore[override]
        """Bad samples met so far."""
        return sum(source.bad for source in self.sources.values())

    def close(self) -> None:
        """Ends what the sources have running."""
        for source in self.sources.values():
            source.close()


def _stretched(indices: list[int], share: float) -> list[int]:
    """About len(indices) * share indices, disjoint from those of the neighbouring batches."""
    count = max(1, round(len(indices) * share))
    start = round(indices[0] * share)
    return list(range(start, start + count))
