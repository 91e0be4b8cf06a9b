"""What all nodes share: how they state their sockets, and how settings that come from several nodes add up.

Three types of sockets are codi's own: a model, prompts, and settings. Prompts are a tuple of (modality,
value, weight), and settings are arguments of a call of `CoDiPipeline` by name. A node that adds to either
takes what came before it in an optional socket, so that nodes form a chain. Everything else (IMAGE, AUDIO,
VIDEO, MASK, STRING) is ComfyUI's.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

MODEL = "CODI_MODEL"
PROMPT = "CODI_PROMPT"
SETTINGS = "CODI_SETTINGS"
RESULT = "CODI_RESULT"

OUTPUTS = ("text", "image", "audio", "video")
LARGEST_SEED = 2**32 - 1  # which the page can count exactly

Socket = tuple[Any, ...]


class Node:
    """One node as ComfyUI finds it: its sockets are class attributes, and `run` is called with their values.

    Attributes:
        required: sockets and widgets that must have a value, by name.
        optional: those that may be left open.
        RETURN_TYPES: the types of its outputs.
    """

    CATEGORY = "codi"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[dict[str, Socket]] = {}
    optional: ClassVar[dict[str, Socket]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Socket]]:
        """Return the sockets in the form that ComfyUI asks for."""
        return {"required": dict(cls.required), "optional": dict(cls.optional)}


def words(default: str = "", tooltip: str = "", **options: Any) -> Socket:
    """Return a widget for text."""
    return ("STRING", {"default": default, "tooltip": tooltip, **options})


def number(default: float, low: float, high: float, tooltip: str, step: float = 0.01) -> Socket:
    """Return a widget for a number."""
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip})


def count(default: int, low: int, high: int, tooltip: str, **options: Any) -> Socket:
    """Return a widget for a whole number."""
    return ("INT", {"default": default, "min": low, "max": high, "tooltip": tooltip, **options})


def switch(default: bool, tooltip: str) -> Socket:
    """Return a widget that is on or off."""
    return ("BOOLEAN", {"default": default, "tooltip": tooltip})


def choice(options: tuple[str, ...], default: str, tooltip: str) -> Socket:
    """Return a widget for one of several names."""
    return (list(options), {"default": default, "tooltip": tooltip})


def socket(kind: str, tooltip: str) -> Socket:
    """Return a socket without a widget."""
    return (kind, {"tooltip": tooltip})


CHAIN = socket(SETTINGS, "settings of nodes before this one; this one adds to them")


def merged(before: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with more of them added.

    Args:
        before: settings of the nodes before; None for none.
        more: settings to add.

    Returns:
        Both, dicts key by key and lists one behind the other; of single values the later one counts.
    """
    found = dict(before or {})
    for name, value in more.items():
        there = found.get(name)
        if isinstance(value, Mapping):
            found[name] = merged(there if isinstance(there, Mapping) else None, value)
        elif isinstance(value, list) and isinstance(there, list):
            found[name] = [*there, *value]
        else:
            found[name] = value
    return found


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None and not 0, which stands for the model's own in number widgets."""
    return {name: value for name, value in values.items() if value is not None and value != 0}
