"""Translate what callers give into the forms that the rest of the package uses.

This concerns diffusers' names of arguments, numbers of numpy and torch, and addresses on the network, which
are refused. All of it is done here, once, so that no other module needs to know of it. numpy and torch are
imported only when a value is looked at, so that importing this module is quick.
"""

import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Any

from codi import renamed
from codi.types import InputError, Modality

ALIASES = {  # diffusers' name of an argument of a pipeline's call -> our name
    "prompt": "text",
    "negative_prompt": "negative_text",
    "num_images_per_prompt": "num_samples",
    "num_videos_per_prompt": "num_samples",
    "num_waveforms_per_prompt": "num_samples",
}
MEANT = {  # what people write -> the argument that they mean, where a similar spelling would not find it
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "batch_size": "num_samples",
    "samples": "num_samples",
    "n": "num_samples",
    "frames": "num_frames",
    "frame_rate": "fps",
    "seconds": "audio_length_in_s",
    "duration": "audio_length_in_s",
    "audio_end_in_s": "audio_length_in_s",
    "to": "outputs",
    "modalities": "outputs",
    "noise": "latents",
    "size": "height",
    "negative": "negative_text",
    "ip_adapter_image": "image",
    "callback": "callback_on_step_end",
    "callback_steps": "callback_on_step_end",
    "mask_image": "keep",
    "mask": "keep",
    "init_image": "start",
    "denoising_strength": "strength",
    "jump_n_sample": "resample_steps",
    "super_resolution": "upscale",
}
NUMBERS = (  # arguments that are numbers, or hold them
    "num_samples",
    "candidates",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "sync_guidance_scale",
    "guidance_interval",
    "sync_guidance_interval",
    "guidance_rescale",
    "guider",
    "classifier_guidance",
    "start_offset",
    "strength",
    "resample_steps",
    "height",
    "width",
    "num_frames",
    "fps",
    "audio_length_in_s",
    "sync",
    "auxiliary_caption",
    "upscale",
    "return_dict",
)
LONGEST = 60  # characters of an address in a message
# At least two characters before the colon: a single letter is a drive of Windows.
ADDRESS = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+:/[^\s]|data:)")


def resolve_names(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a pipeline's `__call__` to take diffusers' argument names, and numpy's and torch's numbers, too.

    Names of earlier versions are translated as well (`codi.renamed`).

    Args:
        call: the method; its first parameter is `self`.

    Returns:
        A method with the same signature. It raises `InputError` for an argument that is given twice under two
        names, and for an unknown argument, naming the nearest known one.
    """
    parameters = list(inspect.signature(call).parameters.values())[1:]
    positional = [item.name for item in parameters if item.kind is not item.VAR_KEYWORD]
    open_ended = len(positional) < len(parameters)  # it takes prompts of modalities that it does not name

    @functools.wraps(call)
    def resolved(self: Any, *values: Any, **options: Any) -> Any:
        if len(values) > len(positional):
            raise InputError(
                f"{len(values)} arguments without a name: expected at most {len(positional)}; name them"
            )
        given = dict(zip(positional, values))
        for name, value in options.items():
            if name in given:
                raise InputError(
                    f"{name} was given twice, by its place and by its name: expected one of them"
                )
            given[name] = value
        given = renamed.rename(without_aliases(given, ALIASES), renamed.SETTINGS, "this call", within=False)
        known = [*positional, *(_further_prompts(positional) if open_ended else ())]
        for name in given:
            if name not in known:
                raise InputError(_unknown(name, known))
        for name in given:
            if name in NUMBERS:
                given[name] = _number(name, given[name])
        return call(self, **given)

    return resolved


def _further_prompts(named: Collection[str]) -> list[str]:
    """Return the names of arguments for prompts of modalities that a signature does not name."""
    both = []
    for modality in Modality:
        both += [modality.value, f"negative_{modality}"]
    return [name for name in both if name not in named]


def _number(name: str, value: Any) -> Any:
    """Return `plain(value)`, with the argument's name in front of an error's message."""
    try:
        return plain(value)
    except InputError as error:
        raise InputError(f"{name} is {error}") from None


def without_aliases(given: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Return the same values under our names.

    Args:
        given: what was given, by name. An alias of None counts as not given, as callers pass on what they
            were not given.
        aliases: other names, and ours.

    Returns:
        The values by our names alone.

    Raises:
        InputError: for a value that is given twice under two names.
    """
    ours = {name: value for name, value in given.items() if name not in aliases}
    source = {name: name for name, value in ours.items() if value is not None}
    for alias, value in given.items():
        if alias not in aliases or value is None:
            continue
        name = aliases[alias]
        if name in source:
            raise InputError(
                f"{source[name]} and {alias} were both given, and mean the same: expected one of them"
            )
        source[name] = alias
        ours[name] = value
    return ours


def _unknown(name: str, known: list[str]) -> str:
    near = MEANT.get(name) or next(
        iter(difflib.get_close_matches(name, [*known, *ALIASES], n=1, cutoff=0.6)), None
    )
    advice = f"did you mean {near}?" if near else f"expected some of {', '.join(known)}"
    return f"unknown argument {name!r}: {advice}"


def plain(value: Any) -> Any:
    """Return scalars of numpy and torch as Python's numbers, also those within lists, tuples and dicts.

    A one-dimensional array or tensor becomes a list; one of more dimensions raises `InputError`. Anything
    else is returned as it is.
    """
    import numpy as np
    import torch

    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, torch.Tensor)):
        if value.ndim > 1:
            raise InputError(
                f"an array of shape {tuple(value.shape)}: expected one number, or a list of them"
            )
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value


def check_address(value: str) -> None:
    """Raise `InputError` for an address on the network, or data written as one, where a file is expected."""
    if ADDRESS.match(value) is None:
        return
    shown = value if len(value) <= LONGEST else value[:LONGEST] + "..."
    if value.lstrip().lower().startswith("file:"):
        raise InputError(f"{shown} is an address: expected the path of the file alone, without file://")
    raise InputError(
        f"{shown} is an address: no network is opened for a prompt; download it first, and give the file"
    )


def parse_scale(value: Any, option: str) -> float | dict[str, float] | None:
    """Return a scale, typed or from JSON, as one number or as one number for each output.

    Args:
        value: as typed, `3` or `video=4,audio=3`; as in JSON, 3 or {"video": 4}; or None.
        option: the name of the option, for messages.

    Returns:
        A number, or {output: number}; None for None.

    Raises:
        InputError: for anything else, and for a number that is negative or not finite.
    """
    if value is None:
        return None
    try:
        if isinstance(value, str) and "=" in value:
            value = dict(part.split("=") for part in value.split(","))
        if isinstance(value, Mapping):
            numbers = {}
            for name, number in value.items():
                numbers[Modality.parse(name).value] = _typed(f"{option} of {name}", number)
            return numbers
        return _typed(option, value)
    except InputError:
        raise
    except (TypeError, ValueError):
        raise InputError(
            f"{option} is {value!r}: expected one number, or one for each output such as video=4,audio=3"
        ) from None


def parse_named(text: str, option: str) -> dict[str, Any]:
    """Return a name with options as a dict, from what was typed: `apg:eta=0.2:interval=0.1-0.8`.

    Args:
        text: the name, and after it options, each with a colon before it. A value is a number, numbers or
            words with "+" between them, an interval such as 0.1-0.8, or a word.
        option: the name of the command line's option, for messages.

    Returns:
        {"name": ..., option: value}.

    Raises:
        InputError: for anything else.
    """
    name, *parts = text.strip().split(":")
    found: dict[str, Any] = {"name": name}
    for part in parts:
        key, sign, value = part.partition("=")
        if not (name and key and sign and value):
            raise InputError(f"{option} is {text!r:.80}: expected a name with options, such as apg:eta=0.2")
        if key in found:
            raise InputError(f"{option} has {key} twice: expected it once")
        found[key] = _typed_value(value)
    return found


def _typed_value(text: str) -> Any:
    """Return what a typed value of an option means: a number, a list of them, an interval, or words."""
    if "+" in text.lstrip("+"):
        return [_typed_value(part) for part in text.split("+")]
    if match := re.fullmatch(r"([0-9.]+)-([0-9.]+)", text):
        return [_typed_value(part) for part in match.groups()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_guiders(value: Any, option: str) -> Any:
    """Return guiders, typed or from JSON, as one dict of a name and options, or one for each output.

    Args:
        value: as typed, `apg:eta=0.2` or `video=apg,audio=zero-star`; as in JSON, a name, a dict with "name",
            or one of these by output; or None.
        option: the name of the option, for messages.

    Returns:
        The guider, or {output: guider}; None for None. Whether there are such guiders is not checked.

    Raises:
        InputError: for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str) and "=" in value.split(":")[0]:
        parts = [part.partition("=") for part in value.split(",")]
        value = {name: text for name, _, text in parts}
    if isinstance(value, str):
        return parse_named(value, option)
    if not isinstance(value, Mapping):
        raise InputError(f"{option} is {value!r:.80}: expected a name such as apg, or one for each output")
    if "name" in value:
        return dict(value)
    return {Modality.parse(name).value: parse_guiders(each, option) for name, each in value.items()}


def parse_classifier(value: Any, option: str) -> dict[str, Any] | None:
    """Return classifier guidance, typed or from JSON, as a dict of a name and options; None for None.

    Raises `InputError` for anything else. Whether there is such a function is not checked.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return parse_named(value, option)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(
            f"{option} is {value!r:.80}: expected a name such as prompt, or {{'name': 'prompt', "
            "'scale': 0.2}"
        )
    return dict(value)


def parse_upscale(value: Any, option: str) -> dict[str, Any] | None:
    """Return how much larger pictures are made, typed or from JSON, as a dict with "factor"; None for None.

    Args:
        value: as typed, `4` or `4:noise_aug_strength=0.1`; as in JSON, 4 or {"factor": 4,
            "noise_aug_strength": 0.1}.
        option: the name of the option, for messages.

    Returns:
        The factor and the other options. Whether a model can do that is not checked.

    Raises:
        InputError: for anything else.
    """
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    if isinstance(value, str):
        named = parse_named(value, option)
        value = _typed_value(named.pop("name"))
    else:
        named = {}
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            f"{option} is {value!r:.80}: expected a factor such as 4, or 4:noise_aug_strength=0.1"
        )
    return {"factor": value, **named}


def check_number(name: str, value: Any) -> float:
    """Return a finite number of at least 0 as a float; raise `InputError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} is {value!r}: expected a finite number of at least 0")
    return float(value)


def numbers(value: Any, count: int) -> list[float] | None:
    """Return so many finite numbers, of a list or tuple, as floats; None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    fine = all(isinstance(n, Real) and not isinstance(n, bool) and math.isfinite(n) for n in value)
    return [float(n) for n in value] if fine else None


def check_interval(name: str, value: Any) -> tuple[float, float]:
    """Return two fractions of the schedule in rising order; raise `InputError` for anything else."""
    try:
        first, last = map(float, value)
        fine = 0 <= first <= last <= 1
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise InputError(f"{name} is {value!r}: expected two fractions of the schedule, such as (0.2, 0.8)")
    return (first, last)


def _typed(name: str, value: Any) -> float:
    return check_number(name, value if isinstance(value, bool) else float(value))
