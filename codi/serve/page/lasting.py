"""Read what is to go on beyond the length of the model: media, seconds, where to. No Gradio here."""

from collections.abc import Mapping
from typing import Any

from codi.modalities import kind_of, kinds
from codi.modalities.base import ModalityKind
from codi.serve.page.readers import FormError, read_number

WAYS = ("forwards", "backwards", "both", "loop", "gap")  # directions, a loop, and up to other media
PLACES = ("source", "end")  # of the media in a gap: before it and behind it


def lasting() -> list[ModalityKind]:
    """Return the kinds of media that can go on."""
    return [kind for kind in kinds() if kind.rate_field is not None]


def is_asked(values: Mapping[str, Any]) -> bool:
    """Return whether anything is to go on."""
    return any(values.get(f"continue.{kind.name}.source") for kind in lasting())


def outputs_of(values: Mapping[str, Any]) -> list[str]:
    """Return the names of what goes on: what was given, and the sound of a clip if that is wanted."""
    given = [kind.name for kind in lasting() if values.get(f"continue.{kind.name}.source")]
    carried = [name for each in given for name in kind_of(each).carries]
    wanted = given + (list(carried) if values.get("continue.sound") else [])
    return [kind.name for kind in lasting() if kind.name in wanted]


def read(asked: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line of jobs has under `continue`.

    Args:
        asked: the request (`codi.serve.page.form.Asked`), which takes the files up.
        values: the fields by name.

    Returns:
        The object.

    Raises:
        FormError: without a length, and for a gap without an end.
    """
    way = values.get("continue.way") or WAYS[0]
    seconds = read_number(values.get("continue.seconds"))
    if seconds is None:
        raise FormError("error.no_seconds")
    places = PLACES if way == "gap" else PLACES[:1]
    files = []
    for place in places:
        given = {kind.name: values.get(f"continue.{kind.name}.{place}") for kind in lasting()}
        if not any(given.values()):
            raise FormError("error.no_end")
        files += [asked.part(f"{place}-{name}", path) for name, path in given.items() if path]
    found: dict[str, Any] = {"files": files, "seconds": seconds}
    if way == "loop":
        found["loop"] = True
    elif way != "gap":
        found["direction"] = way
    overlap = read_number(values.get("continue.overlap"))
    return found if overlap is None else {**found, "overlap": overlap}


def fields_of(goes_on: Any) -> dict[str, Any]:
    """Return the fields that `continue` of a request fills, without files."""
    if not isinstance(goes_on, Mapping):
        return {}
    files = goes_on.get("files") or []
    gap = any(str(name).startswith("end-") for name in files)
    way = "gap" if gap else "loop" if goes_on.get("loop") else goes_on.get("direction", WAYS[0])
    found = {"continue.way": way, "continue.seconds": goes_on.get("seconds")}
    return found | ({"continue.overlap": goes_on["overlap"]} if "overlap" in goes_on else {})
