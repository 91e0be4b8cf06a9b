"""Convert released checkpoints to a model folder, and a model folder back to checkpoints.

One part is converted at a time: a checkpoint is mapped, the part's tensors are written one after another,
read back and compared, and the map is dropped. The folder is made beside its place and renamed at the end, so
that there is never half of one. `released/coverage.json` says of every released tensor where it went, and
`released/*.safetensors` keeps those that no part needs, for the way back.
"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from codi import io, pretrained
from codi.convert import released
from codi.convert.checkpoint import (
    DTYPES,
    check_archive,
    read_checkpoint,
    stored_types,
    verify_safetensors,
    write_checkpoint,
    write_safetensors,
)
from codi.convert.released import FULL, SLOTS, Geometry, Part
from codi.convert.tables import Table
from codi.diffusion.released import ReleasedDDIMScheduler
from codi.tensor_files import read_header, read_json
from codi.types import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"
COVERAGE = "coverage.json"
# what the released script sets, and calls with a converted model leave out
DEFAULTS = {
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
    "null_prompt": "empty",
    "normalise_prompts": False,
}
COMPONENTS = [
    "text_autoencoder",
    "image_autoencoder",
    "audio_autoencoder",
    "text_tower",
    "vision_tower",
    "audio_tower",
    "text_denoiser",
    "vision_denoiser",
    "audio_denoiser",
    "environment_encoders",
]


def convert(
    files: Mapping[str, Path],
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    words: Path | None = None,
    geometry: Geometry = FULL,
    keep_unknown: bool = False,
) -> dict[str, Any]:
    """Write a model folder from released checkpoints, any subset of them.

    Args:
        files: the checkpoints by slot, see `SLOTS`.
        out: the folder to write, which must be new or empty.
        dtype: the dtype of the weights; None keeps them as they are, which the way back needs to be exact.
        words: a folder with clip/, bert/ and gpt2/tokenizer.json, which no checkpoint holds.
        geometry: the sizes of the released components.
        keep_unknown: whether tensors that nobody knows are kept aside and listed; otherwise they are an
            error.

    Returns:
        The report of coverage, as it stands in released/coverage.json.

    Raises:
        InputError: if a file or a tensor does not fit; the message names it.
    """
    if not files:
        raise InputError(
            f"no checkpoint was named: expected some of {', '.join(f'--{slot}' for slot in SLOTS)}"
        )
    check_new(out)
    for path in files.values():
        check_archive(path)
    sizes = {slot: read_sizes(path) for slot, path in files.items()}
    shapes = {}
    for slot, tensors in sizes.items():
        shapes[slot] = {name: shape for name, (shape, _) in tensors.items()}
    names = {slot: set(of_slot) for slot, of_slot in shapes.items()}
    parts = released.listed(names, geometry, read_words(words, geometry))
    # these checks need names and shapes alone, so they come before the first tensor is written
    built = {slot: build_on_meta(of_slot) for slot, of_slot in parts.items()}
    reasons = {}
    for slot, path in files.items():
        reasons[slot] = account(slot, path, shapes[slot], built, keep_unknown)
    check_shapes(built, shapes, files)
    check_space(out, sizes, dtype)
    with beside(out) as folder:
        coverage = {slot: {"file": name, "tensors": {}} for slot, name in file_names(files).items()}
        modules = {}
        for slot, of_slot in built.items():
            # the environment encoders are one part, made from all diffuser files
            sources = dict(files) if slot == "environment_encoders" else {slot: files[slot]}
            for part, module, table in of_slot:
                write_part(folder / part.name, module, table, sources, dtype)
                note_part(coverage, part, table, {source: shapes[source] for source in sources})
                modules[part.name] = module
        for slot, path in files.items():
            write_kept(folder / "released", slot, path, reasons[slot], coverage)
        write_index(folder, modules)
        report = {"dtype": str(dtype).removeprefix("torch.") if dtype else None, "files": coverage}
        io.save_json(folder / "released" / COVERAGE, report)
        pretrained.write_checksums(folder)
    return report


def read_sizes(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and the dtype of every tensor of a checkpoint by name."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in read_checkpoint(path).items()}


def build_on_meta(parts: list[Part]) -> list[tuple[Part, Any, Table]]:
    """Return parts, each with its module without memory and its table."""
    return [(part, *part.on_meta()) for part in parts]


def file_names(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the names that the files get on the way back, by slot.

    They are those that the files had or, where two files had the same name, those of the released files.
    """
    names = {slot: path.name for slot, path in files.items()}
    if len(set(names.values())) < len(names):
        return {slot: SLOTS[slot] for slot in names}
    return names


def account(
    slot: str, path: Path, names: Mapping[str, Any], built: Mapping[str, list], keep_unknown: bool
) -> dict[str, str]:
    """Return the reason for each tensor of one file that no part uses.

    Args:
        slot: the slot of the file.
        path: the file.
        names: the names of its tensors.
        built: for each slot its parts, each with its module and its table.
        keep_unknown: whether a tensor that nobody knows gets the reason "unknown"; otherwise it is an error.

    Returns:
        The reasons by the names of the tensors.

    Raises:
        InputError: if the file belongs to another slot, lacks a tensor, or has one that nobody knows.
    """
    mine = used_names(slot, built)
    if not mine & set(names):
        looks_like = ""
        for other in SLOTS:
            if any(released_name(other, name) for name in names):
                looks_like = f": it looks like the file for --{other}"
                break
        raise InputError(f"{path} has no weights for --{slot}{looks_like}")
    if missing := sorted(mine - set(names)):
        raise InputError(
            f"{path} lacks {missing[0]!r} (in all {len(missing)} tensors): expected the whole of "
            f"{SLOTS[slot]}"
        )
    reasons = {name: why_unused(slot, name) for name in names if name not in mine}
    unknown = [name for name, reason in reasons.items() if reason == "unknown"]
    if unknown and not keep_unknown:
        raise InputError(
            f"{path} has {unknown[0]!r}, which nobody knows (in all {len(unknown)}): --keep-unknown sets "
            "such aside and lists them"
        )
    return reasons


def used_names(slot: str, built: Mapping[str, list]) -> set[str]:
    """Return the names of the tensors of one file that some part is made of."""
    used: set[str] = set()
    for _, _, table in built[slot]:
        used.update(table.sources)
    for _, _, table in built.get("environment_encoders", []):
        used.update(source for source in table.sources if released_name(slot, source))
    return used


def why_unused(slot: str, name: str) -> str:
    """Return the reason why no part is made of a tensor of one file."""
    known = released.why_kept(name)
    if known:
        return known
    for other, file_name in SLOTS.items():
        if other != slot and released_name(other, name):
            return f"part of {file_name}, taken from there"
    return "unknown"


def released_name(slot: str, name: str) -> bool:
    """Return whether a tensor of that name belongs into the file of that slot."""
    if slot == "encoders":
        return name.startswith(("autokl.", "audioldm.", "optimus.", "clip.", "clap."))
    return name.startswith(released.prefix_of(slot))


def check_shapes(
    built: Mapping[str, list], shapes: Mapping[str, Mapping[str, tuple]], files: Mapping[str, Path]
) -> None:
    """Check that every released tensor is of the shape that its part asks for.

    Args:
        built: for each slot its parts, each with its module (without memory) and its table.
        shapes: for each slot the shapes of its released tensors by name.
        files: the checkpoints by slot, for the message.

    Raises:
        InputError: for the first tensor that does not fit.
    """
    every = {}
    for slot, of_slot in shapes.items():
        for name, shape in of_slot.items():
            if released_name(slot, name):
                every[name] = (shape, files[slot])
    for parts in built.values():
        for _, module, table in parts:
            tensors = module.state_dict()
            for row in table.rows:
                shape, path = every[row.source]
                wanted = [tuple(tensors[name].shape) for name in row.targets]
                try:
                    given = [tuple(t.shape) for t in row.op.forward(torch.empty(shape, device="meta"))]
                except (IndexError, RuntimeError):
                    given = None
                if given != wanted:
                    raise InputError(
                        f"{path}: {row.source!r} has the shape {shape}, which does not fit {wanted}"
                    )


def write_part(
    folder: Path, module: Any, table: Table, files: Mapping[str, Path], dtype: torch.dtype | None
) -> None:
    """Write the configuration and the weights of one part, and compare them with what they were made from.

    Args:
        folder: the folder of the part.
        module: the part without memory, which has the configuration.
        table: the table of the part.
        files: the checkpoints that it is made from, by slot.
        dtype: the dtype of the weights; None keeps them as they are.

    Raises:
        InputError: for the first tensor that is not finite, or was not written well.
    """
    tensors = {}
    for slot, path in files.items():
        for name, tensor in read_checkpoint(path).items():
            if released_name(slot, name):
                tensors[name] = tensor
    module.save_config(folder)
    ours = table.apply(tensors)
    exact = frozenset(table.constants)
    kinds = stored_types(ours, dtype, exact)
    for name, tensor in ours.items():
        if not pretrained.is_finite(tensor, kinds[name]):
            kind = str(kinds[name]).removeprefix("torch.")
            raise InputError(
                f"{' and '.join(map(str, files.values()))}: tensor {name!r} of the part {folder.name} holds "
                f"numbers that are not finite as {kind}: copy or download it again, or choose another --dtype"
            )
    write_safetensors(folder / WEIGHTS, ours, dtype, exact)
    verify_safetensors(folder / WEIGHTS, ours, dtype, exact)


def note_part(
    coverage: dict[str, Any], part: Part, table: Table, shapes: Mapping[str, Mapping[str, Any]]
) -> None:
    """Note in the report of coverage which tensors of a part each released tensor became."""
    for row in table.rows:
        slot = next(s for s in shapes if row.source in shapes[s] and released_name(s, row.source))
        coverage[slot]["tensors"].setdefault(row.source, []).append(f"{part.name}: {', '.join(row.targets)}")


def write_kept(
    folder: Path, slot: str, path: Path, reasons: Mapping[str, str], coverage: dict[str, Any]
) -> None:
    """Write those released tensors of one file that no part uses, which the way back needs.

    The order and the types of all tensors of the file are noted in the report of coverage.

    Args:
        folder: where they are kept, released/ in the model folder.
        slot: the slot of the file.
        path: the file.
        reasons: why each tensor that no part uses is there, as `account` returns it.
        coverage: the report of coverage, which is added to.
    """
    tensors = read_checkpoint(path)
    folder.mkdir(exist_ok=True)
    # a tied tensor is written once more on the way back, from its twin
    kept = {name: tensors[name] for name in reasons if name != TIED}
    write_safetensors(folder / f"{slot}.safetensors", kept)
    verify_safetensors(folder / f"{slot}.safetensors", kept)
    if TIED in tensors and not torch.equal(tensors[TIED], tensors[TWIN]):
        raise InputError(f"{path}: {TIED!r} is not {TWIN!r} again, as it should be")
    used = coverage[slot]["tensors"]
    entries = {}
    for name, tensor in tensors.items():
        entry: dict[str, Any] = {"to": used[name]} if name in used else {"kept": reasons[name]}
        entry["dtype"] = str(tensor.dtype).removeprefix("torch.")
        entries[name] = entry
    coverage[slot]["tensors"] = entries


TIED = "optimus.decoder.lm_head.weight"
TWIN = "optimus.decoder.transformer.wte.weight"


def write_index(folder: Path, modules: Mapping[str, Any]) -> None:
    """Write model_index.json and the scheduler."""
    ReleasedDDIMScheduler().save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {"_class_name": "CoDiPipeline", "_diffusers_version": diffusers.__version__}
    for name in COMPONENTS:
        index[name] = class_name(type(modules[name])) if name in modules else [None, None]
    index["defaults"] = DEFAULTS
    index["scheduler"] = class_name(ReleasedDDIMScheduler)
    io.save_json(folder / pretrained.INDEX, index)


def class_name(kind: type) -> list[str]:
    """Return the module and the name of a class, as the index writes them."""
    return [kind.__module__, kind.__name__]


def reverse(folder: Path, out: Path, geometry: Geometry = FULL) -> list[Path]:
    """Write the checkpoints that a folder was converted from.

    They are what they were, bit for bit, unless the folder was converted to another dtype.

    Args:
        folder: a folder that `convert` made.
        out: the folder to write, which must be new or empty.
        geometry: the sizes of the released components, as they were given to `convert`.

    Returns:
        The paths of the checkpoints.

    Raises:
        InputError: if the folder was not converted, was damaged, or no longer fits into checkpoints.
    """
    check_new(out)
    files = read_coverage(folder)
    tensor_names = {slot: set(entry["tensors"]) for slot, entry in files.items()}
    parts = released.listed(tensor_names, geometry)
    part_names = []
    for of_slot in parts.values():
        part_names += [part.name for part in of_slot]
    pretrained.check_files(folder, part_names, verify=False)
    weights = sorted(Path(folder).glob("*/*.safetensors"))
    for path in weights:
        read_header(path)  # one clear line for a file that is damaged
    pretrained.check_checksums(folder, weights)
    written = []
    with beside(out) as target:
        for slot, entry in files.items():
            tensors = dict(load_file(folder / "released" / f"{slot}.safetensors"))
            for part in [*parts[slot], *parts.get("environment_encoders", [])]:
                found = undo(folder / part.name / WEIGHTS, part, entry["tensors"])
                check_copies(folder, tensors, found)
                tensors |= found
            if TIED in entry["tensors"] and TWIN in tensors:
                tensors[TIED] = tensors[TWIN]
            for name in entry["tensors"]:
                if name not in tensors:
                    raise InputError(
                        f"{folder} lacks {name!r}, which its report lists for {entry['file']}: convert again"
                    )
            ordered = {}
            for name, known in entry["tensors"].items():
                ordered[name] = tensors[name].to(getattr(torch, known["dtype"]))
            write_checkpoint(target / entry["file"], ordered)
            written.append(out / entry["file"])
    return written


def read_coverage(folder: Path) -> dict[str, Any]:
    """Return what a converted folder says of the files that it was made from, by slot.

    Args:
        folder: a folder that `convert` made.

    Returns:
        For each slot the name of the file and an entry for each of its tensors, in the order of the file.

    Raises:
        InputError: if there is no such report, or if it names what no conversion writes.
    """
    record = Path(folder) / "released" / COVERAGE
    if not record.is_file():
        raise InputError(f"{folder} was not made by `codi convert` (no released/{COVERAGE})")
    try:
        files = read_json(record, "convert again")["files"]
        dtypes: set[str] = set()
        for entry in files.values():
            dtypes.update(tensor["dtype"] for tensor in entry["tensors"].values())
        names = [str(entry["file"]) for entry in files.values()]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{record} is no report of a conversion: convert again") from None
    # the report of a foreign folder could name any place on the disk
    plain = all(name not in ("", ".", "..") and Path(name).name == name for name in names)
    known = {str(dtype).removeprefix("torch.") for dtype in DTYPES}
    if not plain or set(files) - set(SLOTS) or dtypes - known:
        raise InputError(f"{record} names files, slots or types that no conversion writes: convert again")
    for slot in files:
        if not record.with_name(f"{slot}.safetensors").is_file():
            raise InputError(f"{folder} lacks released/{slot}.safetensors: copy it again, or convert again")
    return files


def undo(path: Path, part: Part, wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the released tensors that one part gives back to one file.

    Args:
        path: the weights of the part.
        part: the part.
        wanted: the entries of the file's tensors in the report of coverage.

    Returns:
        The released tensors by name.

    Raises:
        InputError: if the part lacks a tensor.
    """
    _, table = part.on_meta()
    rows = []
    for row in table.rows:
        uses = wanted.get(row.source, {}).get("to", [])
        if any(use.startswith(f"{part.name}:") for use in uses):
            rows.append(row)
    found = {}
    with safe_open(path, framework="pt") as file:
        there = set(file.keys())
        for row in rows:
            for name in row.targets:
                if name not in there:
                    raise InputError(f"{path} lacks the tensor {name!r}: copy it again, or convert again")
            ours = tuple(file.get_tensor(name) for name in row.targets)
            found[row.source] = row.op.reverse(ours).contiguous()
    return found


def check_copies(folder: Path, tensors: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise `InputError` if a released tensor that two parts hold is no longer the same in both.

    Such a tensor is an embedding of the timestep, of which a denoiser and its environment encoder have a copy
    each.
    """
    for name in found:
        if name in tensors and not torch.equal(found[name], tensors[name]):
            raise InputError(
                f"{folder} holds {name!r} in a denoiser and in environments, and they differ: a checkpoint "
                "holds one of them"
            )


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the name `out` when all is done, and is removed if anything fails."""
    out = Path(os.path.abspath(out))
    temporary = out.parent / f".{out.name}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}. Free some space or name another place."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(out: Path) -> None:
    """Raise `InputError` if the place is taken; this is asked first, before gigabytes are read."""
    try:
        taken = os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}. Name another place.") from None
    if taken:
        raise InputError(f"{out} is there already: expected a new or empty folder")


def check_space(
    out: Path,
    sizes: Mapping[str, Mapping[str, tuple[tuple[int, ...], torch.dtype]]],
    dtype: torch.dtype | None,
) -> None:
    """Raise `InputError` if the disk cannot hold the result.

    Args:
        out: where the result goes.
        sizes: for each slot the shape and the dtype of its released tensors by name.
        dtype: the dtype for floating-point tensors; None keeps them as they are.

    Raises:
        InputError: if there is less space than the tensors need.
    """
    place = Path(out).absolute()
    while not os.path.exists(place):
        place = place.parent
    needed = 0
    for tensors in sizes.values():
        for shape, given in tensors.values():
            stored = dtype if dtype and given.is_floating_point else given
            needed += math.prod(shape) * stored.itemsize
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{place} has {free / 1e9:.1f} GB free, the model needs {needed / 1e9:.1f}: free some space or "
            "name another place"
        )


def read_words(folder: Path | None, geometry: Geometry = FULL) -> dict[str, str]:
    """Read the tokenizers that no checkpoint holds.

    Args:
        folder: a folder with clip/, bert/ and gpt2/tokenizer.json; None for no tokenizers.
        geometry: the sizes of the released components.

    Returns:
        The tokenizers as JSON by name; none without a folder.

    Raises:
        InputError: if one is missing, or has another number of tokens than its model.
    """
    if folder is None:
        return {}
    paths = {name: Path(folder) / name / "tokenizer.json" for name in released.WORDS}
    for path in paths.values():
        if not os.path.isfile(path):
            raise InputError(
                f"no {path}: expected the tokenizer.json of clip-vit-large-patch14, bert-base-cased and "
                "gpt2 in clip/, bert/, gpt2/"
            )
    for name, path in paths.items():
        wanted, model = released.vocabulary(name, geometry)
        found = count_tokens(path)
        if found != wanted:
            raise InputError(f"{path} has {found} tokens: expected the {wanted} of {model}")
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def count_tokens(path: Path) -> int:
    """Return the size of the vocabulary in a tokenizer.json."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no tokenizer ({reason}): copy or download it again") from None
