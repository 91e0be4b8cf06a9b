"""Render scenes as sounds: each event strikes a note over the ambience of the place.

The pitch is the colour, and the timbre the shape. A decaying sine over many samples is the product of a
coarse phasor (one value per block) and a fine one (inside the block), so all partials of a note are one small
matrix product and no sine is evaluated per sample.

Letters: B scenes, E events, K partials, P blocks, Q samples of a block.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codi.world.motion import schedule_of
from codi.world.scene import COLOURS, SHAPES, Scene, indices

F0 = 220.0 * 2.0 ** (5 * np.arange(len(COLOURS)) / 12)  # Hz, one per colour
MAX_HZ = 7500.0  # partials from here up are left out
GAIN = 0.35
_BLOCK = 256  # samples of a block
_CHUNK = 32  # scenes rendered at once


@dataclass(frozen=True, kw_only=True)
class Timbre:
    """A shape's note.

    Attributes:
        partials: (ratio to the pitch, weight) of each.
        attack: seconds of the linear attack.
        decay: seconds in which the exponential decay falls by a factor of e.
    """

    partials: tuple[tuple[float, float], ...]
    attack: float
    decay: float


TIMBRES = {
    "ball": Timbre(partials=((1, 1), (4, 0.3)), attack=0.002, decay=0.12),
    "box": Timbre(partials=((1, 1), (3, 0.6), (5, 0.4), (7, 0.25)), attack=0.02, decay=0.25),
    "triangle": Timbre(partials=((1, 1), (2.76, 0.6), (5.4, 0.3)), attack=0.002, decay=0.45),
    "star": Timbre(partials=tuple((k, 1 / k) for k in range(1, 9)), attack=0.002, decay=0.18),
    "ring": Timbre(partials=((1, 1), (2, 0.12)), attack=0.04, decay=0.30),
    "cross": Timbre(partials=((0.5, 0.8), (1, 1), (2, 0.6), (4, 0.4)), attack=0.02, decay=0.30),
}
_NUM_PARTIALS = max(len(t.partials) for t in TIMBRES.values())
_ATTACK = np.array([TIMBRES[s].attack for s in SHAPES])
_DECAY = np.array([TIMBRES[s].decay for s in SHAPES])


def _partial_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency in Hz and the weight of every partial, two (shape, colour, K).

    A weight of 0 pads, and mutes what is too high.
    """
    ratio, weight = np.zeros((2, len(SHAPES), _NUM_PARTIALS))
    for i, shape in enumerate(SHAPES):
        for k, (r, w) in enumerate(TIMBRES[shape].partials):
            ratio[i, k] = r
            weight[i, k] = w
    hz = ratio[:, None] * F0[None, :, None]
    return hz, np.where(hz < MAX_HZ, weight[:, None], 0.0)


PARTIAL_HZ, PARTIAL_WEIGHT = _partial_tables()


def _waves(start: np.ndarray, rate: np.ndarray, num_samples: int) -> Tensor:
    """Return sums of decaying sines, complex (B, K) -> float32 (B, samples).

    Row b is the sum over k of the imaginary part of start_k exp(rate_k n), for n = 0, 1, ...
    """
    blocks = -(-num_samples // _BLOCK)
    coarse = start[:, None, :] * np.exp(rate[:, None, :] * (_BLOCK * np.arange(blocks))[:, None])  # (B, P, K)
    fine = np.exp(rate[:, :, None] * np.arange(_BLOCK))  # (B, K, Q)
    left = torch.from_numpy(np.concatenate([coarse.imag, coarse.real], 2).astype(np.float32))
    right = torch.from_numpy(np.concatenate([fine.real, fine.imag], 1).astype(np.float32))
    return torch.bmm(left, right).flatten(1)[:, :num_samples]


def _notes(
    shape: np.ndarray, colour: np.ndarray, late: np.ndarray, sampling_rate: int, num_samples: int
) -> Tensor:
    """Return notes (E, samples) whose sample 0 lies `late` (E,) seconds after the event."""
    hz = PARTIAL_HZ[shape, colour]
    weight = PARTIAL_WEIGHT[shape, colour]
    weight = np.where(hz < sampling_rate / 2, weight, 0.0)
    growth = 2j * np.pi * hz - 1 / _DECAY[shape][:, None]  # per second
    wave = _waves(weight * np.exp(growth * late[:, None]), growth / sampling_rate, num_samples)
    rising = min(num_samples, int(_ATTACK.max() * sampling_rate) + 1)
    tau = late[:, None] + np.arange(rising) / sampling_rate
    wave[:, :rising] *= torch.from_numpy(np.minimum(tau / _ATTACK[shape][:, None], 1.0).astype(np.float32))
    return wave


def note_bank(sampling_rate: int, num_samples: int) -> Tensor:
    """Return one note of amplitude 1 for every shape (outside) and colour (inside), (48, samples)."""
    shape, colour = (a.reshape(-1) for a in np.indices((len(SHAPES), len(COLOURS))))
    return GAIN * _notes(shape, colour, np.zeros(len(shape)), sampling_rate, num_samples)


def _add_notes(out: Tensor, scenes: list[Scene], sampling_rate: int) -> None:
    """Add the note of every event of the scenes to `out` (B, samples), in place."""
    num_samples = out.shape[1]
    times, amplitudes = schedule_of(scenes)
    which, slot = np.nonzero(np.isfinite(times) & (times * sampling_rate <= num_samples - 1))
    times = times[which, slot]
    amplitudes = amplitudes[which, slot]
    first = np.ceil(times * sampling_rate).astype(np.int64)
    shape = indices(scenes, "shape")[which]
    colour = indices(scenes, "colour")[which]
    if not len(which):
        return
    notes = _notes(
        shape, colour, first / sampling_rate - times, sampling_rate, int(num_samples - first.min())
    )
    for b, at, note, amplitude in zip(which, first, notes, amplitudes):
        out[b, at:].add_(note[: num_samples - at], alpha=GAIN * float(amplitude))


def _noise(
    scenes: list[Scene], low: float, high: float, rms: float, sampling_rate: int, num_samples: int
) -> Tensor:
    """Return forty sines of random phase per scene, (B, samples) of root mean square `rms`.

    Their frequencies are random in [low, high] Hz.
    """
    drawn = np.stack([np.random.default_rng(s.seed).uniform(size=(2, 40)) for s in scenes])
    hz = low + (high - low) * drawn[:, 0]
    phase = 2 * np.pi * drawn[:, 1]
    wave = _waves(np.exp(1j * phase), 2j * np.pi * hz / sampling_rate, num_samples)
    return wave * (rms / wave.square().mean(1, keepdim=True).sqrt())


def _ambience(place: str, scenes: list[Scene], sampling_rate: int, num_samples: int) -> Tensor | float:
    """Return what is heard at the place without any event, (B, samples) or one row for all."""
    t = torch.arange(num_samples, dtype=torch.float64) / sampling_rate
    if place == "night":
        cricket = 0.03 * torch.sin(2 * torch.pi * 7200 * t) * (t % 0.125 < 0.0625)
        return cricket.float()
    if place == "grass":
        return _noise(scenes, 2000.0, 3000.0, 0.03, sampling_rate, num_samples)
    if place == "sand":
        surf = 0.5 + 0.5 * torch.cos(2 * torch.pi * 0.5 * t)
        return _noise(scenes, 50.0, 90.0, 0.05, sampling_rate, num_samples) * surf.float()
    assert place == "snow", place
    return 0.0


def render_sounds(scenes: list[Scene], sampling_rate: int = 16000, num_samples: int = 32000) -> Tensor:
    """Render the mono sound of each scene.

    Args:
        scenes: B scenes.
        sampling_rate: in Hz.
        num_samples: the length of each sound.

    Returns:
        (B, samples) float32 in [-1, 1].
    """
    out = torch.zeros(len(scenes), num_samples)
    for at in range(0, len(scenes), _CHUNK):
        part = scenes[at : at + _CHUNK]
        rows = out[at : at + _CHUNK]
        _add_notes(rows, part, sampling_rate)
        by_place: dict[str, list[int]] = {}
        for b, scene in enumerate(part):
            by_place.setdefault(scene.place, []).append(b)
        for place, which in by_place.items():
            rows[which] += _ambience(place, [part[b] for b in which], sampling_rate, num_samples)
    return out.clamp_(-1, 1)
