"""The latents that a scheduler passes on its way from noise to data, in the scheduler's own scale.

At every one of its steps the latent is

    x_k = a_k x_0 + s_k eps

A variance-preserving schedule and flow matching hold what the network is given, alpha x_0 + sigma eps
(`codi.diffusion.levels`). Schedulers that scale the input of the network (Euler's, EDM's) hold it divided by
alpha, x_0 + (sigma / alpha) eps. Step 0 is where generation begins, and after the last one the latent is
clean.

Letters: B batch, n steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi.diffusion.levels import NoiseLevels
from codi.diffusion.schedulers import scaled_input


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The noise levels that one output passes.

    Attributes:
        levels: the noise levels of its schedule.
        timesteps: (n,) the timesteps of its steps.
        scales_input: whether the latent is x_0 + (sigma / alpha) eps, and is scaled for the network.
    """

    levels: NoiseLevels
    timesteps: Tensor
    scales_input: bool

    @classmethod
    def of(cls, scheduler: Any, levels: NoiseLevels | None = None) -> "Trajectory":
        """Return the trajectory of a scheduler of diffusers that was set to its steps.

        Args:
            scheduler: the scheduler; its state stays as it is.
            levels: its noise levels, where they are known already.

        Returns:
            The trajectory.
        """
        probe = torch.ones(1)
        scaled = scaled_input(copy.deepcopy(scheduler), probe, scheduler.timesteps[0])
        return cls(
            levels=NoiseLevels.of(scheduler) if levels is None else levels,
            timesteps=scheduler.timesteps,
            scales_input=not torch.equal(scaled.cpu(), probe),
        )

    @property
    def num_steps(self) -> int:
        """The number n of steps."""
        return len(self.timesteps)

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        """Return alpha and sigma of what the network is given at a step; 1 and 0 after the last one."""
        if step >= self.num_steps:
            return 1.0, 0.0
        alpha, sigma = self.levels.alpha_sigma(self.timesteps[step].reshape(1).cpu())
        return float(alpha), float(sigma)

    def scales(self, step: int) -> tuple[float, float]:
        """Return a_k and s_k of the latent at a step; 1 and 0 after the last one."""
        alpha, sigma = self.alpha_sigma(step)
        return (1.0, sigma / alpha) if self.scales_input else (alpha, sigma)

    def noised(self, x_0: Tensor, eps: Tensor, step: int) -> Tensor:
        """Return clean latents x_0 (B, ...) with the noise eps (B, ...) of a step."""
        a, s = self.scales(step)
        return x_0 if s == 0.0 else a * x_0 + s * eps

    def unscaled(self, x: Tensor, step: int) -> Tensor:
        """Return a latent (B, ...) at a step as the network is given it."""
        return x * self.alpha_sigma(step)[0] if self.scales_input and step < self.num_steps else x

    def to_x_0(self, answer: Tensor, x: Tensor, step: int) -> Tensor:
        """Return the clean latents (B, ...) that the network's answer to the latent x (B, ...) implies."""
        t = self.timesteps[step].reshape(1).cpu()
        return self.levels.to_x_0(answer, self.unscaled(x, step), t)

    def moved(self, answer: Tensor, x: Tensor, step: int) -> Tensor:
        """Return the latent (B, ...) one step on, by DDIM (arXiv 2010.02502), which holds no state.

        Args:
            answer: (B, ...) the network's answer.
            x: (B, ...) the latent at the step.
            step: the step that is taken.

        Returns:
            The latent at `step + 1`.
        """
        a, s = self.scales(step)
        x_0 = self.to_x_0(answer, x, step)
        return self.noised(x_0, (x - a * x_0) / s, step + 1)

    def returned(self, x: Tensor, eps: Tensor, step: int) -> Tensor:
        """Return a latent (B, ...) at `step + 1` with as much new noise eps (B, ...) as it had at `step`.

        It is the jump back of RePaint (arXiv 2201.09865, section 4.2) by one step.
        """
        (a, s), (a_next, s_next) = self.scales(step), self.scales(step + 1)
        ratio = a / a_next
        added = max(s**2 - (ratio * s_next) ** 2, 0.0) ** 0.5
        return ratio * x + added * eps


def fresh_noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise shaped like `like` (B, ...), each sample's from its own generator."""
    rows = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(like)
