"""Find the folder of a model, load and save its parts, and check that every tensor is what it should be.

A model is a diffusers folder: model_index.json, and one folder per part with its configuration and
safetensors. A part that is loaded must have every tensor that its configuration asks for, unaltered and
finite, and none besides. `checksums.json`, written on saving, holds a digest of every tensor and of every
configuration. Whatever does not fit raises one `InputError` that names the folder and the tensor.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from codi import renamed, settings
from codi.folder_checks import SNAPSHOTS, check_config, check_inside, find_class
from codi.tensor_files import AGAIN, Entry, digest_json, digest_tensors, read_header, read_json
from codi.types import InputError
from codi.vocabulary import TOKENIZER_FILE

INDEX = "model_index.json"
CHECKSUMS = "checksums.json"
PATTERNS = ["*.json", "*.safetensors", "*.txt"]
NOT_PARTS = ("defaults", "composed", "text")  # keys of the index; the last two of composed models
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
SAVED = re.compile(
    rf"(scheduler_)?config\.json|{re.escape(TOKENIZER_FILE)}|{WEIGHTS}"
)  # what a save writes into the folder of a part
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
    """Download the files of a model from the hub, its index first, and return their folder."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, allow_patterns=[INDEX], **hub))
        if folder.parent.name == SNAPSHOTS:
            hub["revision"] = folder.name  # which may not change between the index and the rest
        index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
        return Path(snapshot_download(source, allow_patterns=patterns_of(index), **hub))
    except InputError:  # of an index that is damaged
        raise
    except Exception as error:  # offline, unknown, private: the hub has a class for each
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model {source!r} is no folder here and cannot be had from the hub ({reason}): check its name"
        ) from error


def patterns_of(index: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that are needed of a model at the hub, with * for anything.

    Of a composed model these are its own parts, and copies of its sources where it has any. Other sources are
    had when they are loaded, from where the index says.

    Args:
        index: what its model_index.json says.

    Returns:
        The names.
    """
    sources = index.get("composed")
    if not isinstance(sources, dict):
        return PATTERNS
    wanted = [INDEX]
    for name, value in index.items():
        if isinstance(value, list):  # [module, class] of a part
            wanted += [f"{name}/{pattern}" for pattern in PATTERNS]
    for source in sources.values():
        if isinstance(source, dict) and isinstance(source.get("place"), str):
            wanted += [f"{source['place']}/{file}" for file in source.get("files") or ()]
    return wanted


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the module and the class of each part of a model folder, by the name of the part.

    Parts that the model does not have (null in model_index.json) are left out. Names that earlier versions
    gave to parts are replaced by the present ones.

    Args:
        folder: the folder of the model.

    Returns:
        The module and the class by the name of the part; every name is a plain one, inside the folder.

    Raises:
        InputError: if the index cannot be read, or has an entry that is neither a part nor known.
    """
    path = folder / INDEX
    check_inside(folder, path)
    found = {}
    for name, value in read_json(path).items():
        if name.startswith("_") or name in NOT_PARTS:
            continue
        if not name.isidentifier():
            raise InputError(
                f"{path} names the part {name!r:.80}: expected the name of a folder inside the model"
            )
        pair = value if isinstance(value, list) and len(value) == 2 else [0, 0]
        if pair != [None, None] and not all(isinstance(item, str) for item in pair):
            raise InputError(
                f"{path} has {name:.80} {value!r:.60}: expected [module, class] of a part; {AGAIN}"
            )
        if pair != [None, None]:
            found[renamed.PARTS.get(name, name)] = (pair[0], pair[1])
    return found


def read_defaults(folder: Path) -> dict[str, Any]:
    """Return the model's own values for options that a call leaves out.

    Args:
        folder: the folder of the model.

    Returns:
        The values by the present names of the options.

    Raises:
        InputError: if they are no object, or if one of them is unknown or out of range.
    """
    path = folder / INDEX
    defaults = read_json(path).get("defaults") or {}
    if not isinstance(defaults, dict):
        raise InputError(f"{path} has defaults {defaults!r:.60}: expected an object; {AGAIN}")
    defaults = renamed.rename(defaults, renamed.SETTINGS, str(folder))
    try:
        settings.check_defaults(defaults)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return defaults


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
    values = read_json(config) if config.is_file() else {}
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
            shards = read_json(index)
            shards["weight_map"] = {renamed.rename_tensor(n): f for n, f in shards["weight_map"].items()}
            index.write_text(json.dumps(shards), encoding="utf-8")
        for path in folder.glob("*.safetensors"):
            read_header(path)  # one clear line for a file that is damaged
            state = {renamed.rename_tensor(name): tensor for name, tensor in load_file(path).items()}
            save_file(state, copy / path.name, {"format": "pt"})
        yield copy


def load_part(
    folder: Path, module: str, kind: str, dtype: Any, variant: str | None = None, **loading: Any
) -> Any:
    """Load one part from its folder, and check it by `check_part` if it is a network.

    The class is looked up here, because diffusers' own loader finds a class only where its module happens to
    import `ModelMixin` by name. A folder may name only the classes that `find_class` knows, because importing
    a module runs its code.

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
    part_class = find_class(folder.name, *renamed.CLASSES.get((module, kind), (module, kind)))
    from transformers.initialization import no_init_weights

    from codi.models.tokenizer_file import WithTokenizerFile

    is_model = issubclass(part_class, nn.Module)
    options = dict(torch_dtype=dtype, use_safetensors=True, variant=variant, **loading) if is_model else {}
    with _present_names(folder) as present:
        stored = read_tensors(present, variant) if is_model else {}
        config = getattr(part_class, "config_name", "config.json")
        values = read_json(present / config)
        check_config(folder / config, values, part_class)
        if issubclass(part_class, WithTokenizerFile):
            part_class.check_tokenizer(folder, values, stored)
        try:
            # initial values would be overwritten: `check_part` makes sure that every weight is in the folder
            with quietly(), no_init_weights():
                part = part_class.from_pretrained(present, **options)
        except Exception as error:  # a configuration that nobody wrote raises errors of every kind
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"cannot load {folder}: {reason}") from error
        if is_model:
            check_part(folder, part.eval(), stored)
        else:
            _check_scheduler(folder, part)
    return part


def _check_scheduler(folder: Path, scheduler: Any) -> None:
    """Raise `InputError` if the noise levels of a scheduler are none."""
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is not None and not bool(((levels >= 0) & (levels <= 1)).all()):  # NaN is neither
        raise InputError(
            f"{folder} gives noise levels that are not from 0 to 1 (alphas_cumprod): check its betas; {AGAIN}"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars and warnings of diffusers and transformers.

    Whatever they would warn of while a part is loaded is an error here.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    both = (diffusers_logging, transformers_logging)
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in both]
    for module in both:
        module.set_verbosity(logging.ERROR)
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, (level, bars) in zip(both, before, strict=True):
            module.set_verbosity(level)
            if bars:
                module.enable_progress_bar()


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
            write_checksums(folder, Path(place) / INDEX)
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
            target = folder / path.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)  # controls lie one folder further down
            path.replace(target)
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
    """Return whether two configurations, and the tokenizers that may lie beside them, build the same module.

    Keys that begin with an underscore only say who wrote the file and are not compared, except the class
    name.
    """
    if not (one.is_file() and other.is_file()):
        return False
    tokenizers = [path.with_name(TOKENIZER_FILE) for path in (one, other)]
    if len({path.read_bytes() if path.is_file() else None for path in tokenizers}) > 1:
        return False
    first, second = read_json(one), read_json(other)
    keys = [key for key in first.keys() | second.keys() if key == "_class_name" or not key.startswith("_")]
    return all(first.get(key) == second.get(key) for key in keys)


# Checks ----------------------------------------------------------------


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors files of one part: all shards of the named variant, or of the plain weights."""
    return [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if path.stem.partition(".")[2].partition("-")[0] == (variant or "")
    ]


def read_tensors(folder: Path, variant: str | None = None) -> dict[str, Entry]:
    """Return an entry for every tensor of one part by name, from the headers of all its weight files.

    Args:
        folder: the folder of the part.
        variant: the variant of the weight files, such as "fp16"; None for the plain ones.

    Returns:
        The entries of all files.

    Raises:
        InputError: if a file is damaged, or if the index of several files does not agree with them.
    """
    headers = {path.name: read_header(path) for path in weight_files(folder, variant)}
    for path in folder.glob("*.safetensors.index*.json"):
        if _variant(path.name) == (variant or ""):
            _check_shards(path, headers)
    return {name: entry for entries in headers.values() for name, entry in entries.items()}


def _check_shards(path: Path, headers: Mapping[str, Mapping[str, Entry]]) -> None:
    """Raise `InputError` unless an index names files that are there, and that hold the tensors it says."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict):
        raise InputError(f"{path} has no weight_map: expected the file of each tensor; {AGAIN}")
    for name, file in places.items():
        if not isinstance(file, str) or file not in headers:
            raise InputError(f"{path} names the file {file!r:.80}, which is not beside it: {AGAIN}")
        if name not in headers[file]:
            raise InputError(f"{path} names the tensor {name!r:.80}, which {file} lacks: {AGAIN}")


def check_files(
    folder: Path, names: Iterable[str], verify: bool | None = None, variant: str | None = None
) -> None:
    """Check that every named part has its configuration and its weights, and all of them their checksums.

    Checksums are compared only if the folder has any. Unless asked otherwise those of weights are compared
    only if these parts have less than `VERIFY_BELOW` bytes in all.

    Args:
        folder: the folder of the model.
        names: the parts to check.
        verify: True compares checksums whatever the size, False compares none.
        variant: the variant of the weight files, such as "fp16"; None for the plain ones.

    Raises:
        InputError: for the first part that lacks something or leads out of the folder, and for the first
            tensor or configuration that was altered.
    """
    weights, configurations = [], [folder / INDEX]
    for name in names:
        part = part_folder(folder / name)
        check_inside(folder, part)
        if not part.is_dir():
            raise InputError(f"model folder {folder} lacks its part {name}/: copy or download it again")
        for path in sorted(path for path in part.iterdir() if SAVED.fullmatch(path.name)):
            check_inside(folder, path)
            if path.suffix == ".json":
                configurations.append(path)
        if (part / "config.json").is_file():
            found = weight_files(part, variant)
            if not found:
                raise InputError(
                    f"model folder {folder} has no weights in {name}/: expected .safetensors; copy or "
                    "download it again"
                )
            weights += found
        elif not any(part.glob("*_config.json")):
            raise InputError(
                f"model folder {folder} has no configuration in {name}/: copy or download it again"
            )
    if verify is not False:
        check_configurations(folder, configurations)
    if verify or (verify is None and sum(path.stat().st_size for path in weights) < VERIFY_BELOW):
        check_checksums(folder, weights)


def check_configurations(folder: Path, files: Iterable[Path]) -> None:
    """Check every JSON file in `files` against checksums.json.

    Folders that earlier versions saved have checksums of their tensors alone; then nothing is checked.

    Args:
        folder: the folder of the model, which holds checksums.json.
        files: configurations below that folder.

    Raises:
        InputError: for a file that is not listed, or was altered.
    """
    _, known = read_checksums(folder)
    for path in files if known else ():
        expected = known.get(path.relative_to(folder).as_posix())
        if expected is None:
            raise _not_listed(path)
        if digest_json(path) != expected:
            raise InputError(
                f"{path} was altered: copy or download it again, or delete {CHECKSUMS} if it was meant"
            )


def check_checksums(folder: Path, files: Iterable[Path]) -> None:
    """Check every tensor in `files` against checksums.json.

    Without that file nothing is known of the tensors, and nothing is checked.

    Args:
        folder: the folder of the model, which holds checksums.json.
        files: safetensors files below that folder.

    Raises:
        InputError: for a file that is not listed, or a tensor that is missing, unknown or altered.
    """
    if not (folder / CHECKSUMS).exists():
        return
    known, _ = read_checksums(folder)
    for path in files:
        name = path.relative_to(folder).as_posix()
        expected, found = known.get(name), dict(digest_tensors(path))
        if expected is None:
            raise _not_listed(path)
        _compare_names(f"{path}", set(found), set(expected))
        altered = [tensor for tensor, digest in found.items() if digest != expected[tensor]]
        if altered:
            raise InputError(
                f"tensor {altered[0]!r} in {path} was altered: copy or download it again, or delete "
                f"{CHECKSUMS} if it was meant"
            )


def _not_listed(path: Path) -> InputError:
    return InputError(
        f"{path} is not listed in {CHECKSUMS}: delete that file if the change was meant, or download the "
        "model again"
    )


def read_checksums(folder: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return what checksums.json says, in two parts; both are empty where there is no such file.

    Args:
        folder: the folder of the model.

    Returns:
        The digests of the tensors by file and name, and those of the configurations by file.

    Raises:
        InputError: if the file cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return {}, {}
    check_inside(folder, path)
    known = read_json(path)
    tensors = {name: value for name, value in known.items() if isinstance(value, dict)}
    others = {name: value for name, value in known.items() if name not in tensors}
    digests = [*others.values(), *(digest for value in tensors.values() for digest in value.values())]
    if not all(isinstance(digest, str) for digest in digests):
        raise InputError(f"{path} holds more than digests: {AGAIN}")
    return tensors, others


def fingerprint(folder: Path, part: str | None = None) -> str:
    """Return a digest of all tensors of a model folder, from its checksums if it has any.

    Configurations do not count: weights are the same weights, whatever a call leaves out.

    Without checksums, weights of `VERIFY_BELOW` bytes and more are not read in full: the digest is of their
    headers, their sizes and samples of their bytes.

    Args:
        folder: the folder of the model.
        part: the part whose tensors count; None for all of them.

    Returns:
        The digest.
    """
    if (folder / CHECKSUMS).exists():
        listed, _ = read_checksums(folder)
        known = {name: value for name, value in listed.items() if part in (None, name.split("/")[0])}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    files = sorted(folder.glob(f"{part or '*'}/*.safetensors"))
    if sum(path.stat().st_size for path in files) < VERIFY_BELOW:
        known = {path.relative_to(folder).as_posix(): dict(digest_tensors(path)) for path in files}
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


def write_checksums(folder: Path, index: Path | None = None) -> Path:
    """Write checksums.json for the weights and the configurations of all parts in a folder.

    Args:
        folder: the folder of the model.
        index: the model_index.json that is about to be put there; None for the one that is there.

    Returns:
        The path of checksums.json.
    """
    from codi import io

    saved = sorted(path for path in folder.glob("*/*") if SAVED.fullmatch(path.name))
    name = lambda path: path.relative_to(folder).as_posix()
    digests: dict[str, Any] = {INDEX: digest_json(index or folder / INDEX)}
    digests |= {name(path): digest_json(path) for path in saved if path.suffix == ".json"}
    digests |= {name(path): dict(digest_tensors(path)) for path in sorted(folder.glob("*/*.safetensors"))}
    return io.save_json(folder / CHECKSUMS, digests)


def check_part(folder: Path, module: nn.Module, stored: Mapping[str, Entry]) -> None:
    """Check that a loaded part and its folder hold the same tensors, and that all of them are finite.

    The part must have used every tensor of the folder, and found all of its own there in their shapes. Of
    tensors that are tied to each other one has to be in the folder.

    Args:
        folder: the folder of the part.
        module: the part that was loaded from it.
        stored: the tensors in the folder, see `read_tensors`.

    Raises:
        InputError: for the first tensor that does not fit.
    """
    state = module.state_dict(keep_vars=True)
    # with `keep_vars` tied tensors are one object, of which safetensors keeps one copy under one name
    tied = {id(state[name]) for name in stored if name in state}
    _compare_names(
        str(folder), set(stored), {name for name in state if name in stored or id(state[name]) not in tied}
    )
    for name, entry in stored.items():
        if entry.shape != tuple(state[name].shape):
            raise InputError(
                f"tensor {name!r:.80} in {folder} is {entry.shape}: its configuration asks for "
                f"{tuple(state[name].shape)}"
            )
        if not is_finite(state[name]):
            kind = str(state[name].dtype).removeprefix("torch.")
            raise InputError(
                f"tensor {name!r:.80} of the part {folder.name} holds numbers that are not finite as {kind}: "
                f"load it in another precision, train it again, or {AGAIN} ({folder})"
            )


def is_finite(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Return whether no number of a tensor is NaN or infinite, in one pass and without a copy.

    Args:
        tensor: the tensor; one that is not floating-point is finite.
        dtype: the precision in which its numbers have to be finite; None for its own.

    Returns:
        Whether all of them are.
    """
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    # NaN spreads to both ends, and an infinite number is one of them
    return all(bool(end.to(dtype or end.dtype).isfinite()) for end in tensor.detach().aminmax())


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
