"""CoDiModel: the parts of a model under their modalities. It holds, it does not sample."""

from collections.abc import Mapping
from typing import Any

from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.types import Modality, ModalitySpec

# Which flat component serves which modality; a picture's parts also serve a clip, frame by frame or with temporal layers.
AUTOENCODERS = {
    Modality.TEXT: "text_autoencoder",
    Modality.IMAGE: "image_autoencoder",
    Modality.AUDIO: "audio_autoencoder",
    Modality.VIDEO: "image_autoencoder",
}
TOWERS = {
    Modality.TEXT: "text_tower",
    Modality.IMAGE: "vision_tower",
    Modality.AUDIO: "audio_tower",
    Modality.VIDEO: "vision_tower",
}
DENOISERS = {
    Modality.TEXT: "text_denoiser",
    Modality.IMAGE: "vision_denoiser",
    Modality.AUDIO: "audio_denoiser",
    Modality.VIDEO: "vision_denoiser",
}


class CoDiModel:
    """Dicts by modality over flat components (named as in `AUTOENCODERS`, `TOWERS`, `DENOISERS`, and "environments").

    A component may be missing; its modalities are then missing from the dict.
    """

    def __init__(self, components: Mapping[str, Any]):
        self.autoencoders = _present(AUTOENCODERS, components)
        self.towers = _present(TOWERS, components)
        self.denoisers = {m: d for m, d in _present(DENOISERS, components).items() if m is not Modality.VIDEO or d.config.temporal_levels}
        environments = components.get("environments")
        self.environments = {} if environments is None else environments.by_modality()
        self.hears = {} if environments is None else environments.hears()
        self.specs = self._specs()

    def _specs(self) -> dict[Modality, ModalitySpec]:
        """Geometry of every modality that has an autoencoder."""
        specs = {m: _describe(part) for m, part in self.autoencoders.items()}
        if Modality.VIDEO in specs and Modality.VIDEO in self.denoisers:
            specs[Modality.VIDEO] = _video_spec(specs[Modality.IMAGE], self.denoisers[Modality.VIDEO].config)
        else:
            specs.pop(Modality.VIDEO, None)
        return specs


def _present(table: Mapping[Modality, str], components: Mapping[str, Any]) -> dict[Modality, Any]:
    return {modality: components[name] for modality, name in table.items() if components.get(name) is not None}


def _describe(part: Any) -> ModalitySpec:
    kinds = {TextAutoencoder: _text_spec, ImageAutoencoder: _image_spec, AudioAutoencoder: _audio_spec}
    return next(describe(part) for kind, describe in kinds.items() if isinstance(part, kind))


def _text_spec(part: TextAutoencoder) -> ModalitySpec:
    return ModalitySpec(raw_shape=(), latent_shape=part.latent_shape)


def _image_spec(part: ImageAutoencoder) -> ModalitySpec:
    side = part.config.image_size
    return ModalitySpec(raw_shape=(3, side, side), latent_shape=part.latent_shape)


def _audio_spec(part: AudioAutoencoder) -> ModalitySpec:
    return ModalitySpec(
        raw_shape=(part.config.num_samples,), latent_shape=part.latent_shape, rate=part.sampling_rate, latent_rate=part.latent_rate
    )


def _video_spec(image: ModalitySpec, denoiser: Any) -> ModalitySpec:
    """A clip is as many frames as the denoiser says, at its rate, each like a picture."""
    channels, height, width = image.latent_shape
    return ModalitySpec(
        raw_shape=(denoiser.num_frames, *image.raw_shape),
        latent_shape=(channels, denoiser.num_frames, height, width),
        rate=denoiser.latent_rate,
        latent_rate=denoiser.latent_rate,
    )
