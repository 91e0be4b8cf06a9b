"""The contract of scenes: tables, held-out pairs, sampling, and when events happen."""

import numpy as np
import pytest

from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, COLOURS, SHAPES, VISIBLE, Scene, events, is_held_out, sample_scenes
from codi.world.motion import bounce_height
from codi.world.scene import column, indices

FACTS = dict(shape="ball", colour="red", place="snow", motion="blink", tempo="slow", start=0.3, x=0.5, seed=0)


@pytest.mark.parametrize("name, values", ATTRIBUTES.items(), ids=list(ATTRIBUTES))
def test_unknown_value_is_named(name: str, values: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"unknown {name} 'egg': expected one of {', '.join(values)}$"):
        Scene(**FACTS | {name: "egg"})


def test_scenes_as_columns_of_numbers() -> None:
    scenes = sample_scenes(5, 2)
    for name, values in ATTRIBUTES.items():
        assert [values[k] for k in indices(scenes, name)] == [s.facts[name] for s in scenes]
    assert indices(scenes, "shape").dtype == np.int64 and indices([], "shape").shape == (0,)
    assert column(scenes, "start").tolist() == [s.start for s in scenes]
    assert column(scenes, "x").tolist() == [s.x for s in scenes] and column([], "x").shape == (0,)


def test_every_value_is_drawn_equally_often() -> None:
    scenes = sample_scenes(4000, 6, None)
    for name, values in ATTRIBUTES.items():
        counts = np.bincount(indices(scenes, name), minlength=len(values))
        expected = len(scenes) / len(values)
        assert np.abs(counts - expected).max() < 4 * np.sqrt(expected), name
    assert sum(map(is_held_out, scenes)) / len(scenes) == pytest.approx(1 / 8, abs=0.02)
    assert len({s.seed for s in scenes}) == len(scenes)


def test_image_shows_no_motion_and_all_names_exist() -> None:
    assert VISIBLE[Modality.IMAGE] == ("shape", "colour", "place")
    assert all(set(names) <= set(ATTRIBUTES) for names in VISIBLE.values())


def test_one_colour_of_each_shape_is_held_out() -> None:
    held = {
        (i, j)
        for i, s in enumerate(SHAPES)
        for j, c in enumerate(COLOURS)
        if is_held_out(Scene(**FACTS | {"shape": s, "colour": c}))
    }
    assert held == {(0, 0), (1, 5), (2, 2), (3, 7), (4, 4), (5, 1)}


@pytest.mark.parametrize("held_out", [True, False])
def test_sampling_respects_the_rule_and_the_ranges(held_out: bool) -> None:
    scenes = sample_scenes(200, 3, held_out)
    assert all(is_held_out(s) == held_out for s in scenes)
    assert all(0.15 <= s.start <= 0.5 and 0.3 <= s.x <= 0.7 for s in scenes)
    for name, values in ATTRIBUTES.items():
        never = {"green", "purple"} if held_out else set()  # six shapes hold out six of the eight colours
        assert {getattr(s, name) for s in scenes} == set(values) - never


def test_sampling_is_a_function_of_the_seed() -> None:
    assert sample_scenes(5, 1) == sample_scenes(5, 1) != sample_scenes(5, 2)
    assert sample_scenes(9, 1)[:5] == sample_scenes(5, 1)
    assert {is_held_out(s) for s in sample_scenes(100, 0, None)} == {True, False}


@pytest.mark.parametrize(
    "motion, tempo, start, times, amplitudes",
    [
        ("bounce", "slow", 0.2, [0.2, 0.9, 1.46], [1, 0.8, 0.64]),
        ("bounce", "fast", 0.15, [0.15, 0.6, 0.96, 1.248], [1, 0.8, 0.64, 0.512]),
        ("swing", "slow", 0.5, [0.5, 1.1, 1.7], [0.8] * 3),
        ("swing", "fast", 0.37, [0.37, 0.72, 1.07, 1.42, 1.77], [0.8] * 5),
        ("swing", "fast", 0.45, [0.10, 0.45, 0.8, 1.15, 1.5], [0.8] * 5),
        ("pulse", "slow", 0.45, [0.45, 0.75, 1.55], [0.9, 0.6, 0.9]),
        ("pulse", "fast", 0.15, [0.15, 0.45, 0.85, 1.15, 1.55], [0.9, 0.6, 0.9, 0.6, 0.9]),
        ("blink", "slow", 0.19, [0.19, 0.99, 1.79], [0.8] * 3),
        ("blink", "fast", 0.5, [0.5, 1.0, 1.5], [0.8] * 3),
    ],
)
def test_events(motion: str, tempo: str, start: float, times: list, amplitudes: list) -> None:
    got = events(Scene(**FACTS | {"motion": motion, "tempo": tempo, "start": start}))
    assert np.allclose(got, np.stack([times, amplitudes], 1))


def test_a_bouncing_ball_touches_the_floor_at_its_events_only() -> None:
    scene = Scene(**FACTS | {"motion": "bounce", "tempo": "fast"})
    hits = np.array([t for t, _ in events(scene)])
    tempo, start = np.array([1]), np.array([scene.start])
    assert np.allclose(bounce_height(tempo, start, hits[None]), 0, atol=1e-9)
    assert (bounce_height(tempo, start, (hits[:-1] + hits[1:])[None] / 2) > 0.05).all()
    assert np.isclose(bounce_height(tempo, start, np.zeros((1, 1)))[0, 0], 0.42)
