"""Workers of a benchmark end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import sys
from dataclasses import replace
from pathlib import Path

from codi.bench.make import Bench, make
from codi.bench.models import Model
from codi.types import Modality

if __name__ == "__main__":
    bench = Bench(Path(sys.argv[1]), Model(), num_scenes=4, seed=0, batch_size=4, settings={})
    plan = [(replace(bench.true, outputs=(m,)), 20000) for m in (Modality.VIDEO, Modality.AUDIO)]
    make(bench, plan, workers=2)
"""


def alive(process: psutil.Process) -> bool:
    """Neither gone nor waiting to be buried by whoever inherited it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(event, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (happened := event()) and time.monotonic() < end:
        time.sleep(0.1)
    return bool(happened)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_a_parent_that_is_told_to(tmp_path: Path, told: signal.Signals) -> None:
    """At once: their runs would take hours."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )
    family = []
    try:
        made = lambda: len(list((tmp_path / "out").glob("runs/*/*.npz"))) == 2
        assert wait_for(lambda: made() or parent.poll() is not None, 300) and parent.poll() is None
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 2
        parent.send_signal(told)
        assert parent.wait(60) == -told
        assert wait_for(lambda: not any(map(alive, family)), 60), [
            process.cmdline() for process in family if alive(process)
        ]
    finally:
        parent.kill()
        for process in filter(alive, family):
            process.kill()
