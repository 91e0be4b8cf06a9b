"""Autoencoders turn raw media into the latents in which diffusion happens, and back.

Their contract is `codi.protocols.Autoencoder`.
"""

from codi.models.autoencoders.audio import AudioAutoencoder
from codi.models.autoencoders.image import ImageAutoencoder
from codi.models.autoencoders.text import TextAutoencoder
from codi.models.autoencoders.text_sequence import TextSequenceAutoencoder

__all__ = ["AudioAutoencoder", "ImageAutoencoder", "TextAutoencoder", "TextSequenceAutoencoder"]
