"""The benchmark of the released geometry runs, narrow, and its number is what it says."""

import json
import sys

import pytest

from benchmarks import released_step


@pytest.mark.parametrize("job, dtype", [("image", "float32"), ("image", "bfloat16")])
def test_a_narrow_step(job, dtype, capsys, monkeypatch):
    arguments = ["--job", job, "--dtype", dtype, "--width", "64", "--repeats", "1", "--threads", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["released_step.py", *arguments])
    released_step.main()
    found = json.loads(capsys.readouterr().out)
    assert found["equivalent_tflop"] == pytest.approx(found["seconds"] * found["matmul_gflops"] / 1e3, rel=0.2, abs=2e-3)
    assert found["lowest"] <= found["equivalent_tflop"] <= found["highest"] and found["peak_gib"] > 0.1
    assert (found["job"], found["dtype"], found["threads"]) == (job, dtype, 1)
