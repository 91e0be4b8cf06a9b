"""Tell what a file shows or plays by a digest that says nothing of how it was made.

Tags, records and signatures may be added to a file and taken away, which moves its bytes about; what a viewer
shows and a player plays stays. The digest is of that alone, as it is encoded:

    png              the chunks that decide what is shown (`_SHOWN`), in their order
    sounds, clips    of every stream its codec, its codec's own data, and all its packets
    anything else    the bytes of the file
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from codi.io.gates import check_file, open_container
from codi.types import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
# chunks that decide what is shown; others hold texts, times and credentials
_SHOWN = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND"}
_MEDIA = {".wav", ".flac", ".mp3", ".ogg", ".mp4", ".mov", ".m4v", ".m4a", ".mkv", ".webm"}


def content_sha256(path: str | Path) -> str:
    """Return the digest of what a file shows or plays, in hexadecimal digits.

    Args:
        path: the file.

    Returns:
        The digest; of a sound, a clip or a png it is the same before and after the file is signed.

    Raises:
        InputError: if the file is missing, empty or damaged.
    """
    check_file(path)
    with open(path, "rb") as file:
        if file.read(len(_PNG)) == _PNG:
            return _of_parts(_chunks(file, path))
    if Path(path).suffix.lower() in _MEDIA:
        return _of_parts(_packets(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_parts(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _chunks(file: BinaryIO, path: str | Path) -> Iterator[bytes]:
    """Yield the kinds and the data of the chunks of a png that decide what is shown."""
    while head := file.read(8):
        if len(head) < 8:
            raise InputError(f"{path} is damaged (it ends within a chunk): copy it again")
        length, kind = struct.unpack(">I4s", head)
        if kind not in _SHOWN:
            file.seek(length + 4, 1)
            continue
        yield kind
        while length:
            data = file.read(min(length, 1 << 20))
            if not data:
                raise InputError(f"{path} is damaged (it ends within a chunk): copy it again")
            length -= len(data)
            yield data
        file.seek(4, 1)


def _packets(path: str | Path) -> Iterator[bytes]:
    """Yield for every stream of a recording or a clip its codec, that codec's data, and its packets."""
    import av

    try:
        with open_container(path) as container:
            digests: dict[int, Any] = {}
            for stream in container.streams:
                digest = digests[stream.index] = hashlib.sha256(stream.type.encode())
                context = getattr(stream, "codec_context", None)
                if context is not None:
                    digest.update(str(context.name).encode() + b"\0" + (context.extradata or b""))
            for packet in container.demux():
                if packet.size:
                    digests[packet.stream.index].update(bytes(packet))
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())[:120]}): copy it again"
        ) from error
    for digest in digests.values():
        yield digest.digest()
