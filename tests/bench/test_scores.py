"""Scoring, checked with outputs that are the truth and with outputs of other scenes."""

import numpy as np
import pytest

from codi.bench import scores
from codi.bench.runs import Run, generate, parse_cell, truth_sampler
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, Reading, is_held_out, sample_scenes

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


def read_wrongly(scenes, *names):
    """Readings that are right but for some attributes, which were not read at all."""
    return [Reading(facts=s.facts | dict.fromkeys(names)) for s in scenes]


def test_a_score_is_the_mean_over_outputs_of_the_mean_over_their_attributes(scenes):
    run = parse_cell("text->image+audio")
    made = {IMAGE: read_wrongly(scenes, "shape"), AUDIO: read_wrongly(scenes, "tempo", "place")}
    rows = scores.cell_rows(run, made, scores.facts_of(scenes))
    assert rows.shape == (36,) and np.allclose(rows, (2 / 3 + 3 / 5) / 2)
    line = scores.score_cell(run, made, {m: read_wrongly(scenes, "shape") for m in made}, scenes)
    assert line["value"] == pytest.approx((2 / 3 + 3 / 5) / 2) and line["ceiling"] == pytest.approx(
        (2 / 3 + 4 / 5) / 2
    )
    assert line["ratio"] == pytest.approx(line["value"] / line["ceiling"])
    assert line["attributes"]["image"] == {"shape": 0.0, "colour": 1.0, "place": 1.0}
    assert line["attributes"]["audio"]["tempo"] == 0.0 and line["attributes"]["audio"]["motion"] == 1.0
    named = scores.cell_rows(
        Run(inputs=(TEXT,), outputs=(AUDIO,), facts=("place",)), made, scores.facts_of(scenes)
    )
    assert np.allclose(named, 0.0)


def test_chance_is_the_commonest_value_that_training_may_show():
    assert (
        scores.chance(["place"]) == scores.chance(["motion"]) == 1 / 4 and scores.chance(["tempo"]) == 1 / 2
    )
    assert scores.chance(["tempo", "place"]) == pytest.approx(3 / 8)
    assert scores.chance(["shape"]) == pytest.approx(1 / 6)  # each is held out in one of its colours
    assert scores.chance(["colour"]) == pytest.approx(6 / 42)  # green and purple are held out in no shape


def test_attributes_together_are_right_only_at_once(scenes):
    task = next(task for task in scores.TASKS if task.together)
    half = read_wrongly(scenes[:18], "shape") + read_wrongly(scenes[18:], "tempo")
    (line,) = scores.score_task(task, {IMAGE: half}, {IMAGE: read_wrongly(scenes)}, scenes)
    assert (line["measure"], line["value"], line["ceiling"]) == ("shape and colour", 0.5, 1.0)
    assert line["target"] == 0.75 and not line["met"] and line["task"] == "text->image!"
    pairs = [(s.shape, s.colour) for s in scenes]
    assert line["chance"] == max(pairs.count(pair) for pair in pairs) / 36
    assert task.run == Run(inputs=(TEXT,), outputs=(IMAGE,), held_out=True)


def test_a_target_is_met_at_its_limit_and_outputs_are_named_where_there_are_several(scenes):
    task = scores.Task(cell="text->image+audio", output=AUDIO, attributes={"tempo": 0.5, "shape": 0.51})
    half = read_wrongly(scenes[:18], "tempo", "shape") + read_wrongly(scenes[18:])
    tempo, shape = scores.score_task(task, {AUDIO: half}, {AUDIO: half}, scenes)
    assert (tempo["measure"], tempo["value"], tempo["met"]) == ("audio: tempo", 0.5, True)
    assert (shape["measure"], shape["value"], shape["met"]) == ("audio: shape", 0.5, False)


def test_groups_without_cells_have_no_summary():
    assert scores.summarise([]) == {"all": None, "never_seen": None, "seen": None}
    line = dict(cell="a", seen=True, value=0.5, ceiling=0.0, shuffled=0.1, chance=0.2)
    summary = scores.summarise([line, line | {"cell": "b", "value": 0.3}])
    assert summary["never_seen"] is None and summary["seen"] == summary["all"]
    assert summary["seen"]["worst"] == "b" and summary["seen"]["value"] == 0.4
    assert np.isfinite(summary["seen"]["ratio"])  # also where nothing can be read at all


def test_facts_are_those_of_scenes_in_the_order_of_the_world():
    scenes = sample_scenes(3, seed=1, held_out=True)
    assert (
        all(map(is_held_out, scenes)) and [list(f) for f in scores.facts_of(scenes)] == [list(ATTRIBUTES)] * 3
    )
    assert scores.facts_of(scenes) == [s.facts for s in scenes]
