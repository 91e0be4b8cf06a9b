"""Agreement on what the prompt left open, measured on scenes whose facts are known."""

import math

import numpy as np
import pytest

from codi.bench.runs import generate, truth_sampler
from codi.bench.timing import ALL_FOUR
from codi.bench.together import (
    OPEN_FACTS,
    QUANTITIES,
    Four,
    Open,
    all_shared,
    columns,
    open_line,
    output_sets,
    shared_attributes,
)
from codi.types import Modality
from codi.world import ATTRIBUTES, Reading, sample_scenes
from tests.bench.perfect import Perfect, bench_of

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
COUNT = 36


@pytest.fixture(scope="module")
def truth():
    return generate(ALL_FOUR, sample_scenes(COUNT, seed=7), 0, truth_sampler, 18)[0]


@pytest.fixture(scope="module")
def strangers():
    return generate(ALL_FOUR, sample_scenes(COUNT, seed=8), 0, truth_sampler, 18)[0]


def line_of(made, outputs, apart, truth, draws=1):
    return open_line(columns(made, outputs), outputs, apart, truth, truth, draws=draws)


def test_attributes_agree_within_a_sample_and_their_spread_is_that_of_the_world(truth, strangers):
    apart = {m: (truth if m is VIDEO else strangers)[m] for m in Modality}
    line = line_of([truth], (AUDIO, VIDEO), apart, truth)
    assert set(line["attributes"]) == {"colour", "place", "motion", "tempo", "first event"}
    for name, attribute in line["attributes"].items():
        assert (
            attribute["value"] > 0.9 and attribute["independent"] < 0.75 and attribute["shuffled"] < 0.75
        ), name
        assert attribute["low"] <= attribute["value"] <= attribute["high"]
        assert all(v < attribute["spread"]["honest"] + 0.15 for v in attribute["spread"].values())
    assert line["all"]["value"] > 0.9 > line["all"]["independent"]


def test_the_column_counts_where_a_clip_bounces_and_nowhere_else(truth, strangers):
    column = line_of([truth], (IMAGE, VIDEO), strangers, truth)["attributes"]["column"]
    assert column["value"] == column["truth"] == 1.0 and column["shuffled"] < 0.6 and column["chance"] < 0.5
    # nothing bounces: the question never arises
    still = {**truth, VIDEO: [Reading(facts=r.facts) for r in truth[VIDEO]]}
    assert math.isnan(line_of([still], (IMAGE, VIDEO), strangers, truth)["attributes"]["column"]["value"])


def test_always_the_same_answer_agrees_but_shows_in_the_spread(truth, strangers):
    same = {m: [truth[m][0]] * COUNT for m in Modality}
    line = line_of([same], (AUDIO, VIDEO), strangers, truth)
    colour, event = line["attributes"]["colour"], line["attributes"]["first event"]
    assert colour["value"] == 1.0 and min(colour["spread"]["audio"], colour["spread"]["video"]) > 0.8
    assert min(event["spread"]["audio"], event["spread"]["video"]) > 0.7 > event["spread"]["honest"]


def test_samples_of_several_seeds_count_once_per_scene(truth, strangers):
    once, thrice = (
        line_of([truth] * n, (AUDIO, VIDEO), strangers, truth, draws=n)["attributes"]["tempo"] for n in (1, 3)
    )
    assert (once["value"], once["low"], once["high"]) == pytest.approx(
        (thrice["value"], thrice["low"], thrice["high"])
    )


def test_all_four_agree_only_if_every_two_do(truth, strangers):
    outputs = ALL_FOUR.outputs
    assert all_shared(columns([truth], outputs), outputs).mean() > 0.9
    odd = {**truth, IMAGE: strangers[IMAGE]}
    assert all_shared(columns([odd], outputs), outputs).mean() < 0.2


def test_pairs_triples_and_all_four_are_made_or_read_from_all_four():
    assert [len(s) for s in output_sets()] == [2] * 6 + [3] * 4 + [4]
    full, fast = (Open(count=1, draws=3, every=every) for every in (True, False))
    assert len(full.together) == 11 and list(fast.together) == [tuple(Modality)]
    assert next(iter(full.together)) == tuple(Modality)  # first, because everything can be read from it
    draws = {run.draw for runs in full.together.values() for run in runs} | {
        run.draw for run in full.apart.values()
    }
    assert len(draws) == 3 + 4


# Closed forms ----------------------------------------------------------

RIGHT = dict(shape="ball", colour="red", place="snow", motion="blink", tempo="fast")


def reading(start=0.3, x=0.5, **changes):
    return Reading(facts=RIGHT | changes, events=np.array([] if start is None else [start]), x=x)


def test_what_outputs_share_is_what_all_of_them_show_and_nobody_said():
    assert shared_attributes((AUDIO, VIDEO)) == tuple(ATTRIBUTES)
    assert shared_attributes((IMAGE, VIDEO), told=OPEN_FACTS) == ("colour", "place")
    assert shared_attributes((TEXT, IMAGE, AUDIO)) == ("shape", "colour", "place")
    assert shared_attributes((TEXT, AUDIO), told=ATTRIBUTES) == ()


def test_agreement_controls_and_spread_of_four_samples():
    """Two of four clips have the colour of their sound, and one of those that were drawn apart."""
    sounds = [reading(colour=c) for c in ("red", "red", "blue", "blue")]
    clips = [reading(colour=c) for c in ("red", "pink", "blue", "pink")]
    apart = {AUDIO: sounds, VIDEO: [reading(colour=c) for c in ("red", "green", "pink", None)]}
    truth = {AUDIO: sounds, VIDEO: sounds}
    line = open_line([sounds, clips], (AUDIO, VIDEO), apart, truth, truth, draws=1)
    colour = line["attributes"]["colour"]
    assert (colour["value"], colour["independent"], colour["truth"], colour["ceiling"]) == (
        0.5,
        0.25,
        1.0,
        1.0,
    )
    assert colour["low"] <= 0.5 <= colour["high"] and (line["all"]["value"], line["all"]["independent"]) == (
        0.5,
        0.25,
    )
    red, blue, pink = 5 / 42, 5 / 42, 5 / 42  # each is held out in one of six shapes
    assert colour["chance"] == pytest.approx((6 * 25 + 2 * 36) / 42**2)
    assert colour["spread"]["audio"] == pytest.approx(1 - red - blue)
    assert colour["spread"]["video"] == pytest.approx(1 - red - blue - pink)
    assert "shape" not in line["attributes"] and line["attributes"]["tempo"]["value"] == 1.0


@pytest.mark.parametrize("apart, agree", [(0.06, 1.0), (0.07, 0.0), (None, 0.0)])
def test_first_events_agree_within_half_a_frame(apart, agree):
    made = [[reading(0.3)] * 5, [reading(None if apart is None else 0.3 + apart)] * 5]
    truth = {m: [reading(0.2 + 0.05 * k) for k in range(5)] for m in Modality}
    line = open_line(made, (AUDIO, VIDEO), truth, truth, truth, draws=1)["attributes"]["first event"]
    assert (line["value"], line["truth"], line["independent"]) == (agree, 1.0, 1.0)
    assert 0 < line["chance"] < 0.7 and QUANTITIES["first event"].asks is None
    assert line["spread"]["audio"] == pytest.approx(0.8)  # all in one of five parts


@pytest.mark.parametrize("apart, agree", [(0.04, 1.0), (0.06, 0.0)])
def test_columns_agree_within_a_twentieth_and_count_where_the_clip_bounces(apart, agree):
    truth = {m: [reading(x=0.3 + 0.1 * k) for k in range(4)] for m in Modality}
    images = [reading(x=0.5)] * 4
    clips = [reading(x=0.5 + apart), reading(x=0.5 + apart), reading(x=None), reading(x=None)]
    line = open_line([images, clips], (IMAGE, VIDEO), truth, truth, truth, draws=1)["attributes"]["column"]
    assert line["value"] == agree and line["truth"] == 1.0
    assert (
        "column" not in open_line([images, clips], (AUDIO, VIDEO), truth, truth, truth, draws=1)["attributes"]
    )


def test_all_of_several_outputs_agree_only_where_every_two_do():
    odd = [reading(), reading(tempo="slow"), reading(colour="blue"), reading(shape=None)]
    plain = [reading()] * 4
    made = [plain, plain, odd, plain]  # text, image, audio, video
    assert all_shared(made, tuple(Modality)).tolist() == [1, 0, 0, 0]
    # A picture shows no tempo, so with the sound it does not disagree on it.
    assert all_shared([plain, odd], (IMAGE, AUDIO)).tolist() == [1, 1, 0, 0]


def test_readings_of_several_draws_stand_one_after_another():
    first, second = ({AUDIO: [n], VIDEO: [n + 1]} for n in (1, 3))
    assert columns([first, second], (VIDEO, AUDIO)) == [[2, 4], [1, 3]]


def test_a_perfect_model_agrees_as_ground_truth_does(tmp_path):
    bench = bench_of(tmp_path, Perfect(), num_scenes=4)
    line = Four(count=4, draws=2).score(bench)
    assert line["value"] == line["truth"] == line["ceiling"] == line["independent"] and line["shuffled"] < 1
    assert bench.model.samples == 2 * 4 + 4 * 4
    assert [run.draw for run, _ in Four(count=4, draws=2).plan()] == [0, 1, 0, 0, 0, 0]
