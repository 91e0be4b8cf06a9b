"""Motion against its laws, one event at a time: gravity, the turns of a pendulum, exponential decays."""

import math

import numpy as np
import pytest

from codi.world.motion import (
    BLINK,
    BOUNCE,
    FLOOR,
    FOOT,
    NUM_SLOTS,
    PULSE,
    RADIUS,
    SWING,
    bounce_height,
    pose,
    schedule,
)
from codi.world.picture import half_widths
from codi.world.scene import MOTIONS, SHAPES

STARTS = np.linspace(0.15, 0.5, 36)
GAP, HALF_TURN = (0.70, 0.45), (0.60, 0.35)  # seconds, slow and fast


def listed(motion: int, tempo: int, start: float) -> list[tuple[float, float]]:
    """The events of a scene, one after another until its end."""
    found, t, n = [], start, 0
    if motion == SWING:
        t = math.fmod(start, HALF_TURN[tempo])
        t += HALF_TURN[tempo] if t < 0.05 else 0.0
    while t < 1.8:
        amplitude = {BOUNCE: 0.8**n, PULSE: 0.9 - 0.3 * (n % 2)}.get(motion, 0.8)
        found.append((t, amplitude))
        gap = {
            BOUNCE: GAP[tempo] * 0.8**n,
            SWING: HALF_TURN[tempo],
            PULSE: 0.3 if n % 2 == 0 else (1.1, 0.7)[tempo] - 0.3,
            BLINK: (0.8, 0.5)[tempo],
        }[motion]
        t, n = t + gap, n + 1
        if motion == BOUNCE and GAP[tempo] * 0.8**n < 0.2:
            break  # hops of less than a fifth of a second are no longer heard
    return found


@pytest.mark.parametrize("tempo", [0, 1], ids=["slow", "fast"])
@pytest.mark.parametrize("motion", range(4), ids=MOTIONS)
def test_schedules_are_the_events_listed_one_by_one(motion: int, tempo: int) -> None:
    full = np.full(len(STARTS), 1)
    times, amplitudes = schedule(motion * full, tempo * full, STARTS)
    assert times.shape == amplitudes.shape == (len(STARTS), NUM_SLOTS)
    for start, row, strengths in zip(STARTS, times, amplitudes):
        expected = listed(motion, tempo, start)
        assert np.allclose(np.stack([row, strengths], 1)[: len(expected)], expected)
        assert np.isinf(row[len(expected) :]).all() and (strengths[len(expected) :] == 0).all()


@pytest.mark.parametrize("tempo", [0, 1], ids=["slow", "fast"])
def test_a_bounce_obeys_one_gravity_and_keeps_the_same_share_of_its_height(tempo: int) -> None:
    hits = np.array([t for t, _ in listed(BOUNCE, tempo, 0.2)])
    height = lambda t: bounce_height(np.array([tempo]), np.array([0.2]), np.atleast_1d(t)[None])[0]
    gaps = np.diff(hits)
    assert np.allclose(height(hits[:-1] + gaps / 2), 0.42 * 0.64 ** np.arange(len(gaps)))
    gravity = 8 * 0.42 / GAP[tempo] ** 2  # what takes a hop of 0.42 up and down in the first gap
    for share in (0.1, 0.3, 0.8):
        t = gaps * share
        assert np.allclose(height(hits[:-1] + t), gravity / 2 * t * (gaps - t))
    assert np.isclose(height(0.1)[0], 0.42 * 3 / 4)  # half-way through its fall in time


@pytest.mark.parametrize("shape", SHAPES)
def test_feet_are_the_lowest_points_of_outlines_and_stand_on_the_floor_at_an_event(shape: str) -> None:
    y = np.linspace(-1.2, 1.2, 24001)
    foot = FOOT[SHAPES.index(shape)]
    outer, inner = half_widths(shape, y)
    solid = outer > (0.0 if inner is None else inner)
    assert np.isclose(y[solid].max(), foot, atol=2e-3)
    one = np.array([1])
    where = pose(SHAPES.index(shape) * one, BOUNCE * one, one, 0.3 * one, 0.42 * one, np.array([[0.3, 0.75]]))
    assert np.allclose(where.cy + RADIUS * foot, FLOOR) and np.allclose(where.cx, 0.42)
    assert np.allclose(where.radius, RADIUS) and np.allclose(where.opacity, 1.0)


def at(motion: int, tempo: int, times: list[float]):
    """The pose at some times of a scene that starts at 0.4 s; its column of 0.31 counts for bounces alone."""
    one = np.array([1])
    return pose(0 * one, motion * one, tempo * one, 0.4 * one, 0.31 * one, np.array([times]))


@pytest.mark.parametrize("tempo, first", [(0, 0.4), (1, 0.05)])
def test_a_swing_turns_at_its_events_on_alternating_sides(tempo: int, first: float) -> None:
    turns = [first + k * HALF_TURN[tempo] for k in range(3)]
    sides = at(SWING, tempo, turns).cx[0] - 0.5
    assert np.allclose(np.abs(sides), 0.3) and np.allclose(sides[:-1], -sides[1:])
    assert np.isclose(at(SWING, tempo, [0.4]).cx[0, 0], 0.8)  # at its start it is on the right
    middles = [t + HALF_TURN[tempo] / 2 for t in turns]
    assert np.allclose(at(SWING, tempo, middles).cx, 0.5) and np.allclose(at(SWING, tempo, turns).cy, 0.5)


def test_a_pulse_swells_at_its_events_and_shrinks_within_a_tenth_of_a_second() -> None:
    age = 0.1 * math.log(2)  # half of what was gained is gone
    strong, weak = 0.4, 0.7  # seconds of the first two events
    left = lambda t: 0.6 * math.exp(-(t - strong) / 0.1) + 0.45 * math.exp(-(t - weak) / 0.1) * (t >= weak)
    times = [0.39, strong, strong + age, weak, weak + age]
    gained = [0.0, 0.6, 0.3, left(weak), left(weak + age)]
    where = at(PULSE, 0, times)
    assert np.allclose(where.radius[0], RADIUS * (1 + np.array(gained)))
    assert np.allclose(where.cx, 0.5) and np.allclose(where.opacity, 1.0)
    assert at(PULSE, 1, list(np.linspace(0, 2, 801))).radius.max() <= RADIUS * 1.6 + 1e-12


def test_a_blink_lights_up_at_its_events_and_fades_to_a_trace() -> None:
    age = 0.25 * math.log(2)
    where = at(BLINK, 0, [0.39, 0.4, 0.4 + age, 1.19])
    assert np.allclose(where.opacity[0], [0.08, 1.0, 0.58, 0.08 + math.exp(-0.79 / 0.25)])
    assert at(BLINK, 1, [0.9]).opacity[0, 0] == 1.0  # never above one, though the last light is not gone
    assert np.allclose(where.radius, RADIUS)


def test_poses_of_a_batch_are_those_of_single_scenes() -> None:
    rng = np.random.default_rng(0)
    shape, motion, tempo = (rng.integers(n, size=40) for n in (6, 4, 2))
    start, x, t = rng.uniform(0.15, 0.5, 40), rng.uniform(0.3, 0.7, 40), rng.uniform(0, 2, (40, 7))
    batch = pose(shape, motion, tempo, start, x, t)
    for k in range(40):
        row = slice(k, k + 1)
        alone = pose(shape[row], motion[row], tempo[row], start[row], x[row], t[row])
        assert all(np.array_equal(whole[row], single) for whole, single in zip(batch, alone))
