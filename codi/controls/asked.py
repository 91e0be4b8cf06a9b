"""Read which controls are asked for: by Python, by a job line, by the command line, or by a record.

All of them come here and become a tuple of `ControlInput`, which is what a record holds.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codi.border import check_interval
from codi.controls import KINDS, find_kind
from codi.controls.base import ControlMap, as_plain, is_json
from codi.types import InputError, Modality, ModalitySpec, listed

ALWAYS = (0.0, 1.0)
# a value of the command line, and how much and when it counts
TYPED = re.compile(r"(?:(?P<output>[a-z0-9_]+)\.)?(?P<kind>[a-z0-9_]+)=(?P<value>.*)", re.S)
ENDING = re.compile(r"(?P<weight>[^@]+)(?:@(?P<first>[^-]+)-(?P<last>.+))?")
DETAILS = ("value", "weight", "interval")
ENTRY = ("output", "kind", *DETAILS)


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlInput:
    """One control that is asked for.

    Attributes:
        output: the output that it steers; None for every output that can take it.
        kind: the name of its kind (`codi.controls.KINDS`).
        value: what the user gave, in the plain form of its kind.
        weight: by how much it counts; 0 is off.
        interval: the fractions of the output's schedule in which it acts, from and to.
    """

    output: Modality | None
    kind: str
    value: Any
    weight: float = 1.0
    interval: tuple[float, float] = ALWAYS

    def described(self) -> dict[str, Any]:
        """Return it as plain JSON, which `parse` reads again; what is in memory is named, not held."""
        value = self.value
        if not is_json(value):
            value = {"from": f"memory ({type(value).__name__})"}
        return {
            "output": None if self.output is None else self.output.value,
            "kind": self.kind,
            "value": value,
            "weight": self.weight,
            "interval": list(self.interval),
        }

    @property
    def files(self) -> list[Path]:
        """The files that its value names."""
        value = self.value.get("map", self.value) if isinstance(self.value, Mapping) else None
        return [Path(value["path"])] if isinstance(value, Mapping) and "path" in value else []


def parse(control: Any, folder: Path = Path()) -> tuple[ControlInput, ...]:
    """Read controls in any of their forms.

    Args:
        control: {kind: value} for all outputs that can take it, {output: {kind: value}}, or both; a value may
            be {"value": ..., "weight": 0.5, "interval": (0, 0.6)}. Or a list of what `described` returned, of
            `ControlInput`, or of texts as they are typed. None for nothing.
        folder: where relative names of files start.

    Returns:
        The controls, in the order in which they were given.

    Raises:
        InputError: for what is no control.
    """
    if control is None:
        return ()
    if isinstance(control, Mapping):
        return _from_mapping(control, folder)
    if not isinstance(control, (list, tuple)):
        raise InputError(
            f"control is a {type(control).__name__}: expected a dict such as {{'beats': [0.3, 0.9]}}, or "
            "{'video': {'sketch': 'clip.mp4'}}"
        )
    return tuple(_entry(each, folder) for each in control)


def _entry(each: Any, folder: Path) -> ControlInput:
    """Read one control of a list."""
    if isinstance(each, ControlInput):
        return each
    if isinstance(each, str):
        return typed(each, folder)
    if not isinstance(each, Mapping) or not {"kind", "value"} <= set(each) <= set(ENTRY):
        raise InputError(
            f"control has the entry {each!r:.80}: expected {', '.join(ENTRY)}, of which output, weight and "
            "interval may be left out"
        )
    output = None if each.get("output") is None else Modality.parse(each["output"])
    return _input(output, each["kind"], {name: each[name] for name in DETAILS if name in each}, folder)


def _from_mapping(control: Mapping[Any, Any], folder: Path) -> tuple[ControlInput, ...]:
    """Read controls by kind, by output and kind, or both."""
    found = []
    for name, value in control.items():
        if name in KINDS:
            found.append(_input(None, name, value, folder))
            continue
        try:
            output = Modality.parse(name)
        except InputError:
            raise InputError(
                f"control names {name!r:.80}: expected some of {', '.join(KINDS)}, or of {listed(Modality)}"
            ) from None
        if not isinstance(value, Mapping):
            raise InputError(
                f"control of {output} is {value!r:.80}: expected a dict such as {{'beats': [0.3, 0.9]}}"
            )
        found += [_input(output, kind, each, folder) for kind, each in value.items()]
    return tuple(found)


def _input(output: Modality | None, kind: Any, given: Any, folder: Path) -> ControlInput:
    """Return one control of a value, with or without its weight and interval beside it."""
    reader = find_kind(kind)
    details = isinstance(given, Mapping) and "value" in given and set(given) <= set(DETAILS)
    value = given["value"] if details else given
    if isinstance(value, Mapping) and set(value) == {"from"}:
        raise InputError(
            f"the control {kind} came from {value['from']}, which only Python can give again: give another"
        )
    return ControlInput(
        output=output,
        kind=reader.name,
        value=value if isinstance(value, ControlMap) else reader.parse(value, folder),
        weight=_weight(kind, given.get("weight", 1.0) if details else 1.0),
        interval=check_interval(
            f"the interval of control {kind}", as_plain(given.get("interval", ALWAYS) if details else ALWAYS)
        ),
    )


def _weight(kind: str, weight: Any) -> float:
    """Return a weight; raise `InputError` for what is no finite number of at least 0."""
    weight = as_plain(weight)
    fine = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not fine or not math.isfinite(weight) or weight < 0:
        raise InputError(f"control {kind} has the weight {weight!r:.80}: expected a number of at least 0")
    return float(weight)


def typed(text: str, folder: Path = Path()) -> ControlInput:
    """Read a control as it is typed: '[OUTPUT.]KIND=VALUE[::WEIGHT[@FROM-TO]]'.

    Args:
        text: such as 'beats=0.3,0.9', 'video.beats=0.3,0.9::0.5' or 'sketch=drawing.png::0.8@0-0.5'.
        folder: where relative names of files start.

    Returns:
        The control.

    Raises:
        InputError: for a text of another form, and for a value that is none of its kind.
    """
    found = TYPED.fullmatch(text)
    if found is None:
        raise InputError(
            f"control {text!r:.80}: expected KIND=VALUE or OUTPUT.KIND=VALUE, such as beats=0.3,0.9 or "
            "image.sketch=drawing.png::0.8@0-0.5"
        )
    value, sign, tail = found["value"].rpartition("::")
    given: dict[str, Any] = {"value": value}
    ending = ENDING.fullmatch(tail) if sign else None
    if ending is None or _number(ending["weight"]) is None:
        given["value"] = found["value"]  # a tail that is no number belongs to the value
    else:
        given["weight"] = _number(ending["weight"])
        if ending["first"] is not None:
            given["interval"] = (_number(ending["first"]), _number(ending["last"]))
    output = None if found["output"] is None else Modality.parse(found["output"])
    return _input(output, found["kind"], given, folder)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def resolve(
    asked: Sequence[ControlInput],
    outputs: Sequence[Modality],
    specs: Mapping[Modality, ModalitySpec],
    able: Collection[tuple[Modality, str]],
) -> tuple[ControlInput, ...]:
    """Return the controls of each output, checked.

    Args:
        asked: what was asked for.
        outputs: what is made.
        specs: the geometry of every modality in this call.
        able: the outputs and kinds for which the model has a branch.

    Returns:
        The controls, each with its output; those of weight 0 as well, so that a record has them.

    Raises:
        InputError: for a control of what is not made, one that the model has no branch for, two of one kind
            for one output, two that contradict each other, or one that does not fit what is made.
    """
    found: list[ControlInput] = []
    for each in asked:
        found += [replace(each, output=output) for output in _outputs(each, outputs, able)]
    _check_once(found)
    for each in found:
        assert each.output is not None
        if not isinstance(each.value, ControlMap):
            KINDS[each.kind].check(each.value, specs[each.output])
    return tuple(found)


def _outputs(
    each: ControlInput, outputs: Sequence[Modality], able: Collection[tuple[Modality, str]]
) -> list[Modality]:
    """Return the outputs that a control steers."""
    if each.output is not None and each.output not in outputs:
        raise InputError(
            f"control {each.kind} names {each.output}, which is not made: expected some of {listed(outputs)}"
        )
    wanted = outputs if each.output is None else [each.output]
    taking = [output for output in wanted if (output, each.kind) in able]
    if not taking:
        have = ", ".join(sorted(f"{kind} of {output}" for output, kind in able)) or "none"
        raise InputError(
            f"this model has no control {each.kind} of {' or '.join(map(str, wanted))}: it has {have}; train "
            "one, and load it with load_control (--control-from)"
        )
    return taking


def _check_once(found: Sequence[ControlInput]) -> None:
    """Raise `InputError` for a control that comes twice, and for two outputs that differ in a shared one."""
    first: dict[Any, ControlInput] = {}
    for each in found:
        assert each.output is not None
        if (each.output, each.kind) in first:
            raise InputError(f"control {each.kind} of {each.output} comes twice: expected it once")
        first[each.output, each.kind] = each
        other = first.setdefault(each.kind, each)
        both_plain = is_json(each.value) and is_json(other.value)
        if KINDS[each.kind].shared and both_plain and each.value != other.value:
            raise InputError(
                f"control {each.kind} of {other.output} and of {each.output} contradict each other: expected "
                "the same for both, or for one of them alone"
            )
