"""The benchmark of the released geometry runs, narrow, and its number is what it says."""

import json
import sys

import pytest

from benchmarks import bf16_operations, released_step


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A quarter of the side, two frames, and little sound."""
    monkeypatch.setattr(
        released_step,
        "LATENTS",
        dict(zip(released_step.LATENTS, [(4, 8, 8), (4, 2, 8, 8), (8, 16, 16)], strict=True)),
    )


@pytest.mark.parametrize(
    "job, dtype", [("image", "float32"), ("image", "bfloat16"), ("video", "float32"), ("joint", "bfloat16")]
)
def test_a_narrow_step(job, dtype, capsys, monkeypatch):
    arguments = [
        "--job",
        job,
        "--dtype",
        dtype,
        "--width",
        "64",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["released_step.py", *arguments])
    released_step.main()
    found = json.loads(capsys.readouterr().out)
    assert found["equivalent_tflop"] == pytest.approx(
        found["seconds"] * found["matmul_gflops"] / 1e3, rel=0.2, abs=2e-3
    )
    assert found["lowest"] <= found["equivalent_tflop"] <= found["highest"] and found["peak_gib"] > 0.1
    assert (found["job"], found["dtype"], found["threads"]) == (job, dtype, 1)


def test_the_work_in_a_step(capsys, monkeypatch):
    """Convolutions and products grow with the square of the width, attention with the width."""
    found = []
    for width in ("64", "128"):
        monkeypatch.setattr(
            sys,
            "argv",
            ["released_step.py", "--job", "image", "--width", width, "--threads", "1", "--work", "--json"],
        )
        released_step.main()
        found.append(json.loads(capsys.readouterr().out))
    narrow, wide = found
    assert narrow["job"] == "image" and wide["work_tflop"] == pytest.approx(4 * narrow["work_tflop"], rel=0.1)
    assert (
        wide["attention_tflop"] == pytest.approx(2 * narrow["attention_tflop"], rel=0.05)
        and narrow["attention_tflop"] > 0
    )


def test_operations_in_both_precisions(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bf16_operations.py", "--repeats", "1"])
    small = {
        name: (run, layout, [(*shape[:2], *(min(n, 8) for n in shape[2:])) for shape in shapes])
        for name, (run, layout, shapes) in bf16_operations.CASES.items()
    }
    monkeypatch.setattr(bf16_operations, "CASES", small)
    bf16_operations.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(small) and all(float(line.split()[-1]) > 0 for line in lines)
