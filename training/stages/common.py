"""This module holds what several stages need: to export a part, to load a frozen one, to write pictures."""

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi import pretrained
from codi.io import atomic
from codi.protocols import Denoiser
from codi.tensor_files import read_json
from codi.types import InputError
from codi.vocabulary import TOKENIZER_FILE

EXPORTING = ".exporting-"  # in the name of a folder beside a part, while the part is being written
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD, as Linux numbers them


def export_part(part: nn.Module, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers or transformers part into `folder` as safetensors.

    All of it is first written beside `folder` and then takes its place, so what was in `folder` stays until
    then. `part` itself is left as it was.

    Args:
        part: what was trained, in float32.
        folder: where it goes.
        dtype: the type of the numbers in the file.
    """
    state = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    try:
        with replacing(folder) as beside:
            # the plain `to`: diffusers' own warns of nothing here
            nn.Module.to(part, dtype).save_pretrained(beside, safe_serialization=True)
    finally:
        nn.Module.to(part, torch.float32).load_state_dict(state)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a name beside the folder of a part, under which a new folder is written that takes its place.

    Every process has a name of its own, so that two of them export one after the other, each a whole part.

    Args:
        folder: the folder of the part.

    Yields:
        The name; nothing is there yet.
    """
    folder = folder.resolve()  # a part may be a link to where it really is
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}{EXPORTING}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield beside
        put_in_place(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put_in_place(beside: Path, folder: Path) -> None:
    """Let the folder `beside` take the name `folder`, at once where the system can exchange two names.

    Files in `folder` that are no weights and have no successor in `beside` are kept: they are copied over
    first. Older weights go, or they would be loaded with the new ones, and so does their tokenizer. Where
    names cannot be exchanged (other systems than Linux, some network file systems) the older folder is moved
    away first: whoever is killed between the two moves leaves it beside its place, under a name that begins
    with a dot.
    """
    for old in folder.iterdir() if folder.is_dir() else ():
        saved = ".safetensors" in old.name or old.name == TOKENIZER_FILE
        if not saved and not (beside / old.name).exists():
            copy = shutil.copytree if old.is_dir() else shutil.copy2
            copy(old, beside / old.name)
    if folder.is_dir() and _exchange(beside, folder):
        return  # what was there has the other name now, and goes with it
    older = beside.with_name(f"{beside.name}-older")
    while True:
        with suppress(FileNotFoundError):
            os.replace(folder, older)
        try:
            os.replace(beside, folder)
            break
        except OSError:
            if not folder.is_dir():  # else another process was quicker: its part goes the same way
                raise
        shutil.rmtree(older, ignore_errors=True)
    shutil.rmtree(older, ignore_errors=True)


def copy_model(folder: Path, into: Path, but: Collection[str] = ()) -> None:
    """Copy all parts and files of a model folder into another one, each of them as a whole.

    Args:
        folder: the model folder.
        into: the other; what else it holds stays.
        but: names of parts and files that are left out.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name in but or EXPORTING in entry.name:
            continue
        if entry.is_dir():
            with replacing(into / entry.name) as beside:
                shutil.copytree(entry, beside)
        else:
            with atomic(into / entry.name) as temporary:
                shutil.copy2(entry, temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step, and return whether the system could do it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0


Loader = Callable[[type, Path, str], Any]
_LOADER: ContextVar[Loader | None] = ContextVar("loader", default=None)


@contextmanager
def loading_by(loader: Loader) -> Iterator[None]:
    """Let `load_part` ask `loader` inside the `with` block, for a plan, which reads no weights."""
    token = _LOADER.set(loader)
    try:
        yield
    finally:
        _LOADER.reset(token)


def planning() -> bool:
    """Return whether a plan is being made, in which nothing but configurations is read."""
    return _LOADER.get() is not None


def note_part(folder: Path, part: nn.Module) -> None:
    """Let a plan count a frozen part that was built without `load_part`."""
    loader = _LOADER.get()
    if loader is not None:
        loader.parts[folder] = part  # type: ignore[attr-defined]


def load_part(cls: type, folder: Path, why: str) -> Any:
    """Return a finished part in float32 and eval mode, frozen.

    Args:
        cls: the class that is expected; the part may have another in its place, see `class_of`.
        folder: where the part is.
        why: what to do if the part is missing, for the message of the error: which stage makes it.

    Returns:
        The part; inside `loading_by` whatever the loader returns instead.

    Raises:
        InputError: if the part is missing, damaged, or of another model. The message says which of these.
    """
    if (loader := _LOADER.get()) is not None:
        return loader(cls, folder, why)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is missing: {why}")
    kind = class_of(cls, folder)
    part = pretrained.load_part(
        folder, kind.__module__, kind.__name__, torch.float32, low_cpu_mem_usage=False
    )
    return part.requires_grad_(False)


def class_of(cls: type, folder: Path) -> type:
    """Return the class of the part in `folder`: `cls`, or what its configuration names in its place.

    Args:
        cls: the class of such a part as it is trained unless its latents ask for another.
        folder: where the part is.

    Returns:
        The class that the part's configuration names, if it is a subclass of `cls` in
        `codi.models.released` or `codi.models.autoencoders`, or any denoiser in `codi.models.denoisers` where
        `cls` is one; else `cls`.

    Raises:
        InputError: if the configuration is no JSON object.
    """
    from codi.models import autoencoders, denoisers, released

    name = str(read_json(folder / "config.json", "make or copy this part again").get("_class_name"))
    for room in (released, autoencoders, denoisers):
        found = getattr(room, name, None)
        expected = Denoiser if room is denoisers and issubclass(cls, Denoiser) else cls
        if isinstance(found, type) and issubclass(found, expected):
            return found
    return cls


def say(message: str) -> None:
    """Print one line for a person to stderr, from the first process of a machine alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


def write_spectrograms(path: Path, log_mels: Tensor, columns: int = 1) -> None:
    """Write a contact sheet of log-mel spectrograms (N, T, M), with low tones below."""
    # log-mel -11.5..2.5 -> [-1, 1]
    pictures = log_mels.transpose(1, 2).flip(1).add(11.5).div(7).sub(1).clamp(-1, 1)
    write_png(path, pictures[:, None].expand(-1, 3, -1, -1), columns)


def write_png(path: Path, pictures: Tensor, columns: int) -> None:
    """Write a contact sheet of pictures.

    Args:
        path: the file.
        pictures: (N, 3, H, W) in [-1, 1], or uint8.
        columns: the number of pictures in a row; a last row that is not full is left out.
    """
    from codi.io import from_unit, save_image

    pictures = pictures if pictures.dtype == torch.uint8 else from_unit(pictures.cpu())
    rows = [torch.cat(list(row), dim=2) for row in pictures.split(columns) if len(row) == columns]
    save_image(path, torch.cat(rows, dim=1))
