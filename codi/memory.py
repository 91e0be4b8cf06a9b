"""Methods by which a pipeline needs less memory, with the names that they have in diffusers.

Switches that have nothing to act on here say so.
"""

import warnings
from typing import Any

from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder
from codi.types import InputError

BUILT_IN = (
    "its attention never holds a whole matrix of scores, by PyTorch's scaled_dot_product_attention: memory "
    "is saved already"
)


class MemoryMixin:
    """The part of a pipeline that slices and tiles its autoencoders.

    It also has diffusers' older switches of attention, which change nothing here.
    """

    def enable_vae_slicing(self) -> None:
        """Make autoencoders work on pictures, frames and spectrograms one at a time.

        This needs less memory, and results are equal up to rounding. A model without such an autoencoder
        raises `InputError`.
        """
        self._set_slicing(True)

    def disable_vae_slicing(self) -> None:
        """Make autoencoders work on whole batches again."""
        self._set_slicing(False)

    def enable_vae_tiling(self) -> None:
        """Make the autoencoder of pictures work on tiles of the model's own size.

        Pictures and frames above that size are encoded and decoded in overlapping tiles, which are blended.
        This needs less memory, and results differ a little from untiled ones; at the model's own size nothing
        changes. A model without an autoencoder of pictures raises `InputError`.
        """
        self._image_part().set_tiling(True)

    def disable_vae_tiling(self) -> None:
        """Make the autoencoder of pictures work on whole pictures again."""
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
        """Change nothing and warn: attention is computed without a whole matrix of scores already.

        With `slice_size` None, which switches slicing off in diffusers, there is no warning.
        """
        if slice_size is not None:
            warnings.warn(f"enable_attention_slicing changes nothing here: {BUILT_IN}", stacklevel=2)

    def disable_attention_slicing(self) -> None:
        """Change nothing, because there is nothing to switch off."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Change nothing and warn; `set_attention_backend` of a denoiser chooses a backend of attention."""
        advice = (
            "vision_denoiser.set_attention_backend('xformers') chooses that backend where it is installed"
        )
        warnings.warn(
            f"enable_xformers_memory_efficient_attention changes nothing here: {BUILT_IN}; {advice}",
            stacklevel=2,
        )

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Change nothing, because there is nothing to switch off."""
