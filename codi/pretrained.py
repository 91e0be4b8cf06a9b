"""Find the folder of a model, load and save its parts, and check that every tensor is what it should be.

A model is a diffusers folder: model_index.json, and one folder per part with its configuration and
safetensors. A part that is loaded must have every tensor that its configuration asks for, unaltered, and none
besides. `checksums.json`, written on saving, holds a digest of every tensor. Whatever does not fit raises one
`InputError` that names the folder and the tensor.
"""

import hashlib
import importlib
import inspect
import json
import logging
import mmap
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from codi import renamed
from codi.modalities import kinds
from codi.types import InputError

INDEX = "model_index.json"
CHECKSUMS = "checksums.json"
PATTERNS = ["*.json", "*.safetensors", "*.txt"]
MAX_HEADER = 100 << 20  # bytes, as in the safetensors format
HUB = ("token", "cache_dir", "local_files_only", "force_download")  # options of a download
LOADING = (  # options of diffusers' `ModelMixin.from_pretrained` that are passed on to every part
    "device_map",
    "max_memory",
    "offload_folder",
    "offload_state_dict",
    "low_cpu_mem_usage",
    "disable_mmap",
    "quantization_config",
)
WEIGHTS = r"diffusion_pytorch_model[\w.-]*\.safetensors(\.index[\w.-]*\.json)?"
SAVED = re.compile(rf"(scheduler_)?config\.json|{WEIGHTS}")  # what a save writes into the folder of a part
BESIDE = ".saving-"  # start of the name of the folder that is written before an older model is replaced
VERIFY_BELOW = 2 << 30  # bytes of weights whose checksums are verified without being asked


def resolve(source: str | Path | None = None, revision: str | None = None, **hub: Any) -> Path:
    """Return the folder of a model, which is downloaded if it is named by a hub id.

    Args:
        source: a local folder, or a hub id such as "owner/name"; None stands for the model inside the
            package.
        revision: the branch, tag or commit of a hub id; without effect on a folder.
        **hub: options of the download, see `HUB`.

    Returns:
        The folder of the model. A local one is known to hold model_index.json.

    Raises:
        InputError: if there is no such folder, if it holds no model, or if the download fails.
    """
    if source is None:
        folder = Path(str(resources.files("codi"))) / "assets" / "tiny"
        if not (folder / INDEX).is_file():
            raise InputError(
                f"this installation of codi holds no model ({folder}): install it again, or name a model "
                "folder or hub id"
            )
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise InputError(
                f"{folder} is no model folder: expected one with {INDEX}, as `save_pretrained` writes it"
            )
        return folder
    # what looks like a path is not looked up at the hub
    if folder.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise InputError(
            f"no model folder {source}: expected a folder with {INDEX}, or a hub id such as 'owner/name'"
        )
    return _download(str(source), revision=revision, **hub)


def _download(source: str, **hub: Any) -> Path:
    """Download the files of a model that match `PATTERNS` from the hub, and return their folder."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS, **hub))
    except Exception as error:  # offline, unknown, private: the hub has a class for each
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model {source!r} is no folder here and cannot be had from the hub ({reason}): check its name"
        ) from error


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the module and the class of each part of a model folder, by the name of the part.

    Parts that the model does not have (null in model_index.json) are left out. Names that earlier versions
    gave to parts are replaced by the present ones.
    """
    index = _read_json(folder / INDEX)
    return {
        renamed.PARTS.get(name, name): tuple(value)
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] is not None
    }


def read_defaults(folder: Path) -> dict[str, Any]:
    """Return the model's own values for options that a call leaves out."""
    defaults = _read_json(folder / INDEX).get("defaults") or {}
    return renamed.rename(defaults, renamed.SETTINGS, str(folder))


def load_parts(
    folder: Path, index: Mapping[str, tuple[str, str]], dtype: Any, **options: Any
) -> dict[str, Any]:
    """Load all parts that are named in `index`.

    Args:
        folder: the folder of the model.
        index: the module and the class of each part by its name, as `read_index` returns them.
        dtype: one dtype for all parts, or {part: dtype}, where "default" stands for all other parts and is
            float32 if it is missing.
        **options: passed on to `load_part`, such as `variant`.

    Returns:
        The loaded parts by their names.
    """
    dtypes = dtype if isinstance(dtype, dict) else {"default": dtype}
    default = dtypes.get("default", torch.float32)
    return {
        name: load_part(part_folder(folder / name), *kind, dtype=dtypes.get(name, default), **options)
        for name, kind in index.items()
    }


def part_folder(folder: Path) -> Path:
    """Return the folder of a part, which an earlier version may have saved under another name."""
    former = {present: old for old, present in renamed.PARTS.items()}.get(folder.name)
    if former is None or folder.is_dir() or not folder.with_name(former).is_dir():
        return folder
    renamed.note(str(folder.parent), former, folder.name)
    return folder.with_name(former)


@contextmanager
def _present_names(folder: Path) -> Iterator[Path]:
    """Yield the folder of a part, with the present names of its configuration keys and tensors.

    A part that an earlier version saved is copied under its present names into a temporary folder; any other
    is left where it is.
    """
    config = folder / "config.json"
    values = _read_json(config) if config.is_file() else {}
    present = renamed.rename(values, renamed.CONFIG, str(folder))
    # diffusers saves every argument: where tensors have former names, the configuration has some as well
    if present == values:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        (copy / "config.json").write_text(json.dumps(present), encoding="utf-8")
        for index in copy.glob("*.safetensors.index*.json"):  # says in which file each tensor is
            shards = _read_json(index)
            shards["weight_map"] = {renamed.rename_tensor(n): f for n, f in shards["weight_map"].items()}
            index.write_text(json.dumps(shards), encoding="utf-8")
        for path in folder.glob("*.safetensors"):
            state = {renamed.rename_tensor(name): tensor for name, tensor in load_file(path).items()}
            save_file(state, copy / path.name, {"format": "pt"})
        yield copy


def load_part(
    folder: Path, module: str, kind: str, dtype: Any, variant: str | None = None, **loading: Any
) -> Any:
    """Load one part from its folder, and check it by `check_part` if it is a network.

    The class is looked up here, because diffusers' own loader finds a class only where its module happens to
    import `ModelMixin` by name. A folder may name only classes of codi, of diffusers, and of packages that
    have registered a modality, because importing a module runs its code.

    Args:
        folder: the folder of the part.
        module: the name of the module that holds the class of the part.
        kind: the name of the class.
        dtype: the dtype of the weights; a scheduler takes none.
        variant: the variant of the weight files, such as "fp16"; None for the plain ones. A scheduler takes
            none.
        **loading: options of diffusers' `from_pretrained` for networks, see `LOADING`.

    Returns:
        The part; a network is in evaluation mode.

    Raises:
        InputError: if the class may not be used, if the part cannot be loaded, or if it does not pass its
            check.
    """
    part_class = _find_class(folder.name, *renamed.CLASSES.get((module, kind), (module, kind)))
    from transformers.initialization import no_init_weights

    is_model = issubclass(part_class, nn.Module)
    options = dict(torch_dtype=dtype, use_safetensors=True, variant=variant, **loading) if is_model else {}
    with _present_names(folder) as present:
        try:
            # initial values would be overwritten: `check_part` makes sure that every weight is in the folder
            with _quietly(), no_init_weights():
                part = part_class.from_pretrained(present, **options)
        except (
            OSError,
            ValueError,
            RuntimeError,
            TypeError,
            KeyError,
            AttributeError,
            AssertionError,
        ) as error:
            raise InputError(f"cannot load {folder}: {' '.join(str(error).split())[:300]}") from error
        if is_model:
            check_part(present, part.eval(), variant)
    return part


def _find_class(name: str, module: str, kind: str) -> type:
    """Return the class of a part; raise `InputError` for one that is missing or not trusted."""
    # the caller, who has registered a modality of another package, has run that package's code already
    own = {type(known).__module__.split(".")[0] for known in kinds()}
    if module.split(".")[0] not in {"codi", "diffusers"} | own:
        raise InputError(
            f"part {name} of the model is a {module}.{kind}: expected a class of codi or diffusers"
        )
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError):
        raise InputError(
            f"part {name} of the model is a {module}.{kind}, which this codi lacks: install the one it was "
            "saved by"
        ) from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the progress bars and warnings of diffusers: whatever they would warn of is an error here."""
    from diffusers.utils import logging as diffusers_logging

    level, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity(logging.ERROR)
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if bars:
            diffusers_logging.enable_progress_bar()


def pick_device(name: str) -> str:
    """Return the name of the device to compute on.

    Args:
        name: a device as torch names it, such as "cpu" or "cuda:1", or "auto" for the best there is: CUDA if
            it is available, else the CPU.

    Returns:
        The name of a device of torch.

    Raises:
        InputError: if the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if (torch.ones(1, device=name) + 1).item() != 2:  # not every device of torch holds numbers
            raise RuntimeError("it does not compute")
    except Exception as error:  # each device has its own way to fail
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"device {name!r} cannot be used ({reason}): expected one of auto, cpu, cuda, cuda:1, mps; `codi "
            "doctor` lists those here"
        ) from None
    return name


# Saving ----------------------------------------------------------------


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to save a model in, which replaces the model in `folder` at the end.

    Nothing of the older model is touched before the new one is complete: an interrupt leaves the older one
    whole, and parts that were loaded from it may be saved over it. Only then are those files of the older
    model removed that are in the way of the new one. Files that belong to no model stay, and so do other
    variants of a part whose configuration is the same.

    Args:
        folder: where the model goes; created if need be.

    Yields:
        The temporary folder, within `folder`, that the new model is to be written into.

    Raises:
        InputError: if the model cannot be written, such as on a full disk.
    """
    from codi import io

    io.check_folder(folder)
    for abandoned in folder.glob(f"{BESIDE}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=BESIDE) as place:
            yield Path(place)
            _replace(folder, Path(place))
            write_checksums(folder)
            (Path(place) / INDEX).replace(folder / INDEX)  # the last: a folder without it is no model
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write the model into {folder}: {reason}. Free some space or name another place."
        ) from error


def _replace(folder: Path, new: Path) -> None:
    """Move all files but the index from `new` to `folder`.

    What is left of the older model in `folder` and is in the way of the new one is removed first.
    """
    older: set[str] = set()
    with suppress(InputError):  # without an index, or with a broken one, nothing is known of an older model
        older = {name for name in read_index(folder) if Path(name).name == name}
    for name in (INDEX, CHECKSUMS):
        (folder / name).unlink(missing_ok=True)
    saved = {path.name for path in new.iterdir() if path.is_dir()}
    for name in older | saved:
        for path in _in_the_way(folder / name, new / name):
            path.unlink()
    for name in sorted(saved):
        (folder / name).mkdir(exist_ok=True)
    for path in sorted(new.rglob("*")):
        if path.is_file() and path != new / INDEX:
            path.replace(folder / path.relative_to(new))
    for name in older - saved:
        with suppress(OSError):  # it holds files that are no model's, or is gone already
            (folder / name).rmdir()


def _in_the_way(part: Path, new: Path) -> list[Path]:
    """Return those files of an older save of a part that have to be removed.

    If the newer save has the part with the same configuration, these are the older weights of the variants
    that it has; otherwise they are all files that a save writes.
    """
    found = [path for path in part.glob("*") if path.is_file() and SAVED.fullmatch(path.name)]
    variants = {_variant(path.name) for path in new.glob("*.safetensors")}
    if not (new / "config.json").is_file() or not _same_part(part / "config.json", new / "config.json"):
        return found
    return [path for path in found if path.name != "config.json" and _variant(path.name) in variants]


def _variant(name: str) -> str:
    """Return the variant of a file of weights, or of an index of such files; "" for the plain one."""
    stem, _, index = name.partition(".safetensors")
    if index:  # diffusion_pytorch_model.safetensors.index.fp16.json
        return index.removeprefix(".index").removesuffix(".json").strip(".")
    return stem.partition(".")[2].partition("-")[0]  # diffusion_pytorch_model.fp16-00001-of-00002.safetensors


def _same_part(one: Path, other: Path) -> bool:
    """Return whether two configurations build the same module.

    Keys that begin with an underscore only say who wrote the file and are not compared, except the class
    name.
    """
    if not (one.is_file() and other.is_file()):
        return False
    first, second = _read_json(one), _read_json(other)
    keys = [key for key in first.keys() | second.keys() if key == "_class_name" or not key.startswith("_")]
    return all(first.get(key) == second.get(key) for key in keys)


# Checks ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor in a safetensors file, as the header of the file describes it.

    Attributes:
        dtype: the type as the file names it, such as "F32".
        shape: the shape of the tensor.
        begin: the place of its first byte in the file.
        end: the place behind its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """Return an entry for every tensor in a safetensors file, by name, without reading any tensor.

    Args:
        path: the safetensors file.

    Returns:
        The entries by the names of the tensors, in the order of the header.

    Raises:
        InputError: if the file is cut short, or is no safetensors file.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(value, 8 + length) for name, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no safetensors file ({error}): copy or download it again") from None
    end = max((entry.end for entry in entries.values()), default=8 + length)
    if end != size:
        raise InputError(
            f"{path} has {size} bytes where its header promises {end}: copy or download it again"
        )
    return entries


def _entry(value: dict[str, Any], start: int) -> Entry:
    begin, end = value["data_offsets"]
    return Entry(dtype=value["dtype"], shape=tuple(value["shape"]), begin=start + begin, end=start + end)


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors files of one part: all shards of the named variant, or of the plain weights."""
    return [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if path.stem.partition(".")[2].partition("-")[0] == (variant or "")
    ]


def check_files(
    folder: Path, names: Iterable[str], verify: bool | None = None, variant: str | None = None
) -> None:
    """Check that every named part has its configuration and its weights, and the weights their checksums.

    Checksums are compared only if the folder has any, and unless asked otherwise only if the weights of these
    parts have less than `VERIFY_BELOW` bytes in all.

    Args:
        folder: the folder of the model.
        names: the parts to check.
        verify: True compares checksums whatever the size, False never does.
        variant: the variant of the weight files, such as "fp16"; None for the plain ones.

    Raises:
        InputError: for the first part that lacks something, or the first tensor that was altered.
    """
    files = []
    for name in names:
        part = part_folder(folder / name)
        if not part.is_dir():
            raise InputError(f"model folder {folder} lacks its part {name}/: copy or download it again")
        if (part / "config.json").is_file():
            found = weight_files(part, variant)
            if not found:
                raise InputError(
                    f"model folder {folder} has no weights in {name}/: expected .safetensors; copy or "
                    "download it again"
                )
            files += found
        elif not any(part.glob("*_config.json")):
            raise InputError(
                f"model folder {folder} has no configuration in {name}/: copy or download it again"
            )
    if verify or (verify is None and sum(path.stat().st_size for path in files) < VERIFY_BELOW):
        check_checksums(folder, files)


def check_checksums(folder: Path, files: Iterable[Path]) -> None:
    """Check every tensor in `files` against checksums.json.

    Without that file nothing is known of the tensors, and nothing is checked.

    Args:
        folder: the folder of the model, which holds checksums.json.
        files: safetensors files below that folder.

    Raises:
        InputError: for a file that is not listed, or a tensor that is missing, unknown or altered.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    known = _read_json(folder / CHECKSUMS)
    for path in files:
        name = path.relative_to(folder).as_posix()
        expected, found = known.get(name), dict(_digests(path))
        if expected is None:
            raise InputError(
                f"{path} is not listed in {CHECKSUMS}: delete that file if the change was meant, or download "
                "the model again"
            )
        _compare_names(f"{path}", set(found), set(expected))
        altered = [tensor for tensor, digest in found.items() if digest != expected[tensor]]
        if altered:
            raise InputError(
                f"tensor {altered[0]!r} in {path} was altered: copy or download it again, or delete "
                f"{CHECKSUMS} if it was meant"
            )


def fingerprint(folder: Path) -> str:
    """Return a digest of all tensors of a model folder, from its checksums if it has any.

    Without checksums, weights of `VERIFY_BELOW` bytes and more are not read in full: the digest is of their
    headers, their sizes and samples of their bytes.
    """
    if (folder / CHECKSUMS).is_file():
        known = _read_json(folder / CHECKSUMS)
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    files = sorted(folder.glob("*/*.safetensors"))
    if sum(path.stat().st_size for path in files) < VERIFY_BELOW:
        known = {path.relative_to(folder).as_posix(): dict(_digests(path)) for path in files}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(
            f"{path.relative_to(folder).as_posix()} {size} {sorted(read_header(path).items())}".encode()
        )
        with open(path, "rb") as file:
            for k in range(64):
                file.seek(k * size // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


def write_checksums(folder: Path) -> Path:
    """Write checksums.json for the weights of all parts in `folder`, and return its path."""
    from codi import io

    digests = {
        path.relative_to(folder).as_posix(): dict(_digests(path))
        for path in sorted(folder.glob("*/*.safetensors"))
    }
    return io.save_json(folder / CHECKSUMS, digests)


def _digests(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of every tensor in a file with a digest of its type, shape and bytes."""
    entries = read_header(path)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        for name, entry in entries.items():
            digest = hashlib.blake2b(f"{entry.dtype}{entry.shape}".encode(), digest_size=12)
            digest.update(view[entry.begin : entry.end])
            yield name, digest.hexdigest()


def check_part(folder: Path, module: nn.Module, variant: str | None = None) -> None:
    """Check that a loaded part and its folder hold the same tensors, and that the part knows every setting.

    The part must have used every tensor of the folder, and found all of its own there in their shapes; it
    must know every key of the configuration. Of tensors that are tied to each other one has to be in the
    folder.

    Args:
        folder: the folder of the part.
        module: the part that was loaded from it.
        variant: the variant of the weight files that it was loaded from; None for the plain ones.

    Raises:
        InputError: for the first key or tensor that does not fit.
    """
    unknown = set(_read_json(folder / "config.json")) - set(
        inspect.signature(type(module).__init__).parameters
    )
    if unknown := sorted(key for key in unknown if not key.startswith("_")):
        raise InputError(
            f"{folder / 'config.json'} has the key {unknown[0]!r}, which {type(module).__name__} does not "
            "know"
        )
    stored = {
        name: entry for path in weight_files(folder, variant) for name, entry in read_header(path).items()
    }
    state = module.state_dict(keep_vars=True)
    # with `keep_vars` tied tensors are one object, of which safetensors keeps one copy under one name
    tied = {id(state[name]) for name in stored if name in state}
    _compare_names(
        str(folder), set(stored), {name for name in state if name in stored or id(state[name]) not in tied}
    )
    for name, entry in stored.items():
        if entry.shape != tuple(state[name].shape):
            raise InputError(
                f"tensor {name!r} in {folder} is {entry.shape}: its configuration asks for "
                f"{tuple(state[name].shape)}"
            )


def _compare_names(where: str, found: set[str], expected: set[str]) -> None:
    """Raise `InputError` for the first name that is expected and not found, or found and not expected."""
    missing, left = sorted(expected - found), sorted(found - expected)
    if missing:
        raise InputError(
            f"{where} lacks the tensor {missing[0]!r} (in all {len(missing)}): copy or download it again"
        )
    if left:
        raise InputError(
            f"{where} has a tensor {left[0]!r} that the model does not know (in all {len(left)}): copy or "
            "download it again"
        )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or raise an `InputError` that says why it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON: copy or download it again") from None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds a {type(value).__name__}: expected an object; copy or download it again"
        )
    return value
