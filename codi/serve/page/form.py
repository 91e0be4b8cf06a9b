"""Turn what stands in the page's fields into a request, and a request back into fields. No Gradio here.

The fields come as one dict by names such as "text", "prompt0.weight", "image.strength" or "size.fps"; the
request is a job line of `codi generate --jobs` in which files are named as parts (`Asked.files`). What a
value may be is checked by the service; here is only what the page itself must say, such as that nothing is
ticked.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.modalities import kind_of, kinds, sized
from codi.modalities.base import ModalityKind
from codi.serve.page import lasting
from codi.serve.page.readers import FormError, around, outside, read_box, read_number, read_span
from codi.types import SIZES, InputError, Modality

PROMPTS = 6  # prompts beside the sentence on top
REGIONS = 3
CONTROLS = 2
FRAMES = ("0", "-1", "")  # when the pictures of a clip stand: the first, the last, and at a second
DRAWING = "drawing"  # a prompt that is painted, beside the kinds of media
KEEP = ("nothing", "part", "everything")
CANVAS = "canvas"  # beside those where there are places: the start lies in a box, and goes on around it
SELECTED = ("remake", "stay")  # what happens to the part that is painted or selected
BY_OUTPUT = ("num_inference_steps", "guidance_scale", "sync_guidance_scale", "start_offset")
COUNTS = {"samples": "num_samples", "candidates": "candidates", "steps": "num_inference_steps"}
DEFAULT_STRENGTH = 0.8


# makes a mask of painted layers, as `codi.serve.service.Service.mask` does
Mask = Callable[[Sequence[str | Path], Path, bool], bool]


@dataclass(kw_only=True)
class Asked:
    """A request as the service takes it.

    Attributes:
        request: the job line, in which files are named as in `files`.
        files: the files by the names that the request gives them.
        model: the name of the model; None for the first one.
    """

    request: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    model: str | None = None

    def part(self, hint: str, path: str | Path) -> str:
        """Take a file up as a part, and return the name that the request has for it."""
        suffix = Path(path).suffix.lower()
        name = hint + (suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else "")
        self.files[name] = Path(path)
        return name


def picture() -> ModalityKind:
    """Return the kind of medium that a drawing is."""
    return next(kind for kind in kinds() if kind.spatial and kind.rate_field is None)


def words_kind() -> ModalityKind:
    """Return the kind of medium that the sentence on top is."""
    return next(kind for kind in kinds() if kind.in_words)


def keeps_of(kind: ModalityKind) -> tuple[str, ...]:
    """Return what can be kept of a start of a kind."""
    return (*KEEP, CANVAS) if kind.spatial else KEEP


def read(
    values: Mapping[str, Any],
    folder: Path,
    sizes: Mapping[str, Mapping[str, float]] | None,
    mask: Mask,
) -> Asked:
    """Return the request that the fields describe.

    Args:
        values: the fields by name; one that is missing or None is left out.
        folder: where files may be written that the request needs, such as a mask.
        sizes: the model's own sizes by output, by the names of `codi.types.SIZES`.
        mask: makes a mask of what was painted.

    Returns:
        The request with its files.

    Raises:
        InputError: for what no request can be made of; a `FormError` where the page has words for it.
    """
    asked = Asked(model=values.get("model") or None)
    goes_on = lasting.is_asked(values)
    ticked = lasting.outputs_of(values) if goes_on else values.get("outputs") or ()
    outputs = [m.value for m in Modality if m.value in ticked]
    if not outputs:
        raise FormError("error.no_output")
    asked.request["to"] = outputs
    _read_prompts(asked, values, folder)
    _read_settings(asked, values, outputs)
    given = {name: asked.request[name] for name in SIZES if asked.request.get(name)}
    lengths = seconds_of(outputs, sizes or {}, given)
    for kind in kinds():
        if kind.name not in outputs and values.get(f"{kind.name}.start"):
            raise FormError("error.not_made", kind=kind.name)
    if goes_on:
        asked.request["continue"] = lasting.read(asked, values)
    for output in outputs:
        _read_edit(asked, values, kind_of(output), folder, lengths.get(output), mask)
    if asked.request.keys() & {"keep", "keyframes", "canvas", "continue"}:
        _put(asked.request, "resample_steps", read_number(values.get("resample_steps")))
    _read_regions(asked, values)
    _read_controls(asked, values)
    prompted = any(m.value in asked.request for m in Modality)
    if not prompted and not asked.request.keys() & {"start", "keyframes", "regions", "continue"}:
        raise FormError("error.no_prompt")
    return asked


# Prompts ---------------------------------------------------------------


def _read_prompts(asked: Asked, values: Mapping[str, Any], folder: Path) -> None:
    """Put the sentences on top and all further prompts into a request."""
    words = words_kind().name
    for name, key in (("text", words), ("negative", f"negative_{words}")):
        text = str(values.get(name) or "").strip()
        if text:
            _append(asked.request, key, {"value": text, "weight": 1.0})
    for slot, kind in enumerate(values.get("slots") or ()):
        if kind:
            _read_prompt(asked, values, slot, kind, folder)


def _read_prompt(asked: Asked, values: Mapping[str, Any], slot: int, kind: str, folder: Path) -> None:
    """Put one further prompt into a request."""
    name = f"prompt{slot}"
    value = values.get(f"{name}.{kind}")
    if kind == DRAWING:
        modality = picture().modality
        value = drawing_of(value, name)
    else:
        modality = Modality.parse(kind)
    if not value or not str(value).strip():
        raise FormError("error.empty_prompt", number=slot + 1)
    if not kind_of(modality).in_words:
        value = asked.part(name, value)
    weight = read_number(values.get(f"{name}.weight"))
    key = f"negative_{modality}" if values.get(f"{name}.negative") else modality.value
    _append(asked.request, key, {"value": value, "weight": 1.0 if weight is None else weight})


def drawing_of(value: Any, name: str) -> Path:
    """Return the picture that was painted; raise `FormError` for an empty sheet."""
    layers = (value or {}).get("layers") or ()
    if not value or not value.get("composite") or not (layers or value.get("background")):
        raise FormError("error.empty_drawing", number=int(re.sub(r"\D", "", name) or 0) + 1)
    return Path(value["composite"])


# Settings --------------------------------------------------------------


def _read_settings(asked: Asked, values: Mapping[str, Any], outputs: Sequence[str]) -> None:
    """Put numbers, scales, sizes and switches into a request; what is left empty is the model's own."""
    request = asked.request
    for name, key in COUNTS.items():
        _put(request, key, read_number(values.get(name)))
    if request.get("candidates") == 1:
        del request["candidates"]
    request["seed"] = "random" if values.get("random") else read_number(values.get("seed")) or 0
    for key in BY_OUTPUT:
        found = {name: read_number(values.get(f"{name}.{key}")) for name in outputs}
        given = {name: value for name, value in found.items() if value is not None}
        if given and key in request:  # one number for all beside numbers for some
            given = {name: given.get(name, request[key]) for name in outputs}
        if given:
            request[key] = given
    guiders = {name: values.get(f"{name}.guider") for name in outputs}
    _put(request, "guider", {name: value for name, value in guiders.items() if value} or None)
    for name in SIZES:
        if set(outputs) & {m.value for m in sized(name)}:
            _put(request, name, read_number(values.get(f"size.{name}")))
    if values.get("sync") is False:
        request["sync"] = False
    if values.get("lengths") not in (None, "", "agree"):
        request["lengths"] = values["lengths"]


def seconds_of(
    outputs: Sequence[str], sizes: Mapping[str, Mapping[str, float]], given: Mapping[str, float]
) -> dict[str, float]:
    """Return how long outputs last.

    Args:
        outputs: the names of the outputs.
        sizes: the model's own sizes by output, by the names of `codi.types.SIZES`.
        given: sizes that are asked for.

    Returns:
        Seconds by output; one whose length nobody knows is left out.
    """
    found = {}
    for name in outputs:
        own = {**sizes.get(name, {}), **{key: given[key] for key in kind_of(name).sizes if key in given}}
        frames, rate, seconds = own.get("num_frames"), own.get("fps"), own.get("audio_length_in_s")
        if "num_frames" in given or not seconds:
            seconds = frames / rate if frames and rate else seconds
        if seconds:
            found[name] = float(seconds)
    return found


# What outputs are given of themselves -----------------------------------


def _read_edit(
    asked: Asked,
    values: Mapping[str, Any],
    kind: ModalityKind,
    folder: Path,
    seconds: float | None,
    mask: Mask,
) -> None:
    """Put what one output is given of itself into a request."""
    start = values.get(f"{kind.name}.start")
    if start and str(start).strip():
        given = start if kind.in_words else asked.part(f"start-{kind.name}", start)
        asked.request.setdefault("start", {})[kind.name] = given
        keep = _kept(asked, values, kind, folder, seconds, mask)
        if values.get(f"{kind.name}.keep") == CANVAS:
            asked.request.setdefault("canvas", {})[kind.name] = _canvas(values, kind)
        elif keep is not None:
            asked.request.setdefault("keep", {})[kind.name] = keep
        else:
            strength = read_number(values.get(f"{kind.name}.strength"))
            strength = DEFAULT_STRENGTH if strength is None else strength
            asked.request.setdefault("strength", {})[kind.name] = strength
    if "frame" in kind.regions:
        frames = _keyframes(asked, values, kind)
        if frames:
            asked.request.setdefault("keyframes", {})[kind.name] = frames


def _canvas(values: Mapping[str, Any], kind: ModalityKind) -> list[float]:
    """Return the box in which a start lies on what is made."""
    edges = read_box(values.get(f"{kind.name}.canvas"))
    if edges is None:
        raise FormError("error.no_canvas", kind=kind.name)
    return list(edges)


def _kept(
    asked: Asked,
    values: Mapping[str, Any],
    kind: ModalityKind,
    folder: Path,
    seconds: float | None,
    mask: Mask,
) -> Any:
    """Return the regions of a start that stay, as a job line has them; None where nothing is kept.

    Regions add up. So where a box and an interval are marked both stay, or what is in both is made anew.
    """
    how = values.get(f"{kind.name}.keep") or KEEP[0]
    if how == "everything":
        return True
    if how in ("nothing", CANVAS) or not kind.regions:
        return None
    stays = values.get(f"{kind.name}.selected") == "stay"
    found: list[Any] = []
    layers = ((values.get(f"{kind.name}.paint") or {}).get("layers") or ()) if kind.spatial else ()
    path = folder / f"mask-{kind.name}.png"
    if layers and _masked(mask, layers, path, stays):
        found.append(asked.part(f"mask-{kind.name}", path))
    edges = read_box(values.get(f"{kind.name}.box")) if kind.spatial else None
    if edges is not None:
        found += [list(edges)] if stays else around(edges)
    span = read_span(values.get(f"{kind.name}.interval")) if "interval" in kind.regions else None
    if span is not None:
        found += [list(span)] if stays else outside(span, seconds)
    if not found:
        raise FormError("error.nothing_selected", kind=kind.name)
    return found


def _masked(mask: Mask, layers: Sequence[str], path: Path, stays: bool) -> bool:
    """Make a mask of what was painted; raise `FormError` where it cannot be read."""
    try:
        return mask(layers, path, stays)
    except InputError:
        raise FormError("error.no_mask") from None


def _keyframes(asked: Asked, values: Mapping[str, Any], kind: ModalityKind) -> dict[str, str]:
    """Return the pictures that are frames of a clip, by when they stand."""
    found = {}
    for number, when in enumerate(FRAMES):
        path = values.get(f"{kind.name}.frame{number}")
        if not path:
            continue
        second = read_number(values.get(f"{kind.name}.frame{number}.second"))
        if not when and second is None:
            raise FormError("error.no_second")
        found[when or f"{second:g}s"] = asked.part(f"frame{number}", path)
    return found


# Regions and controls --------------------------------------------------


def _read_regions(asked: Asked, values: Mapping[str, Any]) -> None:
    """Put prompts for parts of what is made into a request."""
    for number in range(REGIONS):
        text = str(values.get(f"region{number}.text") or "").strip()
        box, span = (
            read_box(values.get(f"region{number}.box")),
            read_span(values.get(f"region{number}.interval")),
        )
        if not text:
            continue
        if box is None and span is None:
            raise FormError("error.region_nowhere", number=number + 1)
        soft = read_number(values.get(f"region{number}.soft")) or 0
        weight = read_number(values.get(f"region{number}.weight"))
        region: dict[str, Any] = {words_kind().name: text}
        if box is not None:
            region |= {"box": list(box)} | ({"feather": soft} if soft else {})
        if span is not None:
            region |= {"interval": list(span)} | ({"fade": soft} if soft else {})
        if weight not in (None, 1):
            region["weight"] = weight
        asked.request.setdefault("regions", []).append(region)


def _read_controls(asked: Asked, values: Mapping[str, Any]) -> None:
    """Put controls into a request, each with a value that is typed or a file."""
    for number in range(CONTROLS):
        name = f"control{number}"
        kind = values.get(f"{name}.kind")
        if not kind:
            continue
        typed = str(values.get(f"{name}.value") or "").strip()
        path = values.get(f"{name}.file")
        if not typed and not path:
            raise FormError("error.empty_control", number=number + 1)
        entry: dict[str, Any] = {"kind": kind, "value": asked.part(name, path) if path else typed}
        entry["weight"] = 1.0 if (weight := read_number(values.get(f"{name}.weight"))) is None else weight
        if values.get(f"{name}.output"):
            entry["output"] = values[f"{name}.output"]
        asked.request.setdefault("control", []).append(entry)


# A request as fields ---------------------------------------------------


def fields_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a request fills without files, so that it can be changed and made again.

    Args:
        request: a job line.

    Returns:
        The fields by name; all that it does not speak of is left out.
    """
    words = words_kind().name
    found: dict[str, Any] = {"text": _first_words(request.get(words))}
    found["negative"] = _first_words(request.get(f"negative_{words}"))
    to = request.get("to") or []
    found["outputs"] = to.split(",") if isinstance(to, str) else list(to)
    for name, key in COUNTS.items():
        if isinstance(request.get(key), (int, float)):
            found[name] = request[key]
    seed = request.get("seed", 0)
    found |= {"random": seed == "random", "seed": 0 if seed == "random" else seed}
    for key in (*BY_OUTPUT, "guider"):
        value = request.get(key)
        for name in found["outputs"]:
            number = value.get(name) if isinstance(value, Mapping) else value
            if number is not None and not (key in COUNTS.values() and not isinstance(value, Mapping)):
                found[f"{name}.{key}"] = number
    found |= {f"size.{name}": request[name] for name in SIZES if request.get(name) is not None}
    return found | lasting.fields_of(request.get("continue"))


def _first_words(value: Any) -> str:
    """Return the sentence of the first prompt under a key."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, Mapping):
        first = first.get("value")
    return first if isinstance(first, str) else ""


def _append(request: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    request.setdefault(key, []).append(entry)


def _put(request: dict[str, Any], key: str, value: Any) -> None:
    if value is not None:
        request[key] = value
