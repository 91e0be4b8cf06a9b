"""The training benchmark runs, and its report says what it promises."""

import json
import re

from benchmarks import training as benchmark


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
