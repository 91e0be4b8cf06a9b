"""What `codi generate` is asked to do, and doing it: one job from arguments, or many from a JSONL file, batched and resumable."""

import argparse
import hashlib
import json
import math
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from codi import __version__
from codi.types import InputError, Modality

SETTINGS = {"samples": int, "seed": int, "steps": int, "guidance": float}
KEYS = ("id", "to", *(m.value for m in Modality), *SETTINGS)
LIBRARIES = ("torch", "torchaudio", "diffusers", "transformers", "av", "soundfile", "pillow")
PROMPT_SECONDS = 10.0  # of a recording or clip that are decoded to check it


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt: words or a path, and how much it counts."""

    modality: Modality
    value: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request: prompts in, `samples` sets of outputs out. `origin` names it in messages."""

    id: str | None
    items: tuple[Item, ...]
    outputs: tuple[Modality, ...]
    samples: int
    seed: int
    steps: int | None
    guidance: float | None
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"{self.origin}no prompt: expected at least one of text, image, audio, video, e.g. --text 'a red ball'")
        if not self.outputs:
            raise InputError(f"{self.origin}nothing to make: expected --to with text, image, audio or video, e.g. --to image,audio")
        if sum(item.weight for item in self.items) <= 0:
            raise InputError(f"{self.origin}the weights of the prompts sum to zero: expected at least one above zero")
        for name, value, least in (("samples", self.samples, 1), ("steps", self.steps, 1), ("seed", self.seed, 0), ("guidance", self.guidance, 0)):
            if value is not None and not (least <= value < 2**63):
                raise InputError(f"{self.origin}{name} is {value}: expected at least {least}")

    @property
    def names(self) -> list[str]:
        """File names of its samples, without suffix: 000, 001, ... or the id, numbered if there are several."""
        if self.id is None:
            return [f"{k:03d}" for k in range(self.samples)]
        return [self.id] if self.samples == 1 else [f"{self.id}-{k:03d}" for k in range(self.samples)]

    @property
    def settings(self) -> dict[str, Any]:
        return {"samples": self.samples, "seed": self.seed, "steps": self.steps, "guidance": self.guidance}

    def check(self) -> None:
        """Raises `InputError` for a file that can be no prompt."""
        from codi import io

        for item in self.items:
            if item.modality is not Modality.TEXT:
                with _blame(self.origin):
                    io.check_prompt(item.value, item.modality, PROMPT_SECONDS)

    def describe(self) -> list[dict[str, Any]]:
        """Its prompts as a manifest lists them."""
        from codi import io

        rows = []
        for item in self.items:
            what = {"text": item.value} if item.modality is Modality.TEXT else io.describe(item.value)
            rows.append({"as": str(item.modality), "weight": item.weight} | what)
        return rows


class _blame:
    """Puts the origin of a job in front of an error inside it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.origin and isinstance(error, InputError) and not str(error).startswith(self.origin):
            raise InputError(self.origin + str(error)) from error


# Reading requests ------------------------------------------------------


def parse_item(modality: Modality, text: str) -> Item:
    """'a red ball::0.7' -> its value and weight. A tail that is no number belongs to the value."""
    value, sign, tail = text.rpartition("::")
    weight = 1.0
    if sign:
        try:
            weight = float(tail)
        except ValueError:
            value = text
    else:
        value = text
    return _item(modality, value, weight)


def _item(modality: Modality, value: str, weight: float) -> Item:
    if not value.strip():
        raise InputError(f"an empty {modality} prompt: expected {'words' if modality is Modality.TEXT else 'the name of a file'}")
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"weight {weight:g} of {value!r}: expected a number of at least 0")
    return Item(modality=modality, value=value, weight=weight)


def parse_outputs(text: "str | list[str] | None") -> tuple[Modality, ...]:
    """'video,audio' -> modalities, in the order given, each once."""
    names = text.split(",") if isinstance(text, str) else text or []
    return tuple(dict.fromkeys(Modality.parse(name) for name in names if str(name).strip()))


def from_arguments(args: argparse.Namespace) -> Job:
    """The one job that the command line describes."""
    items = tuple(parse_item(m, text) for m in Modality for text in getattr(args, m.value))
    return Job(
        id=None, items=items, outputs=parse_outputs(args.to), samples=args.samples, seed=args.seed, steps=args.steps, guidance=args.guidance
    )


def from_file(args: argparse.Namespace) -> list[Job]:
    """The jobs of a JSONL file; what a line leaves out comes from the command line. File names count from the folder of the file."""
    from codi import io

    if given := [f"--{m}" for m in Modality if getattr(args, m.value)]:
        raise InputError(f"{', '.join(given)} beside --jobs: prompts belong into the lines of {args.jobs}")
    io.check_file(args.jobs)
    try:
        lines = Path(args.jobs).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{args.jobs} is not text: expected one JSON object per line, in UTF-8") from None
    jobs: dict[str, Job] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            job = _job(line, f"{args.jobs} line {number}: ", args)
            if job.id in jobs:
                raise InputError(f"{job.origin}id {job.id!r} was used before: expected a new one")
            jobs[job.id] = job
    if not jobs:
        raise InputError(f"{args.jobs} holds no job: expected one JSON object per line")
    return list(jobs.values())


def _job(line: str, origin: str, args: argparse.Namespace) -> Job:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{origin}not JSON ({error.msg}): expected an object such as {{'id': 'a', 'text': 'a red ball', 'to': 'image'}}") from None
    with _blame(origin):
        if not isinstance(row, dict):
            raise InputError(f"a {type(row).__name__}: expected an object with id, prompts and to")
        if unknown := [key for key in row if key not in KEYS]:
            raise InputError(f"unknown key {unknown[0]!r}: expected some of {', '.join(KEYS)}")
        name = str(row.get("id", ""))
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name) or name == "manifest":
            raise InputError(f"id {name!r}: files are named by it, so expected letters, digits, '.', '_' or '-', and not 'manifest'")
        items = [item for m in Modality for item in _row_items(row.get(m.value), m, Path(args.jobs).parent)]
        settings = {key: _number(row, key, kind, getattr(args, key)) for key, kind in SETTINGS.items()}
        return Job(id=name, items=tuple(items), outputs=parse_outputs(row.get("to", args.to)), origin=origin, **settings)


def _row_items(value: Any, modality: Modality, folder: Path) -> Iterator[Item]:
    """Prompts of one kind in a line: words or a path (weight by suffix), {"value": ..., "weight": ...}, or a list of these."""
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(entry, str):
            item = parse_item(modality, entry)
        elif isinstance(entry, dict) and set(entry) <= {"value", "weight"} and isinstance(entry.get("value"), str):
            item = _item(modality, entry["value"], _number(entry, "weight", float, 1.0))
        else:
            raise InputError(f"{modality} is {json.dumps(entry)[:80]}: expected a string, or {{'value': ..., 'weight': ...}}, or a list of these")
        value = item.value if modality is Modality.TEXT else str(folder / item.value)
        yield Item(modality=modality, value=value, weight=item.weight)


def _number(row: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = row.get(key, default)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value == kind(value)):
        return value if value is None else kind(value)
    raise InputError(f"{key} is {json.dumps(value)[:80]}: expected {'a whole number' if kind is int else 'a number'}")


def batches(jobs: list[Job], limit: int) -> Iterator[list[Job]]:
    """Jobs that can be made at once: same outputs and settings, together at most `limit` samples (or one job alone)."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((frozenset(job.outputs), job.steps, job.guidance), []).append(job)
    for group in groups.values():
        batch: list[Job] = []
        for job in group:
            if batch and sum(j.samples for j in batch) + job.samples > limit:
                yield batch
                batch = []
            batch.append(job)
        yield batch


# Doing them ------------------------------------------------------------


class Session:
    """One run of `codi generate`: the loaded pipeline, the folder that is written, the clock."""

    def __init__(self, out: Path, args: argparse.Namespace, started: float) -> None:
        self.out, self.args, self.started = out, args, started
        self.timings: dict[str, float] = {}
        self.model = {"name": args.model or "codi-tiny", "dtype": args.dtype}
        self.pipe: Any = None

    def pending(self, jobs: list[Job]) -> list[Job]:
        """Those without a finished record in the folder that was made from the very same request."""
        return [job for job in jobs if not self._finished(job)]

    def _finished(self, job: Job) -> bool:
        try:
            record = json.loads((self.out / f"{job.id}.json").read_text())
            return record["request"] == self._digest(job) and all((self.out / name).is_file() for name in record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _digest(self, job: Job) -> str:
        """Changes when anything that decides the result does (the model by name)."""
        asked = [job.describe(), [str(m) for m in job.outputs], job.settings, self.model["name"], self.args.dtype, __version__]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def load(self, device: str) -> None:
        """Loads the model."""
        import torch

        from codi import CoDiPipeline

        began = time.perf_counter()
        pipe = CoDiPipeline.from_pretrained(self.args.model, dtype=getattr(torch, self.args.dtype))
        self.pipe = pipe.to(device)
        self.pipe.set_progress_bar_config(disable=self.args.quiet)
        self.model["device"] = device
        self.timings["load"] = time.perf_counter() - began

    def run(self, jobs: list[Job]) -> list[Path]:
        """Makes and writes a batch; with ids, a record per job is written last and marks it as finished."""
        paths = []
        for job in jobs:
            began = time.perf_counter()
            out = self.pipe(outputs=[str(m) for m in job.outputs], num_samples=job.samples, seed=job.seed, **_prompts(job), **_knobs(job))
            made = time.perf_counter()
            paths += self._write(job, out, {"generate": made - began}, made)
        return paths

    def _write(self, job: Job, out: Any, timings: dict[str, float], made: float) -> list[Path]:
        from codi import io

        paths = out.save(self.out, names=job.names)
        timings |= {"save": time.perf_counter() - made}
        record = self._record(job, out, paths, timings)
        if job.id is None:
            self.timings |= timings
            self.single = record
        else:
            io.save_json(self.out / f"{job.id}.json", {"request": self._digest(job)} | record)
        return paths

    def _record(self, job: Job, out: Any, paths: list[Path], timings: dict[str, float]) -> dict[str, Any]:
        return {
            "inputs": job.describe(),
            "outputs": [str(m) for m in job.outputs],
            "settings": job.settings,
            "seeds": [int(seed) for seed in out.seeds],
            "files": [path.name for path in paths],
            "timings": _rounded(timings),
        }

    def finish(self, jobs: list[Job]) -> None:
        """Writes manifest.json."""
        from codi import io

        self.timings["total"] = time.perf_counter() - self.started
        head = {"codi": __version__, "model": self.model, "versions": versions()}
        body = {"jobs": [f"{job.id}.json" for job in jobs]} if self.args.jobs else self.single
        io.save_json(self.out / "manifest.json", head | body | {"timings": _rounded(self.timings)})


def _prompts(job: Job) -> dict[str, list[Any]]:
    from codi import Prompt

    prompts: dict[str, list[Any]] = {}
    for item in job.items:
        value = item.value if item.modality is Modality.TEXT else Path(item.value)
        prompts.setdefault(item.modality.value, []).append(Prompt(value, weight=item.weight))
    return prompts


def _knobs(job: Job) -> dict[str, Any]:
    """Only what was asked for, so that the pipeline's defaults stand."""
    knobs = {"num_inference_steps": job.steps, "guidance_scale": job.guidance}
    return {name: value for name, value in knobs.items() if value is not None}


def _rounded(timings: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in timings.items()}


def versions() -> dict[str, str | None]:
    """Versions of what made the result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
