"""The whole command: with a model that is perfect, so that the report must say so, and with a tiny one of
random weights.
"""

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
import torch

from codi.bench import main
from codi.bench.command import draw_plots, measure, sections, versions, write
from codi.bench.make import merged
from codi.bench.models import Model
from codi.bench.runs import Run, parse_cell, prompts_of
from codi.bench.steps import compare, largest_drop
from codi.bench.targets import targets
from codi.border import parse_scale
from codi.types import InputError, Modality
from codi.world import sample_scenes
from tests import tiny_pipeline
from tests.bench.perfect import Perfect, bench_of

PLOTS = ("contact_sheet.png", "cells.png", "onset_strips.png", "onset_tolerance.png", "onset_offsets.png")
HEADINGS = (
    "Published table",
    "Other targets",
    "In time",
    "Sound for a clip",
    "All four together",
    "Agreement on what the prompt left open",
    "The same by attribute",
    "Selection",
    "Prompts that disagree",
    "One more prompt that agrees",
    "Every cell",
)
CELLS = [parse_cell("text->image"), parse_cell("text->audio+video")]


def report_of(folder, model):
    bench = bench_of(folder, model)
    report = measure(bench, CELLS, sections("full", CELLS, 3, 1), held_out=True)
    report |= {
        "model": "perfect",
        "command": "codi bench",
        "settings": bench.settings,
        "versions": versions(),
        "seconds": 1.0,
    }
    report["targets"] = targets(report)
    write(folder, report, draw_plots(folder, bench, report))
    return json.loads((folder / "report.json").read_text())


def test_a_perfect_model_gets_a_perfect_report_and_a_second_run_generates_nothing(tmp_path):
    model = Perfect()
    report = report_of(tmp_path, model)
    assert all(c["value"] == c["ceiling"] for c in report["cells"]) and all(t["met"] for t in report["tasks"])
    assert (
        report["onsets"]["joint"]["f1"] == report["onsets"]["ground truth"]["f1"]
        and len(report["open"]) == 11 + 10
    )
    assert report["four"]["value"] == report["four"]["truth"]
    page = (tmp_path / "report.md").read_text()
    assert not [heading for heading in HEADINGS if f"## {heading}" not in page]
    assert all((tmp_path / name).stat().st_size > 5000 and f"({name})" in page for name in PLOTS)
    players = (tmp_path / "samples.html").read_text()
    assert "(samples.html)" in page and "<video" in players and "audio-&gt;video, sample 3" in players
    sources = [source for source in re.findall(r' src="([^"]*)"', players) if not source.startswith("data:")]
    assert len(sources) > 6 and all((tmp_path / unquote(source)).is_file() for source in sources)
    made = model.samples
    again = measure(bench_of(tmp_path, model), CELLS, sections("full", CELLS, 3, 1), held_out=True)
    assert made > 0 and model.samples == made and again["cells"] == report["cells"]


def test_the_fast_part_makes_less_and_still_reports_every_pair(tmp_path):
    plans = {
        kind: [item for part in sections(kind, [], 256, 3).values() for item in part.plan()]
        for kind in ("fast", "full")
    }
    fast, full = (sum(run.cost * count for run, count in merged(plan).items()) for plan in plans.values())
    assert fast < 0.45 * full and set(merged(plans["fast"])) <= set(merged(plans["full"]))
    bench = bench_of(tmp_path, Perfect())
    report = measure(bench, [], sections("fast", [], 3, 1), held_out=False)
    assert (
        len(report["open"]) == 11
        and {"onsets", "partners", "four"} <= set(report)
        and report["retrieval"] is None
    )


def test_a_model_is_measured_from_its_folder_and_continued(tmp_path, capsys):
    """Random weights, so no score is expected; every kind of prompt and output takes part."""
    tiny_pipeline.pipeline().save_pretrained(tmp_path / "model")
    cells = "text+image->audio+video,video->text+image,video->audio"
    options = [
        "--model",
        str(tmp_path / "model"),
        "--cells",
        cells,
        "--scenes",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "report"),
    ]
    assert main([*options, "--guidance", "video=2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report" / "report.md")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [c["cell"] for c in report["cells"]] == [
        "text+image->audio+video",
        "video->text+image",
        "video->audio",
    ]
    assert (
        all(0 <= c["value"] <= 1 for c in report["cells"])
        and len(report["retrieval"]) == 8
        and "onsets" not in report
    )


def test_an_ablation_compares_models_in_one_table(tmp_path, capsys):
    for seed, name in enumerate(("first", "second")):
        tiny_pipeline.pipeline(seed).save_pretrained(tmp_path / name)
    variants = [str(tmp_path / "first"), f"{tmp_path / 'second'}=rotary seconds"]
    assert (
        main(
            [
                "--out",
                str(tmp_path / "out"),
                "--ablation",
                *variants,
                "--scenes",
                "2",
                "--steps",
                "2",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert capsys.readouterr().out.strip().endswith("ablation.md")
    assert all(f"| {name} |" in page for name in ("first", "rotary seconds", "independent", "ceiling"))
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert list(report["variants"]["first"]) == [
        "joint, in step",
        "joint",
        "video->audio",
        "audio->video",
        "joint, sync guidance 3",
    ]


def test_readings_are_of_weights_and_settings_whatever_is_said_of_them(tmp_path):
    pipe = tiny_pipeline.pipeline()
    pipe.save_pretrained(tmp_path)
    first = Model(str(tmp_path)).fingerprint
    (tmp_path / "provenance.json").write_text('{"scores": "new"}')
    assert Model(str(tmp_path)).fingerprint == first
    pipe.register_to_config(defaults={**pipe.config.defaults, "partner_estimate_weight": 2.0})
    pipe.save_pretrained(tmp_path)
    assert Model(str(tmp_path)).fingerprint != first


def test_a_batch_of_the_benchmark_is_what_the_pipeline_gives_one_by_one(tmp_path):
    pipe = tiny_pipeline.pipeline()
    pipe.save_pretrained(tmp_path)
    model, scenes = Model(str(tmp_path), device="cpu", steps=2), sample_scenes(2, seed=5)
    run = parse_cell("text+video->audio")
    made = model.sample(run, scenes, [11, 12])[Modality.AUDIO]
    prompt = {m.value: prompts[1] for m, prompts in prompts_of(run, scenes)}
    alone = pipe(**prompt, outputs=["audio"], seed=12, num_inference_steps=2).audios[0]
    assert torch.allclose(made[1, : len(alone)], alone, atol=1e-4)


def test_a_deaf_output_is_what_it_is_alone_while_the_other_goes_on_hearing_it(tmp_path):
    tiny_pipeline.pipeline().save_pretrained(tmp_path)
    model, scenes, seeds = Model(str(tmp_path), device="cpu", steps=2), sample_scenes(2, seed=5), [11, 12]
    both = Run(inputs=(Modality.TEXT,), outputs=(Modality.AUDIO, Modality.VIDEO))
    made = {deaf: model.sample(replace(both, deaf=deaf), scenes, seeds) for deaf in (None, Modality.AUDIO)}
    alone = model.sample(replace(both, outputs=(Modality.AUDIO,)), scenes, seeds)[Modality.AUDIO]
    assert made[Modality.AUDIO][Modality.AUDIO].equal(alone) and not made[None][Modality.AUDIO].equal(alone)
    silent = model.sample(replace(both, outputs=(Modality.VIDEO,)), scenes, seeds)[Modality.VIDEO]
    assert not made[Modality.AUDIO][Modality.VIDEO].equal(silent)
    # and it hears again
    assert model.sample(both, scenes, seeds)[Modality.AUDIO].equal(made[None][Modality.AUDIO])


@pytest.mark.parametrize(
    "options",
    [
        ["--scenes", "1"],
        ["--cells", "text->smell"],
        ["--guidance", "video=x"],
        ["--steps", "0"],
        ["--model", "./nowhere"],
        ["--whatever"],
        ["--joint", "slow"],
        ["--workers", "0"],
        ["--ablation", "./nowhere"],
        ["--ablation", "a", "b/a"],
        ["--ablation", "=name"],
    ],
)
def test_wrong_options_are_a_users_mistake(tmp_path, options):
    with pytest.raises(InputError):
        main(["--out", str(tmp_path / "report"), *options])


def test_scales_are_a_number_or_one_for_each_output():
    assert parse_scale("2.5", "--guidance") == 2.5 and parse_scale(None, "--guidance") is None
    assert parse_scale("video=4,audio=3", "--guidance") == {"video": 4.0, "audio": 3.0}


def test_several_numbers_of_steps_are_one_table(tmp_path, capsys):
    tiny_pipeline.pipeline().save_pretrained(tmp_path / "model")
    options = [
        "--model",
        str(tmp_path / "model"),
        "--cells",
        "text->image,text->audio",
        "--scenes",
        "2",
        "--device",
        "cpu",
        "--held-out",
    ]
    assert main([*options, "--steps", "1,2,4", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    page = (tmp_path / "out" / "steps.md").read_text()
    assert said.out.strip() == str(tmp_path / "out" / "steps.md") and page in said.err
    assert "| measure | 1 | 2 | 4 | largest drop |" in page and "-0.0" not in page and "nan" not in page
    report = json.loads((tmp_path / "out" / "steps.json").read_text())
    rows = {row["measure"]: row for row in report["rows"]}
    assert all(set(row["values"]) == {"1", "2", "4"} for row in rows.values())
    named = (
        "text->image, colour",
        "text->image!, shape and colour",
        "cell text->audio",
        "image from 50 steps",
        "audio from 50 steps",
        "seconds for",
    )
    assert not [name for name in named if not any(row.startswith(name) for row in rows)]
    far = next(row for name, row in rows.items() if name.startswith("image from"))["values"]
    assert far["1"] > far["4"] > 0  # the more steps, the nearer
    assert rows["seconds for one image"]["values"]["1"] > 0 and "drop" not in rows["seconds for one image"]
    alone = main([*options, "--steps", "2", "--out", str(tmp_path / "out")])
    single = json.loads((tmp_path / "out" / "report.json").read_text())
    assert alone == 0 and [c["value"] for c in single["cells"]] == [
        rows[f"cell {c['cell']}"]["values"]["2"] for c in single["cells"]
    ]


def test_largest_drop():
    assert largest_drop({4: 0.5, 6: 0.75, 20: 1.0}, falls=False) == (0.5, 4)
    assert largest_drop({4: 3.0, 6: 5.0, 20: 1.0}, falls=True) == (4.0, 6)
    assert largest_drop({4: 2.0, 20: 1.0}, falls=False) == (0.0, 20)
    assert largest_drop({4: 2.0, 20: float("nan")}, falls=False) == (None, None)
    assert largest_drop({4: float("nan"), 20: 1.0}, falls=False) == (0.0, 20)


def test_everything_that_is_measured_is_compared(tmp_path):
    """A perfect model is the same at every number of steps, so nothing drops."""
    report = report_of(tmp_path, Perfect()) | {"distances": {}}
    rows = {row["measure"]: row for row in compare({4: report, 20: report})}
    named = (
        "all four outputs agree",
        "onset F1 at 62.5 ms, joint",
        "onset F1 at 125 ms, video->audio",
        "open prompt, image+video",
        "spread",
        "selection",
        "one more prompt",
        "prompts that complete",
    )
    assert not [name for name in named if not any(row.startswith(name) for row in rows)]
    assert all(row["drop"] in (0.0, None) for row in rows.values())


@pytest.mark.parametrize("steps", ["4,x", "0", "4,0", "4,4", "", "4,,6", "-3", "2.5", "4,1001", "1001"])
def test_steps_that_cannot_be(tmp_path, steps):
    with pytest.raises(InputError, match="--steps"):
        main(["--out", str(tmp_path / "report"), "--steps", steps])


def test_steps_and_an_ablation_are_two_tables(tmp_path):
    with pytest.raises(InputError, match="not both"):
        main(["--out", str(tmp_path / "report"), "--steps", "4,6", "--ablation", "a", "b"])
