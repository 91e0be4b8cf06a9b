"""Read media files into tensors, as prompts are read: thin functions over those that training uses as well.

Letters: F frames, H height, W width.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.io.files import sha256_of
from codi.io.frames import cut_note, read_clip
from codi.io.gates import (
    MAX_DECODED,
    MAX_MINUTES,
    MAX_PIXELS,
    MAX_RATE,
    check_audio,
    check_file,
    check_minutes,
    probe,
    reading,
)
from codi.io.media_file import MediaFile
from codi.io.pictures import opacity_of, picture_of
from codi.io.sandbox import sandboxed
from codi.io.sounds import sound_at, stated_seconds
from codi.io.tags import read_text
from codi.types import InputError, Modality

# How much longer the longer side of a clip may be than the shorter, as far as memory is set aside.
LONG_SIDE = 4
CHECKED = 2.0  # frames per second that are converted where a clip is only checked


@dataclass(frozen=True, kw_only=True)
class Video:
    """A clip, with or without sound.

    Attributes:
        frames: uint8 (F, 3, H, W).
        fps: frames per second.
        audio: mono sound, float32 (samples,) in [-1, 1]; None for a clip without.
        sampling_rate: the sampling rate of the sound in Hz; None for a clip without.
    """

    frames: Tensor
    fps: float
    audio: Tensor | None = None
    sampling_rate: int | None = None


@sandboxed(lambda path: 3 * MAX_PIXELS)
def load_image(path: str | Path) -> Tensor:
    """Read the picture in a file.

    It is turned upright as its camera meant, brought to sRGB, and what is transparent becomes white. Of an
    animation the first frame is read.

    Args:
        path: the file.

    Returns:
        The picture, uint8 (3, H, W).

    Raises:
        InputError: if the file is no picture, is damaged, or has more than `MAX_PIXELS`.
    """
    with reading(path, Modality.IMAGE):
        return picture_of(_file(path))


@sandboxed(lambda path, seconds=None: 4 * MAX_RATE * round(60 * MAX_MINUTES if seconds is None else seconds))
def load_audio(path: str | Path, seconds: float | None = None) -> tuple[Tensor, int]:
    """Read the sound in a file, which may be a recording or a clip.

    It begins at time 0 of the file: in a clip whose sound begins later than its picture, silence comes first.

    Args:
        path: the file.
        seconds: read only the beginning, of this many seconds; None reads all.

    Returns:
        The mean of the channels, float32 (samples,), and the sampling rate in Hz.

    Raises:
        InputError: if there is no sound in the file, or if it is damaged, empty, not finite, far beyond
            [-1, 1] or longer than `MAX_MINUTES`.
    """
    with reading(path, Modality.AUDIO):
        source = _file(path)
        duration = stated_seconds(source, clip=False)
        check_minutes(duration, path)
        found = sound_at(source, 0.0, seconds)
        assert found is not None  # only a clip may be without sound
        _warn(cut_note(source.name, duration, seconds))
        return found


def load_video(
    path: str | Path,
    seconds: float | None = None,
    size: int | None = None,
    sound: bool = True,
    fps: float | None = None,
    loop: bool = False,
) -> Video:
    """Read the frames of a clip at an even rate, and its sound.

    Frame k is the one that a player shows at k / fps seconds. Picture and sound begin together, at the start
    of the earlier one.

    Args:
        path: the file.
        seconds: decode only the beginning, of this many seconds; None decodes all.
        size: shrink frames until their shorter side is about twice this many pixels, which spares memory;
            None leaves them as they are.
        sound: whether to read the sound as well.
        fps: frames per second of the result; None for a rate that shows the clip as it is: the one that it
            states, or, of a clip whose frames come unevenly, that of its two nearest frames; at most 60.
        loop: whether an animated picture that repeats goes on until `seconds` are full, as a player shows it.

    Returns:
        The clip.

    Raises:
        InputError: if the file is no clip, is damaged, is beyond the limits of `codi.io.gates`, or states an
            absurd frame rate.
    """
    return Video(**_load_video(path, seconds, size, sound, fps, loop))


def _clip_bytes(
    path: Any, seconds: float | None, size: int | None, sound: bool, fps: float | None, loop: bool
) -> int:
    """Return how many bytes a clip may have that is read with these arguments."""
    if seconds is None or size is None or fps is None:
        return MAX_DECODED
    pixels = LONG_SIDE * (2 * size) ** 2
    return min(MAX_DECODED, round(seconds * fps + 2) * 3 * pixels)


@sandboxed(_clip_bytes)
def _load_video(
    path: str | Path, seconds: float | None, size: int | None, sound: bool, fps: float | None, loop: bool
) -> dict[str, Any]:
    """Read a clip as `load_video` does, and return the attributes of `Video`."""
    with reading(path, Modality.VIDEO):
        source = _file(path)
        frames, fps, notes = read_clip(source, fps, seconds, size, loop)
        _warn(notes)
        wave, rate = (sound and sound_at(source, 0.0, seconds, clip=True)) or (None, None)
    return {"frames": frames, "fps": fps, "audio": wave, "sampling_rate": rate}


def describe(path: str | Path) -> dict[str, Any]:
    """Return what a manifest records of an input file: its path, kind, size in bytes and sha256."""
    check_file(path)
    kind = _kind(path)
    try:
        return {
            "path": str(path),
            "kind": kind,
            "bytes": os.path.getsize(path),
            "sha256": sha256_of(path),
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read any more ({error.strerror}): leave it where it is") from None


@sandboxed(lambda path: 0)
def carried_text(path: str | Path) -> str | None:
    """Return the text about its making that a file carries, of a file that anybody may have written."""
    return read_text(path)


@sandboxed(lambda path: MAX_PIXELS)
def load_opacity(path: str | Path) -> Tensor:
    """Read where a picture is opaque at all, such as what was painted on a transparent sheet.

    Args:
        path: the file, PNG or WebP.

    Returns:
        255 where there is anything and 0 where there is nothing, uint8 (H, W).

    Raises:
        InputError: if the file is no such picture, is damaged, or has more than `MAX_PIXELS`.
    """
    with reading(path, Modality.IMAGE):
        return opacity_of(_file(path))


@sandboxed(lambda path: 0)
def _kind(path: str | Path) -> str:
    """Return the modality that a file holds."""
    return str(probe(path))


def check_prompt(path: str | Path, modality: Modality, seconds: float | None = None) -> None:
    """Raise `InputError` unless a file can serve as a prompt.

    Args:
        path: the file.
        modality: the modality of the prompt.
        seconds: decode no more than this many seconds of it; None decodes all.

    Raises:
        InputError: if the file cannot be read as that modality, or is a silent sound.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that only the beginning is used is said when it is used
        if modality is Modality.IMAGE:
            load_image(path)
        elif modality is Modality.AUDIO:
            check_audio(*load_audio(path, seconds), source=path)
        elif modality is Modality.VIDEO:
            load_video(path, seconds, size=64, sound=False, fps=CHECKED)
        else:  # other modalities read their files themselves
            check_file(path)


def _file(path: str | Path) -> MediaFile:
    """Return a file under its own name."""
    return MediaFile(Path(path), str(path))


def _warn(notes: list[str]) -> None:
    """Warn of what was left out."""
    for note in notes:
        warnings.warn(note, stacklevel=3)
