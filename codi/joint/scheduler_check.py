"""Check whether a scheduler can sample from a model, by a dry run on data whose exact denoiser is known.

Schedulers are foreign code with options that change what they compute, so they are not judged by their names.
Element i of the data is drawn from N(m_i, s_i^2), independent of the others, which makes the exact denoiser
linear:

    E[x_0 | x_t] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x_t - alpha m)

With s = 0 every correct scheduler passes through x_t = alpha m + sigma eps at each of its timesteps and ends
at m, however few its steps. This finds wrong noise levels, wrong predictions and clipped latents. The first
answer, which is to noise alone, is made wrong on purpose, as a network's is: this finds solvers that amplify
such errors. With s > 0 a scheduler has to follow the data about as well as DDIM does at the same timesteps:
this finds solvers that diverge.

Letters: B batch, C channels, H W height and width.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging
from torch import Tensor

from codi.diffusion.process import NoiseProcess
from codi.diffusion.schedulers import copy_schedulers, refusal
from codi.joint.sampler import JointSampler
from codi.protocols import Denoiser
from codi.types import InputError, Modality

SHAPE = (4, 16, 16)  # C, H, W
LEVEL = 0.12  # the relative error of a noise level that is allowed; samples scatter by 0.04
LOWEST = 0.2  # a sigma; errors of lower noise levels are relative to this one
ERROR = 0.2  # the error of the first answer, in x_0
START = 0.35  # the greatest alpha of a first timestep, at which latents count as noise alone
# The distance from x_0 that is allowed at the end. Some schedulers end at the lowest noise level, and that of
# Stable Diffusion is 0.03.
LEFT = 0.1
WORSE = 1.5  # how many times as large as DDIM's an error may be
NARROWER = 0.75  # the least spread relative to DDIM's
WIDER = 1.25  # the greatest spread relative to that of the data
SLOT = next(iter(Modality))  # the loop is keyed by modality; any will do

_verdicts: dict[Any, str | None] = {}


def check_scheduler(
    scheduler: Any, own: Any, process: NoiseProcess, num_inference_steps: int, shift: float = 1.0
) -> None:
    """Raise `InputError` unless a scheduler can sample from a model that was trained with `process`.

    The verdict is reached in a fraction of a second and remembered.

    Args:
        scheduler: the scheduler to check.
        own: the model's own scheduler. Another may start as far from pure noise as that one does, no further.
        process: the noise process of the model's training.
        num_inference_steps: how many steps are asked for.
        shift: the model's `timestep_shift`.

    Raises:
        InputError: the scheduler is none of diffusers', or does not fit; the message says why.
    """
    if not isinstance(scheduler, SchedulerMixin):
        raise InputError(f"the scheduler is {scheduler!r}: expected one of diffusers', or `named_scheduler`")
    settings = [json.dumps(dict(one.config), sort_keys=True, default=str) for one in (scheduler, own)]
    levels = process.alphas_cumprod.cpu().numpy().tobytes()
    key = (type(scheduler), type(own), *settings, levels, process.prediction_type, num_inference_steps, shift)
    if key not in _verdicts:
        _verdicts[key] = find_fault(scheduler, own, process, num_inference_steps, shift)
    if message := _verdicts[key]:
        raise InputError(message)


def find_fault(
    scheduler: Any, own: Any, process: NoiseProcess, num_inference_steps: int, shift: float
) -> str | None:
    """Return the message about what is wrong with a scheduler for a model, or None.

    Args:
        scheduler: the scheduler to check.
        own: the model's own scheduler.
        process: the noise process of the model's training.
        num_inference_steps: how many steps are asked for.
        shift: the model's `timestep_shift`.

    Returns:
        the message for a user; None if nothing is wrong.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what diffusers would warn of is said here, or does not matter
    try:
        reason = _fault(scheduler, own, process, num_inference_steps, shift)
    except InputError as error:
        return str(error)
    except Exception as error:
        # Foreign code: each class fails in a way of its own at a model for which it was not made.
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if getattr(scheduler, "alphas_cumprod", None) is None:
            what = "it has no alphas_cumprod, as those for flows and for k-diffusion's levels"
        reason = f"cannot go down the noise levels of this model in {num_inference_steps} steps ({what})"
    finally:
        logging.set_verbosity(level)
    return str(refusal(scheduler, reason)) if reason else None


def _fault(
    scheduler: Any, own: Any, process: NoiseProcess, num_inference_steps: int, shift: float
) -> str | None:
    """Return the first fault that the dry runs find, as the end of a sentence; None if there is none."""
    predicts = scheduler.config.get("prediction_type", process.prediction_type)
    if predicts != process.prediction_type:
        return f"expects {predicts!r} of the model, which was trained to answer {process.prediction_type!r}"
    start = copy_schedulers(own, [SLOT], num_inference_steps, shift=shift)[SLOT].timesteps[0]
    # A scheduler may draw from the global generator, which is the user's.
    with torch.random.fork_rng(devices=[]):
        exact = DryRun(scheduler, process, num_inference_steps, shift, spread=False)
        spread = DryRun(scheduler, process, num_inference_steps, shift, spread=True)
    return exact.wrong_start(start) or exact.wrong_seeds() or exact.wrong_levels() or spread.wrong_data()


class DryRun:
    """One run of the joint loop on known data, with what it shows to be wrong with the scheduler.

    It has three samples of the same initial noise: two have the same seed, and the third has another. Each of
    the methods named `wrong_...` returns the end of a sentence about the scheduler, or None if nothing is
    wrong.

    Args:
        scheduler: the scheduler to check; a copy of it runs.
        process: the noise process of the model's training.
        num_inference_steps: how many steps are asked for.
        shift: the model's `timestep_shift`.
        spread: whether the data scatter around their means; if not, x_0 is known from the beginning, and the
            first answer is wrong on purpose.
    """

    def __init__(
        self, scheduler: Any, process: NoiseProcess, num_inference_steps: int, shift: float, spread: bool
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(SHAPE, generator=generator)
        noise = (noise - noise.mean()) / noise.std()  # exact moments, with which noise levels are compared
        count = noise.numel()
        means = torch.linspace(-2.5, 2.5, count, dtype=torch.float64)
        self.mean = means[torch.randperm(count, generator=generator)].view(SHAPE)
        deviations = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
        self.std = deviations.repeat(count // 4).view(SHAPE) * spread
        self.denoiser = ExactDenoiser(process, self.mean, self.std, first_error=0.0 if spread else ERROR)
        copies = copy_schedulers(scheduler, [SLOT], num_inference_steps, shift=shift)
        sampler = JointSampler(
            denoisers={SLOT: self.denoiser},
            schedulers=copies,
            contexts={SLOT: torch.zeros(3, 1, 1)},
            generators={SLOT: [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]},
        )
        self.noise = noise.double()
        self.steps = num_inference_steps
        self.made = sampler.sample(sampler.start({SLOT: noise.expand(3, *SHAPE)}))[SLOT].double()

    @property
    def visited(self) -> list[float]:
        """The timesteps of the run."""
        return [t for t, _ in self.denoiser.visits]

    @property
    def random(self) -> bool:
        """Whether the scheduler draws noise."""
        return not torch.equal(self.made[0], self.made[2])

    def wrong_start(self, own: Tensor) -> str | None:
        """Return a fault if data show through at the first timestep.

        An alpha of up to `START` is allowed there, and one of up to that at `own`, the first timestep of the
        model's own scheduler.
        """
        first = self.visited[0]
        own_alpha, _ = self.denoiser.levels(float(own))
        if self.denoiser.levels(first)[0] > max(START, own_alpha):
            return (
                f"starts at timestep {first:g} in {self.steps} steps, where latents are no longer noise "
                "alone (its timestep_spacing or num_train_timesteps)"
            )
        return None

    def wrong_seeds(self) -> str | None:
        """Return a fault if samples of the same seed differ."""
        if not torch.equal(self.made[0], self.made[1]):
            return "draws noise that the seeds of the samples do not decide"
        return None

    def wrong_levels(self) -> str | None:
        """Return a fault if the run visits other noise levels than the model's, or does not end at x_0.

        It is asked of a run on data without spread.
        """
        first = self.visited[0]
        alpha, sigma = self.denoiser.levels(first)
        noise = (self.denoiser.visits[0][1] - alpha * self.mean) / sigma
        leak = float(noise.std()) - 1  # of the data that should show through at the first timestep
        later = [t for t in self.visited if t != first]
        alpha, sigma = self.denoiser.levels(later[0] if later else first)
        # What DDIM makes of the error of the first answer: a part of the noise at every later timestep.
        carried = ERROR * alpha / sigma
        for t, x in self.denoiser.visits:
            alpha, sigma = self.denoiser.levels(t)
            found = (x - alpha * self.mean).std()
            allowed = LEVEL * sigma.clamp(min=LOWEST) + (WORSE * carried + abs(leak)) * sigma
            fits = abs(found - sigma) <= allowed
            if not self.random:
                fits &= (x - alpha * self.mean - sigma * noise).square().mean().sqrt() <= allowed
            if not fits:
                return (
                    f"is at another noise level at timestep {t:g} than the model was trained with (sigma "
                    f"{found:.3g} where {sigma:.3g} was expected, in {self.steps} steps): it diverges or "
                    "clips, or its betas, num_train_timesteps or spacing do not fit"
                )
        distance = (self.made - self.mean).square().mean().sqrt()
        error = ERROR if len(self.visited) == 1 else 0.0
        if not distance <= LEFT * (1 + abs(leak)) + error:
            return f"ends at {distance:.2g} from latents that are known (does it clip or threshold them?)"
        return None

    def wrong_data(self) -> str | None:
        """Return a fault if the run diverges from data with a spread.

        A scheduler that draws noise need not meet each sample: its samples must have the right means and
        spread.
        """
        reference = self.denoiser.ddim(self.visited, self.noise)
        if self.random:
            bias = ((self.made[0] - self.mean) * self.mean).mean().abs() / self.mean.square().mean()
            scatter = ((self.made[0] - self.mean) / self.std).std()
            least = NARROWER * ((reference - self.mean) / self.std).std()
            fits = bias <= LEFT and least <= scatter <= WIDER
        else:
            goal = self.mean + self.std * self.noise
            error = (self.made[0] - goal).square().mean().sqrt()
            expected = (reference - goal).square().mean().sqrt()
            fits = error <= WORSE * expected + LEFT / 2
        return None if fits else f"does not converge in {self.steps} steps on the noise levels of this model"


class ExactDenoiser(Denoiser):
    """A denoiser that answers E[x_0 | x_t] of the data, as eps or v; its first answer may be wrong.

    What came is kept in `visits`: the timestep and the first sample of the batch, for each call.

    Args:
        process: the noise process of the model's training.
        mean: (C, H, W) means of the data.
        std: (C, H, W) standard deviations of the data.
        first_error: the standard deviation of the error of the first answer, in x_0.
    """

    def __init__(self, process: NoiseProcess, mean: Tensor, std: Tensor, first_error: float) -> None:
        squared = process.alphas_cumprod.cpu().double()
        self.log_snr = (squared / (1 - squared)).clamp(min=1e-20).log()
        self.predicts_eps = process.prediction_type == "epsilon"
        self.mean = mean
        self.std = std
        self.first_error = first_error * torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
        self.visits: list[tuple[float, Tensor]] = []

    def levels(self, t: float) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at a timestep, which may lie between two of the model's.

        Raises `ValueError` for a timestep outside the model's.
        """
        last = len(self.log_snr) - 1
        if not 0 <= t <= last:
            raise ValueError(f"timestep {t:.4g} is not one of 0 to {last}")
        below = int(t)
        log_snr = torch.lerp(self.log_snr[below], self.log_snr[min(below + 1, last)], t - below)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def x_0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x_0 | x_t = x], (B, C, H, W)."""
        return self.mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x - alpha * self.mean)

    def forward(
        self, x: Tensor, t: Tensor, prompt: Tensor, partners: Any = None, rate: float | None = None
    ) -> Tensor:
        """Return the answer to x (B, C, H, W) at the timestep t (B,), and note the visit.

        The other arguments are those of every denoiser, and have no effect.
        """
        alpha, sigma = self.levels(float(t[0]))
        x = x.double()
        x_0 = self.x_0(x, alpha, sigma) + (0 if self.visits else self.first_error)
        self.visits.append((float(t[0]), x[0]))
        return (x - alpha * x_0) / sigma if self.predicts_eps else (alpha * x - x_0) / sigma

    def ddim(self, timesteps: Sequence[float], x: Tensor) -> Tensor:
        """Return where DDIM (arXiv 2010.02502) leads from x by these timesteps, (C, H, W)."""
        levels = [self.levels(t) for t in timesteps]
        ends = [*levels[1:], (torch.tensor(1.0), torch.tensor(0.0))]
        for (alpha, sigma), (next_alpha, next_sigma) in zip(levels, ends, strict=True):
            x_0 = self.x_0(x, alpha, sigma)
            x = next_alpha * x_0 + next_sigma * (x - alpha * x_0) / sigma
        return x
