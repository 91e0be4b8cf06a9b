"""Tell whether two media files show or play the same, bit by bit or nearly.

A medium has a digest of what is decoded, and one or several hashes of 64 bits that change little when a file
is encoded again, made smaller or louder. Of pictures that is the difference hash: whether brightness rises
from each cell of a coarse grid to the next. Of sounds it is the same of log-mel energies, along time and
frequency at once (Haitsma and Kalker, A Highly Robust Audio Fingerprinting System, 2002). Bits alone would
call everything plain the same, so the coarse grid itself, in colour, is compared as well.

Letters: H height, W width, N hashes, K values.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codi.io.clip_header import gate
from codi.io.content import content_sha256
from codi.io.fit import fit_audio
from codi.io.frames import frames_at
from codi.io.gates import MAX_DECODED, MAX_MINUTES, MAX_RATE, reading
from codi.io.media_file import MediaFile
from codi.io.read import load_image
from codi.io.sandbox import sandboxed
from codi.io.sounds import sound_at
from codi.libraries import load
from codi.types import InputError, Modality

SIDE = 8  # a hash has SIDE * SIDE bits
RISE = 2.0  # levels of 255 by which brightness has to rise: noise on a plain ground is no rise
COLOUR = 24.0  # levels of 255 by which cells of near duplicates may differ
SHOWN = 8  # frames of a clip that are hashed, evenly spread
AT_ONCE = 20.0  # seconds of a clip that are decoded in one go
RATE = 16_000  # Hz, at which sounds are hashed
BANDS = 64
WINDOW, HOP = 1024, 512  # samples
FLOOR = math.log(1e-3)  # of energies, relative to the loudest: what is softer counts as silence
SLOPE = 0.1  # nepers by which energies have to rise
LOUDNESS = 1.5  # nepers by which cells of near duplicates may differ
LONGER = 0.1  # seconds by which near duplicates may differ in length, and as a share of it half as much


def picture_likeness(path: str | Path) -> dict[str, Any]:
    """Return what `codi.modalities.Likeness` holds of a picture.

    Args:
        path: the file.

    Returns:
        "digest", "hashes" (one), "coarse" (K,) float32, and "seconds", None.

    Raises:
        InputError: if the file is no picture, or is damaged.
    """
    pixels = load_image(path)
    bits, coarse = _seen(pixels)
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()
    return {"digest": digest, "hashes": (bits,), "coarse": coarse, "seconds": None}


def sound_likeness(path: str | Path, start: float | None = None, end: float | None = None) -> dict[str, Any]:
    """Return what `codi.modalities.Likeness` holds of a recording, or of the stretch from `start` to `end`.

    Args:
        path: the file.
        start: seconds from time 0 of the file; None for the beginning.
        end: seconds from time 0 of the file; None for the end.

    Returns:
        "digest", "hashes" (one), "coarse" (K,) float32, and "seconds".

    Raises:
        InputError: if the file is no recording, or is damaged.
    """
    wave, rate = _stretch(str(path), start, end)
    bits, coarse = _heard(wave, rate)
    digest = hashlib.sha256(f"{rate} Hz".encode() + wave.numpy().tobytes()).hexdigest()
    return {"digest": digest, "hashes": (bits,), "coarse": coarse, "seconds": len(wave) / rate}


def clip_likeness(path: str | Path, start: float | None = None, end: float | None = None) -> dict[str, Any]:
    """Return what `codi.modalities.Likeness` holds of a clip, or of the stretch from `start` to `end`.

    Its digest is that of its encoded streams, of which the same is decoded (`content_sha256`); its sound
    counts there alone.

    Args:
        path: the file.
        start: seconds from time 0 of the file; None for the beginning.
        end: seconds from time 0 of the file; None for the end.

    Returns:
        "digest", "hashes" (of `SHOWN` frames), "coarse" (K,) float32, and "seconds".

    Raises:
        InputError: if the file is no clip, is damaged, or does not say how long it lasts.
    """
    frames, seconds, streams = _frames(str(path), start, end)
    seen = [_seen(frame) for frame in frames]
    return {
        "digest": hashlib.sha256(f"{streams} {start} {end}".encode()).hexdigest(),
        "hashes": tuple(bits for bits, _ in seen),
        "coarse": torch.cat([coarse for _, coarse in seen]),
        "seconds": seconds,
    }


@sandboxed(lambda path, start, end: 4 * MAX_RATE * 60 * MAX_MINUTES)
def _stretch(path: str, start: float | None, end: float | None) -> tuple[Tensor, int]:
    """Return a stretch of a recording, float32 (samples,), and its rate in Hz."""
    with reading(path, Modality.AUDIO):
        found = sound_at(MediaFile(Path(path), path), start or 0.0, None, end)
    assert found is not None  # only a clip may be without sound
    return found


@sandboxed(lambda path, start, end: MAX_DECODED)
def _frames(path: str, start: float | None, end: float | None) -> tuple[Tensor, float, str]:
    """Return frames of a stretch of a clip (N, 3, H, W), its seconds, and the digest of all streams."""
    with reading(path, Modality.VIDEO):
        source = MediaFile(Path(path), path)
        first = start or 0.0
        header = gate(source, 1)
        last = header.stated if end is None else end
        if last <= first:
            raise InputError(f"{path} does not say how long it lasts: give its row an end")
        times = first + (np.arange(SHOWN) + 0.5) / SHOWN * (last - first)
        # in a long clip it is quicker to seek each frame than to decode all that lies between
        stretches = [times] if last - first <= AT_ONCE else np.split(times, SHOWN)
        frames = [frames_at(source, each, end, size=4 * SIDE, header=header).tensor() for each in stretches]
        return torch.cat(frames), last - first, content_sha256(path)


def _seen(pixels: Tensor) -> tuple[int, Tensor]:
    """Return the hash of a picture uint8 (3, H, W), and its coarse grid in colour."""
    grey = (pixels.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    cells = F.interpolate(grey[None, None], (SIDE, SIDE + 1), mode="bilinear", antialias=True)[0, 0]
    colours = F.interpolate(pixels.float()[None], (SIDE, SIDE), mode="bilinear", antialias=True)
    return _bits(cells.diff(dim=1) > RISE), colours.flatten() / COLOUR


def _heard(wave: Tensor, rate: int) -> tuple[int, Tensor]:
    """Return the hash of a sound (samples,), and its coarse grid of energies."""
    functional = load("torchaudio.functional", "comparing sounds")
    count = max(WINDOW, round(len(wave) * RATE / rate))
    sound = fit_audio(wave, rate, RATE, count)
    spectrum = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs()
    bank = functional.melscale_fbanks(WINDOW // 2 + 1, 50.0, RATE / 2, BANDS, RATE)
    mel = (bank.T @ spectrum).clamp(min=1e-9).log()
    energies = (mel - mel.max()).clamp(min=FLOOR)
    cells = F.adaptive_avg_pool2d(energies[None], (SIDE + 1, SIDE + 1))[0]
    return _bits(cells.diff(dim=0).diff(dim=1) > SLOPE), cells.flatten() / LOUDNESS


def _bits(rises: Tensor) -> int:
    """Return 64 bits as one number."""
    number = 0
    for bit in rises.flatten().tolist():
        number = 2 * number + bit
    return number


def same_length(one: float | None, two: float | None) -> bool:
    """Return whether two media may last equally long: encoders add a little to the end of a sound."""
    if one is None or two is None:
        return one is two
    return abs(one - two) <= LONGER + 0.5 * LONGER * min(one, two)
