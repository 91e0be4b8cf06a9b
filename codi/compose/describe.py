"""Say what a composed model consists of: for `codi info`, for its model card and before it is composed.

Everything comes from the folder of the composed model: no published model is looked at, so that what a model
is can be told where none of its sources is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.compose.folder import CLASS, Composed, TextSource, read, size_of
from codi.compose.licences import NOT_STATED, Licence, most_restrictive_first
from codi.doctor import count
from codi.tensor_files import read_header, read_json

if TYPE_CHECKING:
    from codi.compose.originals import Original
    from codi.compose.references import PartFacts, Reference

SILENT = "silent: not trained"  # of a model that nothing lets attend to the others
DOCUMENT = "docs/compose.md"
ITEM_SIZES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
}  # bytes of a number, by the precision that is asked for


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{int(number)} bytes"


# Memory -------------------------------------------------------------------------------------------------


def memory_of(parts: "Mapping[str, PartFacts]", dtype: str) -> tuple[int, int]:
    """Return the bytes of the weights of a pipeline in a precision.

    Args:
        parts: its parts that have weights.
        dtype: the precision, as `codi.types.DTYPES` names it.

    Returns:
        The bytes of all parts, and those of the largest one, which is alone on a device when the others are
        offloaded. What is computed between the layers comes on top.
    """
    sizes = [part.parameters * ITEM_SIZES[dtype] for part in parts.values()]
    return sum(sizes), max(sizes, default=0)


# What a model is ----------------------------------------------------------------------------------------


def describe(folder: str | Path) -> dict[str, Any]:
    """Return what a composed model consists of, as a value for JSON.

    Args:
        folder: the folder of the composed model.

    Returns:
        Its models by modality, its own parts, its licences, and where its words come from.

    Raises:
        InputError: if it is no composed model.
    """
    composed = read(folder)
    trained = _trained(composed.folder, composed.parts)
    sites = _sites(composed.folder, composed.parts)
    estimated = _estimated(composed)
    text = composed.text
    return {
        "folder": str(composed.folder),
        "pipeline": CLASS,
        "bytes": size_of(composed.folder),
        "parameters": sum(reference.parameters for reference in composed.references.values()),
        "models": {
            modality: _model(reference, sites.get(modality, []), estimated.get(modality, []))
            for modality, reference in composed.references.items()
        },
        "text": None
        if text is None
        else {"source": text.source, "fingerprint": text.fingerprint, "license": text.licence.id},
        "trained": trained,
        "licenses": _licences(composed),
        "defaults": dict(composed.defaults),
    }


def _model(reference: "Reference", sites: Sequence[str], estimated: Sequence[str]) -> dict[str, Any]:
    """Return what is worth knowing of one published model.

    Args:
        reference: what the index says of it.
        sites: the blocks of its network at which joint adapters sit.
        estimated: the modalities whose partner estimates reach its prompt.

    Returns:
        Values by name.
    """
    return {
        "source": reference.source,
        "revision": reference.revision,
        "place": reference.place,
        "class": reference.kind,
        "variant": reference.variant,
        "parameters": reference.parameters,
        "parts": {name: part.parameters for name, part in reference.parts.items()},
        "scheduler": reference.scheduler,
        "prediction": reference.prediction,
        "grid": list(reference.geometry.grid),
        "seconds": reference.geometry.seconds,
        "call": dict(reference.call),
        "license": reference.licence.id,
        "adapters": list(sites),
        "attends": bool(sites),
        "partner_estimates": list(estimated),
    }


def _trained(folder: Path, parts: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return the class and the number of parameters of each own part."""
    found = {}
    for name, (_, kind) in parts.items():
        headers = [read_header(path) for path in sorted((folder / name).glob("*.safetensors"))]
        numbers = [_product(entry.shape) for header in headers for entry in header.values()]
        found[name] = {"class": kind, "parameters": sum(numbers)}
    return found


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _sites(folder: Path, parts: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Return the blocks of each published network at which joint adapters sit, by modality.

    Without environment encoders they have nothing to attend to.
    """
    if "joint_adapters" not in parts or "environment_encoders" not in parts:
        return {}
    networks = read_json(folder / "joint_adapters" / "config.json").get("networks")
    found = networks.items() if isinstance(networks, dict) else ()
    return {modality: list(stated["sites"]) for modality, stated in found if "sites" in stated}


def _estimated(composed: Composed) -> dict[str, list[str]]:
    """Return the modalities whose partner estimates reach the prompt of each published model, by modality.

    They reach no prompt without a text model and a prompt translator for it.
    """
    from codi.settings import DEFAULTS  # brings torch along

    if not {"noisy_latent_encoders", "prompt_translators"} <= set(composed.parts) or composed.text is None:
        return {}
    latents = read_json(composed.folder / "noisy_latent_encoders" / "config.json").get("latents") or {}
    contexts = read_json(composed.folder / "prompt_translators" / "config.json").get("contexts") or {}
    name = "partner_estimate_weight"
    own = composed.defaults.get(name)
    weight: Any = DEFAULTS[name] if own is None else own
    if weight <= 0:
        return {}
    return {name: [m for m in latents if m != name] for name in composed.references if name in contexts}


def licences_of(stated: Mapping[str, Licence]) -> list[dict[str, Any]]:
    """Return licences, the most restrictive first, each with what it concerns.

    Args:
        stated: the licence of each model, by modality, and that of the text model.

    Returns:
        The licences, each once.
    """
    return [
        {
            "license": licence.id,
            "asks": licence.asks,
            "stated_in": licence.stated_in,
            "link": licence.link,
            "of": [modality for modality, other in stated.items() if other == licence],
        }
        for licence in most_restrictive_first(stated.values())
    ]


def _licences(composed: Composed) -> list[dict[str, Any]]:
    return licences_of(stated_by(composed.references, composed.text))


def stated_by(models: "Mapping[str, Reference | Original]", text: TextSource | None) -> dict[str, Licence]:
    """Return the licences of published models by modality, and that of the model that words come from."""
    stated = {modality: model.licence for modality, model in models.items()}
    return stated if text is None else stated | {"text": text.licence}


# For people ---------------------------------------------------------------------------------------------


def info(folder: str | Path, as_json: bool = False) -> int:
    """Print what a composed model is, and return the exit code.

    Args:
        folder: the folder of the composed model.
        as_json: whether to print JSON for programs in place of lines for people.

    Returns:
        0; a folder that cannot be read raises `InputError`.
    """
    model = describe(folder)
    print(json.dumps(model, indent=2) if as_json else "\n".join(in_words(model)))
    return 0


def in_words(model: Mapping[str, Any]) -> list[str]:
    """Return what `describe` found as lines for people."""
    lines = [
        f"{model['pipeline']} in {model['folder']}",
        f"{count(model['parameters'])} parameters in {len(model['models'])} models of others, "
        f"{size(model['bytes'])} in this folder",
        "",
    ]
    for modality, found in model["models"].items():
        lines += _model_in_words(modality, found)
    text = model["text"]
    lines.append(f"  text: {'each model reads its own prompts' if text is None else text['source']}")
    lines += ["", "trained for these models"]
    for name, part in model["trained"].items():
        lines.append(f"  {name}: {part['class']}, {count(part['parameters'])} parameters")
    if not model["trained"]:
        lines.append("  nothing: each model makes what it makes alone")
    lines += ["", "licences, most restrictive first"]
    lines += [f"  {line}" for line in licences_in_words(model["licenses"])]
    return lines


def _model_in_words(modality: str, model: Mapping[str, Any]) -> list[str]:
    name = model["source"] if model["revision"] is None else f"{model['source']}@{model['revision']}"
    variant = "" if model["variant"] is None else f", variant {model['variant']}"
    copied = "" if model["place"] is None else f", copied to {model['place']}"
    parts = ", ".join(f"{part} {count(number)}" for part, number in model["parts"].items())
    grid = " x ".join(map(str, model["grid"]))
    seconds = "" if model["seconds"] is None else f", {model['seconds']:.4g} s"
    call = ", ".join(f"{key}={value}" for key, value in model["call"].items())
    return [
        f"  {modality}: {name}{variant}{copied}",
        f"    {model['class']}, {count(model['parameters'])} parameters: {parts}",
        f"    {model['scheduler']}, predicts {model['prediction']}; latent {grid}{seconds}",
        *([f"    called with {call}"] if call else []),
        *_joined_in_words(model),
    ]


def _joined_in_words(model: Mapping[str, Any]) -> list[str]:
    """Return lines on how one published model hears of the others."""
    lines = []
    if model["attends"]:
        lines.append(f"    attends to the others at {', '.join(model['adapters'])}")
    if model["partner_estimates"]:
        lines.append(
            f"    its prompt is fused with partner estimates of {', '.join(model['partner_estimates'])}"
        )
    return lines or [f"    {SILENT}"]


def licences_in_words(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return licences as lines for people."""
    lines = []
    for licence in found:
        stated = "" if licence["stated_in"] is None else f", as {licence['stated_in']} says"
        asks = f"asks {licence['asks']}"
        if licence["license"] == NOT_STATED:
            asks = "counts as the most restrictive: ask whoever published it"
        elif licence["asks"].startswith("unknown"):
            asks = "counts as the most restrictive: read its text"
        where = "" if licence["link"] is None else f" ({licence['link']})"
        lines.append(f"{licence['license']} for {', '.join(licence['of'])}{stated}: {asks}{where}")
    return lines


# The model card -----------------------------------------------------------------------------------------


def model_card(composed: Composed, place: Path) -> str | None:
    """Return the card of a composed model; None where somebody else's card is there, which stays.

    Args:
        composed: what its index says.
        place: the folder in which parts lie that were just saved; others lie in that of the composed model.

    Returns:
        The text of README.md.
    """
    from codi import card

    if card.foreign(composed.folder) is not None:
        return None
    found = _licences(composed)
    trained: dict[str, dict[str, Any]] = {}
    for name, kind in composed.parts.items():
        trained |= _trained(place if (place / name).is_dir() else composed.folder, {name: kind})
    sections = [
        _front_matter(composed, found),
        f"# {composed.folder.resolve().name}\n\n{_what(composed)}",
        "## Use\n\n" + _use(composed),
        "## Models\n\n" + _table(composed),
        "## Licences\n\nMost restrictive first. What this folder may be used for follows from all of "
        "them.\n\n" + "".join(f"- {line}\n" for line in licences_in_words(found)),
        "## What is trained\n\n" + _what_is_trained(trained),
    ]
    return card.signed("\n".join(sections))


def _front_matter(composed: Composed, found: Sequence[Mapping[str, Any]]) -> str:
    """Return the head of the card, from which the hub reads licence, library and tags."""
    names = [licence["license"] for licence in found]
    known = names[0] if len(names) == 1 and names[0] != NOT_STATED else "other"
    lines = ["---", f"license: {json.dumps(known)}"]
    if known == "other":
        lines.append(f"license_name: {json.dumps(', '.join(names))}")
    bases = [reference.source for reference in composed.references.values() if reference.revision is not None]
    if bases:
        lines += ["base_model:", *(f"- {json.dumps(base)}" for base in bases)]
    tags = ["codi", "composable-diffusion", *(f"{modality}-generation" for modality in composed.references)]
    return (
        "\n".join([*lines, "pipeline_tag: any-to-any", "tags:", *(f"- {tag}" for tag in tags), "---"]) + "\n"
    )


def _what(composed: Composed) -> str:
    made = ", ".join(composed.references)
    return (
        f"Makes {made}, any of them together: latent diffusion models that others published, each frozen and "
        "to the bit what it is alone, composed by codi. How that works, and how to train what lets them "
        f"attend to each other, is in {DOCUMENT} of codi.\n"
    )


def _use(composed: Composed) -> str:
    made = ",".join(composed.references)
    name = composed.folder.resolve().name
    return (
        f'```\ncodi generate --model {name} --text "a red ball bounces at night" --to {made} -o out/\n```\n'
    )


def _table(composed: Composed) -> str:
    rows = ["| makes | model | class | parameters | licence |", "|---|---|---|---|---|"]
    for modality, reference in composed.references.items():
        name = (
            reference.name if reference.revision is not None else f"the folder {Path(reference.source).name}"
        )
        rows.append(
            f"| {modality} | {name} | {reference.kind} | {reference.parameters:,} | {reference.licence.id} |"
        )
    return "\n".join(rows) + "\n"


def _what_is_trained(trained: Mapping[str, Mapping[str, Any]]) -> str:
    if not trained:
        return (
            f"Nothing: each model makes what it makes alone. {DOCUMENT} says how to train what joins them.\n"
        )
    return "".join(
        f"- {name}: {part['class']}, {part['parameters']:,} parameters\n" for name, part in trained.items()
    )
