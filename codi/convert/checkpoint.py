"""Reading the released `.pth` files without trusting them, and writing safetensors without holding them in
memory.
"""

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

from codi.pretrained import read_header
from codi.types import InputError

PIECE = 16 << 20  # bytes

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
    """Raises `InputError` unless the file is there and whole; checksums of all its records are read once."""
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
            broken = archive.testzip()
    except Exception as error:  # whichever field of the archive is damaged, another kind
        raise unreadable(path, error) from None
    if broken is not None:
        raise InputError(
            f"{path} was altered (record {broken} does not match its checksum): copy or download it again"
        )


def unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): copy or download it again")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth`, mapped from the file, not read. Raises `InputError` for anything but a flat
    dict of tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # the rest of torch's message is how to run it nevertheless
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise InputError(
            f"{path} holds more than tensors{what}: refused, unpickling it could run code"
        ) from None
    except Exception as error:  # tensors that contradict themselves raise whatever they like
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
    """Writes a `.pth`. Raises `OSError` where the disk is full, as any other file would."""
    try:
        torch.save(tensors, path)
    except RuntimeError as error:  # torch's writer names no reason
        raise OSError(
            errno.ENOSPC, f"could not write {path.name} ({str(error).splitlines()[0][:80]})"
        ) from error


def stored_types(
    tensors: Mapping[str, Tensor], dtype: torch.dtype | None, exact: frozenset[str]
) -> dict[str, torch.dtype]:
    """Floating-point tensors are stored in `dtype` if one is named, those in `exact` as they are."""
    return {
        name: dtype if dtype and t.is_floating_point() and name not in exact else t.dtype
        for name, t in tensors.items()
    }


def stored_bytes(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    """What a file holds of one tensor."""
    return memoryview(tensor.detach().reshape(-1).to(dtype).contiguous().view(torch.uint8).numpy())


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    exact: frozenset[str] = frozenset(),
) -> None:
    """Writes one file, tensor by tensor, in the types of `stored_types`."""
    target = stored_types(tensors, dtype, exact)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * target[name].itemsize
        header[name] = {
            "dtype": DTYPES[target[name]],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
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
    """Raises `InputError` unless the file holds what `write_safetensors` was given; reads a piece of one
    tensor at a time.
    """
    target, entries = stored_types(tensors, dtype, exact), read_header(path)
    wanted = {name: (DTYPES[target[name]], tuple(t.shape)) for name, t in tensors.items()}
    found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    spoilt = next((name for name in {**wanted, **found} if wanted.get(name) != found.get(name)), None)
    if spoilt is None:
        with open(path, "rb", buffering=0) as file:
            good = lambda name: holds(file, entries[name].begin, stored_bytes(tensors[name], target[name]))
            spoilt = next((name for name in tensors if not good(name)), None)
    if spoilt is not None:
        raise InputError(
            f"{path.parent.name}/{path.name} was not written as it should be (tensor {spoilt!r}): name "
            "another place"
        )


def holds(file: BinaryIO, begin: int, wanted: memoryview) -> bool:
    """Whether these bytes stand in the file from `begin` on."""
    file.seek(begin)
    return all(
        file.read(len(piece)) == bytes(piece)
        for piece in (wanted[i : i + PIECE] for i in range(0, len(wanted), PIECE))
    )
