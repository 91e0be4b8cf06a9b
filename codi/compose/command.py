"""Serve `codi compose`, which makes one model of latent diffusion models that others published."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codi import modalities
from codi.types import DTYPES, InputError, blame

if TYPE_CHECKING:
    from codi.compose.originals import Original

_EXAMPLES = """examples:
  codi compose --image owner/pictures --video owner/clips@v1.1 --audio owner/sounds -o my-codi/ --dry-run
  codi compose --image owner/pictures --video ./clips --audio owner/sounds --seconds 2 -o my-codi/ --check
  codi compose --image ./pictures --audio ./sounds --set audio.num_inference_steps=100 -o my-codi/ --copy
  codi info my-codi/
"""


def add_command(commands: Any) -> None:
    """Add `codi compose` to the subcommands, without importing anything heavy."""
    parser = commands.add_parser(
        "compose",
        help="latent diffusion models that others published -> one model that makes all of it together",
        description="Writes a small folder that refers to latent diffusion models that others published as "
        "pipelines of diffusers. Each stays frozen and makes to the bit what it makes alone; what lets them "
        "attend to each other is trained, and lies in that folder.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    for kind in modalities.kinds():
        option = f"--{kind.name.replace('_', '-')}"
        if kind.in_words:
            help = "a model of codi whose words and prompts are taken (default: each model reads its own)"
            parser.add_argument(option, metavar="FOLDER", help=help)
        else:
            help = f"what makes {kind.name}: a folder, or a hub id owner/name[@revision]"
            parser.add_argument(option, metavar="ID", help=help)
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where the composed model goes")
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="how long clips and sounds last (default: the shortest)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="arguments",
        metavar="KIND.NAME=VALUE",
        help="an argument of every call of a model, by the name that its own pipeline gives it, such as "
        "image.height=512; repeatable",
    )
    parser.add_argument(
        "--auxiliary-caption",
        action="store_true",
        help="where several outputs are made of one prompt, the model that --text names draws a caption "
        "first, of which all of them are made; what the prompt leaves open they then agree on",
    )
    parser.add_argument(
        "--partner-estimate-weight",
        type=float,
        metavar="W",
        help="how much partner estimates count, once noisy-latent encoders and prompt translators are "
        "trained; 0 is off (default: 1)",
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="a variant of the weights, such as fp16 (default: the plain ones)"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="the precision for --check and for what is said of memory",
    )
    parser.add_argument("--copy", action="store_true", help="copy the models into the folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be composed; no weights are downloaded"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run two steps of each model beside its own pipeline; exit code 1 if they differ",
    )
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Compose models as the arguments say, and return the exit code.

    Args:
        args: the arguments, see `add_command`.

    Returns:
        0, or 1 if `--check` found that a model does not make what its own pipeline makes.

    Raises:
        InputError: for whatever cannot be composed; then nothing was written.
    """
    from codi.compose import folder
    from codi.libraries import leave_out_broken

    sources = _sources(args)
    if args.auxiliary_caption and _words_of(args) is None:
        raise InputError("--auxiliary-caption needs a model that draws captions: expected --text FOLDER")
    if args.out is None and not args.dry_run:
        raise InputError("no folder to write into: expected -o FOLDER, or --dry-run")
    if args.seconds is not None and not 0 < args.seconds < 3600:
        raise InputError(f"--seconds is {args.seconds:g}: expected a number above 0 and below 3600")
    weight = args.partner_estimate_weight
    if weight is not None and not 0 <= weight < 1000:
        raise InputError(f"--partner-estimate-weight is {weight:g}: expected a number from 0 to below 1000")
    if args.out is not None:
        folder.check_place(args.out)
    stdout = sys.stdout
    with redirect_stdout(sys.stderr), ExitStack() as stack:  # some libraries write to stdout when imported
        leave_out_broken()
        from codi.pretrained import quietly

        stack.enter_context(quietly())
        plan = _plan(args, sources)
        if args.dry_run:
            print("\n".join(plan.said), file=stdout, flush=True)
            return 0
        _report(*plan.said)
        composed = _write(args, plan)
        print(composed.folder, file=stdout, flush=True)
        return _check(composed, args.dtype) if args.check else 0


def _sources(args: argparse.Namespace) -> dict[str, str]:
    """Return the models that are named, by modality."""
    found = {}
    for kind in modalities.kinds():
        name = getattr(args, kind.name)
        if name is not None and not kind.in_words:
            found[kind.name] = name
    if not found:
        options = [f"--{kind.name.replace('_', '-')} ID" for kind in modalities.kinds() if not kind.in_words]
        raise InputError(f"nothing to compose: expected at least one of {', '.join(options)}")
    return found


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is about to be composed; no weights were read for it.

    Attributes:
        originals: the published models by modality.
        calls: the arguments of every call of each.
        text: where words come from, as `codi.compose.folder.TextSource`; None without.
        said: what there is to say about it, in lines.
    """

    originals: Mapping[str, "Original"]
    calls: Mapping[str, dict[str, Any]]
    text: Any
    said: list[str]


def _plan(args: argparse.Namespace, sources: Mapping[str, str]) -> Plan:
    """Return what is to be composed, once everything that can be wrong with it has been looked for."""
    from codi.compose import folder
    from codi.compose.geometry import agree
    from codi.compose.originals import Original

    given = parse_arguments(args.arguments, sources)
    originals = {
        modality: Original.read(modality, source, args.variant, fetch=False)
        for modality, source in sources.items()
    }
    for modality, original in originals.items():
        _check_arguments(modality, original, given[modality])
        _check_libraries(modality, original)
    calls = agree(originals, given, args.seconds)
    words = _words_of(args)
    text = None if words is None else folder.text_source(words)
    said = [*_said(originals, calls, args.dtype, text), *_lengths(originals, calls, args.seconds)]
    if args.check:
        check_memory(originals, args.dtype)
    return Plan(originals=originals, calls=calls, text=text, said=said)


def _write(args: argparse.Namespace, plan: Plan) -> Any:
    """Download what is missing, and write the folder of the composed model."""
    from codi.compose import folder
    from codi.compose.references import Reference

    references = []
    for modality, original in plan.originals.items():
        original.fetch(modality)
        references.append(Reference.of(modality, original, plan.calls[modality]))
    defaults: dict[str, Any] = {}
    if args.auxiliary_caption:
        defaults["auxiliary_caption"] = next(kind.name for kind in modalities.kinds() if kind.in_words)
    if args.partner_estimate_weight is not None:
        defaults["partner_estimate_weight"] = args.partner_estimate_weight
    return folder.write(
        args.out, references, text=plan.text, defaults=defaults, copy=args.copy, report=_report
    )


def _words_of(args: argparse.Namespace) -> str | None:
    """Return the model that is named for words, or None."""
    return next((getattr(args, kind.name) for kind in modalities.kinds() if kind.in_words), None)


def _report(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


# What is asked ------------------------------------------------------------------------------------------


def parse_arguments(typed: list[str], made: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return arguments of calls, by modality, as they are typed: KIND.NAME=VALUE.

    Args:
        typed: the arguments.
        made: by modality what is composed.

    Returns:
        For each modality that is made its arguments by name; numbers, true, false and none are no texts.

    Raises:
        InputError: for one of another form, or for what is not made.
    """
    from codi.tensor_files import parse_json

    found: dict[str, dict[str, Any]] = {modality: {} for modality in made}
    for argument in typed:
        place, equals, value = argument.partition("=")
        modality, dot, name = place.partition(".")
        if not equals or not dot or not name.isidentifier() or modality not in found:
            raise InputError(
                f"--set {argument!r:.80}: expected KIND.NAME=VALUE, where KIND is one of {', '.join(found)}"
            )
        try:
            found[modality][name] = parse_json(value.lower() if value in ("True", "False") else value)
        except ValueError:
            found[modality][name] = value
    return found


# Arguments that belong to one call, and not to all of them.
_OF_ONE_CALL = (
    "prompt",
    "negative_prompt",
    "generator",
    "latents",
    "output_type",
    "return_dict",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "num_waveforms_per_prompt",
    "eta",
    "guidance_rescale",
    "denoising_end",
    "callback_on_step_end",
)


def _check_arguments(modality: str, original: "Original", given: Mapping[str, Any]) -> None:
    """Raise `InputError` for an argument that a pipeline does not take, or that is no model's to say."""
    from codi.compose.families import family_of
    from codi.compose.rules import defaults_of

    family, known = family_of(original.kind), defaults_of(original.kind)
    own = ["fps"] if family.fps is not None or family.fps_argument is not None else []
    mel = ["mel"] if family.takes_mel else []
    if mel and "mel" in given:
        from codi.compose.mel import MelSettings

        with blame(f"--set {modality}: "):
            MelSettings.of(given["mel"])
    for name, value in given.items():
        if name in _OF_ONE_CALL or (name not in known and name not in [*own, *mel]):
            sizes = ", ".join([*family.sizes.values(), *own, *mel, "num_inference_steps", "guidance_scale"])
            raise InputError(
                f"--set {modality}.{name}: a {original.kind} takes no such argument of every call; expected "
                f"one such as {sizes}"
            )
        number = name in (*family.sizes.values(), *own, "num_inference_steps")
        if number and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6):
            raise InputError(f"--set {modality}.{name} is {value!r:.40}: expected a number above 0")
        whole = name in ("height", "width", "num_frames", "num_inference_steps")
        if whole and not isinstance(value, int):
            raise InputError(f"--set {modality}.{name} is {value!r:.40}: expected a whole number")


def _check_libraries(modality: str, original: "Original") -> None:
    """Raise `InputError` if the installed diffusers lacks a class, or what a class of it needs."""
    import diffusers

    for name, part in original.parts.items():
        if part.library != "diffusers":
            continue
        found = getattr(diffusers, part.kind, None)
        what = f"{modality}: {name} of {original.files} is a {part.kind}"
        if found is None:
            raise InputError(f"{what}, which diffusers {diffusers.__version__} lacks: install a newer one")
        missing = [library for library in getattr(found, "_backends", ()) if not _is_there(library)]
        if missing:
            raise InputError(f"{what}, which needs {missing[0]}: pip install {missing[0]}")


def _is_there(library: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(library) is not None


def check_memory(originals: "Mapping[str, Original]", dtype: str) -> None:
    """Raise `InputError` if a model needs more memory than is free, before it is loaded.

    Args:
        originals: the models, of which one is loaded at a time.
        dtype: the precision that they are loaded in.
    """
    from codi.compose.describe import memory_of, size
    from codi.compose.references import facts_of
    from codi.doctor import free_memory

    free = free_memory()
    for modality, original in originals.items():
        needed, _ = memory_of(facts_of(original), dtype)
        if free is not None and needed > free:
            raise InputError(
                f"{modality}: {original.files} takes {size(needed)} in {dtype}, and {size(free)} of memory "
                "are free: choose a smaller --dtype, leave --check out, or compose on a larger machine"
            )


# What is said -------------------------------------------------------------------------------------------


def _said(
    originals: "Mapping[str, Original]", calls: Mapping[str, Mapping[str, Any]], dtype: str, text: Any
) -> list[str]:
    """Return lines about what is composed: classes, parameters, bytes, memory and licences."""
    from codi.compose.describe import licences_in_words, licences_of, memory_of, size, stated_by
    from codi.compose.geometry import geometry_of
    from codi.compose.references import facts_of, prediction_of
    from codi.doctor import count

    lines = []
    whole = largest = 0
    for modality, original in originals.items():
        facts, geometry = facts_of(original), geometry_of(original, calls[modality])
        needed, alone = memory_of(facts, dtype)
        whole, largest = whole + needed, max(largest, alone)
        stored = sum(part.bytes for part in facts.values())
        numbers = sum(part.parameters for part in facts.values())
        variant = "" if original.variant is None else f", variant {original.variant}"
        grid = " x ".join(map(str, geometry.grid))
        seconds = "" if geometry.seconds is None else f", {geometry.seconds:.4g} s"
        scheduler = original.parts["scheduler"].kind
        lines += [
            f"{modality}: {original.files}{variant}",
            f"  {original.kind}, {count(numbers)} parameters, {size(stored)} on the disk",
            f"  {scheduler}, predicts {prediction_of(original)}; latent {grid}{seconds}",
        ]
    lines.append(
        f"memory for the weights in {dtype}: {size(whole)} with all of them loaded, {size(largest)} on the "
        "device where parts are offloaded"
    )
    found = licences_of(stated_by(originals, text))
    return lines + [f"licence: {line}" for line in licences_in_words(found)]


def _lengths(
    originals: "Mapping[str, Original]", calls: Mapping[str, Mapping[str, Any]], seconds: float | None
) -> list[str]:
    """Return lines about how long everything lasts."""
    from codi.compose.geometry import geometry_of

    found = {}
    for modality, original in originals.items():
        length = geometry_of(original, calls[modality]).seconds
        if length is not None:
            found[modality] = length
    lines = []
    if len(found) > 1:
        each = ", ".join(f"{modality} {length:.4g} s" for modality, length in found.items())
        lines.append(f"lengths meet: {each}")
    for modality, length in found.items():
        if seconds is not None and abs(length - seconds) > 1e-3:
            lines.append(f"{modality} lasts {length:.4g} s, the nearest to {seconds:.4g} s in whole steps")
    return lines


# The check ----------------------------------------------------------------------------------------------


def _check(composed: Any, dtype: str) -> int:
    """Run two steps of each model beside its own pipeline, report how far they are apart, return 0 or 1."""
    import torch

    from codi.compose.check import compare
    from codi.compose.loading import load_model

    differences = []
    for modality in composed.references:  # one at a time, for want of memory
        differences.append(compare(load_model(composed, modality, getattr(torch, dtype))))
        _report(str(differences[-1]))
    return 0 if all(difference.fine for difference in differences) else 1
