"""Read the released `.pth` files without trusting them, and write safetensors tensor by tensor."""

import errno
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from codi.tensor_files import read_header
from codi.types import InputError

PIECE = 16 << 20  # bytes
MAX_PICKLE = 64 << 20  # bytes of the record that names the tensors; those of the released files have 0.3 MB
MAX_RECORDS = 1_000_000
LOCAL_HEADER = 30  # bytes in front of the name of a record

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def check_archive(path: Path) -> None:
    """Raise `InputError` unless the file is there and whole, by the checksums of all its records.

    PyTorch stores records as they are. One that is compressed is refused before it is read, since a few bytes
    of it could become any number of bytes; so nothing here takes more time or memory than the file is long.
    """
    if not os.path.isfile(path):
        raise InputError(f"no file {path}: expected a released checkpoint (.pth)")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user: change its permissions")
    try:
        whole = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:
        raise unreadable(path, error) from None
    if not whole:
        raise InputError(f"{path} is no PyTorch checkpoint, or is cut short: copy or download it again")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(path, archive.infolist())
            broken = archive.testzip()
    except InputError:
        raise
    except Exception as error:  # each field of the archive raises another kind when it is damaged
        raise unreadable(path, error) from None
    if broken is not None:
        raise InputError(
            f"{path} was altered (record {broken} does not match its checksum): copy or download it again"
        )


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> None:
    """Raise `InputError` for records that are compressed, named twice, or longer than their file."""
    odd = next((r for r in records if r.compress_type != zipfile.ZIP_STORED or r.flag_bits & 1), None)
    if odd is not None or any(record.compress_size != record.file_size for record in records):
        name = odd.filename if odd is not None else "of a length that contradicts itself"
        raise InputError(
            f"{path} holds a compressed record ({name!r:.80}): refused, PyTorch writes none; copy or "
            "download it again"
        )
    if len({record.filename for record in records}) != len(records) or len(records) > MAX_RECORDS:
        raise InputError(f"{path} names one of its records twice: copy or download it again")
    # records that lie over each other would be read again and again
    if sum(record.file_size for record in records) > os.path.getsize(path):
        raise InputError(f"{path} declares records that are longer than it is: copy or download it again")
    if any(r.filename.endswith("data.pkl") and r.file_size > MAX_PICKLE for r in records):
        raise InputError(
            f"{path} has a data.pkl of more than {MAX_PICKLE >> 20} MB: expected a list of names; copy or "
            "download it again"
        )


def _check_lengths(path: Path) -> None:
    """Raise `InputError` if a tensor is declared to be longer than the record that holds its numbers.

    A mapped file would give it the bytes of whatever follows, so the declared lengths are compared with those
    of the records. On the device "meta" PyTorch builds tensors that have a length and no memory.
    """
    declared = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(declared, Mapping):
        return
    records = _record_places(path)
    for name, value in declared.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            continue
        storage = value.untyped_storage()
        length = records.get(getattr(storage, "_checkpoint_offset", -1))
        if length is None:  # PyTorch works out where it writes a record
            raise InputError(
                f"{path} was not packed by torch.save (no record begins where {name!r} should be): copy or "
                "download it again, or load and save it by torch"
            )
        if storage.nbytes() != length:
            raise InputError(
                f"{path} declares {storage.nbytes()} bytes for {name!r}, its record has {length}: copy "
                "or download it again"
            )
        if value.numel() * value.element_size() > length:
            raise InputError(
                f"{path} declares {name!r} as {tuple(value.shape)}, its record has {length} bytes: expected "
                "every number to be there; copy or download it again"
            )


def _record_places(path: Path) -> dict[int, int]:
    """Return the lengths of the records of an archive by where their bytes begin in the file."""
    places = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset)
            header = file.read(LOCAL_HEADER)
            name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            places[record.header_offset + LOCAL_HEADER + name + extra] = record.file_size
    return places


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the error for a file that cannot be read, with the reason in one line."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): copy or download it again")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.pth` by name, mapped from the file and not read into memory.

    Args:
        path: the checkpoint.

    Returns:
        The tensors by name, in the order of the file.

    Raises:
        InputError: if the file holds anything but a flat dict of plain tensors, or less of them than it
            declares.
    """
    try:
        _check_lengths(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        # only the name is shown: the rest of torch's message says how to load the file nevertheless
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise InputError(
            f"{path} holds more than tensors{what}: refused, unpickling it could run code"
        ) from None
    except Exception as error:  # tensors that contradict themselves raise errors of many kinds
        raise unreadable(path, error) from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}: expected a dict of tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path} holds {name!r}, a {type(value).__name__}: expected nothing but tensors")
        plain = value.dtype in DTYPES and value.layout is torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain:
            raise InputError(
                f"{path} holds {name!r}, a tensor of {value.dtype}, {value.layout}, {value.device}: expected "
                "plain tensors by name"
            )
    return dict(content)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a `.pth`. Raises `OSError` if the disk is full, as writing any other file would."""
    try:
        torch.save(tensors, path)
    except RuntimeError as error:  # torch's writer names no reason
        raise OSError(
            errno.ENOSPC, f"could not write {path.name} ({str(error).splitlines()[0][:80]})"
        ) from error


def stored_types(
    tensors: Mapping[str, Tensor], dtype: torch.dtype | None, exact: frozenset[str]
) -> dict[str, torch.dtype]:
    """Return the dtype in which each tensor is to be stored.

    Args:
        tensors: the tensors by name.
        dtype: the dtype for floating-point tensors; None stores all tensors as they are.
        exact: the names of tensors that are stored as they are in any case.

    Returns:
        The dtypes by name. Tensors that are not floating-point keep theirs.
    """
    types = {}
    for name, tensor in tensors.items():
        changes = dtype is not None and tensor.is_floating_point() and name not in exact
        types[name] = dtype if changes else tensor.dtype
    return types


def stored_bytes(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    """Return the bytes that a file holds of one tensor that is stored in `dtype`."""
    return memoryview(tensor.detach().reshape(-1).to(dtype).contiguous().view(torch.uint8).numpy())


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    exact: frozenset[str] = frozenset(),
) -> None:
    """Write one safetensors file, tensor by tensor, so that no second copy of all tensors is needed.

    Args:
        path: the file.
        tensors: the tensors by name.
        dtype: the dtype for floating-point tensors, see `stored_types`.
        exact: the names of tensors that are stored as they are in any case.
    """
    target = stored_types(tensors, dtype, exact)
    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * target[name].itemsize
        header[name] = {
            "dtype": DTYPES[target[name]],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    # as safetensors does, so that tensors begin at multiples of 8 bytes
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors.items():
            file.write(stored_bytes(tensor, target[name]))


def verify_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    exact: frozenset[str] = frozenset(),
) -> None:
    """Raise `InputError` unless a file holds what `write_safetensors` was given.

    Tensors are read one after another, in pieces.

    Args:
        path: the file.
        tensors: the tensors that were written.
        dtype: the dtype that they were written in, see `stored_types`.
        exact: the names of tensors that were stored as they are.

    Raises:
        InputError: for the first tensor that is missing, unknown or different.
    """
    spoilt = first_spoilt(path, tensors, stored_types(tensors, dtype, exact))
    if spoilt is not None:
        raise InputError(
            f"{path.parent.name}/{path.name} was not written as it should be (tensor {spoilt!r}): name "
            "another place"
        )


def first_spoilt(path: Path, tensors: Mapping[str, Tensor], target: Mapping[str, torch.dtype]) -> str | None:
    """Return the first tensor that a file does not hold as it should, or None where all is well."""
    entries = read_header(path)
    for name in {**tensors, **entries}:
        if name not in tensors or name not in entries:
            return name
        wanted = (DTYPES[target[name]], tuple(tensors[name].shape))
        if wanted != (entries[name].dtype, entries[name].shape):
            return name
    with open(path, "rb", buffering=0) as file:
        for name, tensor in tensors.items():
            if not holds(file, entries[name].begin, stored_bytes(tensor, target[name])):
                return name
    return None


def holds(file: BinaryIO, begin: int, wanted: memoryview) -> bool:
    """Return whether the bytes in `wanted` stand in the file from `begin` on."""
    file.seek(begin)
    for start in range(0, len(wanted), PIECE):
        piece = wanted[start : start + PIECE]
        if file.read(len(piece)) != bytes(piece):
            return False
    return True
