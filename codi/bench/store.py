"""Keep readings on disk.

A benchmark that was interrupted, or is scored again, goes on where it stopped.

runs/<settings>/settings.json     what decides the outcome of a run besides its name: weights, steps,
                                  guidance, seed, the code
runs/<settings>/<run>.json        readings, a row for each scene and output, as many as there are so far
runs/<settings>/<run>.npz         media of the first few samples
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from codi.bench.runs import SHOWN, Media, Readings, Run
from codi.io import atomic, save_json
from codi.types import Modality
from codi.world import Reading

# Folders and files of codi that decide the outcome of a run, besides the weights.
DECIDING = (
    "bench/models.py",
    "bench/runs.py",
    "conditions",
    "diffusion",
    "edited.py",
    "edits.py",
    "given.py",
    "io/fit.py",
    "joint",
    "layers.py",
    "media.py",
    "modalities",
    "models",
    "outputs.py",
    "pipeline.py",
    "prompts.py",
    "regions.py",
    "request.py",
    "selection.py",
    "settings.py",
    "vocabulary.py",
    "world",
)


def _as_array(items: Any) -> np.ndarray:
    """Return samples as an array of numbers or texts; lists of any other kind as their JSON."""
    lists = isinstance(items, list) and any(isinstance(item, (list, dict)) for item in items)
    return np.asarray([json.dumps(item) for item in items] if lists else items)


def deciding_files() -> list[Path]:
    """Return the files of `DECIDING`, those inside its folders included, in order."""
    root = Path(__file__).parents[1]
    found: list[Path] = []
    for name in DECIDING:
        path = root / name
        assert path.exists(), f"{name} decides the outcome of a run, and is not in {root}"
        found += [path] if path.is_file() else path.rglob("*.py")
    return sorted(found)


@cache
def code_digest() -> str:
    """Return a digest that changes with the code that generates and reads.

    Numbers of two versions must not stand in one table.
    """
    digest = hashlib.sha256()
    for path in deciding_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Store:
    """Keep one file of readings for each run.

    Other settings are another folder, so that no run overwrites results of a different question.

    Args:
        folder: the folder of the report.
        settings: what decides the outcome of a run besides its name, as values for JSON.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.folder = folder / "runs" / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").exists():
            save_json(self.folder / "settings.json", settings)

    def load(self, run: Run) -> Readings:
        """Return the readings made so far, empty lists for a run that is still to be made."""
        try:
            stored = json.loads(self._path(run, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            # A file that cannot be parsed counts as missing: its run is made again.
            return {m: [] for m in run.outputs}
        return {Modality(m): list(map(_reading, rows)) for m, rows in stored["readings"].items()}

    def save(self, run: Run, readings: Readings) -> None:
        """Write all readings of a run so far."""
        rows = {m.value: list(map(_row, readings[m])) for m in readings}
        save_json(self._path(run, ".json"), {"run": run.name, "readings": rows})

    def show(self, run: Run, media: Media) -> None:
        """Keep the first few samples of a batch as media."""
        arrays = {m.value: _as_array(items[:SHOWN]) for m, items in media.items()}
        with atomic(self._path(run, ".npz")) as path, open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    def shown(self, run: Run) -> Media:
        """Return the media of the first few samples."""
        with np.load(self._path(run, ".npz")) as arrays:
            return {Modality(m): arrays[m] for m in arrays.files}

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a value that is made once and kept.

        Args:
            name: the name of its file.
            make: a function that makes the value, as JSON can hold it.

        Returns:
            The value from the file where there is one, or else what `make` returns.
        """
        path = self.folder / f"{name}.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(path.read_text(encoding="utf-8"))
        value = make()
        save_json(path, value)
        return value

    def _path(self, run: Run, suffix: str) -> Path:
        """Return the file of a run."""
        return self.folder / (run.name.replace("->", "_to_").replace(" ", "_") + suffix)


def _row(reading: Reading) -> dict[str, Any]:
    """Return a reading as a value for JSON, with times and columns rounded to five decimals."""
    events = [round(float(e), 5) for e in reading.events]
    return {
        "facts": reading.facts,
        "events": events,
        "x": None if reading.x is None else round(float(reading.x), 5),
    }


def _reading(row: dict[str, Any]) -> Reading:
    """Return the reading that a row of a file holds."""
    return Reading(facts=row["facts"], events=np.array(row["events"]), x=row["x"])
