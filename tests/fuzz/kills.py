"""A run of jobs that is killed at random moments and resumed until it is done."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codi import cli, io
from tests.fuzz.folders import save_model
from tests.fuzz.trial import _FORK, Outcome, Summary

LINES = [
    {"id": f"{kind}{k}", "text": words, "to": to, "seed": k, "num_samples": 1 + k % 3}
    for k, (kind, words, to) in enumerate(
        [("both", "a red ball", "image,audio"), ("said", "at sea", "text"), ("seen", "a blue cube", "image")]
        * 3
    )
]
LINES += [{"id": "clip", "text": "a red ball", "to": "video,audio"}]
READERS = {".png": io.load_image, ".wav": io.load_audio, ".mp4": io.load_video, ".txt": Path.read_text}


def run(command: list[str], delay: float | None) -> int | None:
    """Run a command in a process of its own, and kill it after some seconds; its exit code, if it ended."""
    process = _FORK.Process(target=_command, args=(command,))
    process.start()
    process.join(delay)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def _command(command: list[str]) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os._exit(cli.main(command))


def content(path: Path) -> Any:
    """Return what has to be equal in two runs: all bytes, but of records no times."""
    if path.suffix != ".json":
        return path.read_bytes()
    row = json.loads(path.read_text(encoding="utf-8"))
    row.pop("timings", None)
    for sample in row.get("samples", []):
        sample.pop("seconds", None)
    return row


def contents(folder: Path) -> dict[str, Any]:
    """Return what a folder holds, without files that a killed process was writing, and without manifests."""
    return {
        path.name: content(path) for path in folder.iterdir() if not path.name.startswith((".", "manifest"))
    }


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files of all samples that records list, with what changes when one is written anew."""
    found = {}
    for path in folder.glob("*.json"):
        if path.name.startswith((".", "manifest")):  # a hidden one was never given its name
            continue
        for sample in json.loads(path.read_text(encoding="utf-8"))["samples"]:
            for name in sample["files"]:
                status = (folder / name).stat()
                found[name] = (status.st_ino, status.st_mtime_ns)
    return found


def killed(folder: Path, seed: int, kills: int) -> Iterator[Outcome]:
    """Yield one outcome for each kill.

    Args:
        folder: where everything is written.
        seed: of the moments.
        kills: how many.

    Yields:
        A result for a kill after which everything was right.
    """
    model, dice = save_model(folder / "model"), random.Random(f"{seed}/kills")
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    options = ["--model", str(model), "--steps", "1", "--device", "cpu", "--quiet", "--batch", "4"]
    command = ["generate", "--jobs", str(folder / "jobs.jsonl"), *options, "-o"]
    began = time.perf_counter()
    code = run([*command, str(folder / "whole")], None)
    assert code == 0, f"the run that nobody kills ended with {code}"
    longest, expected = time.perf_counter() - began, contents(folder / "whole")
    out, number = folder / "killed", 0
    while number < kills:
        shutil.rmtree(out, ignore_errors=True)
        code, done = None, {}
        while code is None and number < kills:
            code = run([*command, str(out)], dice.uniform(0.02, 1.0) * longest)
            if code is None:
                yield Outcome(number, *_judged(out, done))
                number += 1
                with contextlib.suppress(OSError, ValueError, KeyError):
                    done = finished(out)
        if code is None:
            code = run([*command, str(out)], None)
        yield Outcome(number, *_compared(out, code, expected, done))


def _judged(out: Path, done: dict[str, tuple[int, int]]) -> tuple[Counter[str], str]:
    """Return what is to be said of a folder after a kill: everything is whole, nothing was made twice."""
    try:
        for path in out.iterdir() if out.is_dir() else ():
            if path.name.startswith("."):
                continue  # hidden names belong to what was being written
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            else:
                READERS[path.suffix](path)
        after = finished(out) if out.is_dir() else {}
    except (OSError, ValueError, KeyError) as error:
        return Counter({"tracebacks": 1}), f"{type(error).__name__}: {error}"
    if twice := [name for name, state in done.items() if after.get(name) != state]:
        name = twice[0]
        state = "is no longer recorded" if name not in after else "was made again"
        return Counter(
            {"tracebacks": 1}
        ), f"{name} was finished and {state} ({done[name]}, {after.get(name)})"
    return Counter({"results": 1}), ""


def _compared(
    out: Path, code: int | None, expected: dict[str, Any], done: dict[str, tuple[int, int]]
) -> tuple[Counter[str], str]:
    """Return what is to be said of a folder in which all jobs are finished."""
    counts, reason = _judged(out, done)
    found = contents(out)
    if not reason and code != 0:
        reason = f"exit code {code}"
    if not reason and found.keys() != expected.keys():
        reason = f"other files: {sorted(found.keys() ^ expected.keys())}"
    if not reason and (other := [name for name in found if found[name] != expected[name]]):
        reason = f"{other[0]} differs from the run that nobody killed"
    return (Counter({"tracebacks": 1}), reason) if reason else (Counter(), "")


def summary(outcomes: Iterator[Outcome], report) -> Summary:
    """Return the summary of kills; `report` is called with what is wrong."""
    total = Summary()
    for outcome in outcomes:
        total.counts += outcome.counts
        total.cases += bool(outcome.counts["results"])
        if outcome.bad:
            report("kills", outcome, outcome.reason)
    return total
