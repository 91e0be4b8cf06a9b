"""What the benchmark generates. A `Run` is one choice of inputs, outputs and seeds over all scenes; its readings are kept on disk.

Everything the report says is computed from readings (what the probes saw), so a finished run is never generated twice.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from codi import world
from codi.io import atomic, save_json
from codi.types import InputError, Modality
from codi.world import Reading, Scene

Media = dict[Modality, Any]  # image (B, 3, H, W), video (B, F, 3, H, W) uint8; audio (B, S); text list
Readings = dict[Modality, list[Reading]]
Sampler = Callable[["Run", list[Scene], list[int]], Media]  # (run, scenes, one seed per scene) -> its outputs

SHOWN = 3  # samples of a run kept as media, for the contact sheet
_RENDER = {Modality.TEXT: lambda scenes: [world.caption(scene) for scene in scenes], **world.RENDERERS}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One thing to generate for every scene.

    facts     what a text prompt names; None is everything that a caption can say
    held_out  scenes are shape-colour pairs that training never showed
    draw      which of several independent sets of seeds
    """

    inputs: tuple[Modality, ...]
    outputs: tuple[Modality, ...]
    facts: tuple[str, ...] | None = None
    held_out: bool = False
    draw: int = 0

    @property
    def name(self) -> str:
        facts = "" if self.facts is None else f"[{','.join(self.facts)}]"
        tail = ("!" if self.held_out else "") + (f"~{self.draw}" if self.draw else "")
        return f"{join(self.inputs)}{facts}->{join(self.outputs)}{tail}"

    def redrawn(self, draw: int) -> "Run":
        return replace(self, draw=draw)


def join(modalities: tuple[Modality, ...]) -> str:
    return "+".join(m.value for m in modalities)


def parse_cell(text: str) -> Run:
    """`text+audio->video` as a run. Raises `InputError`."""
    parts = text.split("->")
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise InputError(f"cell {text!r} is not of the form inputs->outputs, such as text+audio->video")
    inputs, outputs = ([Modality.parse(name) for name in part.split("+")] for part in parts)
    return Run(inputs=_ordered(inputs, text), outputs=_ordered(outputs, text))


def _ordered(modalities: list[Modality], text: str) -> tuple[Modality, ...]:
    if len(set(modalities)) < len(modalities):
        raise InputError(f"cell {text!r} names a modality twice on one side: name each once")
    return tuple(m for m in Modality if m in modalities)


def seeds_of(run: Run, count: int, seed: int) -> list[int]:
    """One seed per scene, different for every draw."""
    return [seed * 1_000_003 + run.draw * 65_537 + i for i in range(count)]


def render(modality: Modality, scenes: list[Scene]) -> Any:
    """Ground truth of one modality."""
    return _RENDER[modality](scenes)


def read(modality: Modality, media: Any) -> list[Reading]:
    """What the probe of that modality sees."""
    return world.READERS[modality](media)


def prompts_of(run: Run, scenes: list[Scene]) -> Media:
    """The prompts of every scene, by modality: captions, pictures, sounds, clips."""
    columns = {m: render(m, scenes) for m in run.inputs}
    if Modality.TEXT in columns and run.facts is not None:
        columns[Modality.TEXT] = [world.caption(scene, facts=run.facts) for scene in scenes]
    return columns


def truth_sampler(run: Run, scenes: list[Scene], seeds: list[int]) -> Media:
    """Outputs that are the scenes themselves: what a perfect generator would give."""
    return {m: render(m, scenes) for m in run.outputs}


def generate(run: Run, scenes: list[Scene], seed: int, sampler: Sampler, batch_size: int) -> tuple[Readings, Media]:
    """Readings of all outputs for all scenes, and the media of the first few."""
    seeds, readings, shown = seeds_of(run, len(scenes), seed), {m: [] for m in run.outputs}, {}
    for start in range(0, len(scenes), batch_size):
        part = slice(start, start + batch_size)
        media = sampler(run, scenes[part], seeds[part])
        for m in run.outputs:
            readings[m] += read(m, media[m])
        if start == 0:
            shown = {m: media[m][:SHOWN] for m in run.outputs}
    return readings, shown


class Store:
    """Readings on disk, one file per run. A file made with other settings is made again."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder / "runs", settings
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, run: Run) -> Readings | None:
        """The readings of a finished run, or None when it is still to do."""
        try:
            stored = json.loads(self._path(run, ".json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if stored["settings"] != self.settings:
            return None
        return {Modality(m): [_reading(row) for row in rows] for m, rows in stored["readings"].items()}

    def save(self, run: Run, readings: Readings, shown: Media) -> None:
        arrays = {m.value: np.asarray(media) for m, media in shown.items()}
        with atomic(self._path(run, ".npz")) as path, open(path, "wb") as file:
            np.savez_compressed(file, **arrays)
        rows = {m.value: [_row(reading) for reading in readings[m]] for m in readings}
        save_json(self._path(run, ".json"), {"run": run.name, "settings": self.settings, "readings": rows})

    def shown(self, run: Run) -> Media:
        """Media of the first few samples."""
        with np.load(self._path(run, ".npz")) as arrays:
            return {Modality(m): arrays[m] for m in arrays.files}

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """A value of JSON that is made once and kept."""
        path = self.folder / f"{name}.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            stored = json.loads(path.read_text())
            if stored["settings"] == self.settings:
                return stored["value"]
        value = make()
        save_json(path, {"settings": self.settings, "value": value})
        return value

    def _path(self, run: Run, suffix: str) -> Path:
        return self.folder / (run.name.replace("->", "_to_") + suffix)


def _row(reading: Reading) -> dict[str, Any]:
    events = [round(float(e), 5) for e in reading.events]
    return {"facts": reading.facts, "events": events, "x": None if reading.x is None else round(float(reading.x), 5)}


def _reading(row: dict[str, Any]) -> Reading:
    return Reading(facts=row["facts"], events=np.array(row["events"]), x=row["x"])
