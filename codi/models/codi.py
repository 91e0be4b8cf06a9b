"""CoDiModel: the parts of a model under their modalities. It holds, it does not sample."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from codi import io
from codi.models import lengths as lasting
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.types import InputError, Modality, ModalitySpec, listed

SLOWEST, FASTEST = 0.1, 1000.0  # frames per second that a file can state

# Which flat component serves which modality; a picture's parts also serve a clip, frame by frame or with
# temporal layers.
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
    """Dicts by modality over flat components, named as in `AUTOENCODERS`, `TOWERS`, `DENOISERS`, and
    "environments", "noised_towers".

    A component may be missing; its modalities are then missing from the dict.
    """

    def __init__(self, components: Mapping[str, Any]):
        self.autoencoders = _present(AUTOENCODERS, components)
        self.towers = _present(TOWERS, components)
        self.denoisers = {
            m: d
            for m, d in _present(DENOISERS, components).items()
            if m is not Modality.VIDEO or d.config.temporal_levels
        }
        environment_encoders = components.get("environment_encoders")
        encoders = {} if environment_encoders is None else environment_encoders.by_modality()
        self.environment_encoders = {
            m: HookedEncoder(environment_encoders, encoder) for m, encoder in encoders.items()
        }
        self.attends_to = {} if environment_encoders is None else environment_encoders.attends_to()
        noised = components.get("noisy_latent_encoders")
        towers = {} if noised is None else noised.by_modality()
        self.noisy_latent_encoders = {m: HookedEncoder(noised, tower) for m, tower in towers.items()}
        self.estimates_from = {} if noised is None else noised.attends_to()
        self.specs = self._specs()
        own = [(m, getattr(tower, "prompt_specs", {}).get(m)) for m, tower in self.towers.items()]
        self.prompt_specs = self.specs | {m: spec for m, spec in own if spec is not None}

    @property
    def context_dim(self) -> int:
        """D, width of the prompt space."""
        dims = {tower.dim for tower in self.towers.values()} | {
            d.config.context_dim for d in self.denoisers.values()
        }
        assert len(dims) == 1, f"parts disagree about the width of the prompt space: {sorted(dims)}"
        return dims.pop()

    def check(
        self, given: Iterable[Modality], outputs: Sequence[Modality], partners: Iterable[Modality]
    ) -> None:
        """Raises `InputError` for prompts, outputs and clean partners that these parts cannot
        take or make.
        """
        for modality in outputs:
            if modality not in self.denoisers or modality not in self.autoencoders:
                able = listed(set(self.denoisers) & set(self.autoencoders))
                raise InputError(
                    f"this model cannot make {modality}: it makes {able}{self._lacking(modality)}"
                )
        for modality in given:
            if modality not in self.towers:
                raise InputError(f"this model takes no {modality} prompt: it takes {listed(self.towers)}")
        for modality in partners:
            if (
                modality in outputs
                or modality not in self.attended(outputs)
                or modality not in self.autoencoders
            ):
                raise InputError(
                    f"{modality} cannot be held in step: expected an input that is no output, and a model "
                    "that can hear it"
                )
        for part in [self.towers[m] for m in given] + [self.autoencoders[m] for m in outputs]:
            getattr(part, "check_vocabulary", lambda: None)()

    def attended(self, outputs: Iterable[Modality]) -> set[Modality]:
        """Whose environment some of the outputs listen to."""
        return {
            m for output in outputs for m in self.attends_to.get(output, ()) if m in self.environment_encoders
        }

    def estimating(self, outputs: Iterable[Modality]) -> set[Modality]:
        """Who tells some of the outputs what it seems to become."""
        return {
            m
            for output in outputs
            for m in self.estimates_from.get(output, ())
            if m in self.noisy_latent_encoders
        }

    def _lacking(self, modality: Modality) -> str:
        """Which of the two parts is missing, where it is one."""
        lacks = [
            kind
            for kind, parts in (("denoiser", self.denoisers), ("autoencoder", self.autoencoders))
            if modality not in parts
        ]
        return f" (of {modality} it lacks the {lacks[0]})" if len(lacks) == 1 else ""

    def sized(
        self,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        audio_length_in_s: float | None = None,
    ) -> dict[Modality, ModalitySpec]:
        """Geometry of every modality at another size, None for the model's own. Raises `InputError` for what
        its parts cannot make.
        """
        specs = dict(self.specs)
        if Modality.IMAGE in specs and (height is not None or width is not None):
            size = tuple(
                _side(name, given, self.autoencoders[Modality.IMAGE])
                for name, given in (("height", height), ("width", width))
            )
            io.check_pixels(*reversed(size), "what is to be made")
            for modality in {Modality.IMAGE, Modality.VIDEO} & set(specs):
                specs[modality] = _with_size(
                    specs[modality], size, self.autoencoders[Modality.IMAGE].downsampling
                )
        if Modality.VIDEO in specs and (num_frames is not None or fps is not None):
            specs[Modality.VIDEO] = _with_frames(
                specs[Modality.VIDEO], num_frames, fps, self.denoisers[Modality.VIDEO].config
            )
        if Modality.AUDIO in specs and audio_length_in_s is not None:
            specs[Modality.AUDIO] = _with_length(specs[Modality.AUDIO], audio_length_in_s)
        return specs

    def settle_sizes(
        self, sizes: Mapping[str, float | None], made: Sequence[Modality], lengths: str = "agree"
    ) -> tuple[dict[str, float | None], list[str]]:
        """Returns the arguments of `sized` for what is `made` of the sizes that a call names, and notes on
        what was cut.

        lengths: "agree", a clip and a sound made together last equally long (`codi.models.lengths`); "free",
        each as it is named. Raises `InputError` for sizes that cannot be, or contradict each other.
        """
        if lengths not in lasting.LENGTHS:
            raise InputError(f"lengths is {lengths!r}: expected 'agree' or 'free'")
        seconds = sizes.get("audio_length_in_s")
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf
        ):
            raise InputError(f"audio_length_in_s is {seconds!r}: expected a number above 0")
        # a clip's length alone has no bounds of a sound's
        own = {} if Modality.AUDIO in made else {"audio_length_in_s": None}
        self.sized(**{**sizes, **own})  # each by itself
        with_sound = Modality.AUDIO in made
        if lengths == "free" and with_sound:
            return dict(sizes), []
        found, notes = lasting.agreed(sizes, made, self.specs, self._most_frames())
        return {**found, **own}, notes

    def untrained(self, specs: Mapping[Modality, ModalitySpec], made: Iterable[Modality]) -> str | None:
        """Returns in words how the geometry of what is `made` differs from what the model was trained at;
        None where it does not.
        """
        here: dict[str, None] = {}  # words, each once and in order
        there: dict[str, None] = {}
        for modality in (m for m in Modality if m in made and m in specs):
            for now, trained in zip(
                _in_words(modality, specs[modality]), _in_words(modality, self.specs[modality])
            ):
                if now != trained:
                    here[now] = there[trained] = None
        return f"made at {', '.join(here)}; this model was trained at {', '.join(there)}" if here else None

    def _most_frames(self) -> int:
        """Frames of the longest clip."""
        return _most(self.denoisers[Modality.VIDEO].config) if Modality.VIDEO in self.denoisers else 0

    def _specs(self) -> dict[Modality, ModalitySpec]:
        """Geometry of every modality that has an autoencoder."""
        specs = {m: _describe(part) for m, part in self.autoencoders.items()}
        if Modality.VIDEO in specs and Modality.VIDEO in self.denoisers:
            specs[Modality.VIDEO] = _video_spec(specs[Modality.IMAGE], self.denoisers[Modality.VIDEO].config)
        else:
            specs.pop(Modality.VIDEO, None)
        return specs


class HookedEncoder:
    """One environment encoder or noisy-latent encoder of a component that holds several.

    Called, hooks of the whole component (offloading) act first.
    """

    def __init__(self, component: Any, encoder: Any):
        self.component, self.encoder = component, encoder

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which it takes latents and prompts."""
        return self.component.dtype

    def precompute(self, x: Tensor) -> Any:
        """Returns what is the same in many calls with latents shaped like x."""
        return _hooked(self.component, self.encoder.precompute, x)

    def __call__(self, *inputs: Tensor, **options: Any) -> Any:
        return _hooked(self.component, self.encoder, *inputs, **options)


@apply_forward_hook
def _hooked(component: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs)


def _side(name: str, given: int | None, part: ImageAutoencoder) -> int:
    side, step = part.config.image_size if given is None else given, part.downsampling
    if isinstance(side, bool) or not isinstance(side, int) or side < step or side % step:
        raise InputError(f"{name} is {side!r}: expected whole pixels that divide by {step}")
    return side


def _with_size(spec: ModalitySpec, size: tuple[int, int], step: int) -> ModalitySpec:
    latent = tuple(side // step for side in size)
    return replace(
        spec, raw_shape=(*spec.raw_shape[:-2], *size), latent_shape=(*spec.latent_shape[:-2], *latent)
    )


def _with_frames(
    spec: ModalitySpec, num_frames: int | None, fps: float | None, denoiser: Any
) -> ModalitySpec:
    most, count, rate = _most(denoiser), num_frames or spec.raw_shape[0], fps or spec.rate
    if num_frames is not None and (
        isinstance(num_frames, bool) or not isinstance(num_frames, int) or not 1 <= num_frames <= most
    ):
        raise InputError(f"num_frames is {num_frames!r}: expected a whole number from 1 to {most}")
    if fps is not None and (
        isinstance(fps, bool) or not isinstance(fps, (int, float)) or not SLOWEST <= fps <= FASTEST
    ):
        raise InputError(f"fps is {fps!r}: expected a number from {SLOWEST:g} to {FASTEST:g}")
    channels, _, *space = spec.latent_shape
    return ModalitySpec(
        raw_shape=(count, *spec.raw_shape[1:]),
        latent_shape=(channels, count, *space),
        rate=rate,
        latent_rate=float(rate),
    )


def _most(denoiser: Any) -> int:
    """Frames of the longest clip that a denoiser with this configuration makes."""
    return (denoiser.temporal or {}).get("max_frames", 30)


def _in_words(modality: Modality, spec: ModalitySpec) -> list[str]:
    """What can be chosen of a geometry: pixels, then time."""
    pixels = (
        [f"{spec.raw_shape[-2]} x {spec.raw_shape[-1]}"]
        if modality in (Modality.IMAGE, Modality.VIDEO)
        else []
    )
    if modality is Modality.VIDEO:
        return [*pixels, f"{spec.raw_shape[0]} frames at {spec.rate:g} per second"]
    return [*pixels, f"{spec.duration:g} s of sound"] if modality is Modality.AUDIO else pixels


def _with_length(spec: ModalitySpec, seconds: float) -> ModalitySpec:
    """As many latent columns as cover the length; the last one may reach beyond it."""
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not 1 / spec.rate <= seconds <= spec.duration
    ):
        raise InputError(
            f"audio_length_in_s is {seconds!r}: expected at least one sample ({1 / spec.rate:g} s) and at "
            f"most {spec.duration:g} s"
        )
    channels, most, bands = spec.latent_shape
    columns = min(math.ceil(seconds * spec.latent_rate), most)
    return replace(spec, raw_shape=(round(seconds * spec.rate),), latent_shape=(channels, columns, bands))


def _present(table: Mapping[Modality, str], components: Mapping[str, Any]) -> dict[Modality, Any]:
    return {
        modality: components[name] for modality, name in table.items() if components.get(name) is not None
    }


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
        raw_shape=(part.config.num_samples,),
        latent_shape=part.latent_shape,
        rate=part.sampling_rate,
        latent_rate=part.latent_rate,
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
