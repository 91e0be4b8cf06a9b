"""Tensors of any size, rate and length -> a model's geometry, and the two scales of pixels."""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.libraries import load


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8; beyond is clipped. The inverse of `to_unit`."""
    return ((values.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fit_image(image: Tensor, size: int) -> Tensor:
    """uint8 (..., 3, H, W) -> float [-1, 1] (..., 3, size, size): the central square, resized with
    antialiasing.
    """
    assert image.dtype == torch.uint8 and image.shape[-3] == 3, (image.dtype, image.shape)
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[..., top : top + side, left : left + side]
    if side != size:
        flat = square.reshape(-1, 3, side, side)
        square = F.interpolate(flat, (size, size), mode="bicubic", antialias=True).reshape(
            *image.shape[:-2], size, size
        )
    return to_unit(square)


def fit_video(frames: Tensor, fps: float, num_frames: int, fps_out: float, size: int) -> Tensor:
    """uint8 (F, 3, H, W) at `fps` -> float [-1, 1] (num_frames, 3, size, size) at `fps_out`, from the start.

    Frame k is the one shown nearest to k / fps_out seconds; a clip that ends early keeps its last frame.
    """
    index = (torch.arange(num_frames) * (fps / fps_out) + 0.5).floor().long().clamp(max=len(frames) - 1)
    return fit_image(frames[index], size)


def fit_audio(wave: Tensor, rate: int, rate_out: int, num_samples: int) -> Tensor:
    """Sound (..., samples) at `rate` -> (num_samples,) at `rate_out`, from the start; channels are averaged,
    silence fills what lacks.
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
