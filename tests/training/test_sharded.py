"""DeepSpeed over two processes on the CPU sees what one process sees, and its checkpoints are those of one
process.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from codi.types import InputError
from tests.training import test_distributed, test_loop
from tests.training.test_loop import final, losses, newest, same
from training import checkpoint
from training.engine import make_accelerator
from training.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]
CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
SETTINGS = ("samples=96", "options.infinite=true", "ema=0.9", "checkpoint_every=16", "accumulate=2")


def finish(ranks):
    return test_distributed.finish(ranks, seconds=600)


def wait(event):
    return test_loop.wait(event, seconds=600)


def launched(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file configs/accelerate/<name>.yaml --num_processes 2` tells its
    processes.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    words = [
        "--config_file",
        str(CONFIGS / f"{name}.yaml"),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "training.main",
    ]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.use_deepspeed and arguments.num_processes == 2
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    environment = prepare_deepspeed_cmd_env(arguments)[1]
    return {key: value for key, value in environment.items() if key.startswith("ACCELERATE_")}


def state(case) -> dict:
    return checkpoint.read(checkpoint.find(case.run / "checkpoints", pytest.fail)).state


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Run folders that the tests of this file share, by name."""
    from tests.training.conftest import Bench

    folder = tmp_path_factory.mktemp("sharded")
    return lambda name: Bench(folder / name)


@pytest.fixture(scope="module")
def alone(cases):
    """The run in one process: four micro-batches a step."""
    from training.stages import STAGES

    case = cases("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, "line", "tests.training.line:Line")
        assert main(case.command(*SETTINGS[:-1], "accumulate=4")) == 0
    return case


@pytest.fixture(scope="module")
def zero2(cases):
    """The run in two processes with two micro-batches each."""
    case = cases("zero2")
    assert finish(case.fork_ranks(*SETTINGS, environment=launched("zero2"))) == [0, 0]
    return case


def kill_halfway(case, launch):
    """Runs it in two processes until a few steps are saved, and kills them."""
    ranks = case.fork_ranks(*SETTINGS, "options.pause=0.05", environment=launched(launch))
    wait(lambda: newest(case) >= "step-00000004")
    for rank in ranks:
        rank.kill()
    finish(ranks)


def equal(one, two, tolerance=1e-5):
    """Losses, gradient norms, weights, averages and moments agree."""
    for first, second in zip(losses(one), losses(two), strict=True):
        assert (
            first[0] == second[0]
            and abs(first[1] - second[1]) < tolerance
            and abs(first[2] - second[2]) < tolerance
        )
    first, second = final(one), final(two)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=tolerance) for name in first)
    assert (two.model / "line" / "model.safetensors").is_file()


def test_zero2_equals_one_process(alone, zero2):
    assert state(zero2)["launch"] == {
        "distributed_type": "DEEPSPEED",
        "zero_stage": 2,
        "processes": 2,
        "device": "cpu",
    }
    assert state(alone)["launch"]["processes"] == 1
    equal(alone, zero2)


def test_zero2_killed_and_resumed_is_the_same_to_the_bit(zero2, cases):
    case = cases("halves")
    kill_halfway(case, "zero2")
    assert not (case.run / "exported.json").exists()
    assert finish(case.fork_ranks(*SETTINGS, environment=launched("zero2"))) == [0, 0]
    assert same(final(zero2), final(case)) and losses(zero2)[-1] == losses(case)[-1]


def test_one_process_goes_on_from_a_checkpoint_of_two(alone, zero2, cases):
    case = cases("onwards")
    shutil.copytree(zero2.run, case.run)
    for path in sorted((case.run / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)
    (case.run / "exported.json").unlink()
    assert state(case)["samples"] < 96 and state(case)["launch"]["processes"] == 2
    case.model = zero2.model
    assert main(case.command(*SETTINGS[:-1], "accumulate=4", f"model={case.model}")) == 0
    equal(alone, case)


def test_zero3_equals_one_process_and_resumes(alone, cases):
    case = cases("zero3")
    kill_halfway(case, "zero3")
    assert finish(case.fork_ranks(*SETTINGS, environment=launched("zero3"))) == [0, 0]
    assert state(case)["launch"] == {
        "distributed_type": "DEEPSPEED",
        "zero_stage": 3,
        "processes": 2,
        "device": "cpu",
    }
    equal(alone, case)


@pytest.mark.parametrize("override, words", [("precision=fp16", "use bf16")])
def test_what_is_not_supported_is_said(cases, monkeypatch, override, words):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match=words):
        make_accelerator(cases("refused").config(override))
