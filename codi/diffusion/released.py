"""The schedule of the released model: DDIM on Stable Diffusion's betas, with timesteps of its own."""

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler


class ReleasedDDIMScheduler(DDIMScheduler):
    """DDIM (arXiv 2010.02502) as the released code runs it.

    The timesteps are range(0, 1000, 1000 // steps) + 1, so that a count that does not divide 1000 gives more
    steps than asked for (7 give 8). Those beyond the last noise level, at which the released code crashes,
    are left out. The last step ends at alphas_cumprod[0], not at 1. Betas are computed in double precision.

    Args:
        num_train_timesteps: the number of noise levels.
        beta_start: the first beta; square roots of betas are evenly spaced ("scaled_linear").
        beta_end: the last beta.
        prediction_type: what the denoiser predicts, as diffusers names it.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction_type: str = "epsilon",
    ):
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
            timestep_spacing="leading",
        )
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        self.betas = betas.float()
        self.alphas = (1 - betas).float()
        self.alphas_cumprod = (1 - betas).cumprod(0).float()
        self.final_alpha_cumprod = self.alphas_cumprod[0]

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps for a number of steps; see the class for how many there are.

        Args:
            num_inference_steps: how many are asked for, from 1 to `num_train_timesteps`.
            device: where the timesteps lie.

        Raises:
            ValueError: the number is none of these.
        """
        last = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= last:
            raise ValueError(f"num_inference_steps is {num_inference_steps}: expected 1 to {last}")
        steps = [t + 1 for t in range(0, last, last // num_inference_steps) if t + 1 < last]
        self.num_inference_steps = num_inference_steps  # `step` goes down by `last` // this
        self.timesteps = torch.tensor(steps[::-1], device=device)
