"""Checkpoints that survive a kill at any moment, and hold nothing but numbers.

A checkpoint is a folder `step-N`: `weights.safetensors`, `optimizer.safetensors`, `ema.safetensors` (if there
is an average), `best.safetensors` (if the best model so far is kept), `state.json`, and `manifest.json` with
the size and sha256 of the others. It is written as `step-N.tmp`, every file is flushed to disk, the manifest
comes last, then the folder is renamed. A checkpoint that has no manifest, or does not agree with it, is
damaged and is named.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from codi.tensor_files import read_header, read_json
from codi.types import InputError

_NAME = re.compile(r"step-\d+")
_MANIFEST, _STATE = "manifest.json", "state.json"
_OPTIONAL = ("ema", "best")
_NEEDED = {"weights.safetensors", "optimizer.safetensors", _STATE}
_TYPES: dict[str, tuple[type, ...]] = {  # what a run takes from its state
    "step": (int,),
    "samples": (int,),
    "elapsed": (int, float),
    "config": (dict,),
    "scaler": (dict, type(None)),
    "ema_updates": (int,),
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a run needs in order to go on.

    Attributes:
        step: how many optimizer steps were taken.
        weights: what trains, by name.
        optimizer: the optimizer's state as {"parameter/slot": tensor}.
        state: everything else, plain JSON; what a run takes from it is in `_TYPES`.
        ema: the averaged weights by name; empty where none are kept.
        best: the weights of the least held-out loss so far, by name; empty where they are not kept.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


def write(folder: Path, snapshot: Snapshot, *, keep: int = 2) -> Path:
    """Add a snapshot to the checkpoints in `folder`, and remove all but the newest.

    The older ones stay until the new one is safe.

    Args:
        folder: where the checkpoints are; it is made if need be.
        snapshot: what to write.
        keep: how many checkpoints to keep, the new one included.

    Returns:
        The folder of the new checkpoint.

    Raises:
        InputError: if the disk refuses; what was there before is then untouched.
    """
    final = folder / f"step-{snapshot.step:08d}"
    temporary = final.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(temporary, snapshot)
        if final.exists():
            _remove(final)
        temporary.rename(final)
        _sync(folder)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) or "SafetensorError" in type(error).__name__:
            advice = "free some space, or choose another `output`; older checkpoints are untouched"
            raise InputError(f"cannot write checkpoint {final}: {error}: {advice}") from error
        raise
    for path in _listed(folder):
        # such a checkpoint is damaged, or the run went back to an earlier one and has another future now
        if _number(path) > snapshot.step:
            _remove(path)
    prune(folder, keep)
    return final


def find(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Return the newest complete checkpoint in `folder`, or None when there is none at all.

    Args:
        folder: where the checkpoints are.
        warn: called with a sentence about every damaged checkpoint that is newer.

    Returns:
        The folder of the checkpoint.

    Raises:
        InputError: if there are only damaged ones.
    """
    damaged = []
    for path in reversed(_listed(folder)):
        fault = inspect(path)
        if fault is None:
            return path
        damaged.append(f"{path} ({fault})")
        warn(f"checkpoint {path} is damaged: {fault}; looking for an older one")
    if damaged:
        raise InputError(
            f"every checkpoint is damaged: {'; '.join(damaged)}: restore one, or start anew with --restart"
        )
    return None


def inspect(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if nothing is.

    Every file is compared with the manifest; then what a run takes from it has to be there, of its type.
    """
    try:
        files = read_json(path / _MANIFEST).get("files")
        if not isinstance(files, dict) or not _NEEDED <= set(files):
            return f"{_MANIFEST} does not list {', '.join(sorted(_NEEDED))}"
        for name in (f"{part}.safetensors" for part in _OPTIONAL):
            if (path / name).exists() and name not in files:
                return f"{name} is there, and {_MANIFEST} does not list it"
        for name, entry in files.items():
            if fault := _fault_of_file(path, name, entry):
                return fault
        return _fault_of_state(path, read_json(path / _STATE))
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except InputError as error:
        # the checkpoint is named by whoever asks
        return str(error).replace(f"{path}/", "").partition(": copy or download")[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_MANIFEST} cannot be read ({type(error).__name__})"


def _fault_of_file(path: Path, name: str, entry: Any) -> str | None:
    """Return what is wrong with one file of a checkpoint, by its entry in the manifest, or None."""
    file = path / name
    if Path(name).name != name:
        return f"{_MANIFEST} lists {name!r}, which is no name of a file in it"
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != entry["size"]:
        return f"{name} has {file.stat().st_size} bytes instead of {entry['size']}"
    if _digest(file) != entry["sha256"]:
        return f"{name} was altered: its sha256 differs from the manifest"
    if file.suffix == ".safetensors":
        read_header(file)
    return None


def _fault_of_state(path: Path, state: dict[str, Any]) -> str | None:
    """Return what in the state of a checkpoint no run can go on from, or None."""
    for name, kinds in _TYPES.items():
        if name not in state:
            return f"{_STATE} lacks {name}"
        value = state[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            return f"{_STATE} has {name} {value!r:.60}"
        if isinstance(value, (int, float)) and not 0 <= value < math.inf:
            return f"{_STATE} has {name} {value!r:.60}"
    if state["step"] != _number(path):
        return f"{_STATE} is that of step {state['step']}"
    if not _is_measurement(state.get("validation")):
        return f"{_STATE} has a validation that is none"
    config, scaler = state["config"], state["scaler"] or {}
    if not isinstance(config.get("options"), dict) or not isinstance(config.get("model"), str):
        return f"{_STATE} has a config without model and options"
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in scaler.values()):
        return f"{_STATE} has a scaler that holds more than numbers"
    return None


def _is_measurement(value: Any) -> bool:
    """Return whether a value is what a run keeps of its held-out losses; older checkpoints have None."""
    if value is None:
        return True
    if not isinstance(value, dict) or not {"best", "best_samples", "since"} <= value.keys():
        return False
    best = value["best"]
    counts = [value["best_samples"], value["since"]]
    number = isinstance(best, (int, float)) and not isinstance(best, bool) and math.isfinite(best)
    return (best is None or number) and all(type(count) is int and count >= 0 for count in counts)


def read(path: Path) -> Snapshot:
    """Return the snapshot in a complete checkpoint, on the CPU."""
    state = read_json(path / _STATE)
    more = {}
    for name in _OPTIONAL:
        file = path / f"{name}.safetensors"
        more[name] = load_file(file) if file.exists() else {}
    return Snapshot(
        step=state["step"],
        weights=load_file(path / "weights.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        state=state,
        **more,
    )


def newest_state(folder: Path) -> dict[str, Any] | None:
    """Return the `state` of the newest checkpoint without reading tensors, or None if none can be read."""
    for path in reversed(_listed(folder)):
        with suppress(InputError):
            return read_json(path / _STATE)
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove unfinished folders, and all but the newest `keep` of the finished ones."""
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in _listed(folder)[:-keep]:
        _remove(path)


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    """Write the files of a checkpoint and flush them to disk, the manifest last."""
    parts = {"weights": snapshot.weights, "optimizer": snapshot.optimizer}
    parts |= {name: getattr(snapshot, name) for name in _OPTIONAL}
    for name, tensors in parts.items():
        if tensors or name not in _OPTIONAL:
            save_file(_separate(tensors), folder / f"{name}.safetensors")
    (folder / "state.json").write_text(
        json.dumps({**snapshot.state, "step": snapshot.step}, indent=1), encoding="utf-8"
    )
    files = sorted(folder.iterdir())
    for file in files:
        _sync(file)
    entries = {file.name: {"size": file.stat().st_size, "sha256": _digest(file)} for file in files}
    (folder / _MANIFEST).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    _sync(folder / _MANIFEST)
    _sync(folder)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, none sharing memory with another.

    safetensors refuses tied weights.
    """
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return separate


def _listed(folder: Path) -> list[Path]:
    """Return the finished checkpoints, oldest first, complete or not."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _remove(path: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves an unfinished folder, not a damaged checkpoint."""
    doomed = path.with_name(path.name + ".old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
