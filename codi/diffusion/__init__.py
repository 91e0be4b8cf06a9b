"""The noise process, guidance, losses and the joint sampling loop. No network is imported here: what runs is
passed in.
"""

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

from codi.diffusion.guidance import Branch, Guidance
from codi.diffusion.losses import denoising_loss, info_nce, min_snr_weight
from codi.diffusion.process import NoiseProcess, shift_level
from codi.diffusion.sampling import JointSampler, copy_schedulers, draw_noise, stream_seed
from codi.diffusion.scheduler_check import check_scheduler
from codi.diffusion.schedulers import named_scheduler

__all__ = [
    "Branch",
    "Guidance",
    "JointSampler",
    "NoiseProcess",
    "check_scheduler",
    "copy_schedulers",
    "denoising_loss",
    "draw_noise",
    "info_nce",
    "min_snr_weight",
    "named_scheduler",
    "shift_level",
    "stream_seed",
]
