"""The contract of a condition.

A denoiser is given its conditions by name, as keyword arguments: `denoiser(x, t, prompt=..., partners=...)`.
A guidance branch is the set of names that it drops, which means that it replaces them by their nulls (arXiv
2207.12598).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from codi.diffusion.guidance import Branch


class Mechanism(Enum):
    """How a condition reaches the denoiser."""

    CROSS_ATTENTION = "cross-attention"
    EMBEDDING = "embedding"
    CONCATENATION = "concatenation"
    REPLACEMENT = "replacement in the latent"
    GRADIENT = "gradient"
    ADDITION = "addition to features"


@dataclass(frozen=True, kw_only=True)
class Condition(ABC):
    """One condition of an output.

    Attributes:
        name: the keyword by which a denoiser is given it, and by which a branch drops it.
        mechanism: how it acts.
        null: in words, what stands in its place in a branch that drops it.
        scale: the setting that holds its guidance scale, 1.0 being off; None for a condition that is never
            guided.
        interval: the setting that holds the part of the schedule in which its guidance acts.
    """

    name: str
    mechanism: Mechanism
    null: str
    scale: str | None = None
    interval: str | None = None

    @abstractmethod
    def batch(self, branches: Sequence[Branch], values: Sequence[Any]) -> Any:
        """Put the values of several branches into one batch.

        Args:
            branches: the branches of one call of the denoiser, those that keep the partners first.
            values: the value in each branch, which is the null in those that drop the condition.

        Returns:
            what the denoiser is given, rows in the order of the branches; None where every branch drops it
            and its null is nothing at all.
        """
