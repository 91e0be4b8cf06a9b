"""What a user gives as prompts -> raw media in a model's own geometry.

A prompt argument is one item or a list of items that combine; an item is a plain value, a path, or `Prompt(value, weight)`.

    text     str
    picture  PIL image, array (H, W, 3) or tensor (3, H, W)
    sound    (samples,) or (channels, samples) at the model's rate, or a pair (sound, Hz)
    clip     frames (F, 3, H, W), array (F, H, W, 3) at the model's rate, a pair (frames or list of pictures, frames/s), or `codi.io.Video`

Pixels are uint8, or float in [0, 1].
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codi import io, wording
from codi.types import InputError, Modality, ModalitySpec, listed

MOST_CHANNELS = 32  # of a sound
MARGIN = 0.5  # seconds read beyond a clip's length, for resampling at its end


@dataclass(frozen=True)
class Prompt:
    """One prompt and how much it counts among those that it is combined with."""

    value: Any
    weight: float = 1.0


def collect(arguments: Mapping[Modality, Any], prefix: str = "") -> dict[Modality, list[Prompt]]:
    """The prompts of every modality that has any. Raises `InputError` for an empty list or weights that cannot be used.

    prefix: of the arguments' names in messages.
    """
    prompts = {modality: _as_list(f"{prefix}{modality}", value) for modality, value in arguments.items() if value is not None}
    weights = [prompt.weight for items in prompts.values() for prompt in items]
    if weights and sum(weights) <= 0:
        raise InputError(f"the weights of the {prefix}prompts sum to zero ({len(weights)} prompts): expected at least one above zero")
    return prompts


def given(items: Mapping[Modality, Any], embeds: Tensor | None, prefix: str = "") -> bool:
    """Whether there is any prompt, in one of its two forms."""
    if items and embeds is not None:
        raise InputError(f"{prefix}prompts ({listed(items)}) and {prefix}prompt_embeds were both given: expected one of them")
    return bool(items) or embeds is not None


def first_file(items: Sequence[Prompt]) -> Path | None:
    """The file that the first of these prompts was given as, if it was."""
    return Path(items[0].value) if items and _is_path(items[0].value) else None


def _as_list(name: str, value: Any) -> list[Prompt]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{name}=[] holds no prompt: expected at least one item; leave the argument out to give none")
    return [_checked(name, item if isinstance(item, Prompt) else Prompt(item)) for item in items]


def _checked(name: str, prompt: Prompt) -> Prompt:
    weight = prompt.weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise InputError(f"weight {weight!r} of a {name} prompt: expected a finite number of at least 0")
    return prompt


def prepare(modality: Modality, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
    """One item as the model takes it: text `str`, else a float tensor of `spec.raw_shape` in [-1, 1]. Raises `InputError`.

    padded: a sound that is too short is filled up with silence; False: it keeps its own length.
    """
    if spec is None and modality in _SHAPED:
        raise InputError(f"this model cannot tell the size of a prompt of kind {modality}: load its autoencoder and denoiser too")
    return _PREPARE[modality](value, spec) if padded or modality is not Modality.AUDIO else _prepare_audio(value, spec, padded=False)


def batches(samples: list[Any]) -> list[Any]:
    """Prepared items of one modality -> one batch, or one each where their shapes differ."""
    if not isinstance(samples[0], Tensor):
        return [list(samples)]
    alike = len({sample.shape for sample in samples}) == 1
    return [torch.stack(samples)] if alike else [sample[None] for sample in samples]


def emptied(batch: Any) -> Any:
    """The batch without content: empty sentences, the middle of the range (grey, silence)."""
    return torch.zeros_like(batch) if isinstance(batch, Tensor) else [""] * len(batch)


def note_unread(tower: Any, items: Sequence[Prompt]) -> None:
    """Warns of what the tower of text cannot read, which says nothing to it. Raises `InputError` where that is all of a prompt."""
    if getattr(tower, "tokenizer", None) is None:
        return
    for prompt in items:
        if isinstance(prompt.value, str) and prompt.value.strip():
            wording.report(tower.vocabulary, tower.read(prompt.value), prompt.value)


def _prepare_text(value: Any, spec: ModalitySpec | None) -> str:
    if not isinstance(value, str):
        raise InputError(f"a text prompt is {_kind(value)}: expected a string")
    if not value.strip():
        raise InputError("an empty text prompt: expected words; leave the argument out for a sample without a prompt")
    return value


def _prepare_image(value: Any, spec: ModalitySpec) -> Tensor:
    pixels = io.load_image(value) if _is_path(value) else _pixels(value, ndim=3, what="an image")
    io.check_pixels(pixels.shape[-1], pixels.shape[-2])
    return io.fit_image(pixels, spec.raw_shape[-1])


def _prepare_audio(value: Any, spec: ModalitySpec, padded: bool = True) -> Tensor:
    if _is_path(value):
        wave, rate = io.load_audio(value, spec.duration + MARGIN)
    else:
        sound, rate = _with_rate(value, spec.rate)
        wave = _waveform(sound)
    io.check_audio(wave, rate, source=value if _is_path(value) else "the recording")
    length = spec.raw_shape[0] if padded else min(spec.raw_shape[0], round(wave.shape[-1] * spec.rate / rate))
    return io.fit_audio(wave, round(rate), round(spec.rate), length)


def _prepare_video(value: Any, spec: ModalitySpec) -> Tensor:
    num_frames, size = spec.raw_shape[0], spec.raw_shape[-1]
    if _is_path(value):
        value = io.load_video(value, seconds=spec.duration + MARGIN, size=size, sound=False)
    if isinstance(value, io.Video):
        value = (value.frames, value.fps)
    frames, fps = _with_rate(value, spec.rate)
    if isinstance(frames, (list, tuple)):
        frames = _equal_sizes([_pixels(frame, ndim=3, what="a frame") for frame in frames])
    frames = _pixels(frames, ndim=4, what="a clip")
    io.check_pixels(frames.shape[-1], frames.shape[-2])
    return io.fit_video(frames, fps, num_frames, spec.rate, size)


_PREPARE: dict[Modality, Callable[[Any, Any], Any]] = {
    Modality.TEXT: _prepare_text,
    Modality.IMAGE: _prepare_image,
    Modality.AUDIO: _prepare_audio,
    Modality.VIDEO: _prepare_video,
}

_SHAPED = frozenset(_PREPARE) - {Modality.TEXT}  # a sentence has any length


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, Path))


def _kind(value: Any) -> str:
    """What came, in words."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


def _with_rate(value: Any, rate: float) -> tuple[Any, float]:
    """A pair (value, rate), or a plain value at the model's own `rate`."""
    if not isinstance(value, tuple):
        return value, rate
    if len(value) != 2 or isinstance(value[1], bool) or not isinstance(value[1], (int, float)) or not 0 < value[1] < math.inf:
        raise InputError(f"a pair {tuple(_kind(v) for v in value)}: expected (sound, Hz) or (frames, frames per second)")
    return value


def _pixels(value: Any, ndim: int, what: str) -> Tensor:
    """Pictures of any accepted type -> uint8 (..., 3, H, W)."""
    shape = "(F, 3, H, W)" if ndim == 4 else "(3, H, W)"
    expected = f"expected PIL images, a tensor {shape} or an array with channels last, uint8 or float in [0, 1]"
    if isinstance(value, Image.Image):
        value = io.image_to_tensor(value)
    elif isinstance(value, np.ndarray) and value.ndim == ndim and value.dtype.kind in "uif":
        value = torch.from_numpy(np.array(value)).movedim(-1, -3)  # a copy: an array of PIL's may not be written, which torch warns of
    if not isinstance(value, Tensor) or value.ndim != ndim or value.shape[-3] != 3 or value.numel() == 0:
        raise InputError(f"{what} is {_kind(value)}: {expected}")
    if value.is_floating_point():
        if not (value.isfinite().all() and value.min() >= 0 and value.max() <= 1):
            raise InputError(f"{what} has floats outside [0, 1], or NaN: {expected}")
        return (value.detach().cpu().float() * 255).round().to(torch.uint8)
    if value.dtype != torch.uint8:
        raise InputError(f"{what} is {_kind(value)}: {expected}")
    return value.detach().cpu()


def _equal_sizes(frames: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) != 1:
        raise InputError(f"a clip of {len(frames)} frames of sizes {shapes}: expected at least one frame, all of one size")
    return torch.stack(frames)


def _waveform(value: Any) -> Tensor:
    """Sound of any accepted type -> float32 (samples,)."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value.astype(np.float32))  # a copy, of any stride and byte order
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim not in (1, 2):
        raise InputError(f"a sound is {_kind(value)}: expected floats in [-1, 1] of shape (samples,) or (channels, samples)")
    if value.ndim == 2 and len(value) > MOST_CHANNELS:
        raise InputError(f"a sound is {_kind(value)}, {len(value)} channels: expected (channels, samples); transpose it")
    value = value.detach().cpu().float()
    return value.mean(dim=0) if value.ndim == 2 else value


def check_embeds(embeds: Mapping[str, Tensor | None], width: int) -> None:
    """Raises `InputError` for prompts in the form of tokens that do not fit a prompt space of this width, or each other."""
    there = {name: value for name, value in embeds.items() if value is not None}
    for name, value in there.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 3 or value.shape[-1] != width:
            raise InputError(f"{name} is {_kind(value)}: expected floats (1 or samples, 1, {width}), as `encode_prompt` gives them")
    if len({value.shape[1] for value in there.values()}) > 1:
        raise InputError(f"{' and '.join(there)} have {[value.shape[1] for value in there.values()]} tokens: expected as many each")


def check_latents(latents: Mapping[Modality, Tensor], specs: Mapping[Modality, ModalitySpec]) -> None:
    """Raises `InputError` for clean partners of another geometry."""
    for modality, value in latents.items():
        shape = specs[modality].latent_shape
        if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape[1:]) != shape:
            raise InputError(
                f"partner_latents of {modality} is {_kind(value)}: expected floats (1 or samples, {str(shape)[1:-1]}), as "
                "`encode_partners` gives them"
            )
