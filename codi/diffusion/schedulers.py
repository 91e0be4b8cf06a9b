"""Other samplers for a model's own noise levels, by name."""

from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from codi.diffusion.released import ReleasedDDIMScheduler
from codi.types import InputError

SCHEDULERS = {
    "released": ReleasedDDIMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
LEVELS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


def named_scheduler(name: str, like: Any) -> Any:
    """The scheduler `name` (a key of `SCHEDULERS`) for the noise levels and the kind of prediction of the scheduler `like`.

    "released" visits the timesteps that the released code visits; the others count down from the last one, any number of steps.
    """
    if name not in SCHEDULERS:
        raise InputError(f"scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
    levels = {key: like.config[key] for key in LEVELS}
    if name == "released":
        if levels.pop("beta_schedule") != "scaled_linear":
            raise InputError("the scheduler 'released' has levels of its own, which this model was not trained with: expected another")
        return ReleasedDDIMScheduler(**levels)
    return SCHEDULERS[name](**levels, timestep_spacing="trailing", **({"clip_sample": False} if name == "ddim" else {}))
