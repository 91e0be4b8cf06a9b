"""The noise process, schedules, guidance and losses. No network is imported here."""

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

from codi.diffusion.guidance import FULL, Branch, Guidance
from codi.diffusion.guiders import Guider
from codi.diffusion.losses import denoising_loss, info_nce, min_snr_weight
from codi.diffusion.noise import draw_noise, stream_seed
from codi.diffusion.process import NoiseProcess, shift_level
from codi.diffusion.schedulers import copy_schedulers, named_scheduler

__all__ = [
    "FULL",
    "Branch",
    "Guidance",
    "Guider",
    "NoiseProcess",
    "copy_schedulers",
    "denoising_loss",
    "draw_noise",
    "info_nce",
    "min_snr_weight",
    "named_scheduler",
    "shift_level",
    "stream_seed",
]
