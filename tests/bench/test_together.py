"""Agreement on what the prompt left open, measured on scenes whose facts are known."""

import math

import pytest

from codi.bench.runs import generate, truth_sampler
from codi.bench.timing import ALL_FOUR
from codi.bench.together import Open, all_shared, columns, open_line, output_sets
from codi.types import Modality
from codi.world import Reading, sample_scenes

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
