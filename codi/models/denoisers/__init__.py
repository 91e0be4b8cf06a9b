"""Denoisers: what removes noise from a latent, listening to prompts and partners."""

from codi.models.denoisers.text import TextDenoiser
from codi.models.denoisers.unet import UNetDenoiser

__all__ = ["TextDenoiser", "UNetDenoiser"]
