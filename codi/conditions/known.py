"""What is known of an output: a part of it that is kept, in space, in time or both.

Without training, the known part of the latent is replaced at every step by its own noised truth, and steps
are repeated so that the rest comes to fit it (RePaint, arXiv 2201.09865). The noise of the known part is the
one that the output is made of, at every level, as a solver of the probability-flow equation would have it;
only repeats draw new noise.

A denoiser that was trained for it is given the mask and the known latent as well: it names "known" in its
`conditions`, and its `forward` takes `known`, a `KnownLatent` or None.

Letters: B batch, n branches of guidance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from codi.conditions.base import Condition, LoopCondition, Mechanism
from codi.diffusion.guidance import Branch
from codi.diffusion.trajectory import Trajectory, fresh_noise

Seconds = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class KnownLatent:
    """What a denoiser is given of what is known.

    Attributes:
        mask: (B, ...) 1 where the latent is known, else 0.
        latent: (B, ...) the clean latent where it is known, else 0.
    """

    mask: Tensor
    latent: Tensor


@dataclass(frozen=True, kw_only=True)
class KnownCondition(Condition):
    """The known part of an output, for denoisers that take it; a branch that drops it knows nothing."""

    def batch(self, branches: Sequence[Branch], values: Sequence[KnownLatent]) -> KnownLatent:
        """Return mask and latent of all branches, (n B, ...), zeros where a branch drops the condition."""
        kept = [0.0 if self.name in branch else 1.0 for branch in branches]
        return KnownLatent(
            mask=torch.cat([value.mask * k for value, k in zip(values, kept, strict=True)]),
            latent=torch.cat([value.latent * k for value, k in zip(values, kept, strict=True)]),
        )


KNOWN = KnownCondition(
    name="known",
    mechanism=Mechanism.REPLACEMENT,
    null="nothing is known: the whole output is made",
)


@dataclass(kw_only=True)
class Known(LoopCondition):
    """The known part of one output in one generation.

    Attributes:
        x_0: (1 or B, ...) a clean latent, which counts where the mask is True.
        mask: (1 or B, ...) bool, True where the latent is known; it is broadcast to the latent.
        resample_steps: how often each step is made.
        generators: one for each sample, from which repeats draw their noise.
        seconds: what is known over the whole of the output's other axes, as pairs of begin and end; none for
            an output without time.
        standing: (1 or B, ...) a clean latent like `x_0`, with something plausible where nothing is known,
            for partners to attend to before the output starts; None for an output without time.
    """

    name: ClassVar[str] = KNOWN.name
    x_0: Tensor
    mask: Tensor
    resample_steps: int = 1
    generators: Sequence[torch.Generator] = ()
    seconds: Seconds = ()
    standing: Tensor | None = None
    _eps: Tensor | None = field(default=None, init=False, repr=False)

    def entered(self, x: Tensor, eps: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent (B, ...), whose known part is as noisy as at `step`; keep the noise for later."""
        self._eps = eps
        return self.advanced(x, step, trajectory)

    def repeats(self, step: int) -> int:
        """Return how often each step is made."""
        return self.resample_steps

    def returned(self, x: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent (B, ...) with new noise, whose known part is as at `step`."""
        noisier = trajectory.returned(x, fresh_noise(x, self.generators), step)
        return self.advanced(noisier, step, trajectory)

    def advanced(self, x: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Return the latent (B, ...), whose known part is its own truth, as noisy as at `step`."""
        assert self._eps is not None, "an output enters its schedule before it advances"
        truth = trajectory.noised(self.x_0.to(x).expand_as(x), self._eps.to(x), step)
        return torch.where(self.mask.to(x.device), truth, x)

    def spoken(self) -> tuple[Tensor, Seconds] | None:
        """Return the clean latent and the known seconds; None where no time is known as a whole."""
        if self.standing is None or not self.seconds:
            return None
        return self.standing, self.seconds

    def inputs(self, progress: float) -> Mapping[str, Any]:
        """Return the mask and the known latent for a denoiser that takes them."""
        mask = self.mask.to(self.x_0).expand_as(self.x_0)
        return {self.name: KnownLatent(mask=mask, latent=self.x_0 * mask)}
