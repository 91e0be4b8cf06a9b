"""Noise levels of any schedule on one scale.

Whatever a model calls its timesteps, what its network is given is alpha x_0 + sigma eps. The angle

    2 / pi atan(sigma / alpha)

runs from 0, clean, to 1, nothing but noise, and means the same for a variance-preserving schedule (DDPM,
arXiv 2006.11239), for flow matching (arXiv 2209.03003, where alpha = 1 - sigma) and for EDM's
preconditioning (arXiv 2206.00364, where the network is given x / sqrt(sigma^2 + sigma_data^2)).

Letters: B batch.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi.types import InputError


class NoiseLevels(ABC):
    """The noise levels of one schedule, and what a network that was trained with it predicts.

    Attributes:
        prediction_type: "epsilon", "v_prediction", "flow_prediction" or "sample", as schedulers name it.
    """

    prediction_type: str

    @staticmethod
    def of(scheduler: Any) -> "NoiseLevels":
        """Return the noise levels of a scheduler of diffusers.

        Args:
            scheduler: the scheduler.

        Returns:
            Its noise levels.

        Raises:
            InputError: for a scheduler that states none.
        """
        config = scheduler.config
        flow = config.get("use_flow_sigmas") or "FlowMatch" in type(scheduler).__name__
        if flow:
            return FlowLevels(num_train_timesteps=config.num_train_timesteps)
        predicts = config.get("prediction_type") or "epsilon"
        # EDM's own schedulers give their network log(sigma) / 4, and the cosine one the angle itself.
        if type(scheduler).__name__ == "CosineDPMSolverMultistepScheduler":
            return AngleLevels(prediction_type=predicts)
        if getattr(scheduler, "alphas_cumprod", None) is not None:
            return DiscreteLevels(alphas_cumprod=scheduler.alphas_cumprod.float(), prediction_type=predicts)
        if config.get("sigma_data") is not None:
            return EDMLevels(sigma_data=float(config.sigma_data), prediction_type=predicts)
        raise InputError(
            f"the scheduler {type(scheduler).__name__} states no noise levels that codi knows: expected one "
            "with alphas_cumprod, flow matching, or EDM's preconditioning"
        )

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) of what the network is given at timesteps t (B,), in float32."""

    @abstractmethod
    def timestep(self, angle: Tensor) -> Tensor:
        """Return the timesteps (B,) at which the noise level is nearest to `angle` (B,), in [0, 1]."""

    def angle(self, t: Tensor | float) -> Tensor:
        """Return the noise level of timesteps t (B,), or of one, from 0, clean, to 1, nothing but noise."""
        alpha, sigma = self.alpha_sigma(torch.as_tensor(t))
        return torch.atan2(sigma, alpha) * (2 / math.pi)

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what the network is given at timesteps t (B,): alpha x_0 + sigma eps, (B, ...)."""
        alpha, sigma = self._shaped(t, x_0)
        return alpha * x_0 + sigma * eps

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what the network should answer, (B, ...).

        Args:
            x_0: (B, ...) clean latents.
            eps: (B, ...) the noise that was added to them.
            t: (B,) timesteps.

        Returns:
            (B, ...): eps; v = alpha eps - sigma x_0 (arXiv 2202.00512, appendix D); eps - x_0 (arXiv
            2209.03003); or x_0.
        """
        alpha, sigma = self._shaped(t, x_0)
        answers = {
            "epsilon": lambda: eps,
            "v_prediction": lambda: alpha * eps - sigma * x_0,
            "flow_prediction": lambda: eps - x_0,
            "sample": lambda: x_0,
        }
        return answers[self.prediction_type]()

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents that an answer of the network implies.

        Args:
            output: (B, ...) the answer.
            x_t: (B, ...) what the network was given.
            t: (B,) the timesteps.

        Returns:
            (B, ...).
        """
        alpha, sigma = self._shaped(t, x_t)
        answers = {
            "epsilon": lambda: (x_t - sigma * output) / alpha.clamp(min=1e-6),
            "v_prediction": lambda: (alpha * x_t - sigma * output) / (alpha**2 + sigma**2),
            "flow_prediction": lambda: (x_t - sigma * output) / (alpha + sigma),
            "sample": lambda: output,
        }
        return answers[self.prediction_type]()

    def moved(self, delta: Tensor, t: Tensor) -> Tensor:
        """Return by how much an answer changes when the clean latents that it implies move.

        What the network was given stays, so that the noise that the answer implies moves the other way.

        Args:
            delta: (B, ...) by how much the clean latents move.
            t: (B,) the timesteps.

        Returns:
            (B, ...), to be added to the answer.
        """
        alpha, sigma = self._shaped(t, delta)
        return self.target(delta, -alpha / sigma.clamp(min=1e-6) * delta, t)

    def noise_in(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return the noise (B, ...) with which clean latents x_0 (B, ...) are x_t at timesteps t (B,)."""
        alpha, sigma = self._shaped(t, x_t)
        return (x_t - alpha * x_0) / sigma

    def _shaped(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma of t (B,), shaped to be multiplied with latents like `like`."""
        shape = (-1, *[1] * (like.ndim - 1))
        alpha, sigma = self.alpha_sigma(t)
        return alpha.to(like.device).view(shape), sigma.to(like.device).view(shape)


@dataclass(frozen=True, kw_only=True)
class DiscreteLevels(NoiseLevels):
    """The variance-preserving process in discrete time: alpha_t^2 = alphas_cumprod[t].

    Attributes:
        alphas_cumprod: (num_train_timesteps,) float32, alpha_t squared.
        prediction_type: as in `NoiseLevels`.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) at timesteps t (B,)."""
        levels = self.alphas_cumprod.to(t.device)
        # some schedulers visit places between two timesteps
        place = t.float().clamp(0, len(levels) - 1)
        below = place.floor().long()
        above = (below + 1).clamp(max=len(levels) - 1)
        squared = torch.lerp(levels[below], levels[above], place - below)
        return squared.sqrt(), (1 - squared).sqrt()

    def timestep(self, angle: Tensor) -> Tensor:
        """Return the nearest whole timesteps (B,)."""
        levels = self.alphas_cumprod.to(angle.device)
        angles = torch.atan2((1 - levels).sqrt(), levels.sqrt()) * (2 / math.pi)
        return (angles[None] - angle.reshape(-1, 1)).abs().argmin(1)


@dataclass(frozen=True, kw_only=True)
class FlowLevels(NoiseLevels):
    """Flow matching: sigma = t / num_train_timesteps and alpha = 1 - sigma (arXiv 2209.03003).

    Attributes:
        num_train_timesteps: what a sigma of 1 is called.
        prediction_type: as in `NoiseLevels`.
    """

    num_train_timesteps: int
    prediction_type: str = "flow_prediction"

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) at timesteps t (B,)."""
        sigma = t.float() / self.num_train_timesteps
        return 1 - sigma, sigma

    def timestep(self, angle: Tensor) -> Tensor:
        """Return the timesteps (B,), which need not be whole."""
        ratio = torch.tan(angle * (math.pi / 2))
        sigma = torch.where(angle >= 1, torch.ones_like(angle), ratio / (1 + ratio))
        return sigma * self.num_train_timesteps


@dataclass(frozen=True, kw_only=True)
class AngleLevels(NoiseLevels):
    """The cosine schedule of Stable Audio (arXiv 2404.10301), whose timesteps are the angle itself.

    Attributes:
        prediction_type: as in `NoiseLevels`.
    """

    prediction_type: str

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) at timesteps t (B,) in [0, 1]."""
        angle = t.float() * (math.pi / 2)
        return angle.cos(), angle.sin()

    def timestep(self, angle: Tensor) -> Tensor:
        """Return the timesteps (B,), which are the angles."""
        return angle


@dataclass(frozen=True, kw_only=True)
class EDMLevels(NoiseLevels):
    """EDM's preconditioning: timesteps are log(sigma) / 4 (arXiv 2206.00364, table 1).

    The network's answer F gives x_0 = c_skip x + c_out F. For "v_prediction" c_out is negative, so that F is
    the v of x_0 / sigma_data; for "epsilon" it has the opposite sign.

    Attributes:
        sigma_data: the standard deviation of clean latents.
        prediction_type: as in `NoiseLevels`.
    """

    sigma_data: float
    prediction_type: str

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return F (B, ...), what the network should answer."""
        alpha, sigma = self._shaped(t, x_0)
        v = alpha * self.sigma_data * eps - sigma * x_0 / self.sigma_data
        return v if self.prediction_type == "v_prediction" else -v

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents (B, ...) that an answer of the network implies."""
        alpha, sigma = self._shaped(t, x_t)
        v = output if self.prediction_type == "v_prediction" else -output
        return self.sigma_data * (alpha * self.sigma_data * x_t - sigma * v)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) at timesteps t (B,): of x / sqrt(sigma^2 + sigma_data^2)."""
        sigma = (4 * t.float()).exp()
        scale = (sigma**2 + self.sigma_data**2).sqrt()
        return 1 / scale, sigma / scale

    def timestep(self, angle: Tensor) -> Tensor:
        """Return the timesteps (B,)."""
        limited = angle.clamp(1e-4, 1 - 1e-4)
        return torch.tan(limited * (math.pi / 2)).log() / 4
