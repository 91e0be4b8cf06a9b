"""The families of published models that can be composed: one table of the few facts that no pipeline tells.

Everything else is learned from the pipeline itself (`codi.compose.tap`). A further family is one entry here.

Letters: B batch, C channels, F frames, H W height and width, T columns along time, M bands of a spectrogram.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from codi.compose import rules
from codi.compose.grid import Grid, Layout, causal_seconds, even_seconds
from codi.compose.mel import MelSettings
from codi.compose.rules import Rule
from codi.types import InputError, Modality

GridOf = Callable[[Any, Tensor, Mapping[str, Any]], Grid]
Pack = Callable[[Any, Tensor, int], Tensor]
Encode = Callable[[Any, Tensor, torch.Generator | None, Mapping[str, Any]], Tensor]

PIXELS = {"height": "height", "width": "width"}
CLIPS = {**PIXELS, "num_frames": "num_frames"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known of all pipelines of one class.

    Attributes:
        modality: what they make.
        network: the name of the component that denoises.
        rule: how large and how long it is, by configurations alone (`codi.compose.rules`).
        grid: returns the grid of a latent, given the pipeline, the latent that it starts from and the
            arguments of the call.
        pack: returns a latent of the autoencoder for B samples in the layout that the denoiser takes,
            given the pipeline and B.
        guided: whether there is a second branch to lead away from; without one the guidance scale is an
            argument of the denoiser, and there are no negative prompts.
        sizes: our names of sizes (`codi.types.SIZES`) -> the arguments of the pipeline.
        fps: frames per second of clips where no argument of the call says it.
        fps_argument: the argument that does.
        media: the arguments that make the pipeline return tensors.
        takes_mel: whether its vocoder takes a mel spectrogram, which a call may describe as "mel".
        of_pixels: whether these are pixels in [0, 1]; sounds are in [-1, 1].
        encode: returns the latent (B, ...) of raw media (B, ...) in the autoencoder's own scale, given the
            pipeline, the media, a generator to draw from the posterior, or None for its mode, and the
            arguments of the call, among which may be "mel" (`codi.compose.mel`).
        pixels: returns the pixels along each side of an element of the grid, given the pipeline; None for
            sounds.
        frames_per_step: returns how many frames a latent frame stands for besides the first, given the
            pipeline, where the autoencoder is causal: clips then have one frame more than a multiple of it.
        most_frames: returns the greatest number of frames that its network takes, given the pipeline; None
            for networks without such a limit.
        rate: returns the raw steps per second of what it makes, Hz or frames, given the pipeline and the
            arguments of the call; None for media without time.
        refused: components which, where a pipeline has them, change the arguments of its denoiser from
            step to step, and why.
    """

    modality: Modality
    network: str
    rule: Rule
    grid: GridOf
    pack: Pack
    encode: Encode
    pixels: Callable[[Any], int] | None = None
    frames_per_step: Callable[[Any], int] | None = None
    most_frames: Callable[[Any], int] | None = None
    rate: Callable[[Any, Mapping[str, Any]], float] | None = None
    guided: bool = True
    sizes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fps: float | None = None
    fps_argument: str | None = None
    media: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"output_type": "pt"}))
    takes_mel: bool = False
    of_pixels: bool = True
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def default_of(pipeline: Any, name: str) -> Any:
    """Return the value that a pipeline's call has for an argument that nobody gives; None if it has none."""
    parameter = inspect.signature(type(pipeline).__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def value_of(pipeline: Any, call: Mapping[str, Any], name: str) -> Any:
    """Return an argument of a call, or the pipeline's own value of it."""
    value = call.get(name)
    return default_of(pipeline, name) if value is None else value


# Grids --------------------------------------------------------------------------------------------------


def _picture_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    return Grid(layout=Layout.PICTURE, shape=(1, latent.shape[2], latent.shape[3]))


def _flux_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    """Return the grid of Flux's tokens, each of which is 2 x 2 elements of the autoencoder's latent."""
    own = pipeline.default_sample_size * pipeline.vae_scale_factor
    pixels = pipeline.vae_scale_factor * 2
    height, width = ((call.get(name) or own) // pixels for name in ("height", "width"))
    return Grid(layout=Layout.TOKENS, shape=(1, height, width))


def _frame_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    """Return the grid of a clip that has one latent for each frame."""
    fps = call["fps"]
    count = latent.shape[2]
    return Grid(
        layout=Layout.CLIP,
        shape=(latent.shape[2], latent.shape[3], latent.shape[4]),
        seconds=even_seconds(count, fps),
        duration=count / fps,
    )


def _ltx_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    fps = call["fps"]
    frames = value_of(pipeline, call, "num_frames")
    ratio = pipeline.vae_temporal_compression_ratio
    steps = (frames - 1) // ratio + 1
    frames = (steps - 1) * ratio + 1  # what is decoded
    pixels = pipeline.vae_spatial_compression_ratio
    height, width = (value_of(pipeline, call, name) // pixels for name in ("height", "width"))
    seconds = causal_seconds(steps, ratio, fps)
    return Grid(layout=Layout.TOKENS, shape=(steps, height, width), seconds=seconds, duration=frames / fps)


def _wan_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    fps = call["fps"]
    steps = latent.shape[2]
    ratio = pipeline.vae_scale_factor_temporal
    return Grid(
        layout=Layout.CLIP,
        shape=(latent.shape[2], latent.shape[3], latent.shape[4]),
        seconds=causal_seconds(steps, ratio, fps),
        duration=((steps - 1) * ratio + 1) / fps,
    )


def _spectrogram_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    config = pipeline.vocoder.config
    rate = config.sampling_rate / (math.prod(config.upsample_rates) * pipeline.vae_scale_factor)
    columns = latent.shape[2]
    return Grid(
        layout=Layout.SPECTROGRAM,
        shape=(columns, latent.shape[3], 1),
        seconds=even_seconds(columns, rate),
        duration=columns / rate,
    )


def _wave_grid(pipeline: Any, latent: Tensor, call: Mapping[str, Any]) -> Grid:
    rate = pipeline.vae.config.sampling_rate / pipeline.vae.hop_length
    columns = latent.shape[2]
    return Grid(
        layout=Layout.WAVE,
        shape=(columns, 1, 1),
        seconds=even_seconds(columns, rate),
        duration=columns / rate,
    )


# Packing ------------------------------------------------------------------------------------------------


def _as_it_is(pipeline: Any, latent: Tensor, count: int) -> Tensor:
    return latent


def _frames(pipeline: Any, latent: Tensor, count: int) -> Tensor:
    """Return frames (B F, C, H, W) as clips (B, C, F, H, W)."""
    return latent.unflatten(0, (count, -1)).transpose(1, 2)


def _flux_tokens(pipeline: Any, latent: Tensor, count: int) -> Tensor:
    return pipeline._pack_latents(latent, *latent.shape)


def _ltx_tokens(pipeline: Any, latent: Tensor, count: int) -> Tensor:
    return pipeline._pack_latents(
        latent, pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size
    )


# Encoding -----------------------------------------------------------------------------------------------


def _posterior(
    pipeline: Any, media: Tensor, generator: torch.Generator | None, call: Mapping[str, Any]
) -> Tensor:
    """Return a latent from the autoencoder's posterior: its mode, or drawn by the generator."""
    posterior = pipeline.vae.encode(media.to(pipeline.vae.dtype)).latent_dist
    return posterior.mode() if generator is None else posterior.sample(generator)


def _encode_frames(
    pipeline: Any, media: Tensor, generator: torch.Generator | None, call: Mapping[str, Any]
) -> Tensor:
    """Encode clips (B, F, 3, H, W) frame by frame, as (B F, C, H, W)."""
    return _posterior(pipeline, media.flatten(0, 1), generator, call)


def _encode_clips(
    pipeline: Any, media: Tensor, generator: torch.Generator | None, call: Mapping[str, Any]
) -> Tensor:
    """Encode clips (B, F, 3, H, W) whole, as (B, C, F, H, W)."""
    return _posterior(pipeline, media.transpose(1, 2), generator, call)


def _encode_spectrogram(
    pipeline: Any, media: Tensor, generator: torch.Generator | None, call: Mapping[str, Any]
) -> Tensor:
    """Encode sounds (B, samples) as log-mel spectrograms, (B, C, T, M)."""
    config = pipeline.vocoder.config
    settings = MelSettings.of(call.get("mel"))
    mel = settings(media.float(), config.sampling_rate, math.prod(config.upsample_rates), config.model_in_dim)
    missing = -mel.shape[1] % pipeline.vae_scale_factor
    mel = torch.nn.functional.pad(mel, (0, 0, 0, missing), value=settings.silence)
    return _posterior(pipeline, mel[:, None], generator, call)


def _encode_wave(
    pipeline: Any, media: Tensor, generator: torch.Generator | None, call: Mapping[str, Any]
) -> Tensor:
    """Encode sounds (B, samples) or (B, channels, samples), filled up with silence to the model's length."""
    channels = pipeline.vae.config.audio_channels
    waves = media[:, None].expand(-1, channels, -1) if media.ndim == 2 else media
    total = pipeline.transformer.config.sample_size * pipeline.vae.hop_length
    waves = torch.nn.functional.pad(waves[..., :total], (0, max(0, total - waves.shape[-1])))
    return _posterior(pipeline, waves, generator, call)


# Sizes --------------------------------------------------------------------------------------------------


def _vae_pixels(pipeline: Any) -> int:
    return int(pipeline.vae_scale_factor)


def _flux_pixels(pipeline: Any) -> int:
    return 2 * int(pipeline.vae_scale_factor)


def _ltx_pixels(pipeline: Any) -> int:
    return int(pipeline.vae_spatial_compression_ratio)


def _motion_frames(pipeline: Any) -> int:
    """Return how many frames the positions of AnimateDiff's motion module are for."""
    return pipeline.unet.config["motion_max_seq_length"]


def _ltx_frames(pipeline: Any) -> int:
    return int(pipeline.vae_temporal_compression_ratio)


def _wan_pixels(pipeline: Any) -> int:
    return int(pipeline.vae_scale_factor_spatial)


def _wan_frames(pipeline: Any) -> int:
    return int(pipeline.vae_scale_factor_temporal)


# Rates --------------------------------------------------------------------------------------------------


def _frame_rate(pipeline: Any, call: Mapping[str, Any]) -> float:
    return float(call["fps"])


def _vocoder_rate(pipeline: Any, call: Mapping[str, Any]) -> float:
    return float(pipeline.vocoder.config.sampling_rate)


def _wave_rate(pipeline: Any, call: Mapping[str, Any]) -> float:
    return float(pipeline.vae.config.sampling_rate)


# The table ----------------------------------------------------------------------------------------------

_PICTURES: dict[str, Any] = dict(
    modality=Modality.IMAGE,
    rule=rules.PICTURE,
    grid=_picture_grid,
    pack=_as_it_is,
    encode=_posterior,
    pixels=_vae_pixels,
    sizes=PIXELS,
)
_CLIPS: dict[str, Any] = dict(modality=Modality.VIDEO, sizes=CLIPS, rate=_frame_rate)
_FRAME_CLIPS: dict[str, Any] = dict(
    network="unet",
    grid=_frame_grid,
    pack=_frames,
    encode=_encode_frames,
    pixels=_vae_pixels,
    fps=8.0,
    **_CLIPS,
)
_MEL: dict[str, Any] = dict(
    modality=Modality.AUDIO,
    network="unet",
    rule=rules.SPECTROGRAM,
    grid=_spectrogram_grid,
    pack=_as_it_is,
    encode=_encode_spectrogram,
    sizes={"audio_length_in_s": "audio_length_in_s"},
    rate=_vocoder_rate,
    takes_mel=True,
    of_pixels=False,
)

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(network="unet", **_PICTURES),
    "StableDiffusionXLPipeline": Family(network="unet", **_PICTURES),
    "StableDiffusion3Pipeline": Family(network="transformer", **_PICTURES),
    "FluxPipeline": Family(
        network="transformer",
        **{
            **_PICTURES,
            "rule": rules.FLUX,
            "grid": _flux_grid,
            "pack": _flux_tokens,
            "pixels": _flux_pixels,
        },
        guided=False,
    ),
    "AnimateDiffPipeline": Family(rule=rules.ANIMATEDIFF, most_frames=_motion_frames, **_FRAME_CLIPS),
    "TextToVideoSDPipeline": Family(rule=rules.FRAMES, **_FRAME_CLIPS),
    "LTXPipeline": Family(
        network="transformer",
        rule=rules.LTX,
        grid=_ltx_grid,
        pack=_ltx_tokens,
        encode=_encode_clips,
        pixels=_ltx_pixels,
        frames_per_step=_ltx_frames,
        fps_argument="frame_rate",
        **_CLIPS,
    ),
    "WanPipeline": Family(
        network="transformer",
        rule=rules.WAN,
        grid=_wan_grid,
        pack=_as_it_is,
        encode=_encode_clips,
        pixels=_wan_pixels,
        frames_per_step=_wan_frames,
        fps=16.0,
        refused={"transformer_2": "has a second denoiser that takes over at low noise"},
        **_CLIPS,
    ),
    "AudioLDMPipeline": Family(**_MEL),
    "AudioLDM2Pipeline": Family(**_MEL),
    "StableAudioPipeline": Family(
        modality=Modality.AUDIO,
        network="transformer",
        rule=rules.WAVE,
        grid=_wave_grid,
        pack=_as_it_is,
        encode=_encode_wave,
        sizes={"audio_length_in_s": "audio_end_in_s"},
        rate=_wave_rate,
        of_pixels=False,
    ),
}


def family_of(name: str) -> Family:
    """Return the family of a class of pipelines. Raises `InputError` for one that is not in the table."""
    if name not in FAMILIES:
        raise InputError(
            f"pipelines of the class {name} cannot be composed: expected one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]
