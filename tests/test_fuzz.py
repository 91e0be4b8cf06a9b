"""`make fuzz` sees what it is there to see, and finds nothing in a small share of its cases."""

import os
import signal
import time
from collections import Counter

import pytest

from codi.types import InputError
from tests.fuzz import kills, lines, media, trial

CASES = 40


def behave(number: int):
    if number == 1:
        raise InputError("one line")
    if number == 2:
        raise InputError("two\nlines")
    if number == 3:
        raise KeyError("x")
    if number == 4:
        time.sleep(60)
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 6:
        bytes(1 << 40)
    return Counter(results=2) if number == 7 else None


def test_every_kind_of_outcome_is_told_apart():
    outcomes = list(trial.tried(behave, range(9), seconds=1.0, memory=1 << 30))
    assert [outcome.number for outcome in outcomes] == list(range(9))
    assert [dict(outcome.counts) for outcome in outcomes] == [
        {"results": 1},
        {"refusals": 1},
        {"tracebacks": 1},
        {"tracebacks": 1},
        {"hangs": 1},
        {"crashes": 1},
        {"tracebacks": 1},
        {"results": 2},
        {"results": 1},
    ]
    assert "SIGKILL" in outcomes[5].reason and "KeyError at test_fuzz.py" in outcomes[3].reason
    assert [outcome.bad for outcome in outcomes] == [False, False, True, True, True, True, True, False, False]


def test_media(tmp_path):
    case, show = media.case_of(tmp_path, seed=1)
    outcomes = list(trial.tried(case, range(CASES), seconds=10.0, memory=2 << 30))
    counts = sum((outcome.counts for outcome in outcomes), Counter())
    assert not any(outcome.bad for outcome in outcomes), [outcome for outcome in outcomes if outcome.bad]
    assert counts["results"] > 3 and counts["refusals"] > 3
    assert show(3, tmp_path) == show(3, tmp_path)


@pytest.mark.slow
def test_lines_of_jobs(tmp_path):
    case, _ = lines.case_of(tmp_path, seed=1)
    outcomes = list(trial.tried(case, range(3), seconds=120.0, memory=2 << 30))
    assert not any(outcome.bad for outcome in outcomes), [outcome for outcome in outcomes if outcome.bad]


@pytest.mark.slow
def test_runs_that_are_killed(tmp_path):
    outcomes = list(kills.killed(tmp_path, seed=1, kills=5))
    assert not any(outcome.bad for outcome in outcomes), [outcome for outcome in outcomes if outcome.bad]
    assert sum(outcome.counts["results"] for outcome in outcomes) == 5
