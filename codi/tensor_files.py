"""Read JSON files and the headers of safetensors files from anywhere, and believe neither.

Every length, place and type that a file states is compared with the file before anybody uses it. Whatever
does not fit raises one `InputError` that names the file. Memory is bounded by the limits below, whatever a
file says.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.types import InputError

MAX_JSON = 32 << 20  # bytes of a JSON file, and of the header of a safetensors file
MAX_DEPTH = 64  # objects and lists within each other; deeper ones exhaust the stack of whoever walks them
AGAIN = "copy or download it again"
ITEM_SIZES = {  # bytes of one number, by the name of its type in a file
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


def read_json(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        advice: what to do about a file that cannot be read, for the message.

    Returns:
        The object, nested at most `MAX_DEPTH` deep.

    Raises:
        InputError: if there is no such file, or if it holds no JSON object.
    """
    try:
        # a pipe or a device would be read for ever
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file: expected a JSON file; {advice}")
        with open(path, "rb") as file:
            content = file.read(MAX_JSON + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {advice}") from None
    if len(content) > MAX_JSON:
        raise InputError(f"{path} has more than {MAX_JSON >> 20} MB: expected a small JSON file; {advice}")
    try:
        value = parse_json(content)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): {advice}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}: expected an object; {advice}")
    return value


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text that may come from anybody.

    Args:
        content: the text, or its bytes in UTF-8.

    Returns:
        The value.

    Raises:
        ValueError: if it is not JSON, nested deeper than `MAX_DEPTH`, or names a key twice.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, or raise `ValueError` if it names a key twice, or one that is no text."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    for name in value:
        name.encode("utf-8")  # a lone surrogate can be written in JSON, and nowhere else
    return value


def _check_depth(value: Any) -> None:
    """Raise `ValueError` if objects and lists lie within each other more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, (dict, list))]
        if not containers:
            return
        level = [
            inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)
        ]
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


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

    The entries agree with the file: types are known, every tensor has the bytes that its type and shape ask
    for, and the tensors fill the file without a gap and without an overlap.

    Args:
        path: the safetensors file.

    Returns:
        The entries by the names of the tensors, in the order of the header.

    Raises:
        InputError: if the file is cut short, or is no safetensors file.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is no file: expected a safetensors file; {AGAIN}")
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_JSON, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}")
        _check_metadata(header.pop("__metadata__", {}))
        entries = {name: _entry(name, value, 8 + length) for name, value in header.items()}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {AGAIN}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no safetensors file ({error}): {AGAIN}") from None
    _check_places(path, entries, 8 + length, size)
    return entries


def _check_metadata(values: Any) -> None:
    """Raise `ValueError` unless the free part of a header maps texts to texts."""
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError("its __metadata__ is no object of texts")


def _entry(name: str, value: Any, start: int) -> Entry:
    """Return the entry of one tensor, whose places count from `start`; raise `ValueError` if it is odd."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r:.80} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ValueError(f"tensor {name!r:.80} is of the type {dtype!r}, which is unknown")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r:.80} has an odd shape or place")
    begin, end = offsets
    needed = math.prod(shape) * ITEM_SIZES[dtype]
    if end - begin != needed:
        raise ValueError(f"tensor {name!r:.80} has {end - begin} bytes where its shape asks for {needed}")
    return Entry(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)


def _counts(value: Any) -> bool:
    """Return whether a value is a list of whole numbers from 0 that a file could have."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_places(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    """Raise `InputError` unless tensors follow one another from `start` to the end of the file."""
    end = max((entry.end for entry in entries.values()), default=start)
    if end != size:
        raise InputError(f"{path} has {size} bytes where its header promises {end}: {AGAIN}")
    place = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise InputError(
                f"{path} is no safetensors file (tensor {name!r:.80} begins at byte {entry.begin}, the one "
                f"before it ends at {place}): {AGAIN}"
            )
        place = entry.end


def digest_tensors(path: Path) -> Iterator[tuple[str, str]]:
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


def digest_json(path: Path) -> str:
    """Return a digest of what a JSON file says, whatever its spaces, its line ends and the order of keys."""
    canonical = json.dumps(read_json(path), sort_keys=True)
    return hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()
