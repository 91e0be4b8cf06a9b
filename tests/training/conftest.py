"""Runs of the smallest stage, in this process or in their own; and of any stage in processes of their own."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest

from training.config import Config, load_config

LINE = """
stage: line
model: {folder}/model
output: {folder}/run
samples: 96
batch_size: 8
accumulate: 2
lr: 1e-2
warmup: 16
ema: 0.9
log_every: 16
small: {{samples: 16}}
"""
WARM = ["training.loop", "training.main", "training.stages.samples", "tests.training.line", "torch._dynamo"]


class Bench:
    """One run folder: its config file, and ways to start it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.model = folder, folder / "run", folder / "model"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "line.yaml"
        self.file.write_text(LINE.format(folder=folder))

    def config(self, *overrides: str) -> Config:
        return load_config(self.file, overrides=overrides)

    def command(self, *overrides: str, extra: tuple[str, ...] = ()) -> list[str]:
        settings = [part for override in overrides for part in ("--set", override)]
        return ["--config", str(self.file), *settings, *extra]

    def fork(self, *overrides: str, environment: dict[str, str] | None = None) -> multiprocessing.Process:
        """The run in a process of its own."""
        return fork(self.command(*overrides), environment)

    def fork_ranks(
        self, *overrides: str, world: int = 2, environment: dict[str, str] | None = None
    ) -> list[multiprocessing.Process]:
        """The run with `world` processes on the CPU."""
        return fork_ranks(self.command(*overrides), world, environment)


def fork(arguments: list[str], environment: dict[str, str] | None = None) -> multiprocessing.Process:
    """`training.main` in a process of its own, forked from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM + ["deepspeed"] * ("ACCELERATE_USE_DEEPSPEED" in (environment or {})))
    process = context.Process(target=run_main, args=(arguments, environment or {}, os.getcwd()), daemon=True)
    process.start()
    return process


def fork_ranks(
    arguments: list[str], world: int = 2, environment: dict[str, str] | None = None
) -> list[multiprocessing.Process]:
    """The same `world` times, as torchrun would start them: under DDP, or what `environment` asks of
    accelerate.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    shared |= {"ACCELERATE_USE_CPU": "true"} if environment is None else environment
    return [fork(arguments, {**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(world)]


def run_main(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Target of a forked process."""
    os.chdir(folder)
    os.environ.update(environment)
    from training.main import main
    from training.stages import STAGES

    STAGES["line"] = "tests.training.line:Line"
    sys.exit(main(arguments))


@pytest.fixture(autouse=True)
def line_stage(monkeypatch):
    """The stage is known by name, here only."""
    from training.stages import STAGES

    monkeypatch.setitem(STAGES, "line", "tests.training.line:Line")


@pytest.fixture
def bench(tmp_path):
    """Makes run folders by name."""
    return lambda name="a": Bench(tmp_path / name)
