"""This module holds what several stages need: to export a part, to load a frozen one, to write pictures."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi import pretrained
from codi.types import InputError


def export_part(part: nn.Module, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers or transformers part into `folder` as safetensors.

    All of it is first written beside `folder` and then moved there, so what was in `folder` stays until then.
    `part` itself is left as it was.

    Args:
        part: what was trained, in float32.
        folder: where it goes.
        dtype: the type of the numbers in the file.
    """
    state = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    beside = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        # the plain `to`: diffusers' own warns of nothing here
        nn.Module.to(part, dtype).save_pretrained(beside, safe_serialization=True)
        put_in_place(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        nn.Module.to(part, torch.float32).load_state_dict(state)


def put_in_place(beside: Path, folder: Path) -> None:
    """Move the files of the folder `beside` over those of `folder`.

    Older weights in `folder` that have no successor in `beside` are deleted, or they would be loaded with the
    new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = {path.name for path in beside.iterdir()}
    for old in (path for path in folder.glob("*.safetensors*") if path.name not in new):
        old.unlink()
    for name in new:
        os.replace(beside / name, folder / name)


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


def load_part(cls: type, folder: Path, why: str) -> Any:
    """Return a finished part in float32 and eval mode, frozen.

    Args:
        cls: the class that is expected. Of a converted model the part gets the class that its configuration
            names, if that is a subclass of `cls`.
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
    """Return the class of the part in `folder`: `cls`, or its subclass for a converted part.

    Args:
        cls: the class of a part that was trained here.
        folder: where the part is.

    Returns:
        The class in `codi.models.released` that the part's configuration names, if it is a subclass of `cls`;
        else `cls`.

    Raises:
        InputError: if the configuration is no JSON object.
    """
    from codi.models import released

    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        raise InputError(
            f"{folder / 'config.json'} is no JSON object: make or copy this part again"
        ) from None
    found = getattr(released, str(name), cls)
    return found if issubclass(found, cls) else cls


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
