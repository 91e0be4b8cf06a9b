"""Schedulers by name, one copy of them for every output, and their timesteps, even or shifted."""

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from codi.diffusion.levels import NoiseLevels
from codi.diffusion.process import shift_level
from codi.diffusion.released import ReleasedDDIMScheduler
from codi.types import InputError, Modality

SCHEDULERS = {
    "released": ReleasedDDIMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "ddpm": DDPMScheduler,
}
CLIPPING = ("ddim", "ddpm")  # those that clip x_0 to [-1, 1] by default
# How the options end that space noise levels in a way of their own, such as use_karras_sigmas.
SPACING = ("_sigmas", "_lambdas")
LEVELS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


def scaled_input(scheduler: Any, x: Any, t: Any) -> Any:
    """Return a latent as a scheduler gives it to a network at timestep t; flow matching gives it as it is."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def named_scheduler(name: str, like: Any) -> Any:
    """Return a scheduler by its name, for the noise levels and the kind of prediction of another one.

    "released" visits the timesteps that the released code visits. The others count down from the last
    timestep, in any number of steps.

    Args:
        name: a key of `SCHEDULERS`.
        like: the scheduler whose noise levels and `prediction_type` it gets.

    Returns:
        the scheduler.

    Raises:
        InputError: the name is unknown, or its scheduler has other noise levels.
    """
    if name not in SCHEDULERS:
        raise InputError(f"scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
    levels = {key: like.config[key] for key in LEVELS}
    if name == "released":
        if levels.pop("beta_schedule") != "scaled_linear":
            raise InputError(
                "the scheduler 'released' has levels of its own, which this model was not trained with: "
                "expected another"
            )
        return ReleasedDDIMScheduler(**levels)
    return SCHEDULERS[name](
        **levels, timestep_spacing="trailing", **({"clip_sample": False} if name in CLIPPING else {})
    )


def is_first_order(scheduler: Any) -> bool:
    """Return whether each step of a scheduler is a DDIM step (arXiv 2010.02502) without noise.

    Then it depends on one answer alone, and ends where alpha' x_0 + sigma' eps is. Euler's steps are such.
    """
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        fine = scheduler.config.algorithm_type in ("dpmsolver", "dpmsolver++")
        return fine and scheduler.config.solver_order == 1
    return isinstance(scheduler, (DDIMScheduler, EulerDiscreteScheduler)) or (
        type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    )


def noise_left(scheduler: Any, levels: NoiseLevels, step: int) -> float:
    """Return what one step of a schedule leaves of the ratio of noise to signal.

    Args:
        scheduler: a scheduler of first order (`is_first_order`), set to its timesteps.
        levels: its noise levels.
        step: the step, from 0.

    Returns:
        (sigma' / alpha') / (sigma / alpha), where the step leads from (alpha, sigma) to (alpha', sigma').
    """
    alpha, sigma = levels.alpha_sigma(scheduler.timesteps[step : step + 2].cpu())
    if len(alpha) > 1:
        return float(alpha[0] * sigma[1] / (alpha[1] * sigma[0]))
    if not isinstance(scheduler, DDIMScheduler):
        return 0.0
    last = scheduler.final_alpha_cumprod  # 1, unless a scheduler was released to end before that
    return float(alpha[0] * (1 - last) ** 0.5 / (last**0.5 * sigma[0]))


def refusal(scheduler: Any, reason: str) -> InputError:
    """Return the error to raise about a scheduler that does not fit a model; `reason` follows its name."""
    return InputError(
        f"the scheduler {type(scheduler).__name__} {reason}: expected the model's own, or one made with "
        "`from_config` from the configuration of that, such as DPMSolverMultistepScheduler, "
        "UniPCMultistepScheduler, EulerDiscreteScheduler or DDIMScheduler"
    )


def even(scheduler: Any, num_inference_steps: int, device: Any = None) -> Any:
    """Return the scheduler, set to a number of steps in its own spacing.

    DDIM goes down by whole strides: for 600 steps of 1000 it goes down by one, where the timesteps are 1.7
    apart. Where the two differ by more than a tenth, its equal takes its place (see `uneven`).

    Args:
        scheduler: the scheduler; its state changes.
        num_inference_steps: how many steps it takes.
        device: where the timesteps lie.

    Returns:
        the scheduler, or the one that takes its place.
    """
    scheduler.set_timesteps(num_inference_steps, device=device)
    drop_extra_step(scheduler, num_inference_steps)
    if type(scheduler) is DDIMScheduler:
        apart = scheduler.config.num_train_timesteps / num_inference_steps
        if apart - int(apart) > 0.1 * apart:
            return uneven(scheduler, scheduler.timesteps.tolist(), device)
    return scheduler


def drop_extra_step(scheduler: Any, num_inference_steps: int) -> None:
    """Take away the step at t = -1 that trailing spacing adds for some counts, such as 223 of 1000.

    Such a spacing counts down in floating point, and may end one step late.
    """
    if len(scheduler.timesteps) == num_inference_steps + 1 and scheduler.timesteps[-1] < 0:
        scheduler.timesteps = scheduler.timesteps[:-1]
        scheduler.num_inference_steps = num_inference_steps
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:-2], scheduler.sigmas[-1:]])


def uneven(scheduler: Any, timesteps: list[int], device: Any = None) -> Any:
    """Return the scheduler, set to given timesteps; for DDIM it is one that equals it.

    DDIM without noise is the first order of DPM-Solver++ (arXiv 2211.01095, section 4.1), which goes by noise
    levels and not by a stride.

    Args:
        scheduler: the scheduler; its state changes.
        timesteps: which it visits, falling.
        device: where the timesteps lie.

    Returns:
        the scheduler, or the one that takes its place.

    Raises:
        InputError: its steps are always even, or spaced by an option of its own.
    """
    given = scheduler
    if type(scheduler) is DDIMScheduler:
        scheduler = DPMSolverMultistepScheduler.from_config(
            scheduler.config, algorithm_type="dpmsolver++", solver_order=1
        )
    options = inspect.signature(type(scheduler).__init__).parameters
    for name in options:
        spaces = name.startswith("use_") and name.endswith(SPACING)
        if spaces and scheduler.config.get(name):
            raise refusal(
                given, f"spaces its noise levels by {name}, and this model's are spaced by its timestep_shift"
            )
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(timesteps=timesteps, device=device)
        return scheduler
    # It takes no timesteps: it is set to as many of its own, whose noise levels are then replaced.
    scheduler.set_timesteps(len(timesteps), device=device)
    drop_extra_step(scheduler, len(timesteps))
    sigmas = getattr(scheduler, "sigmas", ())
    if len(scheduler.timesteps) != len(timesteps) or len(sigmas) != len(timesteps) + 1:
        raise refusal(given, "goes down in even steps, and this model's are not (its timestep_shift)")
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
    scheduler.sigmas = torch.cat([levels[timesteps].to(sigmas), sigmas[-1:]])
    scheduler.timesteps = torch.tensor(
        timesteps, device=scheduler.timesteps.device, dtype=scheduler.timesteps.dtype
    )
    return scheduler


def entry_step(scheduler: Any, first: int) -> int:
    """Return the step at which a schedule can be entered that is to be entered at step `first`.

    Steps of second order come in pairs, which are entered at their first. PNDM makes its second step twice,
    which only makes sense after its first: whoever enters there takes the last of the two.
    """
    if type(scheduler) is PNDMScheduler:
        return 2 if first == 1 and _repeats_second(scheduler) else first
    return first - first % getattr(scheduler, "order", 1)


def _repeats_second(scheduler: PNDMScheduler) -> bool:
    """Return whether the timesteps hold the second step twice."""
    return len(scheduler.timesteps) > 2 and bool(scheduler.timesteps[1] == scheduler.timesteps[2])


def pass_repeated_step(scheduler: Any) -> None:
    """Let PNDM go on from a first step that is not that of its schedule.

    It makes its second step twice, for which its timesteps hold that step twice at their beginning. Whoever
    enters later has no such pair, and would take the next step for the second half of one.
    """
    if type(scheduler) is PNDMScheduler and scheduler.counter == 1:
        scheduler.counter = 2


def copy_schedulers(
    scheduler: Any,
    modalities: Iterable[Modality],
    num_inference_steps: int,
    device: Any = None,
    shift: float = 1.0,
) -> dict[Modality, Any]:
    """Return one scheduler per modality, each a copy with its own state, set to a number of steps.

    Copies do not clip: `clip_sample` is for pixels in [-1, 1].

    Args:
        scheduler: the scheduler to copy; it is left as it is.
        modalities: the outputs.
        num_inference_steps: how many steps each takes.
        device: where the timesteps lie.
        shift: above 1.0, more of the steps are spent at high noise, where a redundant latent is decided (see
            `shifted_timesteps`).

    Returns:
        schedulers by modality.

    Raises:
        InputError: there is a shift, and the steps of such a scheduler are always even.
    """
    schedulers = {}
    for modality in modalities:
        schedulers[modality] = copy.deepcopy(scheduler)
        if scheduler.config.get("clip_sample"):
            schedulers[modality].register_to_config(clip_sample=False)
        if shift == 1.0:
            schedulers[modality] = even(schedulers[modality], num_inference_steps, device)
        else:
            timesteps = shifted_timesteps(scheduler.config.num_train_timesteps, num_inference_steps, shift)
            schedulers[modality] = uneven(schedulers[modality], timesteps, device)
    return schedulers


def shifted_timesteps(total: int, num_inference_steps: int, shift: float) -> list[int]:
    """Return falling timesteps in [0, total), each of them once.

    The levels 1 .. 1/n are moved by `shift_level`, and timesteps that would meet are set apart.

    Args:
        total: the number of timesteps in training.
        num_inference_steps: n, how many timesteps there are.
        shift: as in `shift_level`.

    Returns:
        n timesteps.
    """
    timesteps = []
    above = total
    for k in range(num_inference_steps):
        timestep = round(shift_level(1 - k / num_inference_steps, shift) * total) - 1
        above = max(min(timestep, above - 1), num_inference_steps - 1 - k)
        timesteps.append(above)
    return timesteps
