"""The files that a run leaves in its folder besides checkpoints.

They are the note of its export, and the lock that keeps a second run out.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from codi.types import InputError
from training.config import Config
from training.stages.common import EXPORTING, say

NOTE = "exported.json"


@contextmanager
def locked(output: Path, here: bool) -> Iterator[None]:
    """Keep every other process from training into a folder while the context lasts.

    The lock goes with the process, however it ends.

    Args:
        output: the folder of the run; it is made if need be.
        here: whether this process takes the lock; all but the main one do not, and for them nothing happens.

    Yields:
        None.

    Raises:
        InputError: if another run holds the lock, or the folder cannot be written.
    """
    if not here:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        stream = (output / "lock").open("a")
    except OSError as error:
        raise InputError(
            f"cannot write the run's folder {output}: {error.strerror}: choose another `output`"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another run is training into {output}: wait for it, or choose another `output`"
            ) from None
        yield


def clear(output: Path) -> None:
    """Remove what a run left in its folder: its checkpoints, log and previews, and nothing else."""
    for name in ("checkpoints", "previews", "tensorboard"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("log.jsonl", "bad.jsonl", NOTE):
        (output / name).unlink(missing_ok=True)


def export_once(config: Config, samples: int, export: Callable[[Path], None]) -> None:
    """Export a model, then note where to and which files appeared or changed.

    By the note a later call can tell whether the files are still there. Runs that export into one model
    folder wait for each other, so that the parts of an export that belong together stay together.

    Args:
        config: the run.
        samples: how many samples the run has seen.
        export: writes the model, given the model folder.

    Raises:
        InputError: if the model folder cannot be written.
    """
    try:
        config.model.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write the model folder {config.model}: {error.strerror}: choose another `model`"
        ) from None
    target = destination(config)
    with ExitStack() as stack:
        # in one order for all runs, or two of them could wait for each other for ever
        for place in sorted({config.model.resolve(), target.resolve()}):
            stack.enter_context(_alone(place))
        before = _stamps(target)
        export(config.model)
        files = sorted(name for name, stamp in _stamps(target).items() if before.get(name) != stamp)
    note = {"samples": samples, "model": str(target), "files": files}
    # renamed when it is whole, so that a kill leaves no half note
    temporary = config.output / f"{NOTE}.tmp"
    temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")
    os.replace(temporary, config.output / NOTE)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep other exports out of a model folder while the context lasts, and remove what killed ones left.

    The lock is on the folder itself and goes with the process. A folder that is not there yet is made.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"cannot write the model folder {place}: {error.strerror}: choose another one"
        ) from None
    try:
        with suppress(OSError):  # some network file systems know no locks; each part is whole there as well
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run that exports into {place}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            for abandoned in place.glob(f".*{EXPORTING}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def export_missing(config: Config, samples: int) -> bool:
    """Return whether the export of this state of the run was never finished, or a file of it has gone."""
    note = read_note(config.output)
    target = destination(config)
    if note is None or note["samples"] != samples or note["model"] != str(target):
        return True
    return not all((target / name).is_file() for name in note["files"])


def destination(config: Config) -> Path:
    """Return the folder that a run exports to: that of the model, or the one that its options name."""
    return Path(config.options.get("into") or config.model)


def read_note(output: Path) -> dict[str, Any] | None:
    """Return {"samples", "model", "files"} of a run's last export, or None if there was none."""
    try:
        note = json.loads((output / NOTE).read_text(encoding="utf-8"))
        return note if {"samples", "model", "files"} <= note.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def refusal(error: BaseException) -> str | None:
    """Return what the disk said when it would take no more, or None if the error is about something else."""
    # safetensors wraps an error of the system in one of its own, which has no errno
    if type(error).__name__ == "SafetensorError" and "os error" in str(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EIO,
    ):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return None


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the time of change and the size of every file below a folder, by its path in the folder."""
    stamps = {}
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            stamps[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size)
    return stamps
