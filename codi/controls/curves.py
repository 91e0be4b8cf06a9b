"""Loudness and pitch of a sound over time, by plain means that know nothing of any world.

Letters: T points of a curve, N samples of a window.
"""

import torch
from torch import Tensor

HOP = 0.02  # seconds from one point of a curve to the next
WINDOW = 0.064  # seconds of sound that a point is of
FLOOR = -60.0  # decibels of full scale below which everything is silence
VOICED = 0.5  # of the autocorrelation at no delay: less at every delay is no pitch
NEAR_BEST = 0.9  # of the highest peak: the first peak that reaches it is the period, not a multiple of it
QUIET = 15.0  # decibels below the loudest point at which a pitch is not looked for any more
LOWEST, HIGHEST = 55.0, 3520.0  # Hz


def windows(wave: Tensor, rate: float) -> Tensor:
    """Return windows (T, N) of a sound (samples,), point k being around k `HOP` seconds."""
    size = round(WINDOW * rate)
    padded = torch.nn.functional.pad(wave.float(), (size // 2, size))
    count = int(len(wave) / rate / HOP) + 1
    starts = (torch.arange(count) * HOP * rate).round().long()
    return padded[starts[:, None] + torch.arange(size)]


def loudness(wave: Tensor, rate: float) -> Tensor:
    """Return the level (T,) of a sound (samples,) in decibels of full scale, `FLOOR` and above."""
    power = windows(wave, rate).square().mean(1)
    return (10 * power.clamp_min(1e-12).log10()).clamp_min(FLOOR)


def pitch(wave: Tensor, rate: float) -> Tensor:
    """Return the pitch (T,) of a sound (samples,) in Hz by autocorrelation; 0 where there is none.

    The window's own autocorrelation is divided out, so that long periods count as much as short ones.
    """
    parts = windows(wave, rate)
    size = parts.shape[1]
    window = torch.hann_window(size)
    found = _autocorrelation(parts * window) / _autocorrelation(window[None]).clamp_min(1e-6)
    level = found / found[:, :1].clamp_min(1e-9)  # (T, N), 1 at no delay
    first, last = int(rate / HIGHEST), min(int(rate / LOWEST) + 1, size // 2)
    inner = level[:, first : last + 1]
    peak = (inner >= level[:, first - 1 : last]) & (inner > level[:, first + 1 : last + 2])
    inner = torch.where(peak, inner, 0.0)
    best = inner.amax(1, keepdim=True)
    delay = (inner >= NEAR_BEST * best).int().argmax(1) + first
    hz = rate / (delay + _shift(level, delay))
    sounding = loudness(wave, rate)
    loudest = sounding.amax()
    heard = (best[:, 0] > VOICED) & (sounding > loudest - QUIET) & (loudest > FLOOR)
    return torch.where(heard, hz, 0.0)


def _autocorrelation(parts: Tensor) -> Tensor:
    """Return the autocorrelation (T, N) of windows (T, N) at delays from 0 to N - 1 samples."""
    size = parts.shape[1]
    power = torch.fft.rfft(parts, 2 * size).abs().square()
    return torch.fft.irfft(power)[:, :size]


def _shift(level: Tensor, at: Tensor) -> Tensor:
    """Return by how much (T,) the top of a parabola lies beside the peak `at` (T,) of each row (T, N)."""
    rows = torch.arange(len(level))
    left, middle, right = (level[rows, at + k] for k in (-1, 0, 1))
    bend = (2 * middle - left - right).clamp_min(1e-9)
    return ((right - left) / (2 * bend)).clamp(-0.5, 0.5)
