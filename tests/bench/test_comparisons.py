"""Models beside each other, and one candidate beside several: what is made, and which way differences go."""

from dataclasses import replace

import numpy as np
import pytest

from codi.bench.ablation import GUIDED, IN_STEP, VariantRuns, parse_variants
from codi.bench.choosing import CANDIDATES, Selection, choice_line, gains
from codi.bench.make import merged
from codi.bench.runs import delayed, generate, render, truth_sampler
from codi.bench.timing import BOTH, DIRECTIONS, pair_of
from codi.metrics.onsets import onset_f1
from codi.types import InputError, Modality
from codi.world import Reading, sample_scenes
from tests.bench.perfect import Perfect, bench_of

TEXT, AUDIO, VIDEO = Modality.TEXT, Modality.AUDIO, Modality.VIDEO
COUNT = 12
SCENES = sample_scenes(COUNT, seed=3)
SOUND, CLIP, DECODED = 0.04, 0.06, 0.02  # seconds


class Late(Perfect):
    """Gives sounds and clips a little late, and sounds from its autoencoder, too."""

    def sample(self, run, scenes, seeds):
        later = [replace(scene, start=scene.start + CLIP) for scene in scenes]
        media = super().sample(run, scenes, seeds)
        media |= {m: render(m, later) for m in media if m is VIDEO}
        return media | {m: delayed(media[m], SOUND) for m in media if m is AUDIO}

    def round_trip(self, modality, media):
        return delayed(media, DECODED) if modality is AUDIO else media


@pytest.fixture(scope="module")
def truth():
    return generate(BOTH, SCENES, 0, truth_sampler, 16)[0]


# Variants of an ablation -----------------------------------------------


def test_variants_are_folders_with_names_of_their_own():
    first, second = parse_variants(["runs/a/", "b=with = sign"])
    assert (first.name, first.folder) == ("a", "runs/a/")
    assert (second.name, second.folder) == ("with = sign", "b")
    assert parse_variants([]) == []


@pytest.mark.parametrize(
    "texts, message",
    [
        (["a", "=b"], "--ablation '=b': expected DIR or DIR=name"),
        (["x/a", "y/a"], "--ablation has two models called 'a': give one another name, DIR=name"),
        (["a", "b=a"], "two models called 'a'"),
    ],
)
def test_variants_that_cannot_be_told_apart_are_refused(texts, message):
    with pytest.raises(InputError, match=message):
        parse_variants(texts)


def test_joint_attention_alone_differs_between_variants():
    work = VariantRuns(count=5, draws=2)
    assert list(work.runs) == [IN_STEP, "joint", *DIRECTIONS, GUIDED]
    for name, runs in work.runs.items():
        assert [run.draw for run in runs] == [0, 1]
        assert {run.sync_guidance for run in runs} == {3.0 if name == GUIDED else 1.0}
        assert all(run.in_step == (name == IN_STEP) for run in runs)
        assert all(run.led == (name in DIRECTIONS) for run in runs)  # no auxiliary caption beside two outputs
    assert len(merged(work.plan())) == 10 and {count for _, count in work.plan()} == {5}
    sound, clip = work.apart
    assert sound.draw != clip.draw and [run for run, _ in work.floor_plan()] == [sound, clip]


def test_sound_minus_picture_whichever_of_them_was_made_and_which_was_given(tmp_path):
    bench = bench_of(tmp_path, Late(), num_scenes=5, batch_size=16)
    work = VariantRuns(count=5, draws=1)
    biases = {name: line["bias"] for name, line in work.score(bench).items()}
    assert biases == pytest.approx(
        {
            IN_STEP: SOUND - CLIP,
            "joint": SOUND - CLIP,
            "video->audio": SOUND,
            "audio->video": -CLIP,
            GUIDED: SOUND - CLIP,
        },
        abs=0.01,
    )
    controls = work.controls(bench)
    ceiling = {name: line["bias"] for name, line in controls["ceiling"].items()}
    late = {IN_STEP: DECODED, "joint": DECODED, "video->audio": DECODED, "audio->video": 0.0}
    assert ceiling == pytest.approx(late, abs=0.01)
    assert list(controls) == ["independent", "ceiling"] and list(controls["independent"]) == [
        IN_STEP,
        "joint",
    ]
    assert controls["independent"]["joint"]["bias"] == pytest.approx(SOUND - CLIP, abs=0.01)
    assert bench.model.samples == 7 * 5


def test_several_draws_are_scored_against_the_same_given_clips(tmp_path):
    bench = bench_of(tmp_path, Perfect(), num_scenes=2)
    once, twice = (VariantRuns(count=2, draws=draws).score(bench) for draws in (1, 2))
    for name in once:
        assert twice[name]["samples"] == 2 * once[name]["samples"] == 4
        assert twice[name]["f1"] == once[name]["f1"] and twice[name]["bias"] == pytest.approx(
            once[name]["bias"], nan_ok=True
        )


# One candidate against several -----------------------------------------


def test_the_single_candidate_is_the_first_of_several():
    selection = Selection(count=4)
    for one, several in selection.runs.values():
        assert replace(several, candidates=1) == one and several.candidates == CANDIDATES
        assert one.draw == several.draw == 0
    assert len(selection.plan()) == 4 and selection.runs["shape alone"][0].facts == ("shape",)


def test_gains_are_the_differences_of_the_two_lines_scene_by_scene(truth):
    strangers = {m: rows[1:] + rows[:1] for m, rows in truth.items()}
    silent = [Reading(facts=r.facts) for r in truth[AUDIO][:3]]  # fewer events than in the clips
    mixed = {AUDIO: silent + truth[AUDIO][3:], VIDEO: strangers[VIDEO]}
    one, several = (choice_line(BOTH, readings, SCENES) for readings in (mixed, truth))
    gain = gains(BOTH, mixed, truth, SCENES)
    for key in ("prompt_agreement", "mutual_agreement"):
        assert gain[key].value == pytest.approx(several[key]["value"] - one[key]["value"])
        assert gain[key].value > 0 and gain[key].low <= gain[key].value <= gain[key].high
    scores = [onset_f1(*pair_of([readings]), 0.125).f1 for readings in (mixed, truth)]
    assert gain["f1"].value == pytest.approx(scores[1] - scores[0]) and gain["f1"].value > 0
    back = gains(BOTH, truth, mixed, SCENES)
    assert all(back[key].value == pytest.approx(-gain[key].value) for key in gain)
    nothing = gains(BOTH, truth, truth, SCENES)
    assert all(x.value == x.low == x.high == 0 for x in nothing.values())


def test_outputs_may_agree_with_each_other_and_not_with_the_prompt(truth):
    """Both are of the same wrong scene: selection by mutual agreement alone would be content."""
    wrong = {m: rows[1:] + rows[:1] for m, rows in truth.items()}
    line = choice_line(BOTH, wrong, SCENES)
    assert line["mutual_agreement"]["value"] > 0.9 > 0.6 > line["prompt_agreement"]["value"]
    assert line["candidates"] == 1 and line["f1"]["125 ms"] > 0.9


def test_an_attribute_that_was_not_read_agrees_with_nothing(truth):
    blind = {m: [Reading(facts=r.facts | {"shape": None}) for r in rows] for m, rows in truth.items()}
    line, whole = (choice_line(BOTH, readings, SCENES) for readings in (blind, truth))
    for key in ("prompt_agreement", "mutual_agreement"):
        assert line[key]["value"] == pytest.approx(whole[key]["value"] - 0.2, abs=0.02)
    assert line["f1"]["125 ms"] == 0.0 and np.isfinite(whole["f1"]["125 ms"])
