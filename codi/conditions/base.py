"""The contract of a condition.

A denoiser is given its conditions by name, as keyword arguments: `denoiser(x, t, prompt=..., partners=...)`.
A guidance branch is the set of names that it drops, which means that it replaces them by their nulls (arXiv
2207.12598). What a condition does in the sampling loop besides is a `LoopCondition`.

Letters: B batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor

from codi.diffusion.guidance import Branch
from codi.diffusion.trajectory import Trajectory


class Mechanism(Enum):
    """How a condition reaches the denoiser."""

    CROSS_ATTENTION = "cross-attention"
    EMBEDDING = "embedding"
    CONCATENATION = "concatenation"
    REPLACEMENT = "replacement in the latent"
    GRADIENT = "gradient"


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


class LoopCondition:
    """What a condition of one output does in the sampling loop, besides what a denoiser is given.

    The sampler (`codi.joint.sampler`) asks every condition of an output and does not know which it is. By
    default a condition does nothing. Steps are the output's own, counted from 0; the latent at step k is the
    one that step k is about to denoise, and at `trajectory.num_steps` it is clean. Latents are in the scale
    of the output's scheduler (`codi.diffusion.trajectory`).

    Attributes:
        name: the condition's key in `CONDITIONS`.
    """

    name: ClassVar[str] = ""

    def first_step(self, num_steps: int) -> int:
        """Return the step at which the output enters its schedule, from 0 to `num_steps`."""
        return 0

    def entered(self, x: Tensor, eps: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent with which the output enters its schedule.

        Args:
            x: (B, ...) the latent that it would enter with.
            eps: (B, ...) the standard normal noise that the output is made of.
            step: the step at which it enters.
            trajectory: the noise levels that it passes.

        Returns:
            (B, ...).
        """
        return x

    def repeats(self, step: int) -> int:
        """Return how often a step is made, at least once. All but the last are taken back by `returned`."""
        return 1

    def returned(self, x: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent (B, ...) at `step` once more, from the one at `step + 1`, for a repeat."""
        return x

    def answered(self, answer: Tensor, x: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the guided answer of the denoiser, changed by this condition.

        A gradient (classifier guidance) has its place here. It may be taken of any function of
        `trajectory.to_x_0(answer, x, step)`.

        Args:
            answer: (B, ...) the guided answer, float32.
            x: (B, ...) the latent at the step.
            step: the step.
            trajectory: the noise levels.

        Returns:
            (B, ...).
        """
        return answer

    def advanced(self, x: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent (B, ...) at `step`, after the step before it was taken."""
        return x

    def spoken(self) -> tuple[Tensor, Sequence[tuple[float, float]]] | None:
        """Return what is known of the output before it starts, for its partners to attend to.

        Returns:
            A clean latent (B, ...), and the seconds, as pairs of begin and end, that are known of it; None if
            nothing is.
        """
        return None

    def inputs(self) -> Mapping[str, Any]:
        """Return what a denoiser is given that names this condition in its `conditions`, by keywords."""
        return {}
