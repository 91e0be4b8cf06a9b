"""Hold a media file for reading: its bytes or its path, how it is opened, and the clock of its streams.

Whatever reads a medium in this package starts from a `MediaFile` and plain arguments, and returns tensors,
facts and notes. What a decoder throws at a damaged file becomes one `InputError`; a mistake in this code base
stays what it is (`decoding`).

Time 0 of a file is the start of the earliest of its default streams, the picture and the sound that a player
takes. Everything that is read from the file counts from there, so that picture and sound keep together.
"""

import io
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import codi.types
from codi.io.gates import OPENING, picture_stream, sound_stream
from codi.types import InputError

MAX_SECONDS = 12 * 3600  # of a whole file, of which a cut is read
WARM_UP = 0.5  # seconds decoded before a cut, which a codec may need to be itself again after a seek
_ROOT = Path(codi.types.__file__).resolve().parent
_TOOLS = {"torch", "torchaudio"}  # which open no file here: a wrong argument to them is our mistake
_OURS = (TypeError, AttributeError, NameError, AssertionError, ImportError, NotImplementedError)


@dataclass(frozen=True)
class MediaFile:
    """The bytes of a media file, or its path, with the name that messages give it.

    Attributes:
        content: the bytes, or the path.
        name: what messages call it.
    """

    content: Path | bytes
    name: str

    def handle(self) -> Any:
        """Return what Pillow, soundfile and decord open: a stream of the bytes, or the path as text."""
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        name = str(self.content.resolve())
        try:
            name.encode()
        except UnicodeEncodeError:  # a name that is not UTF-8, which not every library takes
            return self.content.open("rb")
        return name

    def container(self) -> Any:
        """Return a PyAV container on this source only: no format that names other files is allowed."""
        import av

        handle = self.handle()
        return av.open(f"file:{handle}" if isinstance(handle, str) else handle, options=OPENING)

    def stream(self) -> Any:
        """Return the content as an open binary file."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")

    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or all where there are fewer."""
        with self.stream() as stream:
            content: bytes = stream.read(count)
        return content


class OtherKind(InputError):
    """A file that can be read, but holds no medium of the kind that was wanted."""

    other_kind = True


@contextmanager
def decoding(source: MediaFile) -> Iterator[None]:
    """Turn what a decoder throws inside this context into an `InputError`.

    A programming error in this code base, or in how it calls a library that decodes nothing, passes through.

    Args:
        source: what is decoded, for the message.

    Yields:
        None.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, _OURS) and is_ours(error):
            raise
        reason = (
            re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "it", " ".join(str(error).split()))[:160] or "no reason given"
        )
        raise InputError(f"{source.name} cannot be decoded ({type(error).__name__}: {reason})") from error


def is_ours(error: BaseException) -> bool:
    """Return whether the line that raised is in this code base or in a library that decodes nothing."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return last.is_relative_to(_ROOT) or not _TOOLS.isdisjoint(last.parts)


def is_mov(container: Any) -> bool:
    """Return whether a container is of the family of QuickTime and mp4, in which edit lists hide frames."""
    return "mov" in container.format.name.split(",")


def start_of(stream: Any) -> float | None:
    """Return the second of the container's clock at which a stream begins; None where nothing says it."""
    if stream is None or stream.start_time is None:
        return None
    return float(stream.start_time * stream.time_base)


def zero_of(container: Any) -> float:
    """Return where time 0 of a file lies on the clock of its container, in seconds.

    That is where the earlier one of its picture and its sound begins. What an mp4 file has before the zero of
    its own clock is hidden by its edit list (or is the priming of an encoder), and does not count.
    """
    picture, sound = picture_stream(container), sound_stream(container)
    begins = [start for stream in (picture, sound) if (start := start_of(stream)) is not None]
    zero = min(begins, default=0.0)
    if is_mov(container):
        zero = max(zero, 0.0)
    shown = start_of(picture)
    if shown is not None and sound is not None:
        # Clocks tick coarsely: a picture that is late by about a tick begins together with the sound.
        tick = max(float(picture.time_base), float(sound.time_base))
        if 0 < shown - zero <= 1.5 * min(tick, 1e-3):
            return shown
    return zero


def duration_of(container: Any, stream: Any) -> float:
    """Return the duration in seconds as the header of a file states it; 0 if it does not.

    Raw AAC states none, and what FFmpeg makes of its bit rate may be several times too long.
    """
    if container.format.name == "aac":
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def seek(container: Any, seconds: float) -> bool:
    """Move a container to the key frame before a second of its clock, and return whether it could."""
    import av

    try:
        container.seek(int(seconds * 1e6))
    except av.error.FFmpegError:  # a file without an index, or without a frame that is marked as key
        return False
    return True
