"""Tell from configurations how large and how long what a published pipeline makes is; make lengths meet.

A pipeline's own arguments say how long its output is: a number of frames, or seconds. What they are if nobody
gives them stands in the signature of its call and in the configurations of its parts. Clips come in whole
frames, and those of a causal video autoencoder in 1 + k r frames for its temporal compression r; sounds can
have any length, up to the longest that some networks can make. So sounds follow clips.

S steps along time, H rows and W columns of the latent, as in `codi.compose.grid`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from codi.types import InputError, blame

if TYPE_CHECKING:
    from codi.compose.families import Family
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


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a pipeline, with the pipeline's own values for what nobody gave.

    Attributes:
        kind: the class of the pipeline.
        config: the configuration of each part.
        given: the arguments that are given.
    """

    kind: str
    config: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return an argument: the one given, or else what the signature of the call says."""
        value = self.given.get(name)
        return defaults_of(self.kind).get(name) if value is None else value

    @property
    def family(self) -> "Family":
        """What is known of all pipelines of its class."""
        from codi.compose.families import family_of  # brings torch along, which `codi info` does without

        return family_of(self.kind)

    @property
    def network(self) -> Mapping[str, Any]:
        """The configuration of the network that denoises."""
        return self.config[self.family.network]

    @property
    def fps(self) -> float:
        """The frames per second of a clip."""
        family = self.family
        given: Any = self.given.get("fps")
        if given is None:
            given = family.fps if family.fps_argument is None else self[family.fps_argument]
        return float(given)

    @property
    def image_ratio(self) -> int:
        """How many pixels a side of one element of the latent of an AutoencoderKL has."""
        return 2 ** (len(self.config["vae"]["block_out_channels"]) - 1)


@cache
def defaults_of(kind: str) -> dict[str, Any]:
    """Return the arguments that a pipeline takes, and their values if nobody gives them; None without one."""
    found = inspect.signature(pipeline_class(kind).__call__).parameters
    return {
        name: None if parameter.default is parameter.empty else parameter.default
        for name, parameter in found.items()
        if name != "self"
    }


def pipeline_class(kind: str) -> type:
    """Return a class of pipelines of diffusers. Raises `InputError` where the installed one lacks it."""
    from codi.libraries import leave_out_broken

    leave_out_broken()
    import diffusers

    found = getattr(diffusers, kind, None)
    if not isinstance(found, type):
        raise InputError(f"diffusers {diffusers.__version__} has no {kind}: install a version that has it")
    return found


# Grids --------------------------------------------------------------------------------------------------


def _pair(value: Any) -> tuple[int, int]:
    """Return two sizes; configurations name one where both are the same."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _picture_sides(call: Call) -> tuple[int, int]:
    own = _pair(call.network["sample_size"])
    height, width = (call[name] for name in ("height", "width"))
    ratio = call.image_ratio
    return (own[0] if height is None else height // ratio, own[1] if width is None else width // ratio)


def _picture(call: Call) -> tuple[int, int, int]:
    return (1, *_picture_sides(call))


def _flux(call: Call) -> tuple[int, int, int]:
    """Return the grid of Flux's tokens of 2 x 2 elements; a picture has 128 x 128 if nobody says its size."""
    pixels = 2 * call.image_ratio
    height, width = (call[name] or 128 * call.image_ratio for name in ("height", "width"))
    return (1, height // pixels, width // pixels)


def _frames(call: Call) -> tuple[int, int, int]:
    return (call["num_frames"], *_picture_sides(call))


def _ltx_ratios(call: Call) -> tuple[int, int]:
    """Return how many frames one step of LTX's autoencoder has, and how many pixels a side of one element."""
    vae = call.config["vae"]
    halvings = 2 ** sum(vae["spatio_temporal_scaling"])
    time = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * halvings
    return time, vae.get("spatial_compression_ratio") or vae["patch_size"] * halvings


def _wan_ratios(call: Call) -> tuple[int, int]:
    """Return the same of Wan's autoencoder."""
    vae = call.config["vae"]
    return vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)


def _causal(ratios: Callable[[Call], tuple[int, int]]) -> Callable[[Call], tuple[int, int, int]]:
    """Return the rule of the grid of a causal video autoencoder, whose first step is one frame."""

    def grid(call: Call) -> tuple[int, int, int]:
        time, space = ratios(call)
        return ((call["num_frames"] - 1) // time + 1, call["height"] // space, call["width"] // space)

    return grid


def _column_seconds(call: Call) -> float:
    """Return the seconds of one column of a spectrogram."""
    vocoder = call.config["vocoder"]
    return math.prod(vocoder["upsample_rates"]) / vocoder["sampling_rate"]


def _spectrogram(call: Call) -> tuple[int, int, int]:
    columns = int(_mel_seconds(call) / _column_seconds(call) + 1e-9)
    ratio = call.image_ratio
    return (math.ceil(columns / ratio), call.config["vocoder"]["model_in_dim"] // ratio, 1)


def _wave(call: Call) -> tuple[int, int, int]:
    return (call.network["sample_size"], 1, 1)


# Lengths ------------------------------------------------------------------------------------------------


def _mel_seconds(call: Call) -> float:
    own = call.network["sample_size"]
    longest = own if isinstance(own, int) else own[0]
    return call["audio_length_in_s"] or longest * call.image_ratio * _column_seconds(call)


def _longest_wave(call: Call) -> float:
    vae = call.config["vae"]
    return call.network["sample_size"] * math.prod(vae["downsampling_ratios"]) / vae["sampling_rate"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How large and how long what pipelines of one class make is.

    Attributes:
        grid: returns (S, H, W).
        seconds: returns the seconds of one sample; None for what has no time.
        most: returns the longest in seconds; None without a limit.
        frames: returns of how many frames a step is by which the number of frames can differ; None for what
            has no frames.
        length: the argument that says how long.
    """

    grid: Callable[[Call], tuple[int, int, int]]
    seconds: Callable[[Call], float] | None = None
    most: Callable[[Call], float] | None = None
    frames: Callable[[Call], int] | None = None
    length: str | None = None


def _clip(
    grid: Callable[[Call], tuple[int, int, int]],
    frames: Callable[[Call], int],
    most: Callable[[Call], float] | None = None,
) -> Rule:
    return Rule(
        grid=grid,
        seconds=lambda call: call["num_frames"] / call.fps,
        most=most,
        frames=frames,
        length="num_frames",
    )


_PICTURES = Rule(grid=_picture)
_MEL = Rule(grid=_spectrogram, seconds=_mel_seconds, length="audio_length_in_s")
RULES: dict[str, Rule] = {
    "StableDiffusionPipeline": _PICTURES,
    "StableDiffusionXLPipeline": _PICTURES,
    "StableDiffusion3Pipeline": _PICTURES,
    "FluxPipeline": Rule(grid=_flux),
    "AnimateDiffPipeline": _clip(
        _frames,
        frames=lambda call: 1,
        # its temporal attention knows so many places
        most=lambda call: call.network.get("motion_max_seq_length", 32) / call.fps,
    ),
    "TextToVideoSDPipeline": _clip(_frames, frames=lambda call: 1),
    "LTXPipeline": _clip(_causal(_ltx_ratios), frames=lambda call: _ltx_ratios(call)[0]),
    "WanPipeline": _clip(_causal(_wan_ratios), frames=lambda call: _wan_ratios(call)[0]),
    "AudioLDMPipeline": _MEL,
    "AudioLDM2Pipeline": _MEL,
    "StableAudioPipeline": Rule(
        grid=_wave,
        seconds=lambda call: (
            (call["audio_end_in_s"] or _longest_wave(call)) - (call["audio_start_in_s"] or 0)
        ),
        most=_longest_wave,
        length="audio_end_in_s",
    ),
}


def _call(original: "Original", call: Mapping[str, Any]) -> Call:
    return Call(kind=original.kind, config=original.config, given=call)


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
    rule, asked = RULES[original.kind], _call(original, call)
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
    rule, asked = RULES[original.kind], _call(original, call)
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
        length = RULES[originals[modality].kind].length
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
