"""Rhythms are found from exact, late, incomplete and disturbed onsets; readings do not depend on the batch,
the size, the rate, the volume or the side from which a scene is seen.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from codi.types import InputError
from codi.world import (
    ATTRIBUTES,
    MOTIONS,
    TEMPOS,
    Reading,
    events,
    read_images,
    read_sounds,
    read_videos,
    render_images,
    render_sounds,
    render_videos,
    sample_scenes,
)
from codi.world.motion import schedule
from codi.world.reading import fit_rhythm, hypotheses, named, trust_onsets

SCENES = sample_scenes(12, 21)
KINDS = np.array([(m, t) for m in range(4) for t in range(2)])


def same(one: list[Reading], other: list[Reading], seconds: float = 1e-3) -> bool:
    """Equal facts, as many events, all within so many seconds."""
    return all(
        a.facts == b.facts
        and len(a.events) == len(b.events)
        and np.allclose(a.events, b.events, atol=seconds)
        for a, b in zip(one, other, strict=True)
    )


def test_positions_are_named_and_the_rest_is_unknown() -> None:
    assert named(shape=2, tempo=0) == {
        "shape": "triangle",
        "colour": None,
        "place": None,
        "motion": None,
        "tempo": "slow",
    }
    assert named(place=None) == dict.fromkeys(ATTRIBUTES)
    assert Reading(facts=named(), events=np.array([0.3, 0.9])).start == 0.3


def test_hypotheses_are_every_motion_tempo_and_start_once() -> None:
    rows = np.stack(hypotheses(), 1)
    starts = np.unique(rows[:, 2])
    assert len(np.unique(rows, axis=0)) == len(rows) == len(MOTIONS) * len(TEMPOS) * len(starts)
    assert np.allclose(np.diff(starts), 0.005) and np.isclose(starts[0], 0.05)
    assert starts[-1] == pytest.approx(0.60)


@pytest.mark.parametrize("start", [0.15, 0.27, 0.5])
@pytest.mark.parametrize("late", [0.0, 0.01, -0.01])
def test_the_rhythm_of_exact_and_of_slightly_moved_onsets(start: float, late: float) -> None:
    motion, tempo = KINDS.T
    times, strengths = schedule(motion, tempo, np.full(8, start))
    rng = np.random.default_rng(0)
    moved = times + late * rng.choice([-1, 1], times.shape)
    found_motion, found_tempo, expected = fit_rhythm(moved, strengths)
    assert (found_motion == motion).all() and (found_tempo == tempo).all()
    assert (np.isfinite(expected) == np.isfinite(times)).all()
    there = np.isfinite(times)
    assert np.abs(expected[there] - times[there]).max() < 0.001 + 2 * abs(late)


def test_neither_the_order_nor_the_volume_of_onsets_matters_but_a_missing_event_is_filled_in() -> None:
    motion, tempo = KINDS.T
    times, strengths = schedule(motion, tempo, np.full(8, 0.31))
    whole = fit_rhythm(times, strengths)
    order = np.random.default_rng(3).permutation(times.shape[1])
    for changed in (fit_rhythm(times[:, order], strengths[:, order]), fit_rhythm(times, 0.01 * strengths)):
        assert all(np.array_equal(a, b) for a, b in zip(whole, changed))
    blink = KINDS.tolist().index([3, 1])
    fewer = times.copy()
    fewer[blink, 1] = np.inf
    assert fit_rhythm(fewer, np.where(np.isfinite(fewer), strengths, 0))[0][blink] == 3


def test_weak_onsets_are_believed_near_an_event_alone() -> None:
    times = np.array([[0.30, 0.62, 0.95, 1.20, np.inf]])
    strengths = np.array([[1.0, 0.44, 0.46, 0.30, 0.0]])
    expected = np.array([[0.30, 0.65, np.inf]])
    assert trust_onsets(times, strengths, expected).tolist() == [[True, True, True, False, False]]
    assert trust_onsets(times, strengths, expected + 0.04).tolist() == [[True, False, True, False, False]]
    assert not trust_onsets(np.full((1, 3), np.inf), np.zeros((1, 3)), expected).any()


@pytest.mark.parametrize("read, render", [(read_videos, render_videos), (read_sounds, render_sounds)])
def test_a_reading_is_that_of_the_sample_alone_wherever_it_stands(read, render) -> None:
    """More samples than are read at once, so that two parts meet."""
    media = render(SCENES)
    alone = [read(media[k : k + 1])[0] for k in range(3)]
    assert same(read(media)[:3], alone)
    many = torch.cat([media] * 3)
    assert same(read(many)[24:], read(media)) and same(read(media.flip(0)), read(media)[::-1])


@pytest.mark.parametrize("size", [32, 48, 128])
def test_pictures_are_read_at_other_sizes(size: int) -> None:
    for scene, reading in zip(SCENES, read_images(render_images(SCENES, size))):
        assert [reading.facts[a] for a in ("shape", "colour", "place")] == [
            scene.shape,
            scene.colour,
            scene.place,
        ]


@pytest.mark.parametrize("num_frames, fps, size", [(32, 16.0, 48), (24, 12.0, 64)])
def test_clips_are_read_at_other_rates_and_sizes(num_frames: int, fps: float, size: int) -> None:
    readings = read_videos(render_videos(SCENES, num_frames, fps, size), fps)
    assert [r.facts for r in readings] == [s.facts for s in SCENES]
    for scene, reading in zip(SCENES, readings):
        assert np.allclose(reading.events, [t for t, _ in events(scene)], atol=0.05)


@pytest.mark.parametrize("rate", [22050, 48000])
def test_sounds_are_read_at_higher_rates(rate: int) -> None:
    readings = read_sounds(render_sounds(SCENES, rate, 2 * rate), rate)
    assert [r.facts for r in readings] == [s.facts for s in SCENES]


def test_a_mirrored_picture_has_its_object_on_the_other_side() -> None:
    images = render_images(SCENES)
    for ours, theirs in zip(read_images(images), read_images(images.flip(3))):
        assert ours.facts == theirs.facts and ours.x + theirs.x == pytest.approx(1.0, abs=0.01)


def test_half_the_volume_is_read_alike_and_what_is_no_number_as_silence() -> None:
    sounds = render_sounds(SCENES)
    half = read_sounds(0.5 * sounds)
    assert [r.facts for r in half] == [s.facts for s in SCENES] and same(half, read_sounds(sounds), 0.005)
    sounds[0] = float("nan")
    spoilt, *others = read_sounds(sounds)
    assert spoilt.start is None and spoilt.facts == named(place=1) and same(others, read_sounds(sounds[1:]))
    assert same(read_sounds(sounds[1:].double()), others)


def test_a_late_sound_is_read_late_and_says_the_same() -> None:
    scenes = [replace(scene, motion="blink", tempo="fast", start=0.2, place="snow") for scene in SCENES[:4]]
    sounds = render_sounds(scenes)
    late = torch.zeros_like(sounds)
    late[:, 1600:] = sounds[:, :-1600]
    for own, moved in zip(read_sounds(sounds), read_sounds(late)):
        assert moved.start - own.start == pytest.approx(0.1, abs=0.005) and own.facts == moved.facts


@pytest.mark.parametrize(
    "read, media, message",
    [
        (
            read_images,
            torch.zeros(1, 1, 64, 64, dtype=torch.uint8),
            r"\(B, 3, S, S\), got torch.uint8 \(1, 1",
        ),
        (read_images, torch.zeros(3, 64, 64, dtype=torch.uint8), r"\(3, 64, 64\)"),
        (
            read_images,
            torch.zeros(1, 3, 64, 48, dtype=torch.uint8),
            r"square .* got \(64, 48\): resize first",
        ),
        (read_images, torch.zeros(1, 3, 31, 31, dtype=torch.uint8), r"32 pixels or more, got \(31, 31\)"),
        (read_videos, torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"\(B, F, 3, S, S\), got torch.uint8"),
        (read_videos, torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8), r"got \(16, 16\)"),
        (read_sounds, torch.zeros(32000), r"float \(B, samples\), got torch.float32 \(32000,\)"),
        (read_sounds, torch.zeros(1, 32000, dtype=torch.int16), r"got torch.int16 \(1, 32000\)"),
    ],
)
def test_media_of_another_form_are_refused(read, media, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(media)
