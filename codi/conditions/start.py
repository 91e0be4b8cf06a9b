"""The start: a medium that an output is made from, noised part of the way (SDEdit, arXiv 2108.01073).

An output with a start enters its schedule where its noise level says, and ends where it would have ended
without. Until the others have come down to that level it stands there, visible to them.

Letters: B batch, n steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from codi.conditions.base import Condition, LoopCondition, Mechanism
from codi.diffusion.guidance import Branch
from codi.diffusion.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class StartCondition(Condition):
    """The medium that an output starts from; no denoiser is given it."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Any]) -> None:
        """Return None: it acts on the latent alone."""
        return None


START = StartCondition(
    name="start", mechanism=Mechanism.REPLACEMENT, null="no start: the output begins as noise alone"
)


@dataclass(frozen=True, kw_only=True)
class Start(LoopCondition):
    """The start of one output.

    Attributes:
        x_0: (1 or B, ...) the clean latent of the medium.
        strength: the part of the schedule that is taken: at 0 the medium comes back as the autoencoder gives
            it, at 1 nothing of it is left.
    """

    name: ClassVar[str] = START.name
    x_0: Tensor
    strength: float

    def first_step(self, num_steps: int) -> int:
        """Return the step at which the output enters; at least one step is taken at any strength above 0."""
        taken = round(self.strength * num_steps)
        return num_steps - (max(taken, 1) if self.strength > 0 else 0)

    def entered(self, x: Tensor, eps: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the medium's latent (B, ...), as noisy as at `step`; at step 0 that is x, noise alone."""
        if step == 0:
            return x
        return trajectory.noised(self.x_0.to(x).expand_as(x), eps, step)
