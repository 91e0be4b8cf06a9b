"""Pairs of modalities of one scene, which is as much as training may see together, and where their samples
come from.
"""

from typing import Any

from codi.types import InputError, Modality
from data.world import PAIRS
from training.stages.files import close

Pair = tuple[Modality, Modality]


def parse_pair(name: str) -> Pair:
    """ "audio+video" -> its modalities. Raises `InputError` for a pair that training may not see."""
    pair = tuple(Modality.parse(part) for part in name.split("+"))
    if len(pair) != 2 or set(pair) not in PAIRS:
        raise InputError(
            f"options: pairs names {name!r}: expected two modalities that training may see together, such as "
            "audio+video"
        )
    return pair


class PairSource:
    """One batch of every pair, each as large as its share says."""

    infinite = True

    def __init__(self, sources: dict[Pair, Any], shares: dict[Pair, float]):
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
        ids = [name for batch in batches.values() for name in batch.get("ids", [])]
        return batches | ({"ids": ids} if ids else {})

    @property
    def bad(self) -> int:
        """Bad samples met so far."""
        return sum(getattr(source, "bad", 0) for source in self.sources.values())

    def close(self) -> None:
        """Ends what the sources have running."""
        for source in self.sources.values():
            close(source)


def first_samples(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """The first `count` samples of every list and tensor of a batch."""
    return {name: value[:count] for name, value in batch.items()}


def _stretched(indices: list[int], share: float) -> list[int]:
    """About len(indices) * share indices, disjoint from those of the neighbouring batches."""
    count = max(1, round(len(indices) * share))
    start = round(indices[0] * share)
    return list(range(start, start + count))
