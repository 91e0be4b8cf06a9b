"""The nodes of prompts: words, pictures, sounds and clips, with weights, and several together."""

from collections.abc import Iterable
from typing import Any, ClassVar

from . import media
from .base import PROMPT, Node, number, socket, words

Prompts = tuple[tuple[str, Any, float], ...]

WEIGHT = number(1.0, 0.0, 100.0, "how much it counts among the prompts that it is combined with")
MORE = socket(PROMPT, "prompts of nodes before this one, with which it combines")


def by_modality(prompts: Prompts | None, prefix: str = "") -> dict[str, list[Any]]:
    """Return prompts as arguments of a call.

    Args:
        prompts: (modality, value, weight) each; None for none.
        prefix: "negative_" for negative ones.

    Returns:
        Lists of `codi.Prompt` by the names of arguments.
    """
    from codi import Prompt

    found: dict[str, list[Any]] = {}
    for modality, value, weight in prompts or ():
        found.setdefault(prefix + modality, []).append(Prompt(value, weight=weight))
    return found


class _Prompt(Node):
    """What nodes of single prompts share; the name of the socket is the modality."""

    RETURN_TYPES = (PROMPT,)
    RETURN_NAMES = ("prompt",)
    optional: ClassVar[dict[str, Any]] = {"prompts": MORE}


def _added(prompts: Prompts | None, modality: str, values: Iterable[Any], weight: float) -> tuple[Prompts]:
    """Return prompts with more of one modality behind them, which share their weight."""
    values = list(values)
    share = weight / max(len(values), 1)
    return ((*(prompts or ()), *((modality, value, share) for value in values)),)


class TextPrompt(_Prompt):
    """A sentence as a prompt."""

    DESCRIPTION = "A sentence that says what is to be made, or as a negative prompt what is not."
    required: ClassVar[dict[str, Any]] = {
        "text": words(
            "a green star bounces quickly in the snow",
            "what the embedded model reads is its world: a shape, its colour, a place, how it moves",
            multiline=True,
            dynamicPrompts=True,
        ),
        "weight": WEIGHT,
    }

    def run(self, text: str, weight: float, prompts: Prompts | None = None) -> tuple[Prompts]:
        """Return the prompts with this one added."""
        return _added(prompts, "text", [text], weight)


class ImagePrompt(_Prompt):
    """A picture as a prompt."""

    DESCRIPTION = "A picture whose content is to be made, in any output. Those of a batch share the weight."
    required: ClassVar[dict[str, Any]] = {"image": socket("IMAGE", "the picture"), "weight": WEIGHT}

    def run(self, image: Any, weight: float, prompts: Prompts | None = None) -> tuple[Prompts]:
        """Return the prompts with this one added."""
        return _added(prompts, "image", media.pictures(image), weight)


class AudioPrompt(_Prompt):
    """A sound as a prompt."""

    DESCRIPTION = (
        "A sound whose content is to be made, in any output; a clip is made in time with it. Those of a "
        "batch share the weight."
    )
    required: ClassVar[dict[str, Any]] = {"audio": socket("AUDIO", "the sound"), "weight": WEIGHT}

    def run(self, audio: Any, weight: float, prompts: Prompts | None = None) -> tuple[Prompts]:
        """Return the prompts with this one added."""
        return _added(prompts, "audio", media.sounds(audio), weight)


class VideoPrompt(_Prompt):
    """A clip as a prompt."""

    DESCRIPTION = "A clip whose content is to be made, in any output; a sound is made in time with it."
    required: ClassVar[dict[str, Any]] = {
        "video": socket("VIDEO", "the clip; a sound that it holds is a prompt of its own (Audio Prompt)"),
        "weight": WEIGHT,
    }

    def run(self, video: Any, weight: float, prompts: Prompts | None = None) -> tuple[Prompts]:
        """Return the prompts with this one added."""
        return _added(prompts, "video", [media.clip(video)], weight)


class CombinePrompts(Node):
    """Combines prompts of two chains."""

    DESCRIPTION = "Combines the prompts of two chains; where they contradict each other, weights decide."
    RETURN_TYPES = (PROMPT,)
    RETURN_NAMES = ("prompt",)
    required: ClassVar[dict[str, Any]] = {
        "first": socket(PROMPT, "prompts"),
        "second": socket(PROMPT, "further prompts"),
        "weight_of_first": number(1.0, 0.0, 100.0, "what the weights of the first are multiplied by"),
        "weight_of_second": number(1.0, 0.0, 100.0, "what the weights of the second are multiplied by"),
    }

    def run(
        self, first: Prompts, second: Prompts, weight_of_first: float, weight_of_second: float
    ) -> tuple[Prompts]:
        """Return all prompts."""
        one = tuple((kind, value, weight * weight_of_first) for kind, value, weight in first)
        other = tuple((kind, value, weight * weight_of_second) for kind, value, weight in second)
        return ((*one, *other),)
