"""Reading the released `.pth` files without trusting them, and writing safetensors without holding them in memory."""

import errno
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from codi.types import InputError

DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


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
        raise InputError(f"{path} was altered (record {broken} does not match its checksum): copy or download it again")


def unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): copy or download it again")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth`, mapped from the file, not read. Raises `InputError` for anything but a flat dict of tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's message is how to run it nevertheless
        what = f" ({named[1]})" if named else ""
        raise InputError(f"{path} holds more than tensors{what}: refused, unpickling it could run code") from None
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
                f"{path} holds {name!r}, a tensor of {value.dtype}, {value.layout}, {value.device}: expected plain tensors by name"
            )
    return dict(content)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a `.pth`. Raises `OSError` where the disk is full, as any other file would."""
    try:
        torch.save(tensors, path)
    except RuntimeError as error:  # torch's writer names no reason
        raise OSError(errno.ENOSPC, f"could not write {path.name} ({str(error).splitlines()[0][:80]})") from error


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, exact: frozenset[str] = frozenset()
) -> None:
    """Writes one file, tensor by tensor; floating-point ones in `dtype` if one is named, those in `exact` as they are."""
    target = {name: dtype if dtype and t.is_floating_point() and name not in exact else t.dtype for name, t in tensors.items()}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * target[name].itemsize
        header[name] = {"dtype": DTYPES[target[name]], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors.items():
            file.write(memoryview(tensor.detach().reshape(-1).to(target[name]).contiguous().view(torch.uint8).numpy()))
