"""Check the header of a clip before anything is decoded, and say what its header and packets tell of it.

Limits are on format, size, rate and length. What decord would show wrongly is found out here as well.

Letters: F frames.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from codi.io.animation import animation_frames, animation_seconds, is_animation, open_animation
from codi.io.display import display_of, shown_size
from codi.io.gates import MAX_DECODED, check_pixels, names_heif, picture_stream
from codi.io.media_file import MAX_SECONDS, MediaFile, OtherKind, duration_of, is_mov, start_of, zero_of
from codi.types import InputError

MAX_BYTES = 8 << 30
SLOW = 10.0  # frames per second, about, of animated pictures, which state none
FASTEST = 60.0  # frames per second of a clip for which nobody asked for a rate
# Seconds by which a frame may be late and yet have come: many a container counts whole milliseconds.
NEAR = 5e-4 + 1e-6
SAME = 1e-6  # seconds: times that differ by less are the same
_DECORD_FORMATS = {"mov", "mp4", "matroska", "webm"}
_DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9"}
_OFF_STEP = 0.02  # by how much of a step a frame may be off one
_JITTER = 0.25  # by how much of a frame's time the times of an even clip may be off


@dataclass(frozen=True)
class Header:
    """The statements of a clip's header about its frames.

    Attributes:
        duration: seconds, 0 where the header does not say, or may be wrong.
        fps: frames per second.
        frames: the number of frames, 0 where the header does not say.
        tick: the length of one tick of the stream's clock, in seconds.
        stated: seconds that the header states, be they sure or not; 0 where it states none.
        zero: where time 0 lies on the clock of the container, in seconds.
        start: the time of the first frame, in seconds from time 0.
        decord: whether decord can read the clip as it is meant.
    """

    duration: float
    fps: float
    frames: int
    tick: float
    stated: float = 0.0
    zero: float = 0.0
    start: float = 0.0
    decord: bool = False


def gate(source: MediaFile, count: int) -> Header:
    """Return the header of a clip of which `count` frames are to be read, after checking it.

    A file that is too large, that holds no picture, or that states a rate or a length that is not accepted
    raises `InputError`.
    """
    size = source.size()
    if size > MAX_BYTES:
        raise InputError(f"{source.name} has {size >> 20} MiB: at most {MAX_BYTES >> 20} are accepted")
    if is_animation(source):
        return _gate_animation(source, count)
    if names_heif(source.head(64)):
        raise OtherKind(f"{source.name} is a picture: expected a clip")
    with source.container() as container:
        stream = picture_stream(container)
        if stream is None:
            raise OtherKind(f"{source.name} holds no picture: expected a clip")
        check_pixels(stream.width, stream.height, source=source.name)
        width, height = shown_size(stream)
        check_pixels(width, height, source=source.name)
        _check_memory(source, count, width, height)
        duration = duration_of(container, stream)
        unstated = not 0 < float(stream.average_rate or 0) <= 1000 and _is_picture_file(container)
        fps = SLOW if unstated else rate_of(source, stream)
        if duration > MAX_SECONDS:
            raise InputError(f"{source.name} states {duration:.0f} s: that is outside what is accepted")
        zero = zero_of(container)
        header = Header(
            _sure_duration(source, container, stream),
            fps,
            _num_frames(container, stream),
            float(stream.time_base),
            duration,
            zero,
            max(0.0, (start_of(stream) or 0.0) - zero),
        )
        known = bool(_DECORD_FORMATS & set(container.format.name.split(",")))
        return replace(header, decord=known and _is_plain(container, stream))


def _gate_animation(source: MediaFile, count: int) -> Header:
    """Return the header of an animated picture, after checking its size."""
    with open_animation(source) as image:
        check_pixels(image.width, image.height, source=source.name)
        _check_memory(source, count, image.width, image.height)
        return Header(0.0, SLOW, image.n_frames, 1e-3, animation_seconds(source) or 0.0)


def _check_memory(source: MediaFile, count: int, width: int, height: int) -> None:
    if count * width * height * 3 > MAX_DECODED:
        raise InputError(
            f"{source.name}: {count} frames of {width} x {height} are more than {MAX_DECODED >> 30} GiB"
        )


def rate_of(source: MediaFile, stream: Any) -> float:
    """Return the frames per second that a stream states; `InputError` for a rate that is absurd."""
    stated = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    fps = next((rate for rate in stated if 0 < rate <= 1000), stated[0] if stated else 0.0)
    if not 0 < fps <= 1000:
        raise InputError(
            f"{source.name} states {fps:g} frames/s: expected between 0 and 1000. Re-encode the clip, e.g. "
            "with ffmpeg."
        )
    return fps


def _sure_duration(source: MediaFile, container: Any, stream: Any) -> float:
    """Return the seconds that the picture lasts, where the header knows them; else 0.

    Matroska states the length of the longest stream, others estimate it. An avi file that is all there may
    end with frames that were left out because nothing changed.
    """
    if not stream.duration:
        return 0.0
    if container.format.name == "avi":
        with source.stream() as file:
            size = 8 + int.from_bytes(file.read(8)[4:], "little")
        return 0.0 if source.size() >= size else duration_of(container, stream)
    return min(duration_of(container, stream), _indexed_seconds(stream)) if is_mov(container) else 0.0


def _indexed_seconds(stream: Any) -> float:
    """Return the seconds from the first frame that an edit list leaves to the last, and one frame more.

    What the stream states may count the time before its first frame as well.
    """
    index = getattr(stream, "index_entries", ())
    first = next((entry for entry in index if not entry.is_discard), None)
    last = next((index[k] for k in range(len(index) - 1, -1, -1) if not index[k].is_discard), None)
    if first is None or last is None or not stream.average_rate:
        return math.inf
    return float((last.timestamp - first.timestamp) * stream.time_base + 1 / stream.average_rate)


def _num_frames(container: Any, stream: Any) -> int:
    """Return how many frames are to be found, 0 where nothing says it.

    The index of the container knows what its edit lists leave, and which frames of an avi file were left out.
    """
    index = getattr(stream, "index_entries", ())
    return len(index) if stream.frames and len(index) and not _is_picture_file(container) else stream.frames


def _is_picture_file(container: Any) -> bool:
    """Return whether a container is an animated picture, in which every frame has its own duration."""
    return container.format.name in ("gif", "apng")


def _is_plain(container: Any, stream: Any) -> bool:
    """Return whether decord shows a stream as it is meant.

    It knows nothing of edit lists, display matrices, the shape of pixels, opacity and more than 8 bits, and
    of several streams it takes another one. decord 0.6 misreads lines whose padded length is a multiple of
    their width: it takes them for pixels of more than three bytes (widths of 16, 24, 48 and 72).
    """
    wide = stream.width >= 128 or stream.width % 32 == 0
    if (
        not wide
        or len(container.streams.video) != 1
        or stream.codec_context.codec.canonical_name not in _DECORD_CODECS
    ):
        return False
    if stream.metadata.get("alpha_mode") or is_by_order(container, stream) or _is_cut(stream):
        return False
    for number, packet in enumerate(container.demux(stream)):
        if packet.is_discard or (number == 0 and not packet.is_keyframe):
            return False
        for frame in packet.decode():
            return display_of(frame, stream).plain
    return False


def _is_cut(stream: Any) -> bool:
    """Return whether an edit list cuts frames off the end of a stream, or out of its index."""
    index = getattr(stream, "index_entries", ())
    return bool(stream.frames and len(index)) and (
        len(index) != stream.frames or index[len(index) - 1].is_discard
    )


def is_by_order(container: Any, stream: Any) -> bool:
    """Return whether packets carry times of decoding alone, so that frames have them in the order of showing.

    So it is in avi, and in Matroska where it holds a stream as avi does.
    """
    tag = stream.codec_context.codec_tag.strip("\0[] ")
    return container.format.name == "avi" or ("matroska" in container.format.name and bool(tag.strip("0")))


def even_rate(source: MediaFile, header: Header) -> float:
    """Return a rate at which every frame of a clip is shown at its time, at most `FASTEST`.

    That is the rate that the clip states if its frames come evenly, and else the lowest one on whose steps
    all of them come.
    """
    times = frame_times(source, header)
    gaps = np.diff(times)
    gaps = gaps[gaps > 2 * SAME]
    jitter = _JITTER + header.tick * header.fps / 2
    if not len(gaps) or (header.fps != SLOW and np.abs(gaps * header.fps - 1).max() <= jitter):
        return min(header.fps, FASTEST)
    least = float(gaps.min())
    whole = round(1 / least)
    for fps in (1 / (round(least / header.tick) * header.tick), float(whole), header.fps):
        steps = times * fps
        if 0 < fps <= FASTEST and np.abs(steps - steps.round()).max() <= NEAR * fps + _OFF_STEP:
            return float(fps)
    return FASTEST


def frame_times(source: MediaFile, header: Header) -> np.ndarray:
    """Return the seconds, from time 0 of a clip, at which its frames come, without decoding them."""
    if is_animation(source):
        with open_animation(source) as image:
            return np.array([begins for begins, _, _ in animation_frames(image)])
    with source.container() as container:
        stream = picture_stream(container)
        by_order = is_by_order(container, stream)
        found = [
            packet.dts if by_order or packet.pts is None else packet.pts
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
    ticks = np.sort(np.array([at for at in found if at is not None], dtype=np.float64))
    return ticks * float(Fraction(header.tick).limit_denominator(1 << 31)) - header.zero
