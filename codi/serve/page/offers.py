"""What a model offers, as the service says it: outputs, prompts, lengths and controls."""

from collections.abc import Mapping, Sequence
from typing import Any

from codi.modalities import kinds
from codi.modalities.base import ModalityKind
from codi.serve.page import form
from codi.serve.page.words import Words


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
