"""The contract of a condition.

A denoiser is given its conditions by name, as keyword arguments: `denoiser(x, t, prompt=..., partners=...)`.
A guidance branch is the set of names that it drops, which means that it replaces them by their nulls (arXiv
2207.12598). What a condition does in the sampling loop besides is a `LoopCondition`.

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor

from codi.diffusion.guidance import Branch
from codi.diffusion.levels import NoiseLevels
from codi.diffusion.trajectory import Trajectory
from codi.types import Latents, Modality

# Reads the token (B, D) of a latent (B, ...), given its timesteps (B,), 0 where it is clean, and prompts
# (B, L, D).
ReadToken = Callable[[Modality, Tensor, Tensor | int, Tensor], Tensor]
# Answers a latent (B, ...) of an output, as the network takes it and as noisy as the output's own, to another
# prompt in the form that the denoiser takes: (B, ...), without guidance and without partners.
Answer = Callable[[Modality, Tensor, Any], Tensor]


class Mechanism(Enum):
    """How a condition reaches the denoiser."""

    CROSS_ATTENTION = "cross-attention"
    EMBEDDING = "embedding"
    CONCATENATION = "concatenation"
    REPLACEMENT = "replacement in the latent"
    GRADIENT = "gradient"
    ADDITION = "addition to features"
    DIFFERENCE = "difference of two answers"


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


@dataclass(frozen=True, kw_only=True)
class NoisyLatent:
    """One output at a step of the joint loop.

    Attributes:
        x: (B, ...) its latent as the network takes it, alpha x_0 + sigma eps.
        t: (B,) its timestep.
        levels: the noise levels of its schedule.
        context: (B, L, D) the tokens of its prompt.
        progress: how much of its own schedule has passed, in [0, 1).
    """

    x: Tensor
    t: Tensor
    levels: NoiseLevels
    context: Tensor
    progress: float

    def variance(self) -> Tensor:
        """Return sigma^2 / (alpha^2 + sigma^2), shaped to be multiplied with the latent."""
        alpha, sigma = self.levels.alpha_sigma(self.t)
        share = sigma**2 / (alpha**2 + sigma**2)
        return share.to(self.x.device).view(-1, *[1] * (self.x.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class JointStep:
    """One step of the joint loop, before any output moves.

    Attributes:
        active: the outputs that take a step.
        clean: (B, ...) the latents that are clean: of outputs that are finished, and of partners.
        read: reads a latent by the noisy-latent encoder of its modality.
        answer: asks the denoiser of an active output for another latent and prompt.
    """

    active: Mapping[Modality, NoisyLatent]
    clean: Latents
    read: ReadToken
    answer: Answer


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

    def answered(self, answers: Latents, step: JointStep) -> Latents:
        """Return the guided answers of the denoisers, changed by this condition, as gradients do.

        A condition that stands for several outputs is asked once for all of them.

        Args:
            answers: (B, ...) the guided answer of every output that takes a step, float32.
            step: the step of the joint loop.

        Returns:
            (B, ...) for every answer.
        """
        return answers

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

    def inputs(self, progress: float) -> Mapping[str, Any]:
        """Return what a denoiser is given that names this condition in its `conditions`, by keywords.

        Args:
            progress: how much of the output's schedule has passed, in [0, 1).

        Returns:
            Values by keyword; none where nothing is given.
        """
        return {}
