"""A run of the smallest stage, in this process or in its own."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.config import Config, load_config

ROOT = Path(__file__).parents[2]
LAUNCHER = """
import sys
from training.stages import STAGES
STAGES["line"] = "tests.training.line:Line"
from training.main import main
sys.exit(main())
"""
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


def run_line(arguments: list[str]) -> None:
    """Target of a forked process."""
    from training.main import main
    from training.stages import STAGES

    STAGES["line"] = "tests.training.line:Line"
    sys.exit(main(arguments))


@pytest.fixture(autouse=True)
def line_stage(monkeypatch):
    monkeypatch.setitem(__import__("training.stages").stages.STAGES, "line", "tests.training.line:Line")


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

    def fork(self, *overrides: str) -> multiprocessing.Process:
        """The run in a process of its own, forked from a server that has imported everything already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training.loop", "training.main", "tests.training.line", "torch._dynamo"])
        process = context.Process(target=run_line, args=(self.command(*overrides),), daemon=True)
        process.start()
        return process

    def spawn(self, *overrides: str, launcher: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> subprocess.Popen:
        script = self.folder / "launch.py"
        script.write_text(LAUNCHER)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, *launcher, str(script), *self.command(*overrides, extra=extra)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )


@pytest.fixture
def bench(tmp_path):
    return lambda name="a": Bench(tmp_path / name)
