"""The nodes by which outputs are given something of themselves: a start, a part to keep, keyframes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from . import media
from .base import CHAIN, SETTINGS, Node, count, merged, number, socket, words

RETAKES = "retakes"  # the key of settings that Generate turns into parts to keep, once lengths are known
STRENGTH = "the part of the steps that is taken: 0 leaves it as it is, 1 makes it anew"


class _Edit(Node):
    """What nodes of edits share."""

    RETURN_TYPES = (SETTINGS,)
    RETURN_NAMES = ("settings",)


def _starts(image: Any = None, audio: Any = None, video: Any = None, text: str = "") -> dict[str, Any]:
    """Return what was connected, by the output that it is a start of; raise `InputError` for nothing."""
    found: dict[str, Any] = {}
    if text.strip():
        found["text"] = text
    if image is not None:
        found["image"] = media.picture(image, "the start")
    if audio is not None:
        found["audio"] = media.sound(audio, "the start")
    if video is not None:
        found["video"] = media.clip(video)
    if not found:
        raise media.input_error(
            "nothing is connected to start from: expected one of the optional sockets to be used"
        )
    return found


class StartFrom(_Edit):
    """Starts outputs from media, as image to image does."""

    DESCRIPTION = "What is made starts from these media, and is changed by as much as the strength says."
    required: ClassVar[dict[str, Any]] = {"strength": number(0.8, 0.0, 1.0, STRENGTH)}
    optional: ClassVar[dict[str, Any]] = {
        "image": socket("IMAGE", "what the picture starts from"),
        "audio": socket("AUDIO", "what the sound starts from"),
        "video": socket("VIDEO", "what the clip starts from"),
        "text": words(tooltip="what the sentence starts from; empty for nothing", multiline=True),
        "settings": CHAIN,
    }

    def run(
        self,
        strength: float,
        image: Any = None,
        audio: Any = None,
        video: Any = None,
        text: str = "",
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with these starts."""
        starts = _starts(image, audio, video, text)
        found = {"start": starts, "strength": dict.fromkeys(starts, strength)}
        return (merged(settings, found),)


class Retake(_Edit):
    """Makes some seconds of a sound, a clip or both anew."""

    DESCRIPTION = "Makes the seconds between begin and end anew, and keeps all others to the bit."
    required: ClassVar[dict[str, Any]] = {
        "begin": number(0.75, 0.0, 36_000.0, "the second at which the retake begins"),
        "end": number(1.25, 0.0, 36_000.0, "the second at which it ends"),
        "strength": number(1.0, 0.0, 1.0, STRENGTH),
    }
    optional: ClassVar[dict[str, Any]] = {
        "audio": socket("AUDIO", "the sound of which a part is made anew"),
        "video": socket("VIDEO", "the clip of which a part is made anew"),
        "settings": CHAIN,
    }

    def run(
        self,
        begin: float,
        end: float,
        strength: float,
        audio: Any = None,
        video: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with this retake."""
        if not begin < end:
            raise media.input_error(
                f"the retake goes from {begin:g} to {end:g} s: expected an end behind the begin"
            )
        starts = _starts(audio=audio, video=video)
        found = {
            "start": starts,
            "strength": dict.fromkeys(starts, strength),
            RETAKES: dict.fromkeys(starts, (begin, end)),
        }
        return (merged(settings, found),)


class Inpaint(_Edit):
    """Makes a part of a picture or a clip anew."""

    DESCRIPTION = "Makes what is white in the mask anew, as ComfyUI's inpainting does, and keeps the rest."
    required: ClassVar[dict[str, Any]] = {
        "mask": socket("MASK", "white where it is made anew"),
        "strength": number(1.0, 0.0, 1.0, STRENGTH),
    }
    optional: ClassVar[dict[str, Any]] = {
        "image": socket("IMAGE", "the picture"),
        "video": socket("VIDEO", "the clip; the mask is one for all frames, or one for each"),
        "settings": CHAIN,
    }

    def run(
        self,
        mask: Any,
        strength: float,
        image: Any = None,
        video: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with this start and what of it is kept."""
        starts = _starts(image, video=video)
        frames = {name: len(value[0]) if isinstance(value, tuple) else None for name, value in starts.items()}
        found = {
            "start": starts,
            "strength": dict.fromkeys(starts, strength),
            "keep": {name: media.kept(mask, frames[name]) for name in starts},
        }
        return (merged(settings, found),)


class Outpaint(_Edit):
    """Makes the surroundings of a picture or a clip."""

    DESCRIPTION = "Puts the picture or clip into a box of what is made, and makes everything around it."
    required: ClassVar[dict[str, Any]] = {
        "left": number(0.25, 0.0, 1.0, "where the picture begins, in fractions of the width"),
        "top": number(0.25, 0.0, 1.0, "in fractions of the height"),
        "right": number(0.75, 0.0, 1.0, "where it ends, in fractions of the width"),
        "bottom": number(0.75, 0.0, 1.0, "in fractions of the height"),
    }
    optional: ClassVar[dict[str, Any]] = {
        "image": socket("IMAGE", "the picture"),
        "video": socket("VIDEO", "the clip"),
        "settings": CHAIN,
    }

    def run(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        image: Any = None,
        video: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with this start and its box."""
        starts = _starts(image, video=video)
        return (
            merged(settings, {"start": starts, "canvas": dict.fromkeys(starts, (left, top, right, bottom))}),
        )


class Keyframe(_Edit):
    """A picture that is one of the frames of the clip."""

    DESCRIPTION = "A picture that the clip is to have as one of its frames; several form a chain."
    required: ClassVar[dict[str, Any]] = {
        "image": socket("IMAGE", "the picture"),
        "frame": count(0, -100_000, 100_000, "its number, from 0; -1 is the last"),
    }
    optional: ClassVar[dict[str, Any]] = {"settings": CHAIN}

    def run(self, image: Any, frame: int, settings: dict[str, Any] | None = None) -> tuple[dict[str, Any]]:
        """Return the settings with this keyframe."""
        found = {"keyframes": {"video": {frame: media.picture(image, "the keyframe")}}}
        return (merged(settings, found),)


def with_kept_ends(pipe: Any, outputs: list[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call in which retakes have become parts to keep.

    What is kept must lie within what is made, whose length the model knows, and the sizes of the call.

    Args:
        pipe: the pipeline.
        outputs: what is made.
        call: its arguments, and retakes by output.

    Returns:
        The arguments without retakes.
    """
    call = dict(call)
    retakes = call.pop(RETAKES, {})
    if not retakes:
        return call
    from codi.types import SIZES

    sizes = {name: call[name] for name in SIZES if name in call}
    specs = pipe.resolve(given=(), outputs=outputs, sizes=sizes, lengths=call.get("lengths", "agree")).specs
    keep = {}
    for output, (begin, end) in retakes.items():
        if output not in outputs:
            continue  # the call says so
        length = min(specs[output].timed[1], _seconds(call["start"][output]))
        if begin >= length:
            raise media.input_error(
                f"the retake of {output} begins at {begin:g} s, and it lasts {length:g} s: expected a begin "
                "before that"
            )
        keep[output] = [(0.0, begin)] * (begin > 0) + [(end, length)] * (end < length)
    return merged(call, {"keep": {output: parts for output, parts in keep.items() if parts}})


def _seconds(value: Any) -> float:
    """Return how long a sound or a clip lasts, in the form in which `_starts` has it."""
    if isinstance(value, Mapping):
        return media.seconds_of_sound(value)
    frames, rate = value
    return len(frames) / rate
