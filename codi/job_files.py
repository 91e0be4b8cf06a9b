"""Write jobs as lines of JSON that can travel to another machine, and find every name of a file in them.

A line names files as prompts, as what outputs start from, as masks, as keyframes, as controls and as what
goes on. Whoever sends a line elsewhere puts other names there: `codi submit` those of the parts that it
uploads, a server the names under which it keeps them. Nothing is read here, and nothing is checked that
`codi.jobs` checks: what is no line of jobs comes back as it was.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from codi.jobs import DEFAULTS, NAMED, RANDOM, SCALES, SETTINGS, Job, prompt_keys, split_weight
from codi.modalities import in_words
from codi.types import Modality

Rename = Callable[[str], str]

NUMBER = r"\s*[-+]?[\d.]+\s*"
# texts that are values of a control and no names: numbers, points in time, and boxes with words
VALUES = re.compile(
    rf"{NUMBER}(,{NUMBER})*|{NUMBER}:[^,/]+(,{NUMBER}:[^,/]+)*|({NUMBER},){{3}}{NUMBER}\s\S.*", re.S
)
TYPED = re.compile(r"((?:[a-z0-9_]+\.)?[a-z0-9_]+=)(.*?)(::[^:]*)?", re.S)


def with_files(line: Mapping[str, Any], rename: Rename) -> dict[str, Any]:
    """Return a line of jobs in which every name of a file is another.

    Args:
        line: the line, as JSON has it.
        rename: returns the new name for a name; it may raise `InputError`.

    Returns:
        A new line; prompts that name files have the form {"value": ..., "weight": ...} in it.
    """
    found = dict(line)
    for key, modality in prompt_keys().items():
        if key in found and not in_words(modality):
            found[key] = _prompts(found[key], rename)
    if isinstance(found.get("start"), Mapping):
        found["start"] = {name: _start(name, value, rename) for name, value in found["start"].items()}
    if isinstance(found.get("keep"), Mapping):
        found["keep"] = {name: _names(value, rename) for name, value in found["keep"].items()}
    if isinstance(found.get("keyframes"), Mapping):
        found["keyframes"] = {name: _frames(value, rename) for name, value in found["keyframes"].items()}
    if found.get("regions") is not None:
        found["regions"] = _each(found["regions"], lambda region: _region(region, rename))
    if found.get("control") is not None:
        found["control"] = _controls(found["control"], rename)
    if isinstance(found.get("continue"), Mapping) and "files" in found["continue"]:
        found["continue"] = {**found["continue"], "files": _names(found["continue"]["files"], rename)}
    return found


def line_of(job: Job) -> dict[str, Any]:
    """Return the line of jobs that asks for a job; what is the default of a line is left out.

    Args:
        job: the job, from a file of jobs or from the command line.

    Returns:
        The line, without an id.
    """
    line: dict[str, Any] = {}
    for items, sign in ((job.items, ""), (job.negatives, "negative_")):
        for item in items:
            prompt = {"value": item.value, "weight": item.weight}
            line.setdefault(f"{sign}{item.modality.value}", []).append(prompt)
    line["to"] = [output.value for output in job.outputs]
    line["seed"] = RANDOM if job.drawn else job.seed
    for name in ("num_samples", "lengths", "sync", *SETTINGS, *SCALES, *NAMED):
        value = getattr(job, name)
        if value is not None and value != DEFAULTS.get(name):
            line[name] = value
    line |= job.sizes | job.edits
    if job.regions:
        line["regions"] = list(job.regions)
    if job.control:
        line["control"] = list(job.control)
    if job.continued is not None:
        repeats = job.continued.resample_steps
        line |= {"continue": job.continued.line(), **({"resample_steps": repeats} if repeats else {})}
    return line


def files_of(line: Mapping[str, Any]) -> list[str]:
    """Return the names of files in a line, each once, in the order in which they come."""
    names: list[str] = []

    def note(name: str) -> str:
        names.append(name)
        return name

    with_files(line, note)
    return list(dict.fromkeys(names))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return one value, or each of a list, changed."""
    return list(map(change, value)) if isinstance(value, list) else change(value)


def _prompts(value: Any, rename: Rename) -> Any:
    """Return the prompts under a key of a line."""

    def changed(entry: Any) -> Any:
        if isinstance(entry, str):
            value, weight = split_weight(entry)  # it may be an address, which `parse_item` refuses
            return {"value": rename(value), "weight": weight} if value.strip() else entry
        if isinstance(entry, Mapping) and isinstance(entry.get("value"), str):
            return {**entry, "value": rename(entry["value"])}
        return entry

    return _each(value, changed)


def _start(name: str, value: Any, rename: Rename) -> Any:
    """Return what an output starts from: words as they are, or a file."""
    known = name in Modality
    worded = known and in_words(name)
    return rename(value) if isinstance(value, str) and not worded else value


def _names(value: Any, rename: Rename) -> Any:
    """Return a region or a list of regions, of which texts are files."""
    if isinstance(value, list):
        return [_names(item, rename) for item in value]
    return rename(value) if isinstance(value, str) else value


def _frames(value: Any, rename: Rename) -> Any:
    """Return keyframes by their times."""
    if not isinstance(value, Mapping):
        return value
    return {when: _names(picture, rename) for when, picture in value.items()}


def _region(region: Any, rename: Rename) -> Any:
    """Return a region of a line, with its prompts and its mask."""
    if not isinstance(region, Mapping):
        return region
    found = dict(region)
    for modality in Modality:
        if modality.value in found and not in_words(modality):
            found[modality.value] = _prompts(found[modality.value], rename)
    if isinstance(found.get("mask"), str):
        found["mask"] = rename(found["mask"])
    return found


def _controls(control: Any, rename: Rename) -> Any:
    """Return controls in any of the forms that a line may have them."""
    if isinstance(control, list):
        return [_control(entry, rename) for entry in control]
    if not isinstance(control, Mapping):
        return control
    found = {}
    for name, value in control.items():  # by kind, or by output and then by kind
        of_output = name in Modality and isinstance(value, Mapping)
        found[name] = _controls(value, rename) if of_output else _control_value(value, rename)
    return found


def _control(entry: Any, rename: Rename) -> Any:
    """Return one control of a list, typed as on the command line or described as in a record."""
    if isinstance(entry, str):
        typed = TYPED.fullmatch(entry)
        if typed is None:
            return entry
        return f"{typed[1]}{_control_value(typed[2], rename)}{typed[3] or ''}"
    if isinstance(entry, Mapping) and "value" in entry:
        return {**entry, "value": _control_value(entry["value"], rename)}
    return entry


def _control_value(value: Any, rename: Rename) -> Any:
    """Return the value of a control, in which a text that is no value of its own names a file.

    A digest beside a path stays out: it is of the file as it was, and the one who reads the line computes it.
    """
    if isinstance(value, str):
        return value if VALUES.fullmatch(value) or not value.strip() else rename(value)
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"path", "sha256"} and isinstance(value["path"], str):
        return rename(value["path"])
    return {
        key: _control_value(inner, rename) if key in ("value", "map", "path") else inner
        for key, inner in value.items()
    }
