"""Bring tensors of any size, rate and length to a model's geometry, and pixels from one scale to the other.

Letters: F frames, H height, W width.
"""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.libraries import load

NEAR = 1e-3  # frames by which a time may be early and yet have come: products of rates are not exact


def to_unit(pixels: Tensor) -> Tensor:
    """Convert pixels from uint8 to float32 in [-1, 1]."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Convert float values to uint8 pixels, the inverse of `to_unit`; what is beyond [-1, 1] is clipped."""
    return ((values.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fit_image(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut out the largest central part of a picture that has the wanted aspect ratio, and resize it.

    Args:
        image: uint8 (..., 3, H, W), a picture or several of the same size.
        size: height and width of the result in pixels; one number for a square.

    Returns:
        Float in [-1, 1], (..., 3, height, width), resized with antialiasing.
    """
    assert image.dtype == torch.uint8 and image.shape[-3] == 3, (image.dtype, image.shape)
    new = (size, size) if isinstance(size, int) else tuple(size)
    old = (image.shape[-2], image.shape[-1])
    scale = min(old[0] / new[0], old[1] / new[1])
    part = tuple(max(1, min(length, round(wanted * scale))) for length, wanted in zip(old, new, strict=True))
    top, left = (old[0] - part[0]) // 2, (old[1] - part[1]) // 2
    cut = image[..., top : top + part[0], left : left + part[1]]
    if part != new:
        flat = cut.reshape(-1, 3, *part)
        cut = F.interpolate(flat, new, mode="bicubic", antialias=True).reshape(*image.shape[:-2], *new)
    return to_unit(cut)


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
