"""What `codi generate` is asked to do: one job from arguments, or many from a JSONL file, checked and put into batches."""

import argparse
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.types import InputError, Modality

SETTINGS = {"samples": int, "seed": int, "steps": int, "guidance": float, "sync_guidance": float}
KEYS = ("id", "to", *(m.value for m in Modality), *SETTINGS)
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
    sync_guidance: float | None
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"{self.origin}no prompt: expected at least one of text, image, audio, video, e.g. --text 'a red ball'")
        if not self.outputs:
            raise InputError(f"{self.origin}nothing to make: expected --to with text, image, audio or video, e.g. --to image,audio")
        if sum(item.weight for item in self.items) <= 0:
            raise InputError(f"{self.origin}the weights of the prompts sum to zero: expected at least one above zero")
        for name, least in (("samples", 1), ("steps", 1), ("seed", 0), ("guidance", 0), ("sync_guidance", 0)):
            value = getattr(self, name)
            if value is not None and not (least <= value < 2**53):
                raise InputError(f"{self.origin}{name} is {value}: expected a number of at least {least}")

    @property
    def names(self) -> list[str]:
        """File names of its samples, without suffix: 000, 001, ... or the id, numbered if there are several."""
        if self.id is None:
            return [f"{k:03d}" for k in range(self.samples)]
        return [self.id] if self.samples == 1 else [f"{self.id}-{k:03d}" for k in range(self.samples)]

    @property
    def knobs(self) -> dict[str, Any]:
        """Arguments of the pipeline; None is the model's own value."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance, "sync_guidance_scale": self.sync_guidance}

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


Sample = tuple[Job, int]  # the k-th of a job


@contextmanager
def _blame(origin: str) -> Iterator[None]:
    """Puts the origin of a job in front of an error inside it."""
    try:
        yield
    except InputError as error:
        if origin and str(error).startswith(origin):
            raise
        raise InputError(f"{origin}{error}") from error


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
    settings = {name: getattr(args, name) for name in SETTINGS}
    return Job(id=None, items=items, outputs=parse_outputs(args.to), **settings)


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
    jobs = [_job(line, f"{args.jobs} line {number}: ", args) for number, line in enumerate(lines, 1) if line.strip()]
    if not jobs:
        raise InputError(f"{args.jobs} holds no job: expected one JSON object per line")
    owner: dict[str, Job] = {}
    for job in jobs:
        for name in {job.id, *job.names}:
            if owner.setdefault(name, job) is not job:
                raise InputError(f"{job.origin}its files would be named {name} like those of {owner[name].id!r}: expected another id")
    return jobs


def _job(line: str, origin: str, args: argparse.Namespace) -> Job:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{origin}not JSON ({error.msg}): expected an object such as {{'id': 'a', 'text': 'a red ball', 'to': 'image'}}"
        ) from None
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
            raise InputError(
                f"{modality} is {json.dumps(entry)[:80]}: expected a string, or {{'value': ..., 'weight': ...}}, or a list of these"
            )
        value = item.value if modality is Modality.TEXT else str(folder / item.value)
        yield Item(modality=modality, value=value, weight=item.weight)


def _number(row: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = row.get(key, default)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value == kind(value)):
        return value if value is None else kind(value)
    raise InputError(f"{key} is {json.dumps(value)[:80]}: expected {'a whole number' if kind is int else 'a number'}")


def batches(jobs: list[Job], limit: int) -> Iterator[list[Sample]]:
    """Samples that can be made at once, at most `limit`: of jobs with the same outputs, settings and kinds of prompts."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        kinds = frozenset(item.modality for item in job.items)
        groups.setdefault((job.outputs, job.steps, job.guidance, job.sync_guidance, kinds), []).append(job)
    for group in groups.values():
        samples = [(job, k) for job in group for k in range(job.samples)]
        yield from (samples[start : start + limit] for start in range(0, len(samples), limit))
