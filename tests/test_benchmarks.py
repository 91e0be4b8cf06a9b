"""The training benchmark runs, and its report says what it promises."""

import json
import re

import torch

from benchmarks import damage, vocoder
from benchmarks import training as benchmark
from codi.types import Modality
from codi.world import render_sounds, sample_scenes


def test_the_quick_benchmark_measures_a_stage_and_compares_three_loops(tmp_path, capsys):
    out = tmp_path / "report.json"
    arguments = ["--quick", "--stages", "lora_image", "--scenes", "16", "--rounds", "1", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    report = json.loads(out.read_text())
    (row,) = report["stages"]
    assert row["stage"] == "lora_image" and row["steps"] == benchmark.LEAST and row["batch"] == 4
    assert (
        row["samples_per_s"] > 0
        and row["loader_samples_per_s"] > 0
        and 0 < row["compute_share"] <= 1
        and row["memory_mb"] > 0
    )
    ours, example, theirs = report["comparison"]
    assert [line["loop"] for line in report["comparison"]] == list(benchmark.LOOPS.values())
    assert ours["parameters"] == example["parameters"] and 0.5 < theirs["parameters"] / ours["parameters"] < 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("lora_image", "compute/wall", *benchmark.LOOPS.values()))
    assert row["cached"] and re.search(r" % +\d+  cached: (>=|below) 95 %$", printed, re.M)
    assert f"the same UNet: {ours['samples_per_s'] / example['samples_per_s']:.2f} times as fast" in printed


def test_a_loader_of_cached_latents_keeps_up_from_95_percent():
    said = [
        benchmark.verdict({"cached": cached, "compute_share": share})
        for cached, share in ((True, 0.95), (True, 0.94), (False, 0.5))
    ]
    assert said == ["  cached: >= 95 %", "  cached: below 95 %", ""]


def test_a_step_counts_where_its_batch_and_the_next_are_of_one_kind():
    """Steps of 2 s with fresh batches and of 1 s with held ones, and one long pause between blocks that
    belongs to neither.
    """
    times, now = [], 0.0
    for number in range(6 * benchmark.BLOCK):
        times.append((now, number))
        held = number // benchmark.BLOCK % 2 == 1
        now += 50.0 if number % benchmark.BLOCK == benchmark.BLOCK - 1 else 1.0 if held else 2.0
    assert benchmark.intervals(times) == (2.0, 1.0)


def test_damaged_prompts_are_held_against_all_looks():
    model = damage.DamagedPrompts()
    scenes = sample_scenes(4, 9)
    kinds = damage.kinds(Modality.IMAGE, scenes)
    assert kinds[0] == damage.CLEAN and {"jpeg", "dim"} <= set(kinds)
    clean = damage.nearest(model, Modality.IMAGE, scenes)
    assert set(clean) == {"shape", "colour", "place", "mean"} and clean["mean"] == 1
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    model.kind = "screenshot"
    assert (model.prepared(Modality.IMAGE, pixels) != -1).any()


def test_an_untrained_listener_knows_nothing_and_a_line_says_so():
    listener = vocoder.trained(1, 0)
    scenes = sample_scenes(4, 9)
    logits = listener(render_sounds(scenes))
    assert {name: tuple(rows.shape) for name, rows in logits.items()} == {
        "place": (4, 4),
        "timbre": (4, 6),
        "pitch": (4, 8),
    }
    said = vocoder.line(listener, scenes, lambda true: true)
    assert re.search(r"onset F1 1.000  STFT 0.000 ", said) and said.startswith("place ")
