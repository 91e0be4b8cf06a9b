"""A joint Gaussian whose exact denoisers are known: two scalars per modality pair, each N(mean, std^2),
correlated across modalities.

Latents are (B, N) with independent columns. Column by column (a_0, b_0) is Gaussian with correlation rho, so
E[a_0 | a_t, b_s] is a linear formula, and a sampler that works must give back means, standard deviations and
rho.
"""

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from codi import protocols
from codi.diffusion import NoiseProcess
from codi.protocols import Environment
from codi.types import Modality

SCHEDULERS = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
MEAN, STD = 0.7, 0.4


def scheduler(name: str, prediction_type: str = "v_prediction"):
    """The embedded model's schedule, in the scheduler of that name."""
    config = dict(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )
    extra = dict(clip_sample=False) if name == "ddim" else {}
    return SCHEDULERS[name](**config, **extra)


@dataclass
class GaussianDenoiser(protocols.Denoiser):
    """Exact E[x_0 | x_t, heard] as eps or v. Context (B, 1, 1) is added to the mean."""

    process: NoiseProcess
    rho: float = 0.0
    calls: int = 0
    samples: int = 0

    def forward(self, x, t, prompt, partners=None, rate=None):
        self.calls, self.samples = self.calls + 1, self.samples + len(x)
        mean = MEAN + prompt[:, 0]  # (B, 1)
        alpha, sigma = (v.double() for v in self.process.alpha_sigma(t, 2))
        x = x.double()
        own = alpha**2 * STD**2 + sigma**2
        if partners is None or self.rho == 0.0:
            x_0 = mean + alpha * STD**2 / own * (x - alpha * mean)
        else:
            x_0 = mean + self._joint_gain(alpha, own, x - alpha * mean, partners, mean)
        v_or_eps = (x - alpha * x_0) / sigma
        return v_or_eps if self.process.prediction_type == "epsilon" else (alpha * x - x_0) / sigma

    def _joint_gain(self, alpha, own, residual, env, mean):
        """Cov(a_0, (a_t, b_s)) Cov(a_t, b_s)^-1 (residuals)."""
        partner, level = env.tokens[:, 0].double(), env.times[:, :1].double()
        alpha_p = level
        other = alpha_p**2 * STD**2 + (1 - alpha_p**2)
        cross = alpha * alpha_p * self.rho * STD**2
        determinant = own * other - cross**2
        to_own, to_other = alpha * STD**2, alpha_p * self.rho * STD**2
        gain_own = (to_own * other - to_other * cross) / determinant
        gain_other = (to_other * own - to_own * cross) / determinant
        return gain_own * residual + gain_other * (partner - alpha_p * mean)


@dataclass
class LatentEnvironment(protocols.EnvironmentEncoder):
    """Says the latent itself, and its alpha where a real one would state seconds."""

    process: NoiseProcess
    calls: int = 0

    def forward(self, x, t, rate=None, cache=None):
        self.calls += 1
        alpha, _ = self.process.alpha_sigma(t, 2)
        return Environment(tokens=x[:, None], times=alpha)


def context(batch: int, shift: float = 0.0) -> torch.Tensor:
    return torch.full((batch, 1, 1), shift)


PAIR = (Modality.AUDIO, Modality.VIDEO)


class Reader(protocols.NoisyLatentEncoder):
    """A noisy-latent encoder that is a function of (x, t, context, rate)."""

    def __init__(self, read):
        self.read = read

    def forward(self, x, t, context, rate=None):
        return self.read(x, t, context, rate)


class Recorder(protocols.Denoiser):
    """A denoiser that also shows what it is given to functions, by the names of its conditions."""

    def __init__(self, denoiser, **show):
        self.denoiser, self.show = denoiser, show

    def forward(self, x, t, prompt, partners=None, rate=None):
        given = {"prompt": prompt, "partners": partners}
        for name, show in self.show.items():
            show(given[name])
        return self.denoiser(x, t, prompt, partners)
