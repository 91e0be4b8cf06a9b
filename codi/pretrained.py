"""Finding a model folder, and holding it to its word: every tensor that the configuration asks for,
unaltered, and none besides.

A model is a diffusers folder: model_index.json, and one folder per part with its configuration and
safetensors. `checksums.json`, written on saving, holds a digest of every tensor. Whatever does not fit raises
one `InputError` that names the folder and the tensor.
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
    """The folder of a model: the one inside the package when nothing is named, else a local folder, else a
    download by hub id.

    hub: options of the download, see `HUB`.
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
    if folder.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise InputError(
            f"no model folder {source}: expected a folder with {INDEX}, or a hub id such as 'owner/name'"
        )
    return _download(str(source), revision=revision, **hub)


def _download(source: str, **hub: Any) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS, **hub))
    except Exception as error:  # offline, unknown, private: the hub has a class for each
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model {source!r} is no folder here and cannot be had from the hub ({reason}): check its name"
        ) from error


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Name of each part in the folder -> (module, class); parts that the model does not have are left out."""
    index = _read_json(folder / INDEX)
    return {
        renamed.PARTS.get(name, name): tuple(value)
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] is not None
    }


def read_defaults(folder: Path) -> dict[str, Any]:
    """The model's own values for what a call leaves out."""
    defaults = _read_json(folder / INDEX).get("defaults") or {}
    return renamed.rename(defaults, renamed.SETTINGS, str(folder))


def load_parts(
    folder: Path, index: Mapping[str, tuple[str, str]], dtype: Any, **options: Any
) -> dict[str, Any]:
    """The parts named in `index`, in one dtype or in {part: dtype}, where "default" stands for the rest and
    is float32.
    """
    dtypes = dtype if isinstance(dtype, dict) else {"default": dtype}
    default = dtypes.get("default", torch.float32)
    return {
        name: load_part(part_folder(folder / name), *kind, dtype=dtypes.get(name, default), **options)
        for name, kind in index.items()
    }


def part_folder(folder: Path) -> Path:
    """Returns the folder of a part, which an earlier version may have saved under another name."""
    former = {present: old for old, present in renamed.PARTS.items()}.get(folder.name)
    if former is None or folder.is_dir() or not folder.with_name(former).is_dir():
        return folder
    renamed.note(str(folder.parent), former, folder.name)
    return folder.with_name(former)


@contextmanager
def _present_names(folder: Path) -> Iterator[Path]:
    """The folder of a part, or a copy under the present names of one that an earlier version saved."""
    config = folder / "config.json"
    values = _read_json(config) if config.is_file() else {}
    present = renamed.rename(values, renamed.CONFIG, str(folder))
    # diffusers saves every argument: who has former names of tensors has some in the configuration, too
    if present == values:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        (copy / "config.json").write_text(json.dumps(present), encoding="utf-8")
        for index in copy.glob("*.safetensors.index*.json"):  # of weights in several files
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
    """The part in `folder`, of class `kind`, checked by `check_part`; a scheduler takes neither dtype nor
    variant.

    diffusers' own loader finds a class only where its module happens to import `ModelMixin` by name; and a
    folder may name classes of ours and of diffusers, nothing else, because importing runs code.
    """
    part_class = _find_class(folder.name, *renamed.CLASSES.get((module, kind), (module, kind)))
    from transformers.initialization import no_init_weights

    is_model = issubclass(part_class, nn.Module)
    options = dict(torch_dtype=dtype, use_safetensors=True, variant=variant, **loading) if is_model else {}
    with _present_names(folder) as present:
        try:
            # every weight is read from the folder, which `check_part` makes sure of
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
    own = {type(known).__module__.split(".")[0] for known in kinds()}  # whoever registers one vouches for it
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
    """Without diffusers' bars and warnings: whatever they would warn of is an error here."""
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
    """The device to compute on; "auto" is the best there is. Raises `InputError` for one that is
    not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used ({reason}): expected one of auto, cpu, cuda, cuda:1, mps; `codi "
            "doctor` lists those here"
        ) from None
    return name


# Saving ----------------------------------------------------------------


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Gives a new folder for a model to be saved in, which takes the place of the model in `folder` at the
    end.

    Nothing of the older model is touched before the new one is complete: an interrupt leaves it whole, and
    parts that were loaded from it may be saved over it. Then what is in the way of the new one goes. Files
    that are of no model stay, and so do other variants of a part whose configuration is the same.
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
    """Moves all but the index from `new` to `folder`, after removing what was saved there before and is in
    its way.
    """
    older: set[str] = set()
    with suppress(InputError):  # there is none, or it is broken: nothing is known of an older model
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
        with suppress(OSError):  # it holds files of somebody else's, or was gone
            (folder / name).rmdir()


def _in_the_way(part: Path, new: Path) -> list[Path]:
    """Files of an older save of a part that are not to be beside those of a newer one, or that have no newer
    one.
    """
    found = [path for path in part.glob("*") if path.is_file() and SAVED.fullmatch(path.name)]
    variants = {_variant(path.name) for path in new.glob("*.safetensors")}
    if not (new / "config.json").is_file() or not _same_part(part / "config.json", new / "config.json"):
        return found
    return [path for path in found if path.name != "config.json" and _variant(path.name) in variants]


def _variant(name: str) -> str:
    """The variant that a file of weights, or an index of such files, belongs to; "" for the plain one."""
    stem, _, index = name.partition(".safetensors")
    if index:  # diffusion_pytorch_model.safetensors.index.fp16.json
        return index.removeprefix(".index").removesuffix(".json").strip(".")
    return stem.partition(".")[2].partition("-")[0]  # diffusion_pytorch_model.fp16-00001-of-00002.safetensors


def _same_part(one: Path, other: Path) -> bool:
    """Whether two configurations build the same module; keys with an underscore say who wrote them."""
    if not (one.is_file() and other.is_file()):
        return False
    first, second = _read_json(one), _read_json(other)
    keys = [key for key in first.keys() | second.keys() if key == "_class_name" or not key.startswith("_")]
    return all(first.get(key) == second.get(key) for key in keys)


# Checks ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor in a safetensors file: type as the file names it, shape, and its bytes [begin, end) in the
    file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor in a safetensors file, by name, without reading any. Raises `InputError` for a file that
    is cut short or none.
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
    """The safetensors files of one part (all its shards), of the named variant."""
    return [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if path.stem.partition(".")[2].partition("-")[0] == (variant or "")
    ]


def check_files(
    folder: Path, names: Iterable[str], verify: bool | None = None, variant: str | None = None
) -> None:
    """Every named part has its configuration and readable weights; their checksums too, if there are any and
    the model is not huge.

    verify: True checks checksums whatever the size, False never.
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
    """Compares every tensor in `files` with checksums.json; without that file nothing is known and nothing is
    checked.
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
    """Returns a digest of all tensors of a model folder, from its checksums where it has any.

    Weights of more than `VERIFY_BELOW` bytes without checksums are not read in full: their headers and sizes,
    and samples of their bytes.
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
    """Writes checksums.json for every safetensors file below `folder`."""
    from codi import io

    digests = {
        path.relative_to(folder).as_posix(): dict(_digests(path))
        for path in sorted(folder.glob("*/*.safetensors"))
    }
    return io.save_json(folder / CHECKSUMS, digests)


def _digests(path: Path) -> Iterator[tuple[str, str]]:
    """Digest of type, shape and bytes of every tensor in a file."""
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
    """A loaded part used every tensor of its folder, found all of its own there, in their shapes, and knew
    every configuration key.
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
