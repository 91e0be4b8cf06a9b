"""When something happens: two plain detectors of onsets that know nothing of any world.

A benchmark can thus measure with judges of its own what was selected by these detectors.

Letters: C channels, F frames, H W height and width, K onsets, T points of a curve.
"""

import torch
from torch import Tensor
from torch.nn import functional as nnf

WINDOW, HOP, LAG = 0.032, 0.010, 2  # of a sound's spectrum: seconds, seconds, hops over which a rise is taken
SILENT = 1e-4  # a curve that nowhere rises above this has no onset
LEAST_SOUND, LEAST_MOTION = 0.3, 0.2  # how far from a curve's median to its maximum a peak must reach


def sound_onsets(wave: Tensor, rate: float) -> Tensor:
    """Return the seconds (K,) at which the spectrum of a sound rises.

    They are the peaks of its half-wave rectified flux: the sum of what all frequencies gain.

    Args:
        wave: (samples,) the sound.
        rate: its sampling rate in Hz.

    Returns:
        (K,) seconds, in order.
    """
    size, step = round(WINDOW * rate), round(HOP * rate)
    window = torch.hann_window(size, device=wave.device)
    spectrum = torch.stft(
        wave.float(), size, step, size, window, pad_mode="constant", return_complex=True
    ).abs() * (2 / window.sum())
    flux = (spectrum[:, LAG:] - spectrum[:, :-LAG]).clamp_min(0).sum(0)
    return _peaks(flux, reach=5, least=LEAST_SOUND).add(LAG / 2) * (step / rate)


def video_onsets(frames: Tensor, rate: float) -> Tensor:
    """Return the seconds (K,) at which what moves in a clip jumps, turns or appears.

    Differences of frames are projected on 1, x and y, which says how much there is and where its centre lies.
    A still ground drops out, steady motion is a constant, and an event is a peak in the energy of its change.

    Args:
        frames: (F, 3, H, W) the clip, float.
        rate: its frames per second.

    Returns:
        (K,) seconds, in order.
    """
    moments = _moments(frames.float())  # (F, 9)
    motion = moments[1:] - moments[:-1]
    energy = (motion[1:] - motion[:-1]).norm(dim=1)  # of frames 1 .. F - 2
    return _peaks(energy, reach=1, least=LEAST_MOTION).add(1) / rate


def _moments(frames: Tensor) -> Tensor:
    """Return the means of the channels, plain and weighted by x and by y: (F, C, H, W) -> (F, 3 C).

    Both coordinates go from -1 to 1.
    """
    height, width = frames.shape[-2:]
    y = torch.linspace(-1, 1, height, device=frames.device)[:, None]
    x = torch.linspace(-1, 1, width, device=frames.device)
    return torch.cat([(frames * weight).mean((2, 3)) for weight in (torch.ones_like(x), x, y)], dim=1)


def _peaks(curve: Tensor, reach: int, least: float) -> Tensor:
    """Return the positions (K,), between samples, of the peaks of a curve (T,).

    A peak is the highest point within `reach` that stands out by `least` of the way from the curve's median
    to its maximum.
    """
    if len(curve) == 0 or curve.max() < SILENT:
        return curve.new_zeros(0)
    padded = nnf.pad(curve, (1, 1))
    highest = nnf.max_pool1d(padded[None, None], 2 * reach + 1, 1, reach)[0, 0]
    level = curve.median() + least * (curve.max() - curve.median())
    top = (padded == highest) & (padded > level)
    # Of two equal neighbours the first counts; the position that is found lies between them.
    at = (top & ~top.roll(1)).nonzero()[:, 0]
    left, middle, right = padded[at - 1], padded[at], padded[at + 1]
    shift = (right - left) / (2 * (2 * middle - left - right)).clamp_min(1e-9)
    return at - 1 + shift.clamp(-0.5, 0.5)
