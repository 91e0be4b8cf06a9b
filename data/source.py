"""What every training set is: samples by their place in an order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.workers import Decoder


class Source:
    """Samples by index; a context manager that ends what it has running.

    Attributes:
        infinite: whether indices never repeat, so that they are counted and not shuffled.
        of_world: whether its samples are scenes of the world, rendered as they are asked for.
        bad: how many samples could not be used so far; a source of others counts theirs, as a property.
        left_out: how many rows were left out for what they lack.
        decoder: the processes that decode for it, which several sources may share; None without any.
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
        """The sources that it is mixed of; itself where it is one."""
        return (self,)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this source from another, for a cache: plain JSON."""
        return {}

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of samples; of an infinite source the indices of one pass through them."""

    @abstractmethod
    def fetch(self, indices: list[int]) -> Any:
        """Returns a whole batch, a function of `indices` alone, in most cases a `data.batch.Batch`; called
        from a background thread. "ids", if there, name its samples.
        """

    def close(self) -> None:
        """Ends what the source has running."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
