"""Tell from configurations how large and how long what a published pipeline makes is; make lengths meet.

A pipeline's own arguments say how long its output is: a number of frames, or seconds. What they are if nobody
gives them stands in the signature of its call and in the configurations of its parts. Clips come in whole
frames, and those of a causal video autoencoder in 1 + k r frames for its temporal compression r; sounds can
have any length, up to the longest that some networks can make. So sounds follow clips.

S steps along time, H rows and W columns of the latent, as in `codi.compose.grid`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from codi.compose.rules import Call, Rule
from codi.types import InputError, blame

if TYPE_CHECKING:
    from codi.compose.originals import Original


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How large and how long what a pipeline makes is.

    Attributes:
        grid: (S, H, W) of the latent.
        seconds: how long one sample is; None for what has no time.
        most: the longest that it can be, in seconds; None without a limit, and for what has no time.
        step: the seconds by which lengths can differ; 0 for any length, None for what has no time.
        frame: the seconds of one frame of a clip; 0 for a sound, None for what has no time.
    """

    grid: tuple[int, int, int]
    seconds: float | None = None
    most: float | None = None
    step: float | None = None
    frame: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a value for JSON."""
        return asdict(self) | {"grid": list(self.grid)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Geometry":
        """Return what `to_json` gave. Raises `TypeError` for anything else."""
        grid = tuple(value["grid"])
        if len(grid) != 3 or not all(isinstance(size, int) for size in grid):
            raise TypeError(f"grid is {grid!r:.60}")
        return cls(**{**value, "grid": grid})


def _asked(original: "Original", call: Mapping[str, Any]) -> tuple[Rule, Call]:
    """Return the rule of a pipeline that is not loaded, and a call of it by its configurations."""
    from codi.compose.families import family_of  # brings torch along, which `codi info` does without

    family = family_of(original.kind)
    return family.rule, Call(
        kind=original.kind,
        denoiser=family.network,
        own_fps=family.fps,
        fps_argument=family.fps_argument,
        config=original.config,
        given=call,
    )


def geometry_of(original: "Original", call: Mapping[str, Any]) -> Geometry:
    """Return how large and how long what a pipeline makes is.

    Args:
        original: the pipeline.
        call: the arguments of its call that are given; "fps" may be among them.

    Returns:
        The geometry.

    Raises:
        InputError: if a configuration lacks what a pipeline of its class has, or a size is none.
    """
    rule, asked = _asked(original, call)
    try:
        grid = rule.grid(asked)
        if min(grid) < 1:
            raise InputError(
                f"{original.files} with {_shown(call)} has a latent of {grid}: expected larger sizes"
            )
        if rule.seconds is None:
            return Geometry(grid=grid)
        frames = rule.frames
        frame = 0.0 if frames is None else 1 / asked.fps
        return Geometry(
            grid=grid,
            seconds=rule.seconds(asked),
            most=None if rule.most is None else rule.most(asked),
            step=0.0 if frames is None else frames(asked) * frame,
            frame=frame,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{original.files} does not say how large what it makes is ({type(error).__name__}: {error!s:.80}"
            f"): expected the configurations and sizes of a {original.kind}"
        ) from None


def _shown(call: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, value in call.items()) or "its own sizes"


def lasting(original: "Original", call: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return a call whose output lasts as nearly as possible so many seconds.

    Args:
        original: the pipeline; what it makes has time.
        call: the arguments that are given.
        seconds: how long it is to last.

    Returns:
        The call, with the argument that says how long.
    """
    rule, asked = _asked(original, call)
    assert rule.length is not None, f"{original.kind} has no length"
    if rule.frames is None:
        start = call.get("audio_start_in_s") or 0
        return {**call, rule.length: seconds + start}
    ratio = rule.frames(asked)
    frames = seconds * asked.fps
    count = max(1, round(frames)) if ratio == 1 else 1 + ratio * max(0, round((frames - 1) / ratio))
    return {**call, rule.length: count}


def agree(
    originals: "Mapping[str, Original]", calls: Mapping[str, Mapping[str, Any]], seconds: float | None = None
) -> dict[str, dict[str, Any]]:
    """Return calls whose outputs last equally long, up to one frame.

    Lengths that a call says stay. Others are set to `seconds`, or to a length that a call says, or else to
    the shortest of the models' own; clips first, because sounds can have any length.

    Args:
        originals: the pipelines by modality.
        calls: the arguments that are given, by modality.
        seconds: how long everything is to last; None for what the models and the calls say.

    Returns:
        The calls by modality.

    Raises:
        InputError: if lengths cannot meet.
    """
    agreed = {modality: dict(calls.get(modality, {})) for modality in originals}
    geometries = {}
    for modality, original in originals.items():
        with blame(f"{modality}: "):
            geometry = geometry_of(original, agreed[modality])
        if geometry.seconds is not None:
            geometries[modality] = geometry
    said = set()
    for modality in geometries:
        length = _asked(originals[modality], {})[0].length
        if length is not None and agreed[modality].get(length) is not None:
            said.add(modality)
    if not geometries or (len(geometries) == 1 and seconds is None):
        return agreed
    wanted = seconds
    if wanted is None:
        chosen = said or geometries
        wanted = min(float(geometries[modality].seconds or 0) for modality in chosen)
    # the coarser its steps, the earlier a length is settled; finer ones follow
    for modality in sorted(geometries, key=lambda m: (m not in said, -float(geometries[m].step or 0))):
        if modality not in said:
            _check_most(modality, originals[modality], geometries[modality], wanted)
            agreed[modality] = lasting(originals[modality], agreed[modality], wanted)
            geometries[modality] = geometry_of(originals[modality], agreed[modality])
        if seconds is None or abs(float(geometries[modality].seconds or 0) - seconds) <= _half(geometries):
            wanted = float(geometries[modality].seconds or 0)
    _check_meeting(geometries, seconds)
    return agreed


def _half(geometries: Mapping[str, Geometry]) -> float:
    """Return by how many seconds lengths can miss what is wanted: half of the coarsest step."""
    steps = [max(float(found.step or 0), float(found.frame or 0)) for found in geometries.values()]
    return max(steps) / 2 + 1e-6


def _check_most(modality: str, original: "Original", geometry: Geometry, seconds: float) -> None:
    """Raise `InputError` if a model cannot make anything that long."""
    if geometry.most is not None and seconds > geometry.most + float(geometry.frame or 0) / 2 + 1e-6:
        raise InputError(
            f"{modality}: {original.files} makes at most {geometry.most:.4g} s, and {seconds:.4g} s are "
            "needed for the lengths to meet: choose fewer seconds (--seconds)"
        )


def _check_meeting(geometries: Mapping[str, Geometry], seconds: float | None) -> None:
    """Raise `InputError` if two lengths differ by more than one frame, or one from what was wanted."""
    lengths = {modality: float(geometry.seconds or 0) for modality, geometry in geometries.items()}
    frame = max(float(geometry.frame or 0) for geometry in geometries.values())
    shown = " and ".join(f"{modality} of {length:.4g} s" for modality, length in lengths.items())
    advice = "leave one of their lengths out, or give --seconds in place of both"
    if seconds is not None and any(abs(n - seconds) > _half(geometries) for n in lengths.values()):
        raise InputError(f"{shown} cannot last {seconds:.4g} s as --seconds asks: {advice}")
    if max(lengths.values()) - min(lengths.values()) > frame + 1e-6:
        raise InputError(f"{shown} cannot meet: {advice}")
