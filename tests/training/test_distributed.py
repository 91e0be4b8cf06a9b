"""Several processes see what one sees: the same samples, the same noise, the same losses; and they resume to
the bit.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.test_loop import final, losses, newest, same, wait
from training import checkpoint
from training.main import main

SETTINGS = ("samples=96", "options.infinite=true", "ema=0.9")
ROOT = Path(__file__).parents[2]
LAUNCHED = {"ddp": ("MULTI_CPU", None), "zero2": ("DEEPSPEED", 2)}


def finish(processes, seconds=120):
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


def test_two_processes_equal_one_with_twice_the_accumulation(bench):
    one, two = bench("one"), bench("two")
    assert main(one.command("accumulate=2", *SETTINGS)) == 0
    # as `accelerate launch --config_file configs/accelerate/ddp.yaml` says it
    launched = {"ACCELERATE_USE_CPU": "False"}
    assert finish(two.fork_ranks("accumulate=1", *SETTINGS, environment=launched), seconds=600) == [0, 0]
    for (samples, loss, norm, bins), (samples_2, loss_2, norm_2, bins_2) in zip(
        losses(one), losses(two), strict=True
    ):
        assert samples == samples_2 and abs(loss - loss_2) < 1e-5 and abs(norm - norm_2) < 1e-5
        assert len(bins) == len(bins_2)
    found = checkpoint.read(checkpoint.find(two.run / "checkpoints", pytest.fail))
    assert found.state["launch"] == {
        "distributed_type": "MULTI_CPU",
        "zero_stage": None,
        "processes": 2,
        "device": "cpu",
    }
    first, second = final(one), final(two)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_two_processes_resume_to_the_bit(bench):
    whole, halves = bench("whole"), bench("halves")
    settings = (*SETTINGS, "checkpoint_every=16", "samples=400")
    assert finish(whole.fork_ranks(*settings)) == [0, 0]
    ranks = halves.fork_ranks(*settings, "options.pause=0.005")
    wait(lambda: newest(halves) > "step-00000010")
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert finish(ranks) == [130, 130]
    ranks = halves.fork_ranks(*settings, "options.pause=0.005")
    wait(lambda: newest(halves) > "step-00000030")
    for rank in ranks:
        rank.kill()
    finish(ranks)
    assert finish(halves.fork_ranks(*settings)) == [0, 0]
    assert same(final(whole), final(halves)) and losses(whole)[-1] == losses(halves)[-1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_accelerate_launch_itself(bench, name):
    if name == "zero2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    case = bench()
    launch = [
        "--config_file",
        str(ROOT / "configs" / "accelerate" / f"{name}.yaml"),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    run = ["-m", "tests.training.line", *case.command("samples=16", *SETTINGS[1:], "accumulate=1")]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, *run]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    kind, stage = LAUNCHED[name]
    found = checkpoint.read(checkpoint.find(case.run / "checkpoints", pytest.fail))
    assert found.state["launch"] == {
        "distributed_type": kind,
        "zero_stage": stage,
        "processes": 2,
        "device": "cpu",
    }
    assert (case.model / "line" / "model.safetensors").is_file()


def test_batches_that_cannot_be_split_are_refused(bench):
    assert finish(bench().fork_ranks("batch_size=3", "accumulate=1")) == [2, 2]


@pytest.mark.parametrize("poison", [17])
def test_a_bad_sample_in_one_process_stops_all(bench, poison):
    ranks = bench().fork_ranks(f"options.poison={poison}", "options.infinite=true", "accumulate=1")
    wait(lambda: any(rank.exitcode == 1 for rank in ranks))
    for rank in ranks:
        rank.kill()
    finish(ranks)
