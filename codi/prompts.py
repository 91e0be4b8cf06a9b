"""Turn what a user gives as prompts into raw media in a model's own geometry.

A prompt argument is one item or a list of items that combine. An item is a plain value, a path, or
`Prompt(value, weight)`. By kind, a value is

- text: a `str`
- picture: a PIL image, an array (H, W, 3) or a tensor (3, H, W); grey is taken as well, and so is opacity,
  behind which is white
- sound: (samples,), (channels, samples) or (samples, channels) at the model's rate; a pair (sound, Hz) or
  (Hz, sound); {"array", "sampling_rate"} or {"waveform", "sample_rate"}; floats in [-1, 1], int16, int32 or
  uint8
- clip: frames (F, 3, H, W), an array (F, H, W, 3) or a list of pictures at the model's rate; a pair (frames,
  frames per second); or a `codi.io.Video`
- for all but text also a file: a path, bytes, or an open file, which is read from its start and left at its
  position

Pixels are uint8, or floats in [0, 1]. A batch of one counts as that one. `codi.media` reads all of these. A
list of pictures for `video` is one clip; every other list is several prompts.

Letters: B batch, F frames, H height, W width, D width of a prompt token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi import media, wording
from codi.border import plain
from codi.media import kind
from codi.modalities import kind_of
from codi.types import InputError, Modality, ModalitySpec, listed


@dataclass(frozen=True)
class Prompt:
    """One prompt and how much it counts among those that it is combined with.

    Attributes:
        value: words, a medium, or a file, as above.
        weight: a finite number of at least 0.
    """

    value: Any
    weight: float = 1.0


def by_modality(arguments: Mapping[str, Any], prefix: str = "") -> dict[Modality, Any]:
    """Return the arguments that are called as a modality is, after the prefix, under their modalities."""
    names = {m: f"{prefix}{m}" for m in Modality}
    return {m: arguments[name] for m, name in names.items() if name in arguments}


def collect(arguments: Mapping[Modality, Any], prefix: str = "") -> dict[Modality, list[Prompt]]:
    """Return the prompts of every modality that has any.

    Args:
        arguments: prompt arguments by modality; None counts as left out.
        prefix: what the names of the arguments begin with, in messages.

    Returns:
        A list of prompts for each modality.

    Raises:
        InputError: for an empty list, and for weights that cannot be used.
    """
    prompts = {}
    weights: list[float] = []
    for modality, value in arguments.items():
        if value is not None:
            prompts[modality] = _as_list(modality, f"{prefix}{modality}", value)
            weights += [prompt.weight for prompt in prompts[modality]]
    if weights and sum(weights) <= 0:
        raise InputError(
            f"the weights of the {prefix}prompts sum to zero ({len(weights)} prompts): expected at least one "
            "above zero"
        )
    return prompts


def given(items: Mapping[Modality, Any], embeds: Tensor | None, prefix: str = "") -> bool:
    """Return whether there is any prompt, in one of its two forms; raise `InputError` if it is in both."""
    if items and embeds is not None:
        raise InputError(
            f"{prefix}prompts ({listed(items)}) and {prefix}prompt_embeds were both given: expected one of "
            "them"
        )
    return bool(items) or embeds is not None


def first_file(items: Sequence[Prompt]) -> Path | None:
    """Return the file that the first of these prompts was given as, or None if it was no file."""
    return Path(items[0].value) if items and isinstance(items[0].value, (str, Path)) else None


def _as_list(modality: Modality, name: str, value: Any) -> list[Prompt]:
    """Return a prompt argument as a list of prompts; the pictures of one clip are one item."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(
            f"{name}=[] holds no prompt: expected at least one item; leave the argument out to give none"
        )
    # pictures in a list or tuple are the frames of one clip, where a clip is expected
    if isinstance(value, (list, tuple)) and all(map(kind_of(modality).is_part, value)):
        items = [list(value)]
    prompts = [item if isinstance(item, Prompt) else Prompt(item) for item in items]
    return [_checked(modality, name, prompt) for prompt in prompts]


def _checked(modality: Modality, name: str, prompt: Prompt) -> Prompt:
    """Return a prompt with its weight as a number of Python's, and any form of a file as a path or bytes."""
    weight = plain(prompt.weight)
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight) or weight < 0:
        raise InputError(f"weight {weight!r} of a {name} prompt: expected a finite number of at least 0")
    value = prompt.value if kind_of(modality).in_words else media.settled(name, prompt.value)
    return Prompt(value, weight)


def prepare(modality: Modality, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
    """Return one item as the model takes it.

    Args:
        modality: the kind of medium.
        value: an item without its weight.
        spec: the model's geometry of this modality; None for text, or where the model cannot tell it.
        padded: whether a sound that is too short is filled up with silence; otherwise it keeps its own
            length.

    Returns:
        Text as a `str`, and anything else as a float tensor of `spec.raw_shape` in [-1, 1].

    Raises:
        InputError: for a value that cannot be read as this kind, and for one without a spec.
    """
    if spec is None and not kind_of(modality).in_words:
        raise InputError(
            f"this model cannot tell the size of a prompt of kind {modality}: load its autoencoder and "
            "denoiser too"
        )
    return kind_of(modality).prepare(value, spec, padded)


def batches(samples: list[Any]) -> list[Any]:
    """Return prepared items of one modality as one batch, or as one each where their shapes differ."""
    if not isinstance(samples[0], Tensor):
        return [list(samples)]
    if all(sample.shape == samples[0].shape for sample in samples):
        return [torch.stack(samples)]
    return [sample[None] for sample in samples]


def emptied(batch: Any) -> Any:
    """Return a batch without content: empty sentences, or the middle of the range (grey, silence)."""
    return torch.zeros_like(batch) if isinstance(batch, Tensor) else [""] * len(batch)


def note_unread(tower: Any, items: Sequence[Prompt]) -> None:
    """Warn of what the text tower cannot read, which says nothing to it.

    Raises `InputError` where that is all of a prompt.
    """
    if getattr(tower, "tokenizer", None) is None:
        return
    for prompt in items:
        if isinstance(prompt.value, str) and prompt.value.strip():
            wording.report(tower.vocabulary, tower.read(prompt.value), prompt.value)


def check_embeds(embeds: Mapping[str, Tensor | None], width: int) -> None:
    """Raise `InputError` for prompts in the form of tokens that do not fit a model, or each other.

    Args:
        embeds: tokens (1 or B, 1, D) by the names of their arguments; None counts as left out.
        width: D of the prompt space.
    """
    there = {name: value for name, value in embeds.items() if value is not None}
    for name, value in there.items():
        if (
            not isinstance(value, Tensor)
            or not value.is_floating_point()
            or value.ndim != 3
            or value.shape[-1] != width
        ):
            raise InputError(
                f"{name} is {kind(value)}: expected floats (1 or samples, 1, {width}), as `encode_prompt` "
                "gives them"
            )
    num_tokens = [value.shape[1] for value in there.values()]
    if len(set(num_tokens)) > 1:
        raise InputError(f"{' and '.join(there)} have {num_tokens} tokens: expected as many each")


def check_latents(latents: Mapping[Modality, Tensor], specs: Mapping[Modality, ModalitySpec]) -> None:
    """Raise `InputError` for clean partners of another geometry than that of `specs`."""
    for modality, value in latents.items():
        shape = specs[modality].latent_shape
        if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape[1:]) != shape:
            raise InputError(
                f"partner_latents of {modality} is {kind(value)}: expected floats (1 or samples, "
                f"{str(shape)[1:-1]}), as `encode_partners` gives them"
            )
