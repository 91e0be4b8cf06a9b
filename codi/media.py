"""Turn what a user holds in Python into media: arrays, tensors, PIL images, records, bytes and files.

A picture becomes uint8 (3, H, W), a clip uint8 (F, 3, H, W), a sound float32 (samples,). The accepted forms
are those that numpy, torch, PIL, soundfile, scipy, torchaudio, datasets, Gradio and ComfyUI hand out.
Whatever is ambiguous is refused, with an error that says what came and what would do.

Letters: C channels, F frames, H W height and width.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOBase
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codi import io
from codi.border import check_address, plain
from codi.io.gates import LOUDEST, check_pixels
from codi.types import InputError, Modality

MOST_CHANNELS = 32  # of a sound
PCM = {  # silence and full scale of integer samples
    "int16": (0.0, 2.0**15),
    "int32": (0.0, 2.0**31),
    "uint8": (128.0, 2.0**7),
}
COLOURS = (1, 3, 4)  # numbers of channels of a picture: grey, RGB, RGB with opacity
MAX_BYTES = 1 << 30  # of a file that is given open, or as bytes
BLOCK = 1 << 20  # bytes read at a time
SOUND_KEYS = (  # of records: the sound, its rate
    ("array", "sampling_rate"),
    ("raw", "sampling_rate"),
    ("waveform", "sample_rate"),
)


@runtime_checkable
class Readable(Protocol):
    """Protocol of an open file, or of anything that can be read like one."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all that are left where it is negative."""
        ...


def kind(value: Any) -> str:
    """Return in words what kind of value came, for messages."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


def is_file(value: Any) -> bool:
    """Return whether a value names a file or holds the content of one (see `settled`)."""
    return isinstance(value, (str, os.PathLike, bytes))


def is_picture(value: Any) -> bool:
    """Return whether a value is one picture, judged by its type and its number of axes."""
    return isinstance(value, Image.Image) or (
        isinstance(value, (Tensor, np.ndarray)) and value.ndim in (2, 3)
    )


# Files -----------------------------------------------------------------


def settled(name: str, value: Any) -> Any:
    """Reduce the forms of a file to two, a path or bytes, and return any other value as it is.

    An open file is read whole, from its start where it can be rewound, and left at the position at which it
    was. A record of a file as `datasets` has it, {"bytes": ..., "path": ...}, becomes its bytes, or else its
    path.

    Args:
        name: the name of the argument, for messages.
        value: a file in any form, or anything else.

    Returns:
        A path, bytes, or the value itself.

    Raises:
        InputError: for a file that cannot be read, is open as text, is empty, or holds more than `MAX_BYTES`.
    """
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, os.PathLike):
        return Path(os.fsdecode(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _sized(name, bytes(value))
    if isinstance(value, Readable):
        return _read(name, value)
    return value


def _read(name: str, file: Any) -> bytes:
    """Return the content of an open file, and leave the file at the position at which it was."""
    if isinstance(file, TextIOBase):
        raise InputError(f"{name} is a file opened as text: open it in binary, open(path, 'rb')")
    try:
        start = file.tell() if file.seekable() else None
        if start is not None:
            file.seek(0)
        content = _content(file)
        if start is not None:
            file.seek(start)
    except Exception as error:  # an archive, a connection or a cloud may be behind it, with errors of its own
        raise InputError(
            f"{name} is an open file that cannot be read ({error}): open it again, with open(path, 'rb')"
        ) from None
    if content is None:
        raise InputError(
            f"{name} is a file that gives no bytes: expected one that is open in binary, open(path, 'rb')"
        )
    return _sized(name, content)


def _content(file: Readable) -> bytes | None:
    """Return what is left in a file, up to just above `MAX_BYTES`; None if it gives anything but bytes."""
    content = bytearray()
    while len(content) <= MAX_BYTES:
        block = file.read(BLOCK)
        if not isinstance(block, bytes):
            return None
        if not block:
            break
        content += block
    return bytes(content)


def _sized(name: str, content: bytes) -> bytes:
    """Return the content of a file; raise `InputError` if it is empty or larger than `MAX_BYTES`."""
    if not content:
        raise InputError(f"{name} holds no bytes: expected the content of a media file")
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{name} holds more than {MAX_BYTES >> 30} GiB: expected a smaller file; cut out the part that "
            "you mean"
        )
    return content


@contextmanager
def as_path(value: Any, modality: Modality) -> Iterator[Path]:
    """Yield a path to read: the given one, or that of a temporary file that holds the given bytes.

    Errors and warnings speak of the bytes, never of the temporary file.

    Args:
        value: a path or bytes.
        modality: what the bytes hold, for messages.

    Yields:
        The path.

    Raises:
        InputError: for an address on the network.
    """
    if not isinstance(value, bytes):
        if isinstance(value, str):
            check_address(value)
        yield Path(value)
        return
    shown = f"what was given as {len(value)} bytes of {modality}"
    with tempfile.TemporaryDirectory(prefix="codi-") as folder, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        path = Path(folder) / "content"
        path.write_bytes(value)
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), shown)) from None
    # They were held back to name the bytes in place of the temporary file.
    for note in notes:
        warnings.warn_explicit(
            str(note.message).replace(str(path), shown), note.category, note.filename, note.lineno
        )


# Pictures --------------------------------------------------------------


def load_picture(value: Any) -> Tensor:
    """Read a picture of any accepted form and return it as uint8 (3, H, W)."""
    if is_file(value):
        with as_path(value, Modality.IMAGE) as path:
            return io.load_image(path)
    return pixels(value, ndim=3, what="an image")


def pixels(value: Any, ndim: int, what: str) -> Tensor:
    """Convert a picture, or the frames of a clip, to uint8 (..., 3, H, W).

    Channels are the axis of 1, 3 or 4 values. Where both the last axis and the third from the end are such an
    axis, arrays are taken to have channels last, and tensors to have them first. Where a picture is
    transparent, white shows through.

    Args:
        value: a PIL image, array or tensor; grey, RGB, or RGB with opacity; uint8 or floats in [0, 1]; also a
            batch of one.
        ndim: 3 for one picture, 4 for frames.
        what: what it is called in messages ("an image").

    Returns:
        A picture (3, H, W) or frames (F, 3, H, W), uint8.

    Raises:
        InputError: for other kinds, shapes and ranges of values.
    """
    if isinstance(value, Image.Image) and ndim == 3:
        check_pixels(*value.size, source=what)
        return io.image_to_tensor(value)
    if not _holds_numbers(value):
        raise InputError(f"{what} is {kind(value)}: {_expected(ndim)}")
    found = _single(_tensor(value, what, ndim), value, ndim, what)
    if found.ndim == 2 and ndim == 3:
        found = found[None]
    elif found.ndim == ndim and found.numel():
        found = _channels_first(found, isinstance(value, Tensor))
    if found.ndim != ndim or found.numel() == 0 or found.shape[-3] not in COLOURS:
        raise InputError(f"{what} is {kind(value)}: {_expected(ndim)}")
    _check_range(found, what)
    return _rgb(found)


def _holds_numbers(value: Any) -> bool:
    """Return whether a value is an array, or a tensor that is neither sparse nor without content."""
    if isinstance(value, Tensor):
        return value.layout is torch.strided and not value.is_meta
    return isinstance(value, np.ndarray)


def _expected(ndim: int) -> str:
    shape = "(F, 3, H, W)" if ndim == 4 else "(3, H, W)"
    return f"expected PIL images, a tensor {shape} or an array with channels last, uint8 or float in [0, 1]"


def _tensor(value: Any, what: str, ndim: int) -> Tensor:
    """Return an array or a tensor as a tensor on the CPU: uint8 as it is, floats as float32."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f" and value.dtype != np.uint8:
            raise InputError(f"{what} is {kind(value)}: {_expected(ndim)}")
        value = torch.from_numpy(
            value.astype(np.float32 if value.dtype.kind == "f" else np.uint8)
        )  # a copy, of any stride and order
    value = value.detach().cpu()
    if value.is_floating_point():
        return value.float()
    if value.dtype != torch.uint8:
        raise InputError(f"{what} is {kind(value)}: {_expected(ndim)}")
    return value


def _check_range(value: Tensor, what: str) -> None:
    """Raise `InputError` for floats outside [0, 1], with advice by the range in which they are."""
    if not value.is_floating_point():
        return
    if not value.isfinite().all():
        raise InputError(f"{what} has floats that are NaN or infinite: expected [0, 1]")
    low, high = value.min().item(), value.max().item()
    if low >= 0 and high <= 1:
        return
    advice = "scale it"
    if -1 <= low < 0 and high <= 1:
        advice = "it looks like [-1, 1]: give (x + 1) / 2"
    elif low >= 0 and high <= 255:
        advice = "it looks like 0..255: give x / 255, or uint8"
    raise InputError(
        f"{what} has floats outside [0, 1], from {low:.4g} to {high:.4g}: expected [0, 1], or uint8; {advice}"
    )


def _single(found: Tensor, value: Any, ndim: int, what: str) -> Tensor:
    """Return a value without the batch axis that it may have; raise `InputError` for a batch of several."""
    if found.ndim != ndim + 1:
        return found
    if len(found) == 1:
        return found[0]
    other = " (frames of a clip go to video=)" if ndim == 3 else ""
    raise InputError(
        f"{what} is {kind(value)}, a batch of {len(found)}: expected one; give a list of them to combine "
        f"them{other}"
    )


def _channels_first(found: Tensor, is_tensor: bool) -> Tensor:
    first, last = found.shape[-3] in COLOURS, found.shape[-1] in COLOURS
    return found.movedim(-1, -3) if last and not (first and is_tensor) else found


def _rgb(found: Tensor) -> Tensor:
    """Convert grey, RGB, or RGB with opacity (..., C, H, W) to uint8 RGB (..., 3, H, W).

    Values are uint8, or floats in [0, 1].
    """
    count = found.shape[-3]
    if count == 4:
        unit = found if found.is_floating_point() else found.float() / 255
        colour, opacity = unit.split((3, 1), dim=-3)
        found = colour * opacity + (1 - opacity)
    elif count == 1:
        found = found.expand(*found.shape[:-3], 3, *found.shape[-2:])
    return (found * 255).round().to(torch.uint8) if found.is_floating_point() else found.contiguous()


# Clips -----------------------------------------------------------------


def load_clip(value: Any, rate: float, seconds: float, size: int, loop: bool = False) -> tuple[Tensor, float]:
    """Read a clip of any accepted form.

    Args:
        value: a file, an `io.Video`, a list of frames, a tensor or an array; or a pair of frames and frames
            per second, in either order.
        rate: frames per second at which a file is read, and of frames where nothing says another.
        seconds: how much of a file is read, from its start.
        size: a size in pixels; the frames of a file are shrunk to about twice that.
        loop: whether a file with an animated picture that repeats goes on until `seconds` are full.

    Returns:
        The frames (F, 3, H, W), uint8, and their rate in frames per second.

    Raises:
        InputError: for anything that is no clip.
    """
    if is_file(value):
        with as_path(value, Modality.VIDEO) as path:
            value = io.load_video(path, seconds=seconds, size=size, sound=False, fps=rate, loop=loop)
    if isinstance(value, io.Video):
        value = (value.frames, value.fps)
    frames, fps = _with_rate(value, rate)
    if isinstance(frames, Image.Image):
        raise InputError(
            "a clip is a single PIL image: expected a list of frames, or a file; a picture goes to image="
        )
    if isinstance(frames, (list, tuple)):
        frames = _equal_sizes([pixels(frame, ndim=3, what="a frame") for frame in frames])
    return pixels(frames, ndim=4, what="a clip"), fps


def _equal_sizes(frames: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) != 1:
        raise InputError(
            f"a clip of {len(frames)} frames of sizes {shapes}: expected at least one frame, all of one size"
        )
    return torch.stack(frames)


# Sounds ----------------------------------------------------------------


def load_sound(value: Any, rate: float, seconds: float) -> tuple[Tensor, float]:
    """Read a sound of any accepted form.

    Args:
        value: a file, a record, an array or a tensor; or a pair of sound and rate, in either order.
        rate: the rate in Hz where nothing says another.
        seconds: how much of a file is read, from its start.

    Returns:
        The sound (samples,), float32, and its rate in Hz.

    Raises:
        InputError: for anything that is no sound.
    """
    if is_file(value):
        with as_path(value, Modality.AUDIO) as path:
            return io.load_audio(path, seconds)
    if isinstance(value, Mapping):
        value = _record(value)
    sound, rate = _with_rate(value, rate)
    return waveform(sound), rate


def _record(value: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the sound and the rate of a record of `datasets`, transformers, torchaudio or ComfyUI."""
    for sound, rate in SOUND_KEYS:
        if sound in value and rate in value:
            return (value[sound], value[rate])
    raise InputError(
        f"a sound is a dict of {', '.join(map(str, value)) or 'nothing'}: expected the keys array and "
        "sampling_rate, or waveform and sample_rate"
    )


def waveform(value: Any) -> Tensor:
    """Convert a sound in an array or a tensor to float32 (samples,), the mean of its channels.

    Floats are taken as [-1, 1]; int16, int32 and uint8 are scaled from full scale. Of two axes the shorter
    one is the channels, as (channels, samples) or (samples, channels). A batch of one (1, channels, samples)
    is taken as its only sound. Anything else raises `InputError`.
    """
    if not _holds_numbers(value):
        raise InputError(f"a sound is {kind(value)}: {_sound_expected()}")
    name = value.dtype.name if isinstance(value, np.ndarray) else str(value.dtype).removeprefix("torch.")
    floats = name.startswith(("float", "bfloat"))
    if not floats and name not in PCM:
        raise InputError(f"a sound is {kind(value)}: {_sound_expected()}")
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(
            value.astype(np.float32 if floats else name)
        )  # a copy, of any stride and byte order
    wave = _channels(value.detach().cpu(), kind(value))
    if floats:
        wave = wave.float()
        _check_loudness(wave)
    else:
        middle, scale = PCM[name]
        wave = ((wave.double() - middle) / scale).float()
    return wave.mean(dim=0) if wave.ndim == 2 else wave


def _sound_expected() -> str:
    shapes = "(samples,), (channels, samples) or (samples, channels)"
    return f"expected floats in [-1, 1], or int16, int32 or uint8, of shape {shapes}"


def _channels(wave: Tensor, came: str) -> Tensor:
    """Return a sound as (samples,) or (channels, samples), in whichever order its axes came."""
    if wave.ndim == 3 and len(wave) != 1:
        raise InputError(
            f"a sound is {came}, a batch of {len(wave)}: expected one; give a list of them to combine them"
        )
    wave = wave[0] if wave.ndim == 3 else wave
    if wave.ndim not in (1, 2):
        raise InputError(f"a sound is {came}: {_sound_expected()}")
    if wave.ndim == 2 and wave.shape[0] > wave.shape[1]:
        wave = wave.T
    if wave.ndim == 2 and len(wave) > MOST_CHANNELS:
        raise InputError(
            f"a sound is {came}, {len(wave)} channels: expected at most {MOST_CHANNELS}; {_sound_expected()}"
        )
    return wave


def _check_loudness(wave: Tensor) -> None:
    if wave.numel() and wave.isfinite().all() and (peak := wave.abs().max().item()) > LOUDEST:
        advice = "samples of 16 bits that were made floats are to be divided by 32768"
        raise InputError(f"a sound has floats up to {peak:.4g}: expected [-1, 1]; {advice}")


def _with_rate(value: Any, rate: float) -> tuple[Any, float]:
    """Return media and their rate from a pair in either order; plain media have the rate `rate`."""
    if not isinstance(value, tuple):
        return value, rate
    if len(value) == 2:
        first, second = (_number(part) for part in value)
        if second is None and first is not None:  # the order of scipy and Gradio
            return value[1], first
        if first is None and second is not None:
            return value[0], second
    raise InputError(
        f"a pair {tuple(kind(part) for part in value)}: expected (sound, Hz) or (frames, frames per second)"
    )


def _number(value: Any) -> float | None:
    """Return a rate as a number of Python; None for a value that can be no rate."""
    if isinstance(value, (list, tuple, Mapping)) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim):
        return None
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        return None
    return value if isinstance(value, int) else float(value)
