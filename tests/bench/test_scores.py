"""Scoring, checked with outputs that are the truth and with outputs of other scenes."""

import numpy as np
import pytest

from codi.bench import scores
from codi.bench.runs import Run, generate, parse_cell, truth_sampler
from codi.types import InputError, Modality
from codi.world import sample_scenes

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
EVERYTHING = Run(inputs=(TEXT,), outputs=tuple(Modality))


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(36, seed=7)


@pytest.fixture(scope="module")
def truth(scenes):
    return generate(EVERYTHING, scenes, 0, truth_sampler, 16)[0]


@pytest.fixture(scope="module")
def strangers():
    """Readings of other scenes: a generator that ignores its prompt."""
    return generate(EVERYTHING, sample_scenes(36, seed=8), 0, truth_sampler, 16)[0]


def test_there_are_225_cells_each_once():
    cells = scores.all_cells()
    assert len(cells) == len({c.name for c in cells}) == 225
    assert all(parse_cell(c.name) == c for c in cells)


def test_cells_may_be_none():
    assert scores.chosen_cells("none") == [] and len(scores.chosen_cells("fast")) == 15


def test_a_picture_is_asked_only_for_what_it_shows():
    assert scores.asked((TEXT,), IMAGE) == scores.asked((IMAGE,), AUDIO) == ("shape", "colour", "place")
    assert scores.asked((IMAGE, AUDIO), VIDEO) == ("shape", "colour", "place", "motion", "tempo")
    assert scores.asked((TEXT,), VIDEO, facts=("shape",)) == ("shape",)


@pytest.mark.parametrize(
    "name, seen",
    [
        ("text->video", True),
        ("video->text", True),
        ("image->image", True),
        ("video->audio", True),
        ("image->audio", False),
        ("image->video", False),
        ("text->image+text", True),
        ("audio->video+audio", True),
        ("text->video+audio", False),
        ("text->text+video", False),
        ("text+image->image", False),
        ("text->text+image+audio", False),
    ],
)
def test_what_training_saw(name, seen):
    assert scores.is_seen(parse_cell(name)) is seen


@pytest.mark.parametrize("name", ["text", "text->", "->image", "text->smell", "text+text->image", "a->b->c"])
def test_a_wrong_cell_is_a_users_mistake(name):
    with pytest.raises(InputError):
        parse_cell(name)


def test_truth_scores_one_and_strangers_score_chance(scenes, truth, strangers):
    for name in ("text->image", "image+audio->text+video", "text->text+image+audio+video"):
        right = scores.score_cell(parse_cell(name), truth, truth, scenes)
        wrong = scores.score_cell(parse_cell(name), strangers, truth, scenes)
        assert right["value"] > 0.98 and right["ratio"] == 1.0
        assert (
            abs(wrong["value"] - right["chance"]) < 0.15 and abs(right["shuffled"] - right["chance"]) < 0.15
        )


def test_tasks_of_the_published_table_are_met_by_the_truth(scenes, truth):
    lines = [line for task in scores.TASKS for line in scores.score_task(task, truth, truth, scenes)]
    assert len(lines) == 3 + 4 + 3 + 3 * 3 + 2 * 2 + 3
    assert all(
        line["met"] and line["low"] <= line["value"] <= line["high"] and line["shuffled"] < 0.5
        for line in lines
    )


def test_summary_finds_the_worst_cell_and_those_never_seen(scenes, truth, strangers):
    cells = [
        scores.score_cell(parse_cell(n), r, truth, scenes)
        for n, r in (("text->image", truth), ("image->audio", strangers))
    ]
    summary = scores.summarise(cells)
    assert (
        summary["all"]["worst"] == "image->audio"
        and summary["never_seen"]["count"] == summary["seen"]["count"] == 1
    )
    assert np.isclose(summary["all"]["value"], (cells[0]["value"] + cells[1]["value"]) / 2)
