"""The base class of every training set: samples by their place in an order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.workers import Decoder


class Source:
    """A training set: it gives samples by index and, as a context manager, ends what it has running.

    Attributes:
        infinite: whether indices never repeat, so that they are counted and not shuffled.
        of_world: whether its samples are scenes of the world, rendered as they are asked for.
        bad: how many samples could not be used so far. A source that consists of others counts theirs, as a
            property.
        left_out: how many rows were left out because they lack a medium.
        decoder: the processes that decode for it, which several sources may share; None where there are none.
        says: what its batches have beside media, masks and "index": "scenes" or "rows".
    """

    infinite: bool = True
    of_world: bool = False
    bad: int = 0
    left_out: int = 0
    decoder: Decoder | None = None
    says: tuple[str, ...] = ()

    @property
    def mixed(self) -> Sequence[Source]:
        """The sources that it is mixed of; only itself where it is no mixture."""
        return (self,)

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this source from others: a latent cache is valid for one identity."""
        return {}

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples; for an infinite source, the number of indices of one pass."""

    @abstractmethod
    def fetch(self, indices: list[int]) -> Any:
        """Return the whole batch of the samples at `indices`.

        The batch depends on `indices` alone. The method is called from a background thread.

        Args:
            indices: places in the order of the source, counted on over all passes where the source is
                infinite.

        Returns:
            In most cases a `data.batch.Batch`. If it has "ids", these name its samples.
        """

    def close(self) -> None:
        """End what the source has running."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
