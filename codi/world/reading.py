"""What a probe reads from one sample, and the rhythm behind a list of onsets.

Letters: B samples, N onsets, M motions, T tempos, S starts.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from codi.world.caption import parse
from codi.world.motion import schedule
from codi.world.scene import ATTRIBUTES, MOTIONS, START_RANGE, TEMPOS

_GRID_RATE = 100  # steps per second of the raster on which rhythms are compared
_GRID_LENGTH = 220
_STRONG = 0.45  # the least strength of a strong onset, relative to the strongest
_BLUR = 0.03  # seconds: how far an onset may be off and still count for a rhythm


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The facts read from one sample.

    Attributes:
        facts: every attribute of the world; None for one that the modality cannot show or the probe cannot
            tell.
        events: onset times in seconds, in order; empty if there are none.
        x: the column of the object in an image, or of a bouncing object in a video, in parts of the width;
            else None.
    """

    facts: dict[str, str | None]
    events: np.ndarray = field(default_factory=lambda: np.zeros(0))
    x: float | None = None

    @property
    def start(self) -> float | None:
        """The seconds of the first event; None without events."""
        return float(self.events[0]) if len(self.events) else None


def named(**positions: int | None) -> dict[str, str | None]:
    """Return facts from positions in the tables; attributes that are not given are None."""
    facts: dict[str, str | None] = {}
    for name, values in ATTRIBUTES.items():
        position = positions.get(name)
        facts[name] = None if position is None else values[position]
    return facts


def read_texts(texts: list[str]) -> list[Reading]:
    """Return the facts that each sentence names."""
    return [Reading(facts=parse(text)) for text in texts]


@cache
def hypotheses(margin: float = 0.10, step: float = 0.005) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every motion with every tempo, at starts on a fine grid.

    Args:
        margin: seconds by which starts reach beyond `START_RANGE`.
        step: seconds from one start to the next.

    Returns:
        motion, tempo and start, three (M * T * S,).
    """
    starts = np.arange(START_RANGE[0] - margin, START_RANGE[1] + margin + step / 2, step)
    grid = np.meshgrid(np.arange(len(MOTIONS)), np.arange(len(TEMPOS)), starts, indexing="ij")
    motion, tempo, start = (axis.reshape(-1) for axis in grid)
    return motion, tempo, start


def _raster(times: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return onsets (B, N), absent ones at inf, as unit vectors of blurred spikes (B, grid)."""
    t = np.arange(_GRID_LENGTH) / _GRID_RATE
    spikes = np.exp(-0.5 * ((t - times[:, :, None]) / _BLUR) ** 2) * strengths[:, :, None]
    curve = spikes.sum(1)
    return curve / np.maximum(np.linalg.norm(curve, axis=1, keepdims=True), 1e-9)


@cache
def _rhythms() -> np.ndarray:
    return _raster(*schedule(*hypotheses()))


def fit_rhythm(times: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the motion and tempo whose events look most like the onsets of each sample.

    Args:
        times: (B, N) seconds, inf where an onset is absent.
        strengths: (B, N) proportional to the amplitudes, 0 where an onset is absent.

    Returns:
        motion and tempo, two (B,) table positions, and their events (B, slots).
    """
    best = np.argmax(_raster(times, strengths) @ _rhythms().T, axis=1)
    motion, tempo, start = (axis[best] for axis in hypotheses())
    return motion, tempo, schedule(motion, tempo, start)[0]


def trust_onsets(times: np.ndarray, strengths: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return which onsets (B, N) to believe: the strong ones, and weak ones near an event of the rhythm.

    A decaying note that was synthesised from a spectrogram beats, and each beat is a weak onset.

    Args:
        times: (B, N) seconds, inf where an onset is absent.
        strengths: (B, N) proportional to the amplitudes, 0 where an onset is absent.
        expected: (B, slots) the events of the rhythm, what `fit_rhythm` returned.

    Returns:
        (B, N) boolean.
    """
    strong = strengths >= _STRONG * strengths.max(1, keepdims=True)
    there = np.isfinite(times)
    away = np.abs(np.where(there, times, -1.0)[:, :, None] - expected[:, None, :]).min(2)
    return there & (strong | (away < 2 * _BLUR))
