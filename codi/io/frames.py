"""Read the frames of a clip at given times, by decord or by PyAV, which agree.

Before either decodes, the header is checked (format, size, rate, length). decord is the faster one for short
clips; it reads a file's whole index first. PyAV decodes from the key frame before the cut on, and notices
more damage; most damage inside a frame neither of them notices, only a digest does. Both show at time t the
frame nearest to t, and the later one of two frames that are equally near.

Letters: H height, W width. `times` are seconds from the first frame; `limit` is the time in seconds from
which on no frame is shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from codi.io import check_pixels
from codi.io.gates import MAX_DECODED, picture_stream
from codi.io.media_file import MAX_SECONDS, WARM_UP, MediaFile, decoding
from codi.io.read import duration_of
from codi.libraries import loads
from codi.types import InputError

Backend = Literal["decord", "av"]
BACKENDS = ("auto", "decord", "av")
MAX_BYTES = 8 << 30
_DECORD_FORMATS = {"mov", "mp4", "matroska", "webm", "avi"}
# The share of frames that decord may replace by their neighbours, which by default it does silently.
_NO_REPAIR = 1e-9
_NEAR = 1e-6  # seconds: times that differ by less are the same


@dataclass(frozen=True)
class Header:
    """The statements of a clip's header about its frames.

    Attributes:
        duration: seconds, 0 where the header does not say.
        fps: frames per second.
        frames: the number of frames, 0 where the header does not say.
        tick: the length of one tick of the stream's clock, in seconds.
        decord: whether decord can read the clip as it is meant.
    """

    duration: float
    fps: float
    frames: int
    tick: float
    decord: bool


def choose_backend(name: str) -> Backend:
    """Return the decoder to use: `name` itself, or for "auto" decord where it loads and else av.

    A name that is unknown, or decord where it is not installed or does not load, raises `InputError`.
    """
    if name not in BACKENDS:
        raise InputError(f"backend is {name!r}: expected one of {', '.join(BACKENDS)}")
    if name == "auto":
        return "decord" if loads("decord") else "av"
    if name == "decord" and not loads("decord"):
        reason = "is not installed, or does not load (`codi doctor` says which)"
        raise InputError(
            f"backend is decord, which {reason}: pip install decord (Linux on x86-64 only), or choose av"
        )
    return name


def read_frames(
    source: MediaFile,
    start: float,
    count: int,
    fps: float,
    until: float | None = None,
    backend: Backend = "decord",
) -> Tensor:
    """Return the frames that are nearest to the times start + k / fps.

    Args:
        source: the clip.
        start: seconds from the first frame of the clip.
        count: how many frames to return.
        fps: frames per second of the result, whatever the clip's own rate is.
        until: seconds; frames from this time on are not shown, and the last one before it is repeated
            instead.
        backend: which library decodes. decord gives way to PyAV where it would show the clip wrongly.

    Returns:
        uint8 (count, 3, H, W), upright.

    Raises:
        InputError: if the file is no clip, is damaged or cut short, is too large, or has no frame at `start`.
    """
    times = start + np.arange(count) / fps
    limit = float("inf") if until is None else until - _NEAR
    with decoding(source):
        header = gate(source, count)
        by_decord = backend == "decord" and header.decord
        pictures = (
            _by_decord(source, times, limit, header) if by_decord else _by_av(source, times, limit, header)
        )
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def gate(source: MediaFile, count: int) -> Header:
    """Return the header of a clip of which `count` frames are to be read, after checking it.

    A file that is too large, that holds no picture, or that states a rate or a length that is not accepted
    raises `InputError`.
    """
    size = source.content.stat().st_size if isinstance(source.content, Path) else len(source.content)
    if size > MAX_BYTES:
        raise InputError(f"{source.name} has {size >> 20} MiB: at most {MAX_BYTES >> 20} are accepted")
    with source.container() as container:
        stream = picture_stream(container)
        if stream is None:
            raise InputError(f"{source.name} holds no picture: expected a clip")
        check_pixels(stream.width, stream.height, source=source.name)
        if count * stream.width * stream.height * 3 > MAX_DECODED:
            raise InputError(
                f"{source.name}: {count} frames of {stream.width} x {stream.height} are more than "
                f"{MAX_DECODED >> 30} GiB"
            )
        fps, duration = float(stream.average_rate or stream.guessed_rate or 0), duration_of(container, stream)
        if not 0 < fps <= 1000 or duration > MAX_SECONDS:
            raise InputError(
                f"{source.name} states {fps:g} frames/s and {duration:.0f} s: that is outside what is "
                "accepted"
            )
        # where the stream states no length, that of the container may be the length of its sound
        own = duration if stream.duration else 0.0
        known = bool(_DECORD_FORMATS & set(container.format.name.split(",")))
        return Header(
            own, fps, stream.frames, float(stream.time_base), decord=known and _is_plain(container, stream)
        )


def _is_plain(container: Any, stream: Any) -> bool:
    """Return whether decord shows a stream as it is meant: alone, not to be turned, and wide enough.

    decord 0.6 misreads lines whose padded length is a multiple of their width: it takes them for pixels of
    more than three bytes (widths of 16, 24, 48 and 72).
    """
    wide = stream.width >= 128 or stream.width % 32 == 0
    return wide and len(container.streams.video) == 1 and not _turn(container, stream)


def _turn(container: Any, stream: Any) -> int:
    """Return the number of quarter turns that the first frame asks for."""
    frame = next(container.decode(stream), None)
    return 0 if frame is None else _quarters(frame)


def _quarters(frame: Any) -> int:
    return round(getattr(frame, "rotation", 0) / 90) % 4


def nearest(shown: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the number of the frame nearest to each time; `shown` are the times of the frames, in order."""
    return np.searchsorted((shown[1:] + shown[:-1]) / 2, times + _NEAR, side="right")


def _by_decord(source: MediaFile, times: np.ndarray, limit: float, header: Header) -> np.ndarray:
    """Return the frames nearest to `times` as uint8 (count, H, W, 3), decoded by decord."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(source.handle(), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_REPAIR)
    shown = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)  # float32 of seconds
    # rounded to whole ticks the times are exact again
    shown = np.round(shown / header.tick) * header.tick
    shown -= shown[0]
    usable = shown[shown < limit]
    if not len(usable):
        raise InputError(f"{source.name} has no frame before {limit:g} s")
    _check_reach(source, usable[-1], times, limit, header, len(reader))
    wanted, where = np.unique(nearest(usable, times), return_inverse=True)
    return reader.get_batch(wanted.tolist()).asnumpy()[where]


def _by_av(source: MediaFile, times: np.ndarray, limit: float, header: Header) -> np.ndarray:
    """Return the frames nearest to `times` as uint8 (count, H, W, 3), decoded by PyAV."""
    with source.container() as container:
        stream = picture_stream(container)
        origin = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
        sought = times[0] > 2 * WARM_UP
        if sought:
            container.seek(int((origin + times[0] - WARM_UP) * 1e6))
        pictures, first = _show(
            source, _decoded(source, container, stream, origin), times, limit, header, sought
        )
        if sought and first > times[0]:  # the seek landed behind the first time: read from the beginning
            container.seek(0)
            pictures, _ = _show(
                source, _decoded(source, container, stream, origin), times, limit, header, False
            )
    return np.stack(pictures)


def _decoded(source: MediaFile, container: Any, stream: Any, origin: float) -> Iterator[tuple[float, Any]]:
    """Yield (seconds, frame) in the order of time; frames before the first key frame are left out."""
    started = False
    for frame in container.decode(stream):
        started = started or frame.key_frame
        if frame.time is None or not started:
            continue
        if frame.is_corrupt:
            raise InputError(f"{source.name} is damaged at {frame.time:.2f} s")
        yield frame.time - origin, frame


def _show(
    source: MediaFile,
    frames: Iterator[tuple[float, Any]],
    times: np.ndarray,
    limit: float,
    header: Header,
    sought: bool,
) -> Any:
    """Return (pictures at `times`, time of the first frame); only frames that are shown are converted."""
    pictures: list[np.ndarray] = []
    before, first, count, ended = None, None, 0, True
    for time, frame in frames:
        if time >= limit:
            ended = False
            break
        count, first = count + 1, time if first is None else first
        while len(pictures) < len(times) and time >= times[len(pictures)] - _NEAR:
            at = times[len(pictures)]
            late = before is None or time - at <= at - before[0] + _NEAR * 2
            pictures.append(_pixels(frame if late else before[1]))
        before = (time, frame)
        if len(pictures) == len(times):
            return pictures, first
    if before is None:
        raise InputError(f"{source.name} has no frame that can be decoded from {times[0]:g} s on")
    _check_reach(source, before[0], times, limit, header, count if ended and not sought else None)
    return pictures + [_pixels(before[1])] * (len(times) - len(pictures)), first


def _pixels(frame: Any) -> np.ndarray:
    """Return a frame as uint8 (H, W, 3), upright."""
    picture = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, _quarters(frame))


def _check_reach(
    source: MediaFile, last: float, times: np.ndarray, limit: float, header: Header, count: int | None
) -> None:
    """Raise InputError if a clip has no frame at the beginning of a cut, or was itself cut short.

    A clip was cut short if it ends before the time that its header states, or has fewer frames (`count`) than
    its header states.
    """
    if times[0] > last + 1.5 / header.fps:
        raise InputError(
            f"{source.name} has no frame from {times[0]:g} s on: its last one is at {last:.2f} s"
        )
    if count is not None and count < header.frames:
        raise InputError(f"{source.name} is cut short: {count} of {header.frames} frames can be decoded")
    if last + 2.5 / header.fps < min(times[-1], limit, header.duration):
        raise InputError(
            f"{source.name} is cut short: its last frame is at {last:.2f} of {header.duration:.2f} s"
        )
