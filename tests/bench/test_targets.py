"""Every published target: met at its limit, missed just below it, and left out where nothing was measured."""

import copy

import pytest

from codi.bench.targets import targets

NOTHING = {"summary": {"all": None, "never_seen": None, "seen": None}}
F1 = {"125 ms": 0.92, "62.5 ms": 0.85}


def spread(value):
    return {"value": 0.9, "spread": {"honest": 0.5, "audio": value, "video": 0.1}}


REPORT = {
    "summary": {
        "all": {"count": 225, "ratio": 0.85, "worst": "video->text", "worst_value": 0.60},
        "never_seen": {"count": 150, "ratio": 0.90},
        "seen": {"count": 75, "ratio": 0.1},
    },
    "onsets": {
        "joint": {"f1": F1, "bias": -0.015},
        "independent": {"f1": {"125 ms": 0.67, "62.5 ms": 0.5}},
        "ground truth through autoencoders": {"f1": {"125 ms": 1.0, "62.5 ms": 1.0}},
    },
    "partners": {
        "video->audio": {"f1": {"125 ms": 0.475}},
        "video->audio, ground truth through autoencoder": {"f1": {"125 ms": 0.5}},
        "audio->video": {"f1": {"125 ms": 0.95}},
        "audio->video, ground truth through autoencoder": {"f1": {"125 ms": 1.0}},
    },
    "open": [
        {
            "outputs": ["audio", "video"],
            "made": "by themselves",
            "attributes": {
                "colour": spread(0.15),
                "motion": spread(0.05),
                "tempo": {"value": 0.0, "spread": {"honest": 0.0, "audio": 1.0, "video": 1.0}},
            },
        }
    ],
    "four": {"value": 0.80},
    "prompting": {
        "conflict": [{"monotone": True}, {"monotone": True}],
        "redundancy": [{"hurts": False}] * 3,
        "order": [{"same": 1.0}, {"same": 1.0}],
    },
}
# Where a value lies that misses its target, by how much it is moved, and the measure that says so.
MISSES = [
    (("summary", "all", "ratio"), -0.01, "macro mean of 225 cells, share of the ceiling"),
    (("summary", "all", "worst_value"), -0.01, "worst of 225 cells (video->text)"),
    (("summary", "never_seen", "ratio"), -0.01, "macro mean of 150 cells never seen, share of the ceiling"),
    (("onsets", "independent", "f1", "125 ms"), 0.01, "onset F1 at 125 ms above independent generation"),
    (
        ("onsets", "ground truth through autoencoders", "f1", "125 ms"),
        0.01,
        "audio, onset F1 at 125 ms, share of the ceiling",
    ),
    (("onsets", "joint", "f1", "62.5 ms"), -0.01, "onset F1 at 62.5 ms, share of the ceiling"),
    (("onsets", "joint", "bias"), -0.001, "size of the bias in seconds"),
    (("onsets", "joint", "bias"), 0.031, "size of the bias in seconds"),
    (
        ("partners", "video->audio", "f1", "125 ms"),
        -0.01,
        "video->audio, onset F1 at 125 ms, share of the ceiling",
    ),
    (
        ("partners", "audio->video", "f1", "125 ms"),
        -0.01,
        "audio->video, onset F1 at 125 ms, share of the ceiling",
    ),
    (
        ("open", 0, "attributes", "motion", "value"),
        -0.01,
        "audio + video, by themselves, lowest agreement on an open attribute",
    ),
    (("open", 0, "attributes", "motion", "spread", "video"), 0.1, "widest distance of an open attribute"),
    (("four", "value"), -0.01, "text + image + audio + video together"),
    (("prompting", "conflict", 1, "monotone"), False, "pairs of prompts, of 2, followed less"),
    (
        ("prompting", "redundancy", 2, "hurts"),
        True,
        "added prompts that agree, of 3, that make a result worse",
    ),
    (
        ("prompting", "order", 0, "same"),
        -0.01,
        "samples that stay the same when prompts come in the opposite",
    ),
]


def test_a_report_at_the_limits_meets_every_target():
    lines = targets(REPORT)
    assert len(lines) == 3 + 4 + 2 + 2 + 1 + 3 and all(line["met"] for line in lines)
    limits = [line for line in lines if line["value"] == pytest.approx(line["target"])]
    assert len(limits) == len(lines)
    assert len({line["measure"] for line in lines}) == len(lines)


@pytest.mark.parametrize("path, change, measure", MISSES, ids=[measure for *_, measure in MISSES])
def test_a_value_beyond_its_limit_misses_that_target_alone(path, change, measure):
    report = copy.deepcopy(REPORT)
    *above, last = path
    place = report
    for key in above:
        place = place[key]
    place[last] = change if isinstance(change, bool) else place[last] + change
    missed = [line["measure"] for line in targets(report) if not line["met"]]
    # A lower ceiling or a lower score moves every target that is a share of it.
    assert any(measure in name for name in missed) and len(missed) <= 2


def test_what_was_not_measured_has_no_target():
    assert targets(NOTHING) == []
    assert targets(NOTHING | {"onsets": None, "partners": {}, "open": [], "four": None}) == []
    (line,) = targets(NOTHING | {"four": {"value": 0.5}})
    assert not line["met"] and line["value"] == 0.5 and not line["at_most"]


def test_a_ceiling_of_nothing_is_no_division_by_zero():
    silent = {"f1": {"125 ms": 0.0, "62.5 ms": 0.0}, "bias": float("nan")}
    names = ("joint", "independent", "ground truth through autoencoders")
    lines = targets(NOTHING | {"onsets": dict.fromkeys(names, silent)})
    assert [line["met"] for line in lines] == [False] * 4  # no bias at all is no small bias
