"""Text that a media file carries: the record of how it was made, under the key `codi`.

What is written is ASCII (JSON with escapes), so that no container's idea of an encoding can mangle it.

    png            a text chunk
    jpg, webp      the EXIF tag UserComment, as image generators have it
    wav            an entry of a LIST INFO chunk behind the sound, which FFmpeg reads as metadata
    flac           a Vorbis comment
    mp3            a TXXX frame of ID3
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
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # where EXIF has a text of its user's
EXIF_SIGN = b"ASCII\0\0\0" + KEY.encode() + b":"  # begins ours
MOST_IN_JPEG = 65_000  # bytes of EXIF that a jpg has place for
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


def exif_of(text: str) -> bytes:
    """Return EXIF data that hold `text` (ASCII), as Pillow takes them."""
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = EXIF_SIGN + text.encode("ascii")
    return exif.tobytes()


def in_flac(data: bytes, text: str) -> bytes:
    """Return a complete flac file with `text` (ASCII) among its Vorbis comments."""
    entry = f"{KEY.upper()}={text}".encode("ascii")
    entry = struct.pack("<I", len(entry)) + entry
    place, last = 4, False  # behind "fLaC"
    while not last:
        kind, length = data[place], int.from_bytes(data[place + 1 : place + 4], "big")
        last = bool(kind & 0x80)
        body = data[place + 4 : place + 4 + length]
        if kind & 0x7F == 4:  # the block of Vorbis comments: a vendor, a number of entries, the entries
            at = 4 + struct.unpack_from("<I", body)[0]
            count = struct.unpack_from("<I", body, at)[0]
            body = body[:at] + struct.pack("<I", count + 1) + body[at + 4 :] + entry
            head = bytes([kind]) + len(body).to_bytes(3, "big")
            return data[:place] + head + body + data[place + 4 + length :]
        place += 4 + length
    raise AssertionError("libsndfile writes a block of comments into every flac")


def in_mp3(data: bytes, text: str, comment: str | None) -> bytes:
    """Return a complete mp3 file with `text` (ASCII), and a comment for people, as ID3 before it."""
    frames = _frame(b"TXXX", b"\0" + KEY.encode() + b"\0" + text.encode("ascii"))
    if comment:
        frames += _frame(b"COMM", b"\3eng\0" + comment.encode())
    return b"ID3\x04\0\0" + _in_sevens(len(frames)) + frames + data


def _frame(kind: bytes, body: bytes) -> bytes:
    """Return one frame of ID3 2.4."""
    return kind + _in_sevens(len(body)) + b"\0\0" + body


def _in_sevens(number: int) -> bytes:
    """Return a number as four bytes of seven bits, as ID3 has it."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


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
                text = image.info.get(KEY) or _of_exif(image)
        except Image.UnidentifiedImageError:
            return None  # a recording or a clip
        except InputError:
            raise
        except Exception as error:  # decoders differ in what they throw at a damaged file
            raise InputError(
                f"{path} is damaged ({' '.join(str(error).split())[:120]}): export or copy it again"
            ) from error
    return text if isinstance(text, str) else None


def _of_exif(image: Any) -> str | None:
    """Return the text that a picture carries as EXIF; None if there is none, or another."""
    found = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if not isinstance(found, bytes) or not found.startswith(EXIF_SIGN):
        return None
    return found.removeprefix(EXIF_SIGN).decode("ascii", "replace")


def _of_container(path: str | Path) -> str | None:
    """Return the text that a recording or clip carries; None if it carries none or cannot be opened."""
    import av

    try:
        with open_container(path) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
    except (av.error.FFmpegError, ValueError):
        return None
    return found.get(KEY)
