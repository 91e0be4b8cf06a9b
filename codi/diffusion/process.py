"""The variance-preserving noise process in discrete time.

The process is that of DDPM (arXiv 2006.11239), and v that of progressive distillation (arXiv 2202.00512,
appendix D):

    x_t = alpha_t x_0 + sigma_t eps,   alpha_t^2 = alphas_cumprod[t],   alpha_t^2 + sigma_t^2 = 1
    v   = alpha_t eps - sigma_t x_0

The numbers come from a diffusers scheduler, so that training and sampling cannot disagree about them. Every
method takes t as (B,) integers in [0, num_train_timesteps).

Letters: B batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi.types import InputError

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class NoiseProcess:
    """The noise levels, and what the denoiser predicts.

    Attributes:
        alphas_cumprod: (num_train_timesteps,) float32, alpha_t squared.
        prediction_type: "epsilon" or "v_prediction", as schedulers name it.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        assert self.prediction_type in PREDICTION_TYPES, (
            f"prediction_type {self.prediction_type!r} is none of {PREDICTION_TYPES}"
        )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "NoiseProcess":
        """Return the process that a scheduler inverts.

        Args:
            scheduler: any of diffusers' variance-preserving ones.

        Returns:
            the process, with the scheduler's `prediction_type`.

        Raises:
            InputError: the scheduler is of another kind.
        """
        levels = getattr(scheduler, "alphas_cumprod", None)
        predicts = getattr(scheduler, "config", {}).get("prediction_type")
        if levels is None or predicts not in PREDICTION_TYPES:
            raise InputError(
                f"the scheduler {type(scheduler).__name__} (prediction_type {predicts!r}) cannot say how a "
                "model was trained: expected one with alphas_cumprod, such as DPMSolverMultistepScheduler, "
                f"and prediction_type {' or '.join(PREDICTION_TYPES)}"
            )
        return cls(
            alphas_cumprod=scheduler.alphas_cumprod.float(), prediction_type=scheduler.config.prediction_type
        )

    @property
    def num_train_timesteps(self) -> int:
        """The number of timesteps."""
        return len(self.alphas_cumprod)

    def alpha_sigma(self, t: Tensor, ndim: int = 1) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t, shaped to be multiplied with latents.

        Args:
            t: (B,) timesteps.
            ndim: the number of axes of the latents, the batch's included.

        Returns:
            alpha_t and sigma_t, each (B, 1, ..., 1) with `ndim` axes, in float32 on the device of t.
        """
        squared = self.alphas_cumprod.to(t.device)[t.long()].view(-1, *[1] * (ndim - 1))
        return squared.sqrt(), (1.0 - squared).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,)."""
        squared = self.alphas_cumprod.to(t.device)[t.long()]
        return squared / (1.0 - squared)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return the natural logarithm of the signal-to-noise ratio, (B,)."""
        return self.snr(t).log()

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the timesteps (B,) whose log-SNR is nearest to each of `log_snr` (B,).

        In this way a timestep of one schedule is matched with one of another by its noise.
        """
        levels = self.log_snr(torch.arange(self.num_train_timesteps, device=log_snr.device))
        return (levels[None] - log_snr[:, None]).abs().argmin(dim=1)

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the noisy latent x_t (DDPM, arXiv 2006.11239, equation 4).

        Args:
            x_0: (B, ...) clean latents.
            eps: (B, ...) standard normal noise.
            t: (B,) timesteps.

        Returns:
            (B, ...).
        """
        alpha, sigma = self.alpha_sigma(t, x_0.ndim)
        return alpha * x_0 + sigma * eps

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should answer, eps or v.

        Args:
            x_0: (B, ...) clean latents.
            eps: (B, ...) the noise that was added to them.
            t: (B,) timesteps.

        Returns:
            (B, ...).
        """
        if self.prediction_type == "epsilon":
            return eps
        alpha, sigma = self.alpha_sigma(t, x_0.ndim)
        return alpha * eps - sigma * x_0

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents that an answer of the denoiser implies.

        Args:
            output: (B, ...) the answer, eps or v.
            x_t: (B, ...) the noisy latents that it was given.
            t: (B,) their timesteps.

        Returns:
            (B, ...).
        """
        alpha, sigma = self.alpha_sigma(t, x_t.ndim)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * output) / alpha
        return alpha * x_t - sigma * output

    def to_eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise that an answer of the denoiser implies.

        Args:
            output: (B, ...) the answer, eps or v.
            x_t: (B, ...) the noisy latents that it was given.
            t: (B,) their timesteps.

        Returns:
            (B, ...).
        """
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self.alpha_sigma(t, x_t.ndim)
        return sigma * x_t + alpha * output


def shift_level(level: Any, shift: float) -> Any:
    """Move a place u in [0, 1] of the schedule towards noise (arXiv 2403.03206, equation 23).

    The place becomes shift u / (1 + (shift - 1) u).

    Args:
        level: u, a number or a tensor; 0 is no noise and 1 nothing but noise.
        shift: 1.0 changes nothing.

    Returns:
        the new place, of the kind that `level` is.
    """
    return shift * level / (1 + (shift - 1) * level)
