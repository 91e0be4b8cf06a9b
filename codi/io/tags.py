"""Text that a media file carries: the record of how it was made, under the key `codi`.

What is written is ASCII (JSON with escapes), so that no container's idea of an encoding can mangle it.

    png            a text chunk
    wav            an entry of a LIST INFO chunk behind the sound, which FFmpeg reads as metadata
    mp4, mov       a free-form tag (`----`, as of iTunes) in a `meta` box at the end of the file
    mkv, webm      a tag, written with the container's other metadata
"""

import os
import struct
import warnings
from pathlib import Path
from typing import Any

from codi.io.gates import check_file, check_pixels, open_container, open_image
from codi.types import InputError

KEY = "codi"
MAX_TEXT = 16 << 20  # characters that are read from a file


def append_to_wav(file: Any, text: str) -> None:
    """Append `text` (ASCII) to a complete wav file, behind its sound; the file is open for writing."""
    value = text.encode("ascii") + b"\0"
    value += bytes(len(value) % 2)  # chunks of a wav begin at even places
    entry = b"INFO" + KEY.encode() + struct.pack("<I", len(value)) + value
    file.seek(0, os.SEEK_END)
    file.write(bytes(file.tell() % 2))
    file.write(b"LIST" + struct.pack("<I", len(entry)) + entry)
    size = file.tell() - 8
    file.seek(4)  # the size of the whole file, less 8 bytes, stands here
    file.write(struct.pack("<I", size))


def append_to_mp4(file: Any, text: str) -> None:
    """Append `text` (ASCII) to a complete mp4 or mov file that is open for writing.

    Nothing in it moves, so no offset changes.
    """
    mean = _box(b"mean", bytes(4), b"org.codi")
    name = _box(b"name", bytes(4), KEY.encode())
    data = _box(b"data", struct.pack(">II", 1, 0), text.encode("ascii"))  # of type 1: UTF-8
    handler = _box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    file.seek(0, os.SEEK_END)
    file.write(_box(b"meta", bytes(4), handler, _box(b"ilst", _box(b"----", mean, name, data))))


def _box(kind: bytes, *parts: bytes) -> bytes:
    """Return one box of an mp4 file: its length, its kind and its parts."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def read_text(path: str | Path) -> str | None:
    """Return the text that a picture, recording or clip carries under `codi`.

    Args:
        path: the file.

    Returns:
        The text; None if the file carries none.

    Raises:
        InputError: if the file is missing, empty or a damaged picture, or carries more than `MAX_TEXT`
            characters.
    """
    check_file(path)
    text = _of_picture(path)
    if text is None:
        text = _of_container(path)
    if text is not None and len(text) > MAX_TEXT:
        raise InputError(f"{path} carries {len(text)} characters of text: at most {MAX_TEXT} are read")
    return text


def _of_picture(path: str | Path) -> str | None:
    """Return the text that a picture carries; None if it carries none, or if the file is no picture."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_image(path) as image:
                check_pixels(*image.size, source=path)
                text = image.info.get(KEY)
        except Image.UnidentifiedImageError:
            return None  # a recording or a clip
        except InputError:
            raise
        except Exception as error:  # decoders differ in what they throw at a damaged file
            raise InputError(
                f"{path} is damaged ({' '.join(str(error).split())[:120]}): export or copy it again"
            ) from error
    return text if isinstance(text, str) else None


def _of_container(path: str | Path) -> str | None:
    """Return the text that a recording or clip carries; None if it carries none or cannot be opened."""
    import av

    try:
        with open_container(path) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
    except (av.error.FFmpegError, ValueError):
        return None
    return found.get(KEY)
