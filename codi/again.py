"""Find the jobs that a record describes, for `codi generate --from FILE`.

What the command line names counts instead of what the record says.
"""

import argparse
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi import jobs, records
from codi.border import parse_scale
from codi.jobs import Item, Job
from codi.modalities import kind_of
from codi.records import Record
from codi.types import EMBEDDED, InputError, Modality

# sizes that decide how long a clip or a sound lasts
TIMES = ("num_frames", "fps", "audio_length_in_s")
DRAWING = ("num_samples", "seed", "candidates")  # options after which other samples are made
# options after which samples are made otherwise, so that their places in a batch no longer count
PLACING = (
    "to",
    "num_inference_steps",
    "sync",
    "auxiliary_caption",
    "scheduler",
    "model",
    "dtype",
    "batch",
    "lengths",
    *jobs.SIZES,
    *jobs.SCALES,
    *jobs.NAMED,
)


def jobs_from(args: argparse.Namespace, schedulers: Collection[str]) -> tuple[list[Job], list[Record]]:
    """Return the jobs that the record named by `args.again` asks for.

    Everything that the command line names counts instead of the record's. With nothing of it named, each
    sample is made at its place in a batch as large as it was, so that it comes out equal to the bit.

    Args:
        args: the options of the command line. The model, adapters, device and precision of the record are put
            into it where it names none.
        schedulers: names that `args.scheduler` may have.

    Returns:
        The jobs, and the records that they are from.

    Raises:
        InputError: for a record that cannot be used, and for several that were made by different models.
    """
    if args.jobs:
        raise InputError("--from beside --jobs: expected one of them")
    found = records.read_records(args.again)
    for record in found:
        record.check_single()
    exact = _is_exact(args)
    _take_model(args, found, schedulers)
    several = len(found) > 1
    todo = []
    for record in found:
        name = record.id if several else None
        origin = f"{record.source}: " if several else ""
        todo.append(replace(_job(record, args, exact, name), origin=origin))
    return todo, found


def _is_exact(args: argparse.Namespace) -> bool:
    """Return whether the command line names nothing that changes what is made."""
    for name in (*DRAWING, *PLACING):
        if getattr(args, name) is not None:
            return False
    if jobs.typed_edits(args):
        return False
    given = (*jobs.prompt_keys(), "region", "control", "control_from", "lora", "words")
    return not any(getattr(args, name) for name in given)


def _job(record: Record, args: argparse.Namespace, exact: bool, name: str | None) -> Job:
    """Return the job that a record describes, with what the command line names in place of its own.

    `name` is the id of the job, where there are several.
    """
    outputs = jobs.parse_outputs(args.to) or record.outputs
    resolved = record.resolved
    items: list[Item] = []
    negatives: list[Item] = []
    changed = outputs != record.outputs
    for key, modality in jobs.prompt_keys().items():
        found = negatives if key.startswith("negative_") else items
        found += _items(record, args, key, modality)
        changed = changed or bool(getattr(args, key))
    steps = args.num_inference_steps
    auxiliary_caption = args.auxiliary_caption
    more = ("guidance_interval", "sync_guidance_interval", "guidance_rescale")
    try:
        return Job(
            id=name,
            items=tuple(items),
            negatives=tuple(negatives),
            outputs=outputs,
            num_inference_steps=resolved["num_inference_steps"] if steps is None else steps,
            sizes=_sizes(record, args, outputs),
            lengths=args.lengths or resolved["lengths"],
            sync=_sync(record, args, changed),
            auxiliary_caption=resolved["auxiliary_caption"]
            if auxiliary_caption is None
            else auxiliary_caption,
            edits=_edits(record, args, outputs),
            regions=_regions(record, args),
            control=_control(record, args, outputs),
            more={key: resolved[key] for key in more},
            written=args.written,
            **_scales(record, args, outputs),
            **_named(record, args, outputs),
            **_samples(record, args, exact),
        )
    except InputError as error:
        raise InputError(f"from {record.source}: {error}") from None


def _items(record: Record, args: argparse.Namespace, key: str, modality: Modality) -> list[Item]:
    """Return the prompts of one kind: those that the command line names, or else the record's."""
    if given := getattr(args, key):
        return [jobs.parse_item(modality, text) for text in given]
    rows = record.negatives if key.startswith("negative_") else record.inputs
    found = [row for row in rows if row["as"] in (modality, "embeds")]
    for row in found:
        records.check_held(record.source, row)
    return [_item(record, row) for row in found]


def _item(record: Record, row: Mapping[str, Any]) -> Item:
    """Return a prompt of a record, whose file must be there."""
    modality = Modality(row["as"])
    value = row["text"] if kind_of(modality).in_words else records.check_input(record.source, row)
    return Item(modality=modality, value=value, weight=row["weight"])


def _edits(record: Record, args: argparse.Namespace, outputs: tuple[Modality, ...]) -> dict[str, Any]:
    """Return what outputs are given of themselves: as the command line names it, and else as the record does.

    A start of the record counts until the command line names another, and so does each other part.
    """
    found = record.edits()
    for name, value in found.items():
        if isinstance(value, dict):
            found[name] = {key: item for key, item in value.items() if key in outputs}
    named = jobs.typed_edits(args)
    for name, value in named.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = {**found[name], **value} if both else value
    found = {name: value for name, value in found.items() if value not in ({}, None)}
    if not found.keys() & {"keep", "keyframes", "canvas"} and "resample_steps" not in named:
        found.pop("resample_steps", None)
    return found


def _regions(record: Record, args: argparse.Namespace) -> tuple[dict[str, Any], ...]:
    """Return the regions of a job: those that the command line names, or else the record's."""
    if args.region:
        return tuple(map(jobs.parse_region, args.region))
    found = []
    for row in record.regions:
        region = {key: value for key, value in row.items() if key not in ("inputs", "mask")}
        for entry in row["inputs"]:
            item = _item(record, entry)
            region.setdefault(item.modality.value, []).append({"value": item.value, "weight": item.weight})
        if "mask" in row:
            region["mask"] = records.check_mask(record.source, row["mask"])
        found.append(region)
    return tuple(found)


def _control(
    record: Record, args: argparse.Namespace, outputs: tuple[Modality, ...]
) -> tuple[dict[str, Any], ...]:
    """Return the controls that the command line names, and else the record's for what is made."""
    if args.control:
        return jobs.described_controls(args.control)
    kept = [each for each in record.resolved.get("control", []) if each["output"] in outputs]
    return jobs.described_controls(kept)


def _samples(record: Record, args: argparse.Namespace, exact: bool) -> dict[str, Any]:
    """Return the seeds and counts of a job.

    Samples that were the best of several candidates are made by their own seeds, without drawing the others,
    until the command line names a count or a seed.
    """
    first = record.samples[0]["seed"]
    if any(getattr(args, name) is not None for name in DRAWING):
        seed = first if args.seed is None else args.seed
        num_samples = len(record.samples) if args.num_samples is None else args.num_samples
        candidates = record.resolved["candidates"] if args.candidates is None else args.candidates
        return {"num_samples": num_samples, "candidates": candidates, "seed": jobs.draw_seed(seed)}
    places = []
    for sample in record.samples:
        places.append(sample if exact else {"seed": sample["seed"], "batch": None})
    return {"num_samples": len(places), "candidates": 1, "seed": first, "places": tuple(places)}


def _scales(record: Record, args: argparse.Namespace, outputs: tuple[Modality, ...]) -> dict[str, Any]:
    """Return the scales that the command line names, and else the record's for what is made."""
    found = {}
    for name in jobs.SCALES:
        if getattr(args, name) is not None:
            found[name] = parse_scale(getattr(args, name), jobs.typed(args, name))
        elif outputs == record.outputs:
            found[name] = record.per_output(name)
        else:
            both = [key for key in record.resolved[name] if key in outputs and key in record.outputs]
            found[name] = {key: record.resolved[name][key] for key in both} or None
    if args.guider is not None and args.guidance_scale is None and record.own_scales:
        kept = record.resolved["guidance_scale"]
        plain = [key for key in kept if key in outputs and key not in record.own_scales]
        found["guidance_scale"] = {key: kept[key] for key in plain} or None
    return found


def _named(record: Record, args: argparse.Namespace, outputs: tuple[Modality, ...]) -> dict[str, Any]:
    """Return the settings of `jobs.NAMED` that the command line names, and else the record's."""
    found: dict[str, Any] = {}
    for name, parse in jobs.NAMED.items():
        if getattr(args, name) is not None:
            found[name] = parse(getattr(args, name), jobs.typed(args, name))
    if "guider" not in found and "guider" in record.resolved:
        found["guider"] = record.per_output("guider") if outputs == record.outputs else None
        if outputs != record.outputs:
            both = [key for key in record.resolved["guider"] if key in outputs and key in record.outputs]
            found["guider"] = {key: record.resolved["guider"][key] for key in both} or None
    if "classifier_guidance" not in found:
        found["classifier_guidance"] = record.classifier_guidance(outputs)
    if "upscale" not in found and any(kind_of(m).spatial for m in outputs):
        found["upscale"] = record.resolved.get("upscale")
    return found


def _sizes(record: Record, args: argparse.Namespace, outputs: tuple[Modality, ...]) -> dict[str, float]:
    """Return the sizes that the command line names, and else the record's.

    Where a time is named, what it leaves open follows from it, not from the record.
    """
    given = {name: getattr(args, name) for name in jobs.SIZES if getattr(args, name) is not None}
    same_clock = given.keys().isdisjoint(TIMES) and args.lengths is None and outputs == record.outputs
    kept = {}
    for name in jobs.SIZES:
        value = record.resolved.get(name)
        if value is None or name in given or (name in TIMES and not same_clock):
            continue
        if jobs.applies(name, outputs):
            kept[name] = value
    return kept | given


def _sync(record: Record, args: argparse.Namespace, changed: bool) -> bool | tuple[str, ...]:
    """Return what is asked of clean partners: by the command line, or else by the record.

    Names of partners count only where prompts and outputs are still the record's.
    """
    if args.sync is not None:
        return args.sync
    asked = record.resolved["sync"]
    if isinstance(asked, bool):
        return asked
    return bool(asked) if changed else tuple(asked)


# The model -------------------------------------------------------------


def _take_model(args: argparse.Namespace, found: list[Record], schedulers: Collection[str]) -> None:
    """Put the record's model, adapters, device and precision into `args` where they name none."""
    model = found[0].model
    source = found[0].source
    for record in found:
        for key in ("name", "dtype", "loras", "words", "scheduler_config"):
            if record.model.get(key) != model.get(key):
                raise InputError(
                    f"the jobs of {args.again} were made by different models: expected the record of one, "
                    f"such as {found[0].id}.json"
                )
    if args.model is None:
        if not model.get("name"):
            raise InputError(
                f"{source} does not name its model, which was put together by hand: name one with --model"
            )
        if model["name"] != EMBEDDED:
            args.model = model["name"]
            warnings.warn(f"the model is {args.model}, as {source} says", stacklevel=2)
    if args.scheduler is None and model.get("scheduler") in schedulers:
        args.scheduler = model["scheduler"]
    args.dtype = args.dtype or model.get("dtype")
    args.device = args.device or _device(model.get("device"))
    args.lora = args.lora or [
        f"{row['path']}::{row.get('scale', 1.0)!r}" for row in _adapters(model, "loras", source)
    ]
    args.control_from = args.control_from or _branches(found)
    args.words = args.words or [row["path"] for row in _adapters(model, "words", source)]


def _branches(found: Iterable[Record]) -> list[str]:
    """Return the folders of the controls that records were made with, with a note for one that changed."""
    from codi.adapters.given import sha256_of

    folders: dict[str, None] = {}
    for record in found:
        for row in record.model.get("controls", []):
            weights = Path(row["path"]) / "diffusion_pytorch_model.safetensors"
            if weights.is_file() and sha256_of(weights) != row["sha256"]:
                warnings.warn(f"{row['path']} has changed since {record.source} was made", stacklevel=3)
            folders[row["path"]] = None
    return list(folders)


def _device(name: str | None) -> str | None:
    """Return the record's device, or where there is none like it here, the one that "auto" picks."""
    if name is None:
        return None
    from codi.pretrained import pick_device

    try:
        return pick_device(name)
    except InputError:  # once the model is loaded, a note says so
        return pick_device("auto")


def _adapters(model: Mapping[str, Any], key: str, source: str) -> Iterable[Mapping[str, Any]]:
    """Yield a record's adapters of one kind, with a note for a file that has changed since."""
    from codi.adapters.given import sha256_of

    for row in model.get(key, []):
        if "token" in row:
            raise InputError(
                f"{source} was made with the words of {row['path']} under another name, which only Python "
                "can give"
            )
        if Path(row["path"]).is_file() and sha256_of(Path(row["path"])) != row["sha256"]:
            warnings.warn(f"{row['path']} has changed since {source} was made with it", stacklevel=3)
        yield row


def settle_scheduler(pipe: Any, found: list[Record], names: Iterable[str]) -> None:
    """Give the pipeline the one of our named schedulers that a record describes.

    No class is taken from a record: where none of the names fits, the model's own stays, and a note says so.

    Args:
        pipe: the loaded pipeline.
        found: the records, which were all made with the same scheduler.
        names: names of schedulers, as `codi.diffusion.named_scheduler` takes them.
    """
    from codi.pipeline import named_scheduler

    wanted = found[0].model.get("scheduler_config")
    if wanted is None or records.scheduler(pipe.scheduler) == wanted:
        return
    for name in names:
        other = named_scheduler(name, pipe.scheduler)
        if records.scheduler(other) == wanted:
            pipe.scheduler = other
            return
    warnings.warn(
        f"{found[0].source} was made with another scheduler ({str(wanted.get('class'))[:60]}) than this "
        "model's",
        stacklevel=2,
    )


def note_differences(pipe: Any, found: list[Record], device: str) -> None:
    """Warn, once each, of everything by which this machine's result may differ from the record's.

    Args:
        pipe: the loaded pipeline.
        found: the records.
        device: the device that is used.
    """
    here = pipe.described()
    notes: dict[str, None] = {}
    for record in found:
        if record.filter:
            notes[
                f"{record.source} was changed by the filter {record.filter.get('name')}, and is made again "
                "without that unless --filter names it"
            ] = None
        for line in records.differences(record):
            notes[f"{record.source} {line}"] = None
        if record.model.get("device") not in (None, device):
            notes[f"{record.source} was made on {record.model['device']}, now {device} is used"] = None
        if record.model.get("dtype") not in (None, here["dtype"]):
            notes[f"{record.source} was made in {record.model['dtype']}, now {here['dtype']} is used"] = None
        if record.model.get("weights") != here["weights"]:
            notes[f"{record.source} was made with other weights than those of {here['name']}"] = None
        if record.model.get("own") not in (None, _plain(here["own"])):
            notes[
                f"{record.source} was made by a model whose own settings were others than those of "
                f"{here['name']}"
            ] = None
    for note in notes:
        warnings.warn(note, stacklevel=2)


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    import json

    return json.loads(json.dumps(value, default=str))
