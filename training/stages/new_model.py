"""What a model in the making says of its noise and of a call's settings, before it has an index of its own.

Letters: B batch.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from codi import pretrained, settings
from codi.diffusion import shift_level
from codi.modalities import kinds

# The embedded model's noise process: cosine (arXiv 2102.09672), whose last step holds no signal, and
# v-prediction, which needs none.
SCHEDULER = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


def by_output(setting: str) -> dict[str, float]:
    """Return what a new model says of a setting for each output that has a value of its own."""
    return {kind.name: kind.sampling[setting] for kind in kinds() if setting in kind.sampling}


# The embedded model's defaults of a call's settings, where they are not those of `codi.settings.DEFAULTS`.
# What they are for each output its modality says (`ModalityKind.sampling`).
DEFAULTS = {
    "num_inference_steps": 20,
    **{name: by_output(name) for name in ("guidance_scale", "sync_guidance_scale")},
    # from the beginning, since the first steps decide when the first event is
    "sync_guidance_interval": [0.0, 1.0],
    "timestep_shift": 2.0,
    "normalise_prompts": True,
    "caption_prior": "text",  # prompts are read by its noisy-latent encoder (`codi.joint.caption_prior`)
    "partner_estimate_weight": 3.0,
    "auxiliary_caption": "text",  # a caption that nobody asked for decides what several outputs leave open
    "start_offset": by_output("start_offset"),
}


def load_scheduler(model: Path) -> SchedulerMixin:
    """Return the scheduler in the model folder, or that of the embedded model while there is none.

    A model's index names the scheduler's class. The first export of a denoiser puts the scheduler into the
    folder.
    """
    folder, own = (
        model / "scheduler",
        (DPMSolverMultistepScheduler.__module__, DPMSolverMultistepScheduler.__name__),
    )
    if not folder.is_dir():
        return DPMSolverMultistepScheduler(**SCHEDULER)
    index = pretrained.read_index(model) if (model / pretrained.INDEX).is_file() else {}
    module, kind = index.get("scheduler", own)
    return pretrained.load_part(folder, module, kind, torch.float32)


def load_defaults(model: Path) -> dict[str, Any]:
    """Return the defaults of a call's settings that the model folder holds.

    A model in the making has no index yet; it gets the defaults of the embedded model.
    """
    return pretrained.read_defaults(model) if (model / pretrained.INDEX).is_file() else DEFAULTS


def estimate_weight(model: Path) -> float:
    """Return by how much partner estimates are amplified in the model that a run trains."""
    return {**settings.DEFAULTS, **load_defaults(model)}["partner_estimate_weight"]


def spread_timesteps(
    count: int,
    total: int,
    generator: torch.Generator,
    shift: float = 1.0,
    within: tuple[int, int] | None = None,
) -> Tensor:
    """Return timesteps (B,), one in each of B equal parts of the schedule, in random order.

    Their mean loss varies less than with independent draws.

    Args:
        count: the number of samples B.
        total: the number of timesteps in the schedule.
        generator: the source of the draws.
        shift: above one it moves timesteps towards noise (`codi.diffusion.shift_level`). The more numbers say
            the same thing, as in the frames of a clip, the higher is the noise at which it is decided.
        within: the timesteps [first, last) that are drawn, as often beside each other as without it; None for
            all of them.

    Returns:
        Whole numbers from 0 to total - 1.
    """
    device = generator.device
    place = torch.randperm(count, generator=generator, device=device) + torch.rand(
        count, generator=generator, device=device
    )
    place = place / count
    if within is None:
        return (shift_level(place, shift) * total).long().clamp(max=total - 1)
    first, last = (shift_level(t / total, 1 / shift) for t in within)  # which undoes the shift
    t = (shift_level(first + place * (last - first), shift) * total).long()
    return t.clamp(within[0], within[1] - 1)


def spread_angles(count: int, generator: torch.Generator, shift: float = 1.0) -> Tensor:
    """Return noise levels (B,), one in each of B equal parts of [0, 1], in random order.

    Args:
        count: B.
        generator: the source of the draws.
        shift: above one it moves them towards noise (`codi.diffusion.shift_level`).

    Returns:
        (B,).
    """
    device = generator.device
    place = torch.randperm(count, generator=generator, device=device)
    part = torch.rand(count, generator=generator, device=device)
    return shift_level((place + part) / count, shift)
