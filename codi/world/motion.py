"""When things happen in a scene, and where the object is meanwhile.

Everything here takes arrays of table positions instead of scenes, so that renderers can work on batches and
probes can try many hypotheses at once. All times are in seconds, lengths in parts of the frame.

Letters: B scenes, N slots for events, F times.
"""

from typing import NamedTuple

import numpy as np

from codi.world.scene import MOTIONS, Scene, column, indices

NUM_SLOTS = 6  # the most events any scene can have
END = 1.8  # seconds; every event starts before this
RADIUS = 0.22
FLOOR = 0.86
SWING_GAP = np.array([0.60, 0.35])  # slow, fast
FOOT = np.array([1, 0.88, 0.575, 1.15 * np.cos(np.pi / 5), 1, 1])  # lowest point of each shape, in radii

BOUNCE, SWING, PULSE, BLINK = range(len(MOTIONS))
_BOUNCE_GAPS = np.array([0.70, 0.45])[:, None] * 0.8 ** np.arange(NUM_SLOTS)  # (2, N)


def _slots() -> tuple[np.ndarray, np.ndarray]:
    """Return the delay of each possible event after the first, and its amplitude, two (motion, tempo, N).

    The delay is infinite where there is no event.
    """
    delay = np.full((len(MOTIONS), 2, NUM_SLOTS), np.inf)
    amplitude = np.full_like(delay, 0.8)
    n = np.arange(NUM_SLOTS)
    delay[BOUNCE] = np.cumsum(_BOUNCE_GAPS, axis=1) - _BOUNCE_GAPS
    delay[BOUNCE][_BOUNCE_GAPS < 0.2] = np.inf
    amplitude[BOUNCE] = 0.8**n
    delay[SWING] = SWING_GAP[:, None] * n
    delay[PULSE] = np.array([1.1, 0.7])[:, None] * (n // 2) + 0.3 * (n % 2)
    amplitude[PULSE] = np.where(n % 2, 0.6, 0.9)
    delay[BLINK] = np.array([0.8, 0.5])[:, None] * n
    return delay, amplitude


_DELAY, _AMPLITUDE = _slots()


def schedule(motion: np.ndarray, tempo: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and amplitudes of the events of scenes, in order of time.

    Args:
        motion: (B,) positions in `MOTIONS`.
        tempo: (B,) positions in `TEMPOS`.
        start: (B,) seconds, `Scene.start`.

    Returns:
        times and amplitudes, two (B, N); an empty slot has time inf and amplitude 0.
    """
    # A swing goes on all the time: its first event may be a turn before its start.
    first = np.where(motion == SWING, np.mod(start, SWING_GAP[tempo]), start)
    times = first[:, None] + _DELAY[motion, tempo]
    dropped = (times >= END) | ((motion == SWING)[:, None] & (times < 0.05))
    times = np.where(dropped, np.inf, times)
    order = np.argsort(times, axis=1, kind="stable")
    amplitudes = np.where(dropped, 0.0, _AMPLITUDE[motion, tempo])
    return np.take_along_axis(times, order, 1), np.take_along_axis(amplitudes, order, 1)


def schedule_of(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Return the `schedule` of a list of scenes."""
    return schedule(indices(scenes, "motion"), indices(scenes, "tempo"), column(scenes, "start"))


def events(scene: Scene) -> list[tuple[float, float]]:
    """Return (seconds, amplitude) of every event of a scene, in order."""
    times, amplitudes = schedule_of([scene])
    return [(float(t), float(a)) for t, a in zip(times[0], amplitudes[0]) if np.isfinite(t)]


class Pose(NamedTuple):
    """The centre, radius and opacity of the object, four arrays (B, F)."""

    cx: np.ndarray
    cy: np.ndarray
    radius: np.ndarray
    opacity: np.ndarray


def bounce_height(tempo: np.ndarray, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the height of a bouncing object's foot above the floor: a fall, then shrinking parabolas.

    Args:
        tempo: (B,) positions in `TEMPOS`.
        start: (B,) seconds of the first impact.
        t: (B, F) times in seconds.

    Returns:
        (B, F) in parts of the frame.
    """
    hits = start[:, None] + _DELAY[BOUNCE, tempo]  # (B, N)
    last = (hits[:, None, :] <= t[:, :, None]).sum(-1) - 1  # (B, F)
    slot = np.maximum(last, 0)
    gap = np.take_along_axis(_BOUNCE_GAPS[tempo], slot, 1)
    u = np.minimum((t - np.take_along_axis(hits, slot, 1)) / gap, 1.0)
    hop = (gap / _BOUNCE_GAPS[tempo, :1]) ** 2 * 4 * u * (1 - u)
    return 0.42 * np.where(last < 0, 1 - (t / start[:, None]) ** 2, hop)


def _decayed(times: np.ndarray, weights: np.ndarray | float, t: np.ndarray, decay: float) -> np.ndarray:
    """Return the sum over past events of weight * exp(-age / decay), (B, F)."""
    age = t[:, :, None] - times[:, None, :]
    past = age >= 0
    return (np.where(past, weights, 0.0) * np.exp(-np.where(past, age, 0.0) / decay)).sum(-1)


def pose(
    shape: np.ndarray, motion: np.ndarray, tempo: np.ndarray, start: np.ndarray, x: np.ndarray, t: np.ndarray
) -> Pose:
    """Return where the object is at given times.

    Args:
        shape: (B,) positions in `SHAPES`.
        motion: (B,) positions in `MOTIONS`.
        tempo: (B,) positions in `TEMPOS`.
        start: (B,) seconds, `Scene.start`.
        x: (B,) columns of bouncing objects, in parts of the width.
        t: (B, F) times in seconds.

    Returns:
        four arrays (B, F).
    """
    times, amplitudes = schedule(motion, tempo, start)
    cx = np.full(t.shape, 0.5)
    cy = np.full(t.shape, 0.5)
    radius = np.full(t.shape, RADIUS)
    opacity = np.full(t.shape, 1.0)
    b = motion == BOUNCE
    cx[b] = x[b, None]
    cy[b] = FLOOR - RADIUS * FOOT[shape[b], None] - bounce_height(tempo[b], start[b], t[b])
    s = motion == SWING
    cx[s] = 0.5 + 0.30 * np.cos(np.pi * (t[s] - start[s, None]) / SWING_GAP[tempo[s], None])
    p = motion == PULSE
    weights = np.where(amplitudes[p] > 0.7, 0.6, 0.45)[:, None, :]
    radius[p] = RADIUS * np.minimum(1.6, 1 + _decayed(times[p], weights, t[p], 0.10))
    k = motion == BLINK
    opacity[k] = np.minimum(1.0, 0.08 + _decayed(times[k], 1.0, t[k], 0.25))
    return Pose(cx, cy, radius, opacity)


def pose_of(scenes: list[Scene], t: np.ndarray) -> Pose:
    """Return the `pose` of a list of scenes at times t (B, F) in seconds."""
    return pose(
        indices(scenes, "shape"),
        indices(scenes, "motion"),
        indices(scenes, "tempo"),
        column(scenes, "start"),
        column(scenes, "x"),
        t,
    )
