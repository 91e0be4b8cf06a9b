"""How large and how long what pipelines of one class make is, by their configurations alone.

Nothing is loaded for it. Which rule is that of which class stands in the one table of families
(`codi.compose.families`), beside whatever else is known of it.

S steps along time, H rows and W columns of the latent, as in `codi.compose.grid`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from codi.types import InputError


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a pipeline, with the pipeline's own values for what nobody gave.

    Attributes:
        kind: the class of the pipeline.
        denoiser: the name of the part that denoises.
        own_fps: frames per second of clips where no argument says it.
        fps_argument: the argument that does.
        config: the configuration of each part.
        given: the arguments that are given.
    """

    kind: str
    denoiser: str
    own_fps: float | None
    fps_argument: str | None
    config: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return an argument: the one given, or else what the signature of the call says."""
        value = self.given.get(name)
        return defaults_of(self.kind).get(name) if value is None else value

    @property
    def network(self) -> Mapping[str, Any]:
        """The configuration of the network that denoises."""
        return self.config[self.denoiser]

    @property
    def fps(self) -> float:
        """The frames per second of a clip."""
        given: Any = self.given.get("fps")
        if given is None:
            given = self.own_fps if self.fps_argument is None else self[self.fps_argument]
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


def _longest_motion(call: Call) -> float:
    """Return the seconds of as many frames as the temporal attention of AnimateDiff knows places."""
    return call.network.get("motion_max_seq_length", 32) / call.fps


def _wave_seconds(call: Call) -> float:
    return (call["audio_end_in_s"] or _longest_wave(call)) - (call["audio_start_in_s"] or 0)


PICTURE = Rule(grid=_picture)
FLUX = Rule(grid=_flux)
FRAMES = _clip(_frames, frames=lambda call: 1)
ANIMATEDIFF = _clip(_frames, frames=lambda call: 1, most=_longest_motion)
LTX = _clip(_causal(_ltx_ratios), frames=lambda call: _ltx_ratios(call)[0])
WAN = _clip(_causal(_wan_ratios), frames=lambda call: _wan_ratios(call)[0])
SPECTROGRAM = Rule(grid=_spectrogram, seconds=_mel_seconds, length="audio_length_in_s")
WAVE = Rule(grid=_wave, seconds=_wave_seconds, most=_longest_wave, length="audio_end_in_s")
