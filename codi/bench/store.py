"""Readings on disk, so that a benchmark that was interrupted, or is scored again, goes on where it stopped.

runs/<settings>/settings.json     what decides the outcome of a run besides its name: weights, steps,
                                  guidance, seed, the code
runs/<settings>/<run>.json        readings, a row per scene and output, as many as there are so far
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

# of codi, besides the weights
DECIDING = ("diffusion", "models", "world", "pipeline.py", "prompts.py", "selection.py")


@cache
def code_digest() -> str:
    """Changes with the code that generates and reads: numbers of two versions must not stand in one table."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(
        path
        for name in DECIDING
        for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Store:
    """One file of readings per run. Other settings are another folder: nothing is overwritten by a different
    question.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.folder = folder / "runs" / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").exists():
            save_json(self.folder / "settings.json", settings)

    def load(self, run: Run) -> Readings:
        """The readings made so far; empty lists for a run that is still to do."""
        try:
            stored = json.loads(self._path(run, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {m: [] for m in run.outputs}
        return {Modality(m): [_reading(row) for row in rows] for m, rows in stored["readings"].items()}

    def save(self, run: Run, readings: Readings) -> None:
        """All readings of a run so far."""
        rows = {m.value: [_row(reading) for reading in readings[m]] for m in readings}
        save_json(self._path(run, ".json"), {"run": run.name, "readings": rows})

    def show(self, run: Run, media: Media) -> None:
        """Keeps the first few samples as media."""
        arrays = {m.value: np.asarray(items[:SHOWN]) for m, items in media.items()}
        with atomic(self._path(run, ".npz")) as path, open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    def shown(self, run: Run) -> Media:
        """Media of the first few samples."""
        with np.load(self._path(run, ".npz")) as arrays:
            return {Modality(m): arrays[m] for m in arrays.files}

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """A value of JSON that is made once and kept."""
        path = self.folder / f"{name}.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(path.read_text(encoding="utf-8"))
        value = make()
        save_json(path, value)
        return value

    def _path(self, run: Run, suffix: str) -> Path:
        return self.folder / (run.name.replace("->", "_to_").replace(" ", "_") + suffix)


def _row(reading: Reading) -> dict[str, Any]:
    events = [round(float(e), 5) for e in reading.events]
    return {
        "facts": reading.facts,
        "events": events,
        "x": None if reading.x is None else round(float(reading.x), 5),
    }


def _reading(row: dict[str, Any]) -> Reading:
    return Reading(facts=row["facts"], events=np.array(row["events"]), x=row["x"])
