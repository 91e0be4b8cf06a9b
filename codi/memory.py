"""What a pipeline can do to need less memory; names as in diffusers. What cannot act says so."""

import warnings
from typing import Any

from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder
from codi.types import InputError

BUILT_IN = (
    "its attention never holds a whole matrix of scores, by PyTorch's scaled_dot_product_attention: memory "
    "is saved already"
)


class MemoryMixin:
    """Slicing and tiling of the autoencoders, and the older switches of attention."""

    def enable_vae_slicing(self) -> None:
        """Encodes and decodes pictures, frames and spectrograms one at a time: less memory, and results equal
        to rounding.
        """
        self._set_slicing(True)

    def disable_vae_slicing(self) -> None:
        """Encodes and decodes whole batches again."""
        self._set_slicing(False)

    def enable_vae_tiling(self) -> None:
        """Encodes and decodes pictures and frames above the model's own size in overlapping tiles of that
        size, which are blended.

        Less memory, and results that differ a little from untiled ones; at the model's own size nothing
        changes.
        """
        self._image_part().set_tiling(True)

    def disable_vae_tiling(self) -> None:
        """Encodes and decodes whole pictures again."""
        self._image_part().set_tiling(False)

    def _set_slicing(self, enabled: bool) -> None:
        kinds = (ImageAutoencoder, AudioAutoencoder)
        parts = [part for part in self.components.values() if isinstance(part, kinds)]
        if not parts:
            raise InputError("this model has no autoencoder of pictures or sounds: there is nothing to slice")
        for part in parts:
            part.set_slicing(enabled)

    def _image_part(self) -> ImageAutoencoder:
        part = self.components.get("image_autoencoder")
        if not isinstance(part, ImageAutoencoder):
            raise InputError("this model has no autoencoder of pictures: there is nothing to tile")
        return part

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Changes nothing but a warning: attention is computed without a whole matrix of scores already."""
        if slice_size is not None:
            warnings.warn(f"enable_attention_slicing changes nothing here: {BUILT_IN}", stacklevel=2)

    def disable_attention_slicing(self) -> None:
        """Changes nothing."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Changes nothing but a warning; a backend is chosen with `set_attention_backend` of a denoiser."""
        advice = (
            "vision_denoiser.set_attention_backend('xformers') chooses that backend where it is installed"
        )
        warnings.warn(
            f"enable_xformers_memory_efficient_attention changes nothing here: {BUILT_IN}; {advice}",
            stacklevel=2,
        )

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Changes nothing."""
