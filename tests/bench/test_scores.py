"""Scoring, checked with outputs that are the truth and with outputs of other scenes."""

import numpy as np
import pytest

from codi.bench import joint, scores
from codi.bench.runs import Run, Store, generate, parse_cell, read, render, seeds_of, truth_sampler
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


def test_a_picture_is_asked_only_for_what_it_shows():
    assert scores.asked((TEXT,), IMAGE) == scores.asked((IMAGE,), AUDIO) == ("shape", "colour", "place")
    assert scores.asked((IMAGE, AUDIO), VIDEO) == ("shape", "colour", "place", "motion", "tempo")
    assert scores.asked((TEXT,), VIDEO, facts=("shape",)) == ("shape",)


@pytest.mark.parametrize(
    "name, seen",
    [
        ("text->video", True), ("video->text", True), ("image->image", True), ("video->audio", True), ("image->audio", False),
        ("image->video", False), ("text->image+text", True), ("audio->video+audio", True), ("text->video+audio", False),
        ("text->text+video", False), ("text+image->image", False), ("text->text+image+audio", False),
    ],
)  # fmt: skip
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
        assert abs(wrong["value"] - right["chance"]) < 0.15 and abs(right["shuffled"] - right["chance"]) < 0.15


def test_tasks_of_the_published_table_are_met_by_the_truth(scenes, truth):
    lines = [line for task in scores.TASKS for line in scores.score_task(task, truth, truth, scenes)]
    assert len(lines) == 3 + 4 + 3 + 3 * 3 + 2 * 2 + 1
    assert all(line["met"] and line["low"] <= line["value"] <= line["high"] and line["shuffled"] < 0.5 for line in lines)


def test_summary_finds_the_worst_cell_and_those_never_seen(scenes, truth, strangers):
    cells = [scores.score_cell(parse_cell(n), r, truth, scenes) for n, r in (("text->image", truth), ("image->audio", strangers))]
    summary = scores.summarise(cells)
    assert summary["all"]["worst"] == "image->audio" and summary["never_seen"]["count"] == summary["seen"]["count"] == 1
    assert np.isclose(summary["all"]["value"], (cells[0]["value"] + cells[1]["value"]) / 2)


def test_onsets_of_one_scene_agree_and_those_of_strangers_do_not(truth, strangers):
    lines = joint.onset_table([truth, truth], [truth, truth], [strangers, strangers], truth, truth)
    assert lines["joint"]["f1"] == lines["ground truth"]["f1"] and lines["joint"]["f1"]["125 ms"] > 0.9
    for control in ("independent", "shuffled partners", "shuffled, best constant offset"):
        assert lines[control]["f1"]["125 ms"] < 0.65
    assert abs(lines["joint"]["bias"]) < 0.03 and lines["joint"]["curve"][-1] >= lines["joint"]["curve"][0]
    partners = joint.partner_table({"video->audio": [truth], "audio->video": [strangers]}, truth, truth)
    assert partners["video->audio"]["f1"]["125 ms"] > 0.9 > 0.65 > partners["audio->video"]["f1"]["125 ms"]


def test_open_attributes_agree_within_a_sample_and_spread_is_that_of_the_world(truth, strangers):
    alone = {m: [truth if m is VIDEO else strangers] for m in Modality}
    line = joint.open_line([truth], alone, (AUDIO, VIDEO), truth, truth)
    assert set(line["attributes"]) == {"colour", "place", "motion", "tempo"}
    for attribute in line["attributes"].values():
        assert attribute["value"] > 0.95 and attribute["independent"] < 0.75 and attribute["shuffled"] < 0.75
        assert all(v < attribute["spread"]["honest"] + 0.15 for v in attribute["spread"].values())
    assert line["all"]["value"] > 0.9 > line["all"]["independent"]
    assert joint.shared_line(truth, tuple(Modality))["value"] > 0.9


def test_a_finished_run_is_read_back_and_other_settings_are_not(tmp_path, scenes):
    run = parse_cell("text->audio+video")
    readings, shown = generate(run, scenes[:4], 0, truth_sampler, 3)
    Store(tmp_path, {"seed": 0}).save(run, readings, shown)
    again = Store(tmp_path, {"seed": 0}).load(run)
    assert [r.facts for r in again[VIDEO]] == [r.facts for r in readings[VIDEO]]
    assert all(np.allclose(a.events, b.events, atol=1e-4) for a, b in zip(again[AUDIO], readings[AUDIO]))
    assert Store(tmp_path, {"seed": 1}).load(run) is None and Store(tmp_path, {"seed": 0}).load(run.redrawn(1)) is None
    media = Store(tmp_path, {"seed": 0}).shown(run)
    assert np.array_equal(media[VIDEO], render(VIDEO, scenes[:3])) and len(read(AUDIO, render(AUDIO, scenes[:2]))) == 2


def test_draws_never_share_a_seed():
    run = parse_cell("text->video")
    seeds = [s for draw in (0, 1, 100, 101, 200) for s in seeds_of(run.redrawn(draw), 256, 2305)]
    assert len(set(seeds)) == len(seeds) and max(seeds) < 2**63
