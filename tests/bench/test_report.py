"""Pages of reports: every number stands in its column, what was not measured is left out, nothing is NaN."""

import copy
import math

import pytest

from codi.bench.ablation import GUIDED, IN_STEP
from codi.bench.markup import decimals, milliseconds, percent, percents, section, table, with_interval, yes
from codi.bench.report import ablation_page, markdown, steps_page
from codi.bench.report_joint import onset_table

NAN = float("nan")
HEAD = {
    "model": "tiny",
    "command": "codi bench --out x",
    "settings": {"steps": 20, "guidance": None, "seed": 7},
    "versions": {"codi": "1.0", "torch": "2.9"},
    "seconds": 12.4,
}
CELL = {
    "cell": "text->image",
    "seen": True,
    "value": 0.5,
    "low": 0.25,
    "high": 0.75,
    "ceiling": 0.9,
    "shuffled": 0.1,
    "chance": 0.2,
    "attributes": {"image": {"shape": 0.4, "colour": 0.6}},
}
TASK = {
    "task": "text->image!",
    "measure": "shape",
    "value": 0.7,
    "low": 0.6,
    "high": 0.8,
    "ceiling": 1.0,
    "shuffled": 0.0,
    "chance": 0.125,
    "target": 0.75,
    "met": False,
}
GROUP = {
    "count": 9,
    "value": 0.81,
    "ceiling": 0.9,
    "ratio": 0.9,
    "shuffled": 0.3,
    "chance": 0.25,
    "worst": "video->text",
    "worst_value": 0.11,
}
PLAIN = HEAD | {
    "counts": {"cells and tasks": "256", "onsets": "64 x 3"},
    "tasks": [TASK],
    "targets": [
        {"measure": "bias", "value": 0.01, "target": 0.015, "at_most": True, "met": True},
        {"measure": "mean", "value": 0.8, "target": 0.85, "at_most": False, "met": False},
    ],
    "summary": {"all": GROUP, "never_seen": GROUP | {"count": 4}, "seen": None},
    "cells": [CELL, CELL | {"cell": "image->audio", "seen": False}],
    "ceiling": {"image": {"shape": {"truth": 1.0, "ceiling": 0.93}}},
    "retrieval": {"text->image": {"value": 0.97, "chance": 0.06, "target": 0.9}},
}
ONSETS = {
    "samples": 48,
    "f1": {"50 ms": 0.5, "62.5 ms": 0.625, "125 ms": 0.875},
    "intervals": {"50 ms": [0.4, 0.6], "62.5 ms": [0.5, 0.75], "125 ms": [0.8, 0.95]},
    "bias": -0.0123,
    "bias_interval": [-0.02, 0.001],
    "mae": 0.03,
    "p95": 0.09,
    "count_accuracy": 0.66,
}
SHARE = {"value": 0.9, "low": 0.8, "high": 1.0, "independent": 0.4, "shuffled": 0.3, "truth": 0.99}
SHARE |= {"ceiling": 0.95, "chance": 0.125}
OPEN = {
    "outputs": ["image", "video"],
    "made": "within all four",
    "all": SHARE | {"value": 0.45},
    "attributes": {
        "colour": SHARE | {"spread": {"honest": 0.48, "image": 0.21, "video": 0.1}},
        "place": SHARE | {"value": 0.7, "spread": {"honest": 0.02, "image": 0.11, "video": NAN}},
        "column": SHARE | {"value": NAN, "spread": {"honest": NAN, "image": 0.9, "video": 0.9}},
    },
}
GAIN = {
    key: {"value": 0.1, "low": -0.05, "high": 0.2} for key in ("prompt_agreement", "mutual_agreement", "f1")
}
CHOICE = {"prompt": "shape alone", "prompt_agreement": SHARE, "mutual_agreement": SHARE}
CHOICE |= {key: ONSETS[key] for key in ("f1", "intervals")}
JOINT = {
    "onsets": {"joint": ONSETS, "floor": ONSETS | {"offset": 0.05}},
    "partners": {"video->audio": ONSETS},
    "four": SHARE,
    "open": [OPEN],
    "selection": [CHOICE | {"candidates": 1}, CHOICE | {"candidates": 4, "gain": GAIN}],
    "prompting": {
        "conflict": [
            {
                "prompts": "text against audio",
                "output": "image",
                "weights": [0.0, 1.0],
                "second": [SHARE, SHARE],
                "first": [0.77, 0.02],
                "largest_fall": {"value": -0.3, "low": -0.4, "high": -0.2},
                "monotone": True,
            }
        ],
        "redundancy": [
            {
                "cell": "text->image",
                "added": "audio",
                "alone": 0.9,
                "both": 0.7,
                "change": {"value": -0.2, "low": -0.3, "high": -0.1},
                "hurts": True,
            }
        ],
        "order": [{"cell": "text+image->audio", "same": 0.875}],
        "completion": [
            {
                "output": "audio",
                "prompt": "text",
                "names": ["motion", "tempo"],
                "chance": 0.375,
                "followed": SHARE,
            }
        ],
    },
}


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, header and rule left out."""
    below = page.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in found}) == 1
    return found[2:]


# Numbers ---------------------------------------------------------------


@pytest.mark.parametrize("show", [percent, decimals, milliseconds])
@pytest.mark.parametrize("nothing", [None, NAN])
def test_where_there_is_no_number_there_is_a_dash(show, nothing):
    assert show(nothing) == "-"


def test_numbers_in_their_units():
    assert (percent(0.12345), percent(1.0), percent(0.0)) == ("12.3", "100.0", "0.0")
    assert (decimals(0.12345), decimals(-2.0)) == ("0.123", "-2.000")
    assert (milliseconds(0.0625), milliseconds(-0.01), milliseconds(0.0625, "")) == ("+62.5", "-10.0", "62.5")
    assert percents({"a": 0.1, "b": None}, "b", "a", "c") == ["-", "10.0", "-"]
    assert with_interval({"value": 0.5, "low": 0.25, "high": NAN}) == "50.0 [25.0, -]"
    assert yes(True) == "yes" and yes(False) == "**no**"


def test_tables_and_sections():
    assert table("a | b", [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(AssertionError, match="rows do not fit the header 'a | b'"):
        table("a | b", [["1"]])
    assert section("T", "body") == "## T\n\nbody" and section("T", "body", "note") == "## T\n\nbody\n\nnote"


# The report of one model -----------------------------------------------


def test_the_head_tells_the_command_the_settings_that_are_set_and_the_counts():
    page = markdown(PLAIN, [])
    assert page.startswith("# Benchmark of tiny\n\n```\ncodi bench --out x\n```\n")
    assert "sets of seeds: cells and tasks 256, onsets 64 x 3. Settings: steps 20, seed 7. Made with" in page
    assert "Made with codi 1.0, torch 2.9 in 12 s." in page and page.endswith(
        "|\n\nA hit is a nearest neighbour "
        "with equal values of every attribute that both modalities can show.\n"
    )


def test_every_number_of_a_plain_report_is_in_its_column():
    page = markdown(PLAIN, [])
    scored = ["50.0 [25.0, 75.0]", "90.0", "10.0", "20.0", "image: shape 40.0, colour 60.0"]
    assert rows(page, "Every cell") == [["text->image", "yes", *scored], ["image->audio", "no", *scored]]
    assert rows(page, "Published table") == [
        ["text->image!", "shape", "70.0 [60.0, 80.0]", "100.0", "0.0", "12.5", "75.0", "**no**"]
    ]
    assert rows(page, "Other targets") == [
        ["bias", "0.010", "<= 0.015", "yes"],
        ["mean", "0.800", ">= 0.85", "**no**"],
    ]
    group = ["81.0", "90.0", "90.0", "30.0", "25.0", "video->text", "11.0"]
    assert rows(page, "Cells in summary") == [["all", "9", *group], ["never seen", "4", *group]]
    assert rows(page, "Ceilings: what the probes read") == [["image", "shape", "100.0", "93.0"]]
    assert rows(page, "Retrieval between prompt towers") == [["text->image", "97.0", "6.0", "90.0"]]


@pytest.mark.parametrize(
    "left_out, heading",
    [
        ({"tasks": []}, "Published table"),
        ({"targets": []}, "Other targets"),
        ({"summary": {"all": None}}, "Cells in summary"),
        ({"cells": []}, "Every cell"),
        ({"retrieval": None}, "Retrieval between prompt towers"),
        ({"onsets": None}, "In time"),
        ({"partners": None}, "Sound for a clip, a clip for a sound"),
        ({"four": None}, "All four together"),
        ({"open": []}, "Agreement on what the prompt left open"),
        ({"open": []}, "The same by attribute"),
        ({"selection": []}, "Selection"),
        ({"prompting": None}, "Prompts that disagree"),
        ({"prompting": None}, "One more prompt that agrees"),
        ({"prompting": None}, "Prompts that complete each other"),
    ],
)
def test_a_section_without_data_is_left_out_and_no_other(left_out, heading):
    whole, page = markdown(PLAIN | JOINT, []), markdown(PLAIN | JOINT | left_out, [])
    assert f"## {heading}\n" in whole and f"## {heading}\n" not in page
    gone = whole.count("\n## ") - page.count("\n## ")
    assert gone == {"open": 2, "prompting": 3}.get(*left_out, 1)
    assert "\n\n\n" not in page and "None" not in page and "nan" not in page


def test_the_first_picture_comes_before_all_tables_and_the_others_after_joint_sections():
    page = markdown(PLAIN | JOINT, ["contact_sheet.png", "cells.png", "onset_strips.png"])
    order = [
        "](contact_sheet.png)",
        "## Published",
        "## Prompts that complete",
        "](cells.png)",
        "](onset_strips",
    ]
    places = [page.index(text) for text in [*order, "## Every cell"]]
    assert places == sorted(places) and "*Agreement of each cell: rows are inputs, columns outputs.*" in page


# Joint generation ------------------------------------------------------


def test_the_rows_of_agreement_in_time():
    scored = ["48", "0.500 [0.400, 0.600]", "0.625 [0.500, 0.750]", "0.875 [0.800, 0.950]"]
    scored += ["-12.3 [-20.0, +1.0]", "30.0", "90.0", "66.0"]
    page = markdown(PLAIN | JOINT, [])
    assert rows(page, "In time") == [["joint", *scored], ["floor (+50.0 ms)", *scored]]
    assert rows(page, "Sound for a clip, a clip for a sound") == [["video->audio", *scored]]
    silent = ONSETS | {"bias": NAN, "bias_interval": [NAN, NAN], "mae": NAN, "p95": NAN}
    assert "| - [-, -] | - | - | 66.0 |" in onset_table({"joint": silent})


def test_the_rows_of_agreement_on_what_was_left_open():
    page = markdown(PLAIN | JOINT, [])
    assert rows(page, "All four together") == [["90.0 [80.0, 100.0]", "40.0", "30.0", "99.0", "95.0"]]
    name, controls = ["image+video", "within all four"], ["40.0", "30.0", "12.5", "99.0", "95.0"]
    # The weakest attribute and the widest spread are those of attributes that were asked for at all.
    assert rows(page, "Agreement on what the prompt left open") == [
        [*name, "place 70.0 [80.0, 100.0]", "40.0", "45.0 [80.0, 100.0]", "40.0", "0.21 (colour, image)"]
    ]
    by_attribute = rows(page, "The same by attribute")
    assert [row[:9] for row in by_attribute] == [
        [*name, "colour", "90.0 [80.0, 100.0]", *controls],
        [*name, "place", "70.0 [80.0, 100.0]", *controls],
        [*name, "column", "- [80.0, 100.0]", *controls],
        [*name, "*all of them*", "45.0 [80.0, 100.0]", *controls],
    ]
    assert [row[9] for row in by_attribute] == [
        "image 0.21, video 0.10 (0.48)",
        "image 0.11, video - (0.02)",
        "image 0.90, video 0.90 (-)",
        "",
    ]


def test_the_rows_of_selection_and_of_several_prompts():
    page = markdown(PLAIN | JOINT, [])
    share, f1 = "90.0 [80.0, 100.0]", ["0.875 [0.800, 0.950]", "0.625 [0.500, 0.750]"]
    assert rows(page, "Selection") == [
        ["shape alone", "1", share, share, *f1],
        ["shape alone", "4", share, share, *f1],
        ["shape alone", "*gain*", *["10.0 [-5.0, 20.0]"] * 3, ""],
    ]
    pair = ["text against audio", "image"]
    assert rows(page, "Prompts that disagree") == [
        [*pair, "second", share, share, "-30.0 [-40.0, -20.0]", "yes"],
        [*pair, "first", "77.0", "2.0", "", ""],
    ]
    assert "| weight 0 | weight 1 |" in page and "opposite order: text+image->audio 87.5." in page
    assert rows(page, "One more prompt that agrees") == [
        ["text->image", "audio", "90.0", "70.0", "-20.0 [-30.0, -10.0]", "yes"]
    ]
    assert rows(page, "Prompts that complete each other") == [
        ["text + image -> audio", "text", "motion, tempo", share, "37.5"]
    ]


# Tables of several models and of several numbers of steps --------------


def test_the_table_of_an_ablation_has_a_dash_where_a_control_has_no_such_kind():
    kinds = {IN_STEP: ONSETS, "joint": ONSETS, "video->audio": ONSETS, "audio->video": ONSETS, GUIDED: ONSETS}
    report = HEAD | {"variants": {"new": kinds}, "controls": {"independent": {"joint": ONSETS}}}
    page = ablation_page(report)
    assert (
        page.startswith("# The ablation\n\n```\ncodi bench --out x\n```")
        and "Settings: steps 20, seed 7." in page
    )
    f1, finer = "0.875 [0.800, 0.950]", "0.625 [0.500, 0.750]"
    assert f"| new | {f1} | {f1} | {finer} | {f1} | {f1} | {f1} | {finer} |" in page
    assert f"| independent | - | {f1} | {finer} | - | - | - | - |" in page
    columns = [line for line in page.splitlines() if line.startswith("| model")][0]
    assert columns.count("125 ms") == 5 and columns.count("62.5 ms") == 2


def test_the_table_of_several_numbers_of_steps_shows_each_measure_in_its_unit():
    row = {"measure": "a share", "kind": "share", "values": {4: 0.5, 20: 0.75}, "drop": 0.25, "drop_at": 4}
    others = [
        row | {"measure": "never worse", "drop": 0.0, "drop_at": 20},
        row | {"measure": "a score", "kind": "score", "drop": None, "drop_at": None},
        row | {"measure": "a distance", "kind": "distance", "values": {4: NAN, 20: 3.0}},
        {"measure": "a time", "kind": "seconds", "values": {4: 1.5, 20: 6.0}},
    ]
    page = steps_page(HEAD | {"steps": [4, 20], "rows": [row, *others]})
    assert page.startswith("# tiny at several numbers of steps\n") and "in 12 s." in page
    assert page.split("\n| --- | --- | --- | --- |\n")[1].splitlines() == [
        "| a share | 50.0 | 75.0 | 25.0 (at 4) |",
        "| never worse | 50.0 | 75.0 | 0.0 |",
        "| a score | 0.500 | 0.750 | - |",
        "| a distance | - | 3.000 | 0.250 (at 4) |",
        "| a time | 1.500 | 6.000 | - |",
    ]


def test_writing_a_page_leaves_the_report_as_it_was():
    report = copy.deepcopy(PLAIN | JOINT)
    report["open"][0]["attributes"].pop("column")
    report["open"][0]["attributes"]["place"]["spread"]["video"] = 0.3
    before = copy.deepcopy(report)
    markdown(report, ["cells.png"])
    assert report == before and math.isnan(JOINT["open"][0]["attributes"]["column"]["value"])
