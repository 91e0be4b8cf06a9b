"""What a model offers, as the service says it: outputs, prompts, lengths and controls."""

from collections.abc import Mapping, Sequence
from typing import Any

from codi.modalities import kinds, sized
from codi.modalities.base import ModalityKind
from codi.serve.page import form
from codi.serve.page.words import Words
from codi.types import SIZES, Modality


def outputs_of(model: Mapping[str, Any]) -> list[ModalityKind]:
    """Return the kinds of media that a model makes."""
    names = list(model.get("outputs") or [])
    return [kind for kind in kinds() if kind.name in names]


def offered(models: Sequence[Mapping[str, Any]]) -> list[ModalityKind]:
    """Return the kinds of media that any of the models makes."""
    return [kind for kind in kinds() if any(kind in outputs_of(model) for model in models)]


def seconds_of(model: Mapping[str, Any], name: str) -> float:
    """Return how long a model's output lasts, as far as it says so."""
    return form.seconds_of([name], model.get("sizes") or {}, {}).get(name, 2.0)


def takes(model: Mapping[str, Any], kind: str) -> bool:
    """Return whether a model reads prompts of a kind, or drawings."""
    return (form.picture().name if kind == form.DRAWING else kind) in (model.get("prompts") or [])


def controls_of(model: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the kinds of control that a model has branches for, with the outputs of each."""
    found: dict[str, list[str]] = {}
    for output, kind in model.get("controls") or ():
        found.setdefault(kind, []).append(output)
    return found


def control_choices(words: Words, model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the kinds of control to choose from."""
    return [(words("control.off"), ""), *((words.control(name), name) for name in controls_of(model))]


def _own(model: Mapping[str, Any], key: str, name: str, table: str = "defaults") -> str:
    """Return what stands in the empty field of a number: what a model takes for it.

    Args:
        model: what the service says of the model.
        key: the name of the setting or size.
        name: the output.
        table: where the service says it: "defaults" or "sizes".

    Returns:
        The number; "" where the model says none.
    """
    value = ((model.get(table) or {}).get(name) or {}).get(key)
    value = value.get(name) if isinstance(value, Mapping) else value
    return "" if value is None else f"{value:g}"


def hints(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands in empty fields of numbers, by the names of these (`codi.serve.page.form`)."""
    made = [kind.name for kind in outputs_of(model)]
    found = {"steps": _own(model, "num_inference_steps", made[0]) if made else ""}
    for size in SIZES:
        able = [name for name in made if Modality(name) in sized(size)]
        found[f"size.{size}"] = _own(model, size, able[0], "sizes") if able else ""
    for kind in kinds():
        found |= {f"{kind.name}.{key}": _own(model, key, kind.name) for key in form.BY_OUTPUT}
    return found
