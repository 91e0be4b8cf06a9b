"""What a run leaves in its folder besides checkpoints: the note of its export, and the lock that keeps a second run out."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from codi.types import InputError
from training.config import Config

_NOTE = "exported.json"


@contextmanager
def locked(output: Path, here: bool) -> Iterator[None]:
    """Inside, no other process can train into `output`. Does nothing where `here` is false (all processes but the main one).

    The lock goes with the process, however it ends. Raises `InputError` when another run holds it, or when the folder cannot be written.
    """
    if not here:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        stream = (output / "lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write the run's folder {output}: {error.strerror}: choose another `output`") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another run is training into {output}: wait for it, or choose another `output`") from None
        yield


def clear(output: Path) -> None:
    """Forgets a run: its checkpoints, log and previews; nothing else in the folder."""
    for name in ("checkpoints", "previews", "tensorboard"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("log.jsonl", "bad.jsonl", _NOTE):
        (output / name).unlink(missing_ok=True)


def export_once(config: Config, samples: int, export: Callable[[Path], None]) -> None:
    """Exports, then notes the files that appeared or changed, so that a later call can tell whether they are still there."""
    try:
        config.model.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the model folder {config.model}: {error.strerror}: choose another `model`") from None
    before = _stamps(config.model)
    export(config.model)
    files = sorted(name for name, stamp in _stamps(config.model).items() if before.get(name) != stamp)
    note = {"samples": samples, "model": str(config.model), "files": files}
    temporary = config.output / f"{_NOTE}.tmp"
    temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")
    os.replace(temporary, config.output / _NOTE)


def export_missing(config: Config, samples: int) -> bool:
    """True if the export of this state of the run was never finished, or a file of it has gone."""
    try:
        note = json.loads((config.output / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    same = note.get("samples") == samples and note.get("model") == str(config.model)
    return not same or not all((config.model / name).is_file() for name in note["files"])


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
