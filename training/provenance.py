"""The origin of a model, as its runs recorded it.

The record says which runs went into the model, on what data, and with which settings. A run notes where it
exported to and which files (`training.folder`), and its checkpoints hold its configuration; neither is
guessed from names.
"""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from training import checkpoint, folder
from training.config import load_config
from training.log import is_held_out
from training.stages.files import names_of_data

NAME = "provenance.json"
# The entries of a benchmark's report that are kept.
SCORES = ("command", "settings", "versions", "tasks", "targets", "summary", "retrieval", "ceiling")


def provenance(
    model: Path, parts: list[str], runs: Path, scores: Path | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    """Return how some parts of a model were made.

    Args:
        model: the model folder.
        parts: names of the parts.
        runs: the folder below which the folders of runs lie.
        scores: a report of `codi bench`, of which `SCORES` are kept.
        notes: what else there is to know.

    Returns:
        Commit, licence, data, and of every run that went into the parts its settings and what it saw. "base"
        is the same of a model that was copied before it was trained on; "unknown" are parts of which neither
        says anything.
    """
    found = contributors(model, parts, runs)
    stages = {run.name: describe(run) for run in found}
    base = json.loads((model / NAME).read_text(encoding="utf-8")) if (model / NAME).is_file() else {}
    seen = [stage["data"] or [] for stage in stages.values()]
    seen.append(base.get("data", []))
    made: dict[str, Any] = {
        "commit": current_commit(),
        "license": "MIT",
        "data": unique(seen),
        "stages": stages,
    }
    if base:
        made["base"] = {name: value for name, value in base.items() if name != "scores"}
    else:
        known: set[str] = set().union(*map(parts_of, found))
        if unknown := sorted(set(parts) - known):
            made["unknown"] = unknown
    if notes:
        made["notes"] = notes
    if scores is not None:
        report = json.loads(scores.read_text(encoding="utf-8"))
        made["scores"] = {name: report[name] for name in SCORES if report.get(name)}
    return made


def current_commit() -> str | None:
    """Return the commit of the code in the working folder.

    Outside of a repository, or where git is not installed, it is None.
    """
    try:
        return (
            subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
            or None
        )
    except OSError:
        return None


def contributors(model: Path, parts: list[str], runs: Path) -> list[Path]:
    """Return the folders of the runs that exported any of some parts into a model, the earliest first.

    Where a run copied another model there first (`options: into`), those that had exported into that one by
    then are among them.

    Args:
        model: the model folder.
        parts: names of the parts.
        runs: the folder below which the folders of runs lie.

    Returns:
        The folders, in the order in which the runs exported.
    """
    exported = {path.parent: path.stat().st_mtime for path in runs.glob(f"*/{folder.NOTE}")}
    models = {model.resolve(): float("inf")}
    found = set()
    waiting = list(models)
    while waiting:
        target = waiting.pop()
        for run, moment in exported.items():
            if moment > models[target]:
                continue
            note = folder.read_note(run)
            if note and Path(note["model"]).resolve() == target and parts_of(run) & set(parts):
                found.add(run)
                origin = Path((settings_of(run) or note)["model"]).resolve()
                # only runs from before the copy was made went into it
                if origin not in models:
                    models[origin] = exported[run]
                    waiting.append(origin)
    return sorted(found, key=exported.get)


def parts_of(run: Path) -> set[str]:
    """Return the parts of a model of which a run wrote files."""
    note = folder.read_note(run)
    return {Path(name).parts[0] for name in note["files"]} if note else set()


def describe(run: Path) -> dict[str, Any]:
    """Return the settings of a run, how many samples it saw, and its last numbers.

    Settings and data of a run without checkpoints are None.
    """
    settings = settings_of(run)
    log = run / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    # held-out numbers stand in lines of their own
    newest = {is_held_out(line): line for line in map(json.loads, lines)}
    last = {**newest.get(True, {}), **newest.get(False, {})}
    return {
        "command": settings and command_of(settings),
        "seed": settings and settings["seed"],
        "data": settings and names_of_data(settings.get("data") or {}),
        "samples_seen": folder.read_note(run)["samples"],
        "settings": settings,
        "last_log": {key: value for key, value in last.items() if isinstance(value, (int, float))},
    }


def settings_of(run: Path) -> dict[str, Any] | None:
    """Return the configuration that a run's newest checkpoint holds, or None if there is no checkpoint."""
    state = checkpoint.newest_state(run / "checkpoints")
    return state and state["config"]


def command_of(settings: dict[str, Any]) -> str | None:
    """Return the shortest command that runs these settings, by a configuration of the run's name.

    Where there is no such configuration, it is None.
    """
    commands = []
    found = Path("configs").rglob(f"{Path(settings['output']).name}.yaml")
    # configurations in `base` are extended by others, never run
    for path in found:
        if path.parent.name == "base":
            continue
        named = load_config(path).as_json()
        if named["stage"] == settings["stage"]:
            words = ["accelerate", "launch", "-m", "training.main", "--config", path.as_posix()]
            for name, value in settings.items():
                if value != named.get(name):
                    words += ["--set", f"{name}={json.dumps(value)}"]
            commands.append(shlex.join(words))
    return min(commands, key=len, default=None)


def unique(names: list[Any]) -> list[str]:
    """Return names and lists of names as one list, each once."""
    flat: list[str] = []
    for entry in names:
        flat += [entry] if isinstance(entry, str) else entry
    return list(dict.fromkeys(flat))
