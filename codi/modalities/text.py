"""Text: sentences, which have any length and no geometry but that of their latent."""

from pathlib import Path
from typing import Any

from codi.modalities.base import ModalityKind
from codi.types import InputError, ModalitySpec


class Text(ModalityKind):
    """Sentences, as `str`."""

    name = "text"
    suffix = ".txt"
    in_words = True
    classes = {
        "text_autoencoder": "codi.models.autoencoders:TextAutoencoder",
        "text_tower": "codi.models.conditioning:TextTower",
        "text_denoiser": "codi.models.denoisers:TextDenoiser",
    }
    sequence_classes = {
        "text_autoencoder": "codi.models.autoencoders:TextSequenceAutoencoder",
        "text_denoiser": "codi.models.denoisers:TextSequenceDenoiser",
    }
    sampling = {"guidance_scale": 1.5}
    made_by = {
        "text_autoencoder": "autoencoder_text",
        "text_tower": "align_image",
        "text_denoiser": "denoise_text",
    }

    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec:
        """Return the geometry: that of the latent alone."""
        return ModalitySpec(raw_shape=(), latent_shape=autoencoder.latent_shape)

    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> str:
        """Return a sentence as it is."""
        from codi import media

        if not isinstance(value, str):
            raise InputError(
                f"a text prompt is {media.kind(value)}: expected a string, or a list of strings, which "
                "combine"
            )
        if not value.strip():
            raise InputError(
                "an empty text prompt: expected words; leave the argument out for a sample without a prompt"
            )
        return value

    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Return sentences as a list."""
        return list(raw)

    def preview(self, raw: Any, spec: ModalitySpec) -> tuple[str, bytes]:
        """Return the sentence."""
        return "text/plain", str(raw).encode()

    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Write sample `k` as a line of a text file, and return the path."""
        from codi import io

        return io.save_text(self.path(stem), out.texts[k] + "\n")
