"""From options to sections, settings and folders: what each one asks for, and how a mistake is answered."""

import json
import sys
from argparse import ArgumentParser

import pytest

from codi.bench import add_arguments, main
from codi.bench.choosing import Selection
from codi.bench.command import (
    asks_held_out,
    command_line,
    draws,
    finite,
    measure,
    open_bench,
    sections,
    versions,
)
from codi.bench.prompting import Prompting
from codi.bench.runs import parse_cell
from codi.bench.scores import FAST, TASKS, all_cells, chosen_cells
from codi.bench.timing import BOTH, InTime, Partners
from codi.bench.together import Four, Open
from codi.types import InputError
from tests.bench.perfect import Perfect, bench_of

NO_SCALES = {"guidance": None, "sync_guidance": None}


def parsed(*words):
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--out", "x", *words])


# What is asked for -----------------------------------------------------


def test_without_options_the_published_table_is_measured():
    args = parsed()
    assert (args.cells, args.seed, args.batch, args.workers, args.joint) == ("fast", 2305, 32, 1, None)
    assert draws(args) == 1 and asks_held_out(args)
    assert [cell.name for cell in chosen_cells(args.cells)] == [parse_cell(name).name for name in FAST]


@pytest.mark.parametrize(
    "words, seeds, held_out",
    [
        (["--joint"], 3, True),
        (["--joint", "fast", "--seeds", "2"], 2, True),
        (["--cells", "none"], 1, False),
        (["--cells", "none", "--held-out"], 1, True),
        (["--cells", "all"], 1, True),
        (["--cells", "text->image"], 1, False),
    ],
)
def test_seeds_and_pairs_that_were_held_out_follow_from_other_options(words, seeds, held_out):
    args = parsed(*words)
    assert (draws(args), asks_held_out(args)) == (seeds, held_out)


def test_cells_are_all_or_some_or_none():
    assert chosen_cells("all") == all_cells() and chosen_cells("none") == []
    assert chosen_cells("text->image, ,video -> audio,") == [
        parse_cell("text->image"),
        parse_cell("video->audio"),
    ]
    sizes = [len(run.inputs) + len(run.outputs) for run in all_cells()]
    assert sizes == sorted(sizes) and sizes[0] == 2 and sizes[-1] == 8


def test_sections_are_those_that_joint_asks_for():
    few, fast, full = (sections(joint, [BOTH], 8, 3) for joint in (None, "fast", "full"))
    assert few == {"onsets": InTime(count=8, draws=3, four=0)}
    assert sections(None, [parse_cell("text->image")], 8, 3) == {}
    assert fast == {
        "onsets": InTime(count=8, draws=3, four=1),
        "partners": Partners(count=8, draws=3),
        "four": Four(count=8, draws=1),
        "open": Open(count=8, draws=1, every=False),
    }
    assert full == {
        "onsets": InTime(count=8, draws=3, four=3),
        "partners": Partners(count=8, draws=3),
        "four": Four(count=8, draws=3),
        "open": Open(count=8, draws=3, every=True),
        "selection": Selection(count=8),
        "prompting": Prompting(count=8),
    }


def test_tasks_are_measured_where_their_cells_are(tmp_path):
    bench = bench_of(tmp_path, Perfect())
    cell = parse_cell("text->image")
    seen = [line["task"] for line in measure(bench, [cell], {}, held_out=False)["tasks"]]
    assert seen == ["text->image"] * 3  # colour, shape and place
    both = [line["task"] for line in measure(bench, [cell], {}, held_out=True)["tasks"]]
    assert set(both) - set(seen) == {"text->image!", "text->text+image+audio+video!"}
    assert len(both) == 3 + sum(task.held_out for task in TASKS)


# How it is opened ------------------------------------------------------


def test_the_number_of_scenes_is_smaller_for_all_cells(tmp_path):
    for words, count in (([], 256), (["--cells", "all"], 32), (["--cells", "all", "--scenes", "5"], 5)):
        bench = open_bench(tmp_path, None, parsed(*words), NO_SCALES, None)
        assert (bench.num_scenes, bench.seed, bench.batch_size) == (count, 2305, 32)
    assert len(bench.scenes()) == 5 and len(bench.scenes(count=2)) == 2 and "pipe" not in vars(bench.model)


def test_every_setting_that_decides_a_number_has_a_folder_of_its_own(tmp_path):
    options = (["--seed", "1"], ["--seed", "2"], ["--dtype", "bfloat16"])
    benches = [open_bench(tmp_path, None, parsed(*words), NO_SCALES, None) for words in options]
    benches.append(open_bench(tmp_path, None, parsed(), NO_SCALES | {"guidance": 2.0}, None))
    benches.append(open_bench(tmp_path, None, parsed(), NO_SCALES, 4))
    assert len({bench.store.folder for bench in benches}) == len(benches)
    again = open_bench(
        tmp_path, None, parsed("--seed", "1", "--scenes", "9", "--batch", "3"), NO_SCALES, None
    )
    assert again.store.folder == benches[0].store.folder  # how many, and how many at once, decide nothing
    stored = json.loads((benches[-1].store.folder / "settings.json").read_text())
    assert stored["steps"] == 4 and stored["weights"] == benches[-1].model.fingerprint


def test_the_command_is_told_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["codi", "bench", "--out", "my report", "--cells", "text->image"])
    assert command_line() == "codi bench --out 'my report' --cells 'text->image'"
    monkeypatch.setattr(sys, "argv", ["pytest", "-q"])
    assert command_line() == "codi bench"
    assert list(versions()) == ["codi", "torch", "diffusers", "transformers", "numpy"] and all(
        versions().values()
    )


def test_numbers_that_json_cannot_hold_are_none_wherever_they_stand():
    value = {"a": [1.0, float("nan"), (float("inf"), {"b": -float("inf")})], "c": "nan", "d": 3, "e": None}
    assert finite(value) == {"a": [1.0, None, [None, {"b": None}]], "c": "nan", "d": 3, "e": None}


# Mistakes --------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        (["--scenes", "1"], "--scenes 1: expected at least 2"),
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--workers", "-1"], "--workers -1: expected at least 1"),
        (["--steps", "4,6", "--ablation", "a", "b"], "expected several steps or several models, not both"),
        (["--steps", "1001"], "this model's schedule has 1000 timesteps: expected at most 1000 steps"),
        (["--joint", "slow"], "invalid choice: 'slow'.*See `codi bench --help`."),
        (["--guidance", "video"], "--guidance"),
        (["--sync-guidance", "audio=loud"], "--sync-guidance"),
        (["--cells", "text->image,text"], "cell 'text' is not of the form inputs->outputs"),
    ],
)
def test_a_mistake_is_named_before_anything_is_made(tmp_path, words, message):
    with pytest.raises(InputError, match=message) as caught:
        main(["--out", str(tmp_path / "report"), "--cells", "none", "--scenes", "2", *words])
    assert "\n" not in str(caught.value) and not (tmp_path / "report" / "report.md").exists()


def test_a_report_without_a_folder_and_a_folder_that_is_a_file_are_mistakes(tmp_path):
    with pytest.raises(InputError, match="-o/--out"):
        main([])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write into folder"):
        main(["--out", str(tmp_path / "file")])
