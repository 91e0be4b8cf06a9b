"""Read what outputs are given of themselves: a start, its strength, what of it is kept, and keyframes.

From Python, from the command line and from lines of jobs they come in one form, by the names of outputs:

    start={"image": "photo.png"}            the medium to start from; one item, in any form of a prompt
    strength=0.6, or {"image": 0.6}         the part of the schedule that is taken
    keep={"audio": [(0, 1.2)]}              a region, or a list of regions, of that medium
    keyframes={"video": {0: "first.png"}}   pictures by their frames (whole numbers) or seconds
    canvas={"image": (0.25, 0, 0.75, 1)}    the box, in fractions, in which the medium lies on what is made
    source_prompt="a red ball"              what the medium shows; or {"image": "a red ball"}

A region is True, which is everything; seconds (begin, end); a box (left, top, right, bottom) in fractions;
the number of a frame; or a mask, a file or an array, which is bright where the medium is kept. Nothing heavy
is imported before media are read.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from codi.border import check_number, numbers
from codi.modalities import kind_of, kinds
from codi.types import InputError, Modality, ModalitySpec, listed

NAMES = ("start", "strength", "keep", "keyframes", "canvas", "resample_steps", "source_prompt")
# under which the options of the command line lie that say the same
OPTIONS = ("start", "strength", "keep", "keyframe", "canvas", "resample_steps", "source_prompt")
STRENGTH = 0.8  # of a start of which nothing is kept, as image to image in diffusers
RESAMPLE_STEPS = 4  # how often a step is made where a part is kept (docs/editing.md)
MOST_RESAMPLE_STEPS = 100
FORMS = "True, seconds (begin, end), a box (left, top, right, bottom), the number of a frame, or a mask"
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class KeptPart:
    """One region that is kept.

    Attributes:
        kind: "whole", "interval", "box", "frame" or "mask".
        value: None; (begin, end) in seconds; (left, top, right, bottom) in fractions; a number; or the mask.
    """

    kind: str
    value: Any = None

    def written(self) -> Any:
        """Return the region as JSON has it; a mask is not written here."""
        return True if self.kind == "whole" else self.value


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What one output is given of itself.

    Attributes:
        source: the medium that it starts from or that is kept in part; None with keyframes alone.
        strength: the part of its schedule that is taken; None until it is settled.
        keep: the regions of the source that are kept.
        keyframes: (when, picture) pairs; whole numbers are frames, other numbers are seconds.
        canvas: the box in which the source lies; None for all of what is made.
        source_prompt: what the source shows, in words; None where nobody said it.
    """

    source: Any = None
    strength: float | None = None
    keep: tuple[KeptPart, ...] = ()
    keyframes: tuple[tuple[int | float, Any], ...] = ()
    canvas: Box | None = None
    source_prompt: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything is kept, so that nothing is to be made."""
        return any(region.kind == "whole" for region in self.keep)

    @property
    def keeps(self) -> bool:
        """Whether any part of the output is kept."""
        return bool(self.keep or self.keyframes or self.canvas)


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What all outputs of one request are given of themselves.

    Attributes:
        by_output: what each output is given; one that is not there is made from nothing.
        resample_steps: how often a step is made of an output of which a part is kept.
    """

    by_output: Mapping[Modality, Edit] = field(default_factory=dict)
    resample_steps: int = RESAMPLE_STEPS

    @property
    def whole(self) -> list[Modality]:
        """The outputs of which everything is kept."""
        return [m for m, edit in self.by_output.items() if edit.is_whole]

    @classmethod
    def from_arguments(cls, *, inputs: Mapping[Modality, Any] | None = None, **given: Any) -> "Edits":
        """Read the arguments of a call, of the names in `NAMES`.

        Args:
            inputs: the first prompt of each modality, which stands for a start where a part of it is kept.
            **given: the arguments; None counts as left out.

        Returns:
            What is asked for, without a settled strength.

        Raises:
            InputError: for what has none of the forms above.
        """
        starts = _by_output("start", given.get("start"))
        keeps = _by_output("keep", given.get("keep"))
        frames = _by_output("keyframes", given.get("keyframes"))
        boxes = _by_output("canvas", given.get("canvas"))
        strengths = _strengths(given.get("strength"), [*starts, *keeps, *boxes])
        words = _source_prompts(given.get("source_prompt"), [*starts, *keeps])
        found = {}
        for modality in dict.fromkeys([*starts, *keeps, *boxes, *frames]):
            source = starts.get(modality)
            if source is None and (modality in keeps or modality in boxes):
                source = (inputs or {}).get(modality)
            if source is None and modality not in frames:
                raise InputError(
                    f"there is no {modality} of which a part could be kept: expected start={{'{modality}': "
                    f"...}} (--start-{modality.replace('_', '-')}), or a prompt of that kind"
                )
            found[modality] = Edit(
                source=_item(modality, "start", source),
                strength=strengths.get(modality),
                keep=_regions(modality, keeps[modality]) if modality in keeps else (),
                keyframes=_keyframes(modality, frames.get(modality)),
                canvas=_box("canvas", modality, boxes[modality]) if modality in boxes else None,
                source_prompt=words.get(modality),
            )
        return cls(by_output=found, resample_steps=_resample_steps(given.get("resample_steps"), found))

    def settled(self, outputs: Collection[Modality], specs: Mapping[Modality, ModalitySpec]) -> "Edits":
        """Return the edits with a strength and frames for each, checked against what is made.

        Args:
            outputs: what is made.
            specs: the geometry of what is made.

        Returns:
            Edits in which nothing is left open.

        Raises:
            InputError: for an output that is not made, for what its modality has not, for what lies beyond
                its end, and for keyframes that meet each other or what is kept.
        """
        found = {}
        for modality, edit in self.by_output.items():
            if modality not in outputs:
                raise InputError(
                    f"{modality} is given a start, a part to keep or keyframes, but is not made: expected "
                    f"some of {listed(outputs)}"
                )
            for region in edit.keep:
                _check_region(modality, region, specs[modality])
            if edit.canvas is not None and not kind_of(modality).spatial:
                raise InputError(f"canvas names {modality}, which has no places: expected none for it")
            if edit.canvas is not None and edit.source_prompt is not None:
                raise InputError(
                    f"source_prompt of {modality} beside a canvas: expected a start that is all of what is "
                    "made"
                )
            keyframes = tuple((_frame(modality, when, specs[modality]), v) for when, v in edit.keyframes)
            _check_keyframes(modality, keyframes, edit.keep, specs[modality])
            found[modality] = replace(edit, strength=_strength(modality, edit), keyframes=keyframes)
        return replace(self, by_output=found)

    def settings(self) -> dict[str, Any]:
        """Return what a record stores among its settings; media are listed by `described`."""
        if not self.by_output:
            return {}
        edits = {m.value: edit for m, edit in self.by_output.items()}
        kept = {name: [r.written() for r in e.keep if r.kind != "mask"] for name, e in edits.items()}
        boxes = {name: list(edit.canvas) for name, edit in edits.items() if edit.canvas is not None}
        words = {name: edit.source_prompt for name, edit in edits.items() if edit.source_prompt is not None}
        return {
            "strength": {name: edit.strength for name, edit in edits.items()},
            "keep": {name: _plain(regions) for name, regions in kept.items() if regions},
            "canvas": boxes,
            "resample_steps": self.resample_steps,
            **({"source_prompt": words} if words else {}),
        }

    def described(self) -> dict[str, list[dict[str, Any]]]:
        """Return the media as a record lists them: words in full, files by name and sha256."""
        rows = []
        for modality, use, at, value in self.media():
            row = {"as": modality.value, "use": use, **_held(modality, use, value)}
            rows.append(row if at is None else {**row, "at": at})
        return {"sources": rows} if rows else {}

    def media(self) -> list[tuple[Modality, str, int | float | None, Any]]:
        """Return all media as (output, use, frame, value); uses are "start", "keep" and "keyframe"."""
        found: list[tuple[Modality, str, int | float | None, Any]] = []
        for modality, edit in self.by_output.items():
            if edit.source is not None:
                found.append((modality, "start", None, edit.source))
            for region in edit.keep:
                if region.kind == "mask":
                    found.append((modality, "keep", None, region.value))
            for when, value in edit.keyframes:
                found.append((modality, "keyframe", when, value))
        return found


def _held(modality: Modality, use: str, value: Any) -> dict[str, Any]:
    """Return a medium as a record has it; what came from memory is named, not held."""
    from codi import io

    if use == "start" and kind_of(modality).in_words:
        return {"text": str(value)}
    if isinstance(value, (str, Path)):
        return io.describe(value)
    return {"from": f"memory ({type(value).__name__})"}


def _plain(regions: Sequence[Any]) -> list[Any]:
    """Return regions as JSON gives them back."""
    return [list(region) if isinstance(region, tuple) else region for region in regions]


# Reading ---------------------------------------------------------------


def _by_output(name: str, value: Any) -> dict[Modality, Any]:
    """Return an argument by the outputs that it names; None and empty count as left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is a {type(value).__name__}: expected a dict such as {{'image': ...}}")
    return {Modality.parse(key): item for key, item in value.items() if item is not None}


def _item(modality: Modality, name: str, value: Any) -> Any:
    """Return one medium, a file as a path or bytes; a prompt's weight is nothing to a start."""
    value = getattr(value, "value", value)
    if value is None or (name == "start" and kind_of(modality).in_words):
        return value
    if isinstance(value, (str, Path)):
        return Path(value)
    from codi import media

    return media.settled(f"{name} of {modality}", value)


def _strengths(value: Any, outputs: Collection[Modality]) -> dict[Modality, float]:
    """Return the strength of each output that has one, from 0 to 1."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        given = {Modality.parse(key): number for key, number in value.items()}
    else:
        given = dict.fromkeys(outputs, value)
    if not given:
        raise InputError("strength was given without a start: expected start={'image': ...} beside it")
    for modality, number in given.items():
        if check_number(f"strength of {modality}", number) > 1:
            raise InputError(f"strength of {modality} is {number:g}: expected 0 to 1")
        if modality not in outputs:
            raise InputError(
                f"strength names {modality}, which has no start: expected some of {listed(outputs)}"
            )
    return {modality: float(number) for modality, number in given.items()}


def _source_prompts(value: Any, outputs: Collection[Modality]) -> dict[Modality, str]:
    """Return what the source of each output shows, of those of which it is said."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        given = {Modality.parse(key): words for key, words in value.items() if words is not None}
    else:
        given = dict.fromkeys(outputs, value)
    if not given:
        raise InputError("source_prompt was given without a start: expected start={'image': ...} beside it")
    for modality, words in given.items():
        if not isinstance(words, str) or not words.strip():
            raise InputError(
                f"source_prompt of {modality} is {words!r:.60}: expected a sentence that says what its start "
                "shows"
            )
        if modality not in outputs:
            raise InputError(
                f"source_prompt names {modality}, which has no start: expected some of {listed(outputs)}"
            )
    return given


def _resample_steps(value: Any, edits: Mapping[Modality, Edit]) -> int:
    """Return how often steps are made."""
    if value is None:
        return RESAMPLE_STEPS
    value = _number(value)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 1 <= value <= MOST_RESAMPLE_STEPS:
        raise InputError(
            f"resample_steps is {value!r}: expected a whole number from 1 to {MOST_RESAMPLE_STEPS}"
        )
    if not any(edit.keeps for edit in edits.values()):
        raise InputError("resample_steps was given and nothing is kept: expected keep or keyframes beside it")
    return int(value)


def _regions(modality: Modality, value: Any) -> tuple[KeptPart, ...]:
    """Return one region or a list of regions."""
    if isinstance(value, (list, range)):
        if not len(value):
            raise InputError(f"keep of {modality} is empty: expected {FORMS}")
        return tuple(_region(modality, item) for item in value)
    return (_region(modality, value),)


def _region(modality: Modality, value: Any) -> KeptPart:
    """Return one region of any form."""
    value = _number(value)
    if value is True:
        return KeptPart(kind="whole")
    if isinstance(value, Integral) and not isinstance(value, bool):
        return KeptPart(kind="frame", value=int(value))
    if isinstance(value, (tuple, list)):
        return _numbered(modality, value)
    if value is None or isinstance(value, (bool, Real, Mapping)):
        raise InputError(f"keep of {modality} is {value!r:.60}: expected {FORMS}")
    return KeptPart(kind="mask", value=_item(modality, "keep", value))


def _numbered(modality: Modality, value: Sequence[Any]) -> KeptPart:
    """Return a region that is written in two or four numbers."""
    value = [_number(item) for item in value]
    if len(value) == 4:
        return KeptPart(kind="box", value=_box("keep", modality, value))
    ends = numbers(value, 2)
    if ends is None or not 0 <= ends[0] < ends[1]:
        raise InputError(
            f"keep of {modality} names {list(value)!r:.60}: expected seconds (begin, end), the first below "
            "the second, or a box (left, top, right, bottom)"
        )
    return KeptPart(kind="interval", value=(ends[0], ends[1]))


def _box(name: str, modality: Modality, value: Any) -> Box:
    """Return a box of fractions."""
    sides = numbers([_number(item) for item in value], 4) if isinstance(value, (tuple, list)) else None
    fine = sides is not None and all(0 <= side <= 1 for side in sides)
    if sides is None or not fine or not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise InputError(
            f"{name} of {modality} is {value!r:.60}: expected a box (left, top, right, bottom) in fractions "
            "from 0 to 1, such as (0, 0, 0.5, 1)"
        )
    left, top, right, bottom = sides
    return left, top, right, bottom


def _keyframes(modality: Modality, value: Any) -> tuple[tuple[int | float, Any], ...]:
    """Return keyframes as (when, picture) pairs."""
    if value is None:
        return ()
    if not isinstance(value, Mapping) or not value:
        raise InputError(
            f"keyframes of {modality} is {value!r:.60}: expected a dict such as {{0: 'first.png', 15: "
            "'last.png'}"
        )
    found = []
    for when, picture in value.items():
        if picture is None:
            raise InputError(f"the keyframe at {when} of {modality} is missing: expected a picture")
        found.append((_when(modality, when), _item(modality, "keyframes", picture)))
    return tuple(found)


def _when(modality: Modality, value: Any) -> int | float:
    """Return a frame as a whole number, or seconds as a float; JSON has both as texts."""
    number = _number(_from_text(value) if isinstance(value, str) else value)
    if isinstance(number, Integral) and not isinstance(number, bool):
        return int(number)
    if numbers([number], 1) is None or number < 0:
        raise InputError(
            f"keyframes of {modality} names {value!r:.40}: expected the number of a frame (15; -1 is the "
            "last), or seconds (1.5)"
        )
    return float(number)


def _from_text(text: str) -> int | float | None:
    """Return the number that a text writes, a float where it has a point or ends in "s"; None for none."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.strip().removesuffix("s"))
    except ValueError:
        return None


def _number(value: Any) -> Any:
    """Return a scalar of numpy or torch as a number of Python's, and any other value as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


# Checking --------------------------------------------------------------


def _strength(modality: Modality, edit: Edit) -> float:
    """Return the strength of an edit: what was given, else its default."""
    if edit.source is None or edit.canvas is not None:
        if edit.strength not in (None, 1.0):
            raise InputError(
                f"strength of {modality} is {edit.strength:g}, but part of it starts from nothing: expected 1"
            )
        return 1.0
    if edit.strength is not None:
        return edit.strength
    return 1.0 if edit.keeps else STRENGTH


def _check_region(modality: Modality, region: KeptPart, spec: ModalitySpec) -> None:
    """Raise `InputError` for a region that a medium of this geometry cannot have."""
    if region.kind != "whole" and region.kind not in kind_of(modality).regions:
        able = ", ".join(("whole", *kind_of(modality).regions))
        raise InputError(f"keep of {modality} is of the kind {region.kind}: expected one of {able}")
    if region.kind == "frame":
        _frame(modality, region.value, spec)
    if region.kind == "interval":
        rate, duration = spec.timed
        if region.value[1] > duration + 1e-6:
            raise InputError(
                f"keep of {modality} ends at {region.value[1]:g} s, beyond the end: it lasts {duration:g} s"
            )


def _frame(modality: Modality, when: int | float, spec: ModalitySpec) -> int:
    """Return the number of a frame, from 0, of the frames of a geometry."""
    if not kind_of(modality).regions or "frame" not in kind_of(modality).regions:
        raise InputError(f"{modality} has no frames: expected keyframes for what has")
    rate, duration = spec.timed
    count = spec.raw_shape[0]
    frame = math.floor(when * rate + 1e-6) if isinstance(when, float) else when
    if not -count <= frame < count:
        place = f"{when:g} s" if isinstance(when, float) else f"frame {when}"
        raise InputError(
            f"{place} of {modality} lies beyond the end: it has frames 0 to {count - 1} ({duration:g} s)"
        )
    return frame % count


def _check_keyframes(
    modality: Modality,
    keyframes: Sequence[tuple[int, Any]],
    kept: Sequence[KeptPart],
    spec: ModalitySpec,
) -> None:
    """Raise `InputError` for keyframes that are the same frame, and for one in what is kept as a whole."""
    frames = [frame for frame, _ in keyframes]
    if twice := [frame for frame in frames if frames.count(frame) > 1]:
        raise InputError(
            f"keyframes of {modality} overlap: two are frame {twice[0]}; expected one for each frame"
        )
    for region in kept:
        for frame in frames:
            if _covers(region, frame, spec):
                raise InputError(
                    f"frame {frame} of {modality} is a keyframe and is kept as well: expected one of them"
                )


def _covers(region: KeptPart, frame: int, spec: ModalitySpec) -> bool:
    """Return whether a region keeps a whole frame."""
    if region.kind == "interval":
        rate, _ = spec.timed
        begin, end = region.value
        return begin <= frame / rate + 1e-6 and (frame + 1) / rate <= end + 1e-6
    return region.kind == "whole" or (region.kind == "frame" and region.value % spec.raw_shape[0] == frame)


# Words of the command line ---------------------------------------------


def typed_regions(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read regions as they are typed: audio=0:1.2, image=0,0,0.5,1, video=3, video=all or image=m.png."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, value = _named("--keep", text, "audio=0:1.2 or image=mask.png")
        found.setdefault(name, []).append(_typed_region(value))
    return found


def typed_keyframes(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read keyframes as they are typed, `0=first.png`, `1.5s=then.png`, `video:15=last.png`."""
    framed = [kind.name for kind in kinds() if "frame" in kind.regions]
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        when, sign, value = text.partition("=")
        name, colon, place = when.rpartition(":")
        output = Modality.parse(name).value if colon else framed[0]
        if not (sign and value.strip() and place.strip()):
            raise InputError(f"--keyframe {text!r:.60}: expected a frame and a picture, such as 0=first.png")
        if place in found.setdefault(output, {}):
            raise InputError(
                f"--keyframe names {place} of {output} twice: expected one picture for each frame"
            )
        found[output][place] = value
    return found


def typed_boxes(texts: Sequence[str]) -> dict[str, list[float]]:
    """Read boxes as they are typed, `image=0.25,0.25,0.75,0.75`."""
    found = {}
    for text in texts:
        name, value = _named("--canvas", text, "image=0.25,0.25,0.75,0.75")
        sides = _numbers(value, ",")
        if sides is None:
            raise InputError(f"--canvas {text!r:.60}: expected four fractions, image=0.25,0.25,0.75,0.75")
        found[name] = sides
    return found


def _named(option: str, text: str, example: str) -> tuple[str, str]:
    """Return the output and the value of a text such as image=mask.png."""
    name, sign, value = text.partition("=")
    if not sign or not value.strip():
        raise InputError(f"{option} {text!r:.60}: expected an output and its part, such as {example}")
    return Modality.parse(name).value, value


def _typed_region(text: str) -> Any:
    """Return one region as it is typed: all, seconds a:b, a box of four fractions, a frame, or a file."""
    if text == "all":
        return True
    if (ends := _numbers(text, ":")) is not None and len(ends) == 2:
        return tuple(ends)
    if (sides := _numbers(text, ",")) is not None and len(sides) == 4:
        return tuple(sides)
    try:
        return int(text)
    except ValueError:
        return text


def _numbers(text: str, between: str) -> list[float] | None:
    """Return the numbers of a text with something between them; None for a text that holds others."""
    try:
        return [float(part) for part in text.split(between)]
    except ValueError:
        return None
