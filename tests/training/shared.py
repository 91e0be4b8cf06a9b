"""What several tests need and only one process of a test session makes."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills, for all processes of the session: the first to ask builds it, others
    wait for that.
    """
    base = factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = common / name, common / f"{name}.done"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                done.touch()
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # not with the file: a process forked in between would keep it
    return folder


class Killed(BaseException):
    """What nothing catches, as a kill is."""


def dying(function: Callable, countdown: list[int]) -> Callable:
    """The function, killed when so many calls were made of all that share the countdown."""

    def call(*arguments, **named):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed
        return function(*arguments, **named)

    return call
