"""What everything has in common that turns media into features."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from codi.bench.collection import Part
from codi.bench.parts import read_part
from codi.types import Modality

OPTION = "--extractor"


class Extractor(ABC):
    """What turns media into features.

    Attributes:
        name: what it is, as the report says it.
        modalities: what it reads.
        fixed: whether all features have one width.
    """

    name: str
    modalities: tuple[Modality, ...]
    fixed = True

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What changes when its features would."""

    @abstractmethod
    def rate(self, modality: Modality) -> str:
        """Return at which size or rate it reads a modality, in words."""

    @abstractmethod
    def embed(self, modality: Modality, media: list[Any]) -> Sequence[Any]:
        """Return the features (N, D) of media that `read` has read."""

    def read(self, part: Part) -> Any:
        """Return a medium as `embed` takes it; None where a clip has no sound."""
        return read_part(part)

    def check(self) -> None:  # noqa: B027  # most have nothing to load
        """Load what it needs, so that a mistake is found before anything is measured."""
