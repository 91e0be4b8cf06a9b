"""Bring tensors of any size, rate and length to a model's geometry, and pixels from one scale to the other.

Letters: F frames, H height, W width.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.libraries import load

Fit = Literal["crop", "pad", "stretch"]
FITS = ("crop", "pad", "stretch")  # ways to bring pixels of one aspect ratio to another
BLACK = (0, 0, 0)
NEAR = 1e-3  # frames by which a time may be early and yet have come: products of rates are not exact


def to_unit(pixels: Tensor) -> Tensor:
    """Convert pixels from uint8 to float32 in [-1, 1]."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Convert float values to uint8 pixels, the inverse of `to_unit`; what is beyond [-1, 1] is clipped."""
    return ((values.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fit_image(
    image: Tensor, size: int | tuple[int, int], fit: Fit = "crop", colour: Sequence[int] = BLACK
) -> Tensor:
    """Bring a picture to another size, and to another aspect ratio in one of three ways.

    Args:
        image: uint8 (..., 3, H, W), a picture or several of the same size.
        size: height and width of the result in pixels; one number for a square.
        fit: "crop" cuts out the largest central part that has the wanted aspect ratio, "pad" keeps the whole
            and puts it into the middle of a plain ground, "stretch" keeps the whole and distorts it.
        colour: red, green and blue of the ground, 0 to 255 each; only "pad" has one.

    Returns:
        Float in [-1, 1], (..., 3, height, width), resized with antialiasing.
    """
    assert image.dtype == torch.uint8 and image.shape[-3] == 3, (image.dtype, image.shape)
    new = (size, size) if isinstance(size, int) else (size[0], size[1])
    old = (image.shape[-2], image.shape[-1])
    if fit == "pad":
        top, left, height, width = place_in(old, new)
        ground = torch.tensor(list(colour), dtype=torch.uint8, device=image.device)
        whole = to_unit(ground)[:, None, None].expand(*image.shape[:-2], *new).clone()
        whole[..., top : top + height, left : left + width] = _resized(image, (height, width))
        return whole
    part = old if fit == "stretch" else largest_part(old, new)
    top, left = (old[0] - part[0]) // 2, (old[1] - part[1]) // 2
    return _resized(image[..., top : top + part[0], left : left + part[1]], new)


def largest_part(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the largest part of `old` pixels that has the aspect ratio of `new`."""
    scale = min(old[0] / new[0], old[1] / new[1])
    height, width = (max(1, min(have, round(want * scale))) for have, want in zip(old, new, strict=True))
    return height, width


def place_in(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return where a picture of `old` pixels lies when the whole of it is put into the middle of `new`.

    Args:
        old: its height and width.
        new: the height and width of the result.

    Returns:
        The first row, the first column, the height and the width of the picture in the result.
    """
    height, width = largest_part(new, old)
    return (new[0] - height) // 2, (new[1] - width) // 2, height, width


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a picture uint8 (..., 3, H, W) in another size, float in [-1, 1]."""
    if tuple(image.shape[-2:]) != size:
        flat = image.reshape(-1, *image.shape[-3:])
        image = F.interpolate(flat, size, mode="bicubic", antialias=True).reshape(*image.shape[:-2], *size)
    return to_unit(image)


def fit_video(
    frames: Tensor, fps: float, num_frames: int, fps_out: float, size: int | tuple[int, int]
) -> Tensor:
    """Bring a clip to another frame rate, length and size, from its start.

    Frame k of the result is the one that is on show at k / fps_out seconds: the last one whose time has come.
    A clip that ends early keeps its last frame.

    Args:
        frames: uint8 (F, 3, H, W).
        fps: the frame rate of the clip, in frames per second.
        num_frames: the number of frames of the result.
        fps_out: the frame rate of the result, in frames per second.
        size: height and width of the result in pixels; one number for a square.

    Returns:
        Float in [-1, 1], (num_frames, 3, height, width).
    """
    index = (torch.arange(num_frames) * (fps / fps_out) + NEAR).floor().long().clamp(max=len(frames) - 1)
    return fit_image(frames[index], size)


def fit_audio(wave: Tensor, rate: int, rate_out: int, num_samples: int) -> Tensor:
    """Bring a sound to another sampling rate and length, from its start.

    Channels are averaged. A sound that ends early is followed by silence.

    Args:
        wave: the sound, (samples,) or (channels, samples) in [-1, 1].
        rate: its sampling rate in Hz.
        rate_out: the sampling rate of the result in Hz.
        num_samples: the number of samples of the result.

    Returns:
        Float32 (num_samples,).
    """
    wave = wave.float()
    wave = wave.mean(dim=0) if wave.dim() > 1 else wave
    # the filter grows with the terms of the ratio: of an odd rate it would take gigabytes
    ratio = Fraction(int(rate_out), int(rate)).limit_denominator(1000)
    # only what is needed is resampled, with a margin for the filter at its end
    wave = wave[: int(num_samples / ratio) + 64]
    if ratio != 1:
        functional = load("torchaudio.functional", f"a sound at {rate} Hz, where {rate_out} are wanted,")
        wave = functional.resample(wave, ratio.denominator, ratio.numerator)
    return F.pad(wave, (0, max(0, num_samples - len(wave))))[:num_samples]
