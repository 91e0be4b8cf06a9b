"""Denoisers remove noise from a latent, guided by prompts and by the environments of partners."""

from codi.models.denoisers.experts import TextExperts, TextSequenceExperts, UNetExperts
from codi.models.denoisers.text import TextDenoiser
from codi.models.denoisers.text_sequence import TextSequenceDenoiser
from codi.models.denoisers.unet import UNetDenoiser

__all__ = [
    "TextDenoiser",
    "TextExperts",
    "TextSequenceDenoiser",
    "TextSequenceExperts",
    "UNetDenoiser",
    "UNetExperts",
]
