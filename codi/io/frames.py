"""Read the frames of a clip that are on show at given times, by PyAV or by decord, which agree.

On show at a time is the last frame whose own time has come. The first frame is on show from time 0 of the file
on (`codi.io.media_file`), and the last one stays. Only frames that are shown are converted and kept, upright,
in the shape in which a player shows them, with what is transparent on white.

Before anything is decoded, the header is checked (format, size, rate, length). decord is the faster one for
short clips; it reads a file's whole index first, and gives way to PyAV where it would show a clip wrongly. PyAV
decodes from the key frame before the cut on, and notices more damage; most damage inside a frame neither of them
notices, only a digest does.

Letters: F frames, H height, W width, N times. `times` are seconds from time 0 of the file; `limit` is the time
in seconds from which on no frame is shown.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from codi.io.animation import animation_frames, animation_seconds, is_animation, open_animation
from codi.io.display import Display, display_of, shown_size
from codi.io.gates import MAX_DECODED, MAX_MINUTES, check_minutes, check_pixels, names_heif, picture_stream
from codi.io.media_file import (
    MAX_SECONDS,
    WARM_UP,
    MediaFile,
    OtherKind,
    decoding,
    duration_of,
    is_mov,
    seek,
    start_of,
    zero_of,
)
from codi.io.pictures import image_to_tensor
from codi.libraries import loads
from codi.types import InputError

Backend = Literal["decord", "av"]
BACKENDS = ("auto", "decord", "av")
MAX_BYTES = 8 << 30
SLOW = 10.0  # frames per second, about, of animated pictures, which state none
FASTEST = 60.0  # frames per second of a clip for which nobody asked for a rate
_DECORD_FORMATS = {"mov", "mp4", "matroska", "webm"}
_DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9"}
_CHUNK = 8  # frames that decord decodes at a time
# The share of frames that decord may replace by their neighbours, which by default it does silently.
_NO_REPAIR = 1e-9
# Seconds by which a frame may be late and yet have come: many a container counts whole milliseconds.
NEAR = 5e-4 + 1e-6
_SAME = 1e-6  # seconds: times that differ by less are the same
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
        zero: where time 0 lies on the clock of the container, in seconds.
        start: the time of the first frame, in seconds from time 0.
        decord: whether decord can read the clip as it is meant.
    """

    duration: float
    fps: float
    frames: int
    tick: float
    zero: float = 0.0
    start: float = 0.0
    decord: bool = False


@dataclass(frozen=True)
class Shown:
    """The frames that are on show at N times.

    Attributes:
        pictures: uint8 (M, H, W, 3), each frame that is shown once.
        index: (N,), which of the pictures is on show at each time.
        last: the second at which the last frame that was read comes.
        end: the second at which that frame ends, as far as the file says.
    """

    pictures: np.ndarray
    index: np.ndarray
    last: float
    end: float

    def tensor(self, count: int | None = None) -> Tensor:
        """Return the frames at the first `count` times, or at all, uint8 (N, 3, H, W)."""
        index = self.index[:count]
        if len(index) * self.pictures[0].nbytes > MAX_DECODED:
            raise InputError(f"the frames need more than {MAX_DECODED >> 30} GiB")
        return torch.from_numpy(self.pictures[index]).permute(0, 3, 1, 2).contiguous()


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
    size: int | None = None,
) -> Tensor:
    """Return the frames that are on show at the times start + k / fps.

    Args:
        source: the clip.
        start: seconds from time 0 of the file.
        count: how many frames to return.
        fps: frames per second of the result, whatever the clip's own rate is.
        until: seconds; frames from this time on are not shown, and the last one before it is repeated
            instead.
        backend: which library decodes. decord gives way to PyAV where it would show the clip wrongly.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.

    Returns:
        uint8 (count, 3, H, W), upright.

    Raises:
        InputError: if the file is no clip, is damaged or cut short, is too large, or has no frame at `start`.
    """
    with decoding(source):
        return frames_at(source, start + np.arange(count) / fps, until, size, backend).tensor()


def frames_at(
    source: MediaFile,
    times: np.ndarray,
    until: float | None = None,
    size: int | None = None,
    backend: Backend = "av",
    threads: bool = False,
) -> Shown:
    """Return the frames of a clip that are on show at given times; errors of decoders pass through.

    Args:
        source: the clip.
        times: (N,) seconds from time 0 of the file, in order.
        until: seconds; frames from this time on are not shown.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.
        backend: which library decodes.
        threads: whether several threads decode.

    Returns:
        The frames.

    Raises:
        InputError: if the file is no clip, is damaged or cut short, is too large, or has no frame at the first
            of the times.
    """
    limit = math.inf if until is None else until - _SAME
    header = gate(source, 1 if size else len(times))
    wanted = _Wanted(source, times, limit, header, size)
    if is_animation(source):
        with open_animation(source) as image:
            return wanted.show(animation_frames(image), _from_pillow(size), whole=True)
    if backend == "decord" and header.decord:
        return _by_decord(wanted)
    return _by_av(wanted, threads)


# Headers ---------------------------------------------------------------


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
        fps = SLOW if _is_picture_file(container) else rate_of(source, stream)
        if duration > MAX_SECONDS:
            raise InputError(f"{source.name} states {duration:.0f} s: that is outside what is accepted")
        zero = zero_of(container)
        header = Header(
            _sure_duration(source, container, stream),
            fps,
            _num_frames(container, stream),
            float(stream.time_base),
            zero,
            max(0.0, (start_of(stream) or 0.0) - zero),
        )
        known = bool(_DECORD_FORMATS & set(container.format.name.split(",")))
        return replace(header, decord=known and _is_plain(container, stream))


def _gate_animation(source: MediaFile, count: int) -> Header:
    """Return the header of an animated picture, after checking its size."""
    with open_animation(source) as image:
        check_pixels(*image.size, source=source.name)
        _check_memory(source, count, *image.size)
        return Header(0.0, SLOW, image.n_frames, 1e-3)


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
    return duration_of(container, stream) if is_mov(container) else 0.0


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

    It knows nothing of edit lists, display matrices, the shape of pixels, opacity and more than 8 bits, and of
    several streams it takes another one. decord 0.6 misreads lines whose padded length is a multiple of their
    width: it takes them for pixels of more than three bytes (widths of 16, 24, 48 and 72).
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
    for packet in container.demux(stream):
        if packet.is_discard or not packet.size:
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


# Choosing frames -------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of a clip, and the choice of the frames that show it.

    Attributes:
        source: the clip.
        times: (N,) seconds from time 0 of the file.
        limit: seconds from which on no frame is shown.
        header: what the header says.
        size: the wanted size in pixels, of which frames are shrunk to about twice; None leaves them.
    """

    source: MediaFile
    times: np.ndarray
    limit: float
    header: Header
    size: int | None

    def show(
        self,
        frames: Iterator[tuple[float, float, Any]],
        convert: Callable[[Any], np.ndarray],
        whole: bool,
        num_hidden: Callable[[], int] = int,
    ) -> Shown:
        """Return what is on show at the times; only frames that are shown are converted.

        Args:
            frames: (seconds, seconds that it lasts, frame) in the order of time.
            convert: makes pixels (H, W, 3) of a frame.
            whole: whether the frames begin with the first of the clip.
            num_hidden: says how many frames were hidden, once all are read.
        """
        index = np.zeros(len(self.times), np.int64)
        pictures: list[np.ndarray] = []
        held, shown, count, ended = None, 0, 0, True
        last = end = 0.0
        for time, lasts, frame in frames:
            if time >= self.limit:
                ended = False
                break
            count += 1
            if held is not None:
                shown = self._keep(pictures, index, shown, time, held, convert)
            held, last, end = frame, time, max(end, time + lasts)
            if shown == len(self.times):
                ended = False
                break
        if held is None:
            raise InputError(
                f"{self.source.name} has no frame that can be decoded from {self.times[0]:g} s on"
            )
        if shown < len(self.times):
            found = count if ended and whole else None
            if found is not None and found < self.header.frames:
                found += num_hidden()
            self.check_reach(last, end if ended else last, found)
            self._keep(pictures, index, shown, math.inf, held, convert)
        return Shown(np.stack(pictures), index, last, end)

    def _keep(
        self,
        pictures: list[np.ndarray],
        index: np.ndarray,
        shown: int,
        until: float,
        frame: Any,
        convert: Callable[[Any], np.ndarray],
    ) -> int:
        """Convert a frame if it is on show at one of the times before `until`, and return how many are done."""
        upto = int(np.searchsorted(self.times, until - NEAR, side="left"))
        if upto > shown:
            pictures.append(convert(frame))
            index[shown:upto] = len(pictures) - 1
            if len(pictures) * pictures[-1].nbytes > MAX_DECODED:
                raise InputError(
                    f"{self.source.name} needs more than {MAX_DECODED >> 30} GiB once decoded: cut out the "
                    "part that you mean, or shrink it"
                )
        return max(upto, shown)

    def check_reach(self, last: float, end: float, count: int | None) -> None:
        """Raise InputError if a clip has no frame at the beginning of a cut, or was itself cut short.

        A clip was cut short if it ends before the time that its header states, or has fewer frames than its
        header states.

        Args:
            last: the second at which its last frame comes.
            end: the second at which that frame ends, as far as the file says.
            count: how many frames it has; None where not all were read.
        """
        name, header = self.source.name, self.header
        if self.times[0] > max(last + 1.5 / header.fps, end):
            raise InputError(
                f"{name} has no frame from {self.times[0]:g} s on: its last one is at {last:.2f} s"
            )
        if count is not None and count < header.frames:
            raise InputError(
                f"{name} is damaged or cut short: {count} of {header.frames} frames can be decoded; export or "
                "download it again"
            )
        stated = header.start + header.duration
        if max(last + 2.5 / header.fps, end + 0.5 / header.fps) < min(self.times[-1], self.limit, stated):
            raise InputError(f"{name} is cut short: its last frame is at {last:.2f} of {stated:.2f} s")


def _from_pillow(size: int | None) -> Callable[[Any], np.ndarray]:
    """Return what makes pixels (H, W, 3) of an image of Pillow."""

    def convert(image: Any) -> np.ndarray:
        pixels = image_to_tensor(image).permute(1, 2, 0).contiguous().numpy()
        return Display(*pixels.shape[1::-1]).resized(pixels, size)

    return convert


# PyAV ------------------------------------------------------------------


def _by_av(wanted: _Wanted, threads: bool) -> Shown:
    """Return the frames that are on show, decoded by PyAV."""
    header, first = wanted.header, wanted.times[0]
    if first > 2 * WARM_UP:
        with wanted.source.container() as container:
            stream = picture_stream(container)
            if not is_by_order(container, stream) and seek(container, header.zero + first - WARM_UP):
                found = _decoded_from(wanted, container, threads)
                if found is not None:
                    return found
    with wanted.source.container() as container:
        decoder = _Decoder(wanted, container, threads)
        return wanted.show(decoder.frames(True), decoder.convert, True, decoder.num_hidden)


def _decoded_from(wanted: _Wanted, container: Any, threads: bool) -> Shown | None:
    """Return the frames that are on show, from where a seek landed; None if it landed behind the first time."""
    decoder = _Decoder(wanted, container, threads)
    frames = decoder.frames(False)
    head = next(frames, None)
    if head is None or head[0] > wanted.times[0] + NEAR:
        return None

    def all_of_them() -> Iterator[tuple[float, float, Any]]:
        yield head
        yield from frames

    return wanted.show(all_of_them(), decoder.convert, False)


class _Decoder:
    """Decodes the picture of an open container, and makes pixels of its frames.

    Args:
        wanted: what is wanted of the clip.
        container: the open file.
        threads: whether several threads decode.
    """

    def __init__(self, wanted: _Wanted, container: Any, threads: bool) -> None:
        self.wanted, self.container = wanted, container
        self.stream = picture_stream(container)
        self._hidden = 0  # frames that an edit list hides, of those that were read
        self._by_order = is_by_order(container, self.stream)
        if threads:
            self.stream.thread_type = "AUTO"
        self._context = _with_opacity(self.stream)

    def frames(self, from_start: bool) -> Iterator[tuple[float, float, Any]]:
        """Yield (seconds, seconds that it lasts, frame) in the order of time.

        Damaged frames before the first key frame are left out, as players do with what was cut out of a
        broadcast; after a seek all frames before it are.

        Args:
            from_start: whether the container is at its start.
        """
        header, name = self.wanted.header, self.wanted.source.name
        tick, queue = header.tick, deque[float]()
        lasts: dict[int, float] = {}
        started, previous = False, -math.inf
        for packet in self.container.demux(self.stream):
            if packet.size:
                self._hidden += packet.is_discard
                at = packet.dts if self._by_order or packet.pts is None else packet.pts
                if at is not None:
                    lasts[at] = (packet.duration or 0) * tick
                if self._by_order:
                    queue.append(previous + 1 / header.fps if at is None else at * tick)
            for frame in self._decode(packet):
                time = self._time_of(frame, queue, previous)
                started = started or frame.key_frame or (from_start and not frame.is_corrupt)
                if not started:
                    continue
                if frame.is_corrupt:
                    raise InputError(
                        f"{name} is damaged at {time - header.zero:.2f} s: export or download it again"
                    )
                previous = max(previous, time)
                yield previous - header.zero, lasts.pop(round(time / tick), 0.0), frame

    def num_hidden(self) -> int:
        """Return how many frames an edit list hides, at the beginning of the clip and at its end."""
        return max(self._hidden, sum(entry.is_discard for entry in getattr(self.stream, "index_entries", ())))

    def _time_of(self, frame: Any, queue: deque[float], previous: float) -> float:
        """Return the second of a frame on the clock of the container."""
        if self._by_order:  # the frame that is shown as the n-th has the time of the n-th packet
            return queue.popleft() if queue else previous + 1 / self.wanted.header.fps
        if frame.time is not None:
            return float(frame.time)
        return previous + 1 / self.wanted.header.fps if math.isfinite(previous) else self.wanted.header.zero

    def _decode(self, packet: Any) -> list[Any]:
        if self._context is None:
            return list(packet.decode())
        return list(self._context.decode(packet if packet.size else None))

    def convert(self, frame: Any) -> np.ndarray:
        """Return a frame as uint8 (H, W, 3), as a player shows it."""
        return display_of(frame, self.stream).pixels(frame, self.wanted.size)


def _with_opacity(stream: Any) -> Any:
    """Return a decoder that reads the opacity of a VP8 or VP9 stream; None where there is none to read.

    FFmpeg's own decoders leave it out.
    """
    import av

    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return None
    return av.CodecContext.create(name, "r")


# decord ----------------------------------------------------------------


def _by_decord(wanted: _Wanted) -> Shown:
    """Return the frames that are on show, decoded by decord."""
    import decord

    source, header, times = wanted.source, wanted.header, wanted.times
    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(source.handle(), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_REPAIR)
    stamps = reader.get_frame_timestamp(np.arange(len(reader))).astype(np.float64)  # float32 of seconds
    if not (np.abs(stamps) <= MAX_SECONDS).all() or (np.diff(stamps[:, 0]) <= 0).any():
        return _by_av(wanted, threads=False)  # of some files decord knows no times
    # rounded to whole ticks the times are exact again
    begins, ends = (np.round(stamps / header.tick) * header.tick).T
    ends, begins = ends - begins[0] + header.start, begins - begins[0] + header.start
    usable = begins[begins < wanted.limit]
    if not len(usable):
        raise InputError(f"{source.name} has no frame before {wanted.limit:g} s")
    wanted.check_reach(usable[-1], max(ends[len(usable) - 1], usable[-1]), len(reader))
    chosen = on_show(usable, times, NEAR)
    numbers, index = np.unique(chosen, return_inverse=True)
    pictures: list[np.ndarray] = []
    for k in range(0, len(numbers), _CHUNK):
        batch = reader.get_batch(numbers[k : k + _CHUNK].tolist()).asnumpy()
        pictures += [Display(*picture.shape[1::-1]).resized(picture, wanted.size) for picture in batch]
    return Shown(np.stack(pictures), index, float(usable[-1]), float(ends[len(usable) - 1]))


def on_show(begins: np.ndarray, times: np.ndarray, near: float = NEAR) -> np.ndarray:
    """Return the number of the frame that is on show at each time.

    Args:
        begins: the times of the frames in seconds, in order.
        times: the times that are asked for, in seconds.
        near: the seconds by which a frame may be late and yet have come.

    Returns:
        The last frame whose time has come, or the first where none has.
    """
    return (np.searchsorted(begins, times + near, side="right") - 1).clip(0)


# Clips without a wanted rate -------------------------------------------


def read_clip(
    source: MediaFile, fps: float | None = None, seconds: float | None = None, size: int | None = None
) -> tuple[Tensor, float, list[str]]:
    """Return the frames of a clip from time 0 on, at an even rate; errors of decoders pass through.

    Args:
        source: the clip.
        fps: frames per second of the result; None for a rate that shows the clip as it is (`even_rate`).
        seconds: decode only the beginning, of this many seconds; None decodes all.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.

    Returns:
        The frames, uint8 (F, 3, H, W), which end where the clip does; their rate; and notes on what was left
        out.

    Raises:
        InputError: if the file is no clip, is damaged, too long or too large, or states an absurd rate.
    """
    header = gate(source, 1)
    duration = clip_seconds(source)
    check_minutes(duration, source.name)
    fps = even_rate(source, header) if fps is None else fps
    most = 60.0 * MAX_MINUTES if seconds is None else min(seconds, 60.0 * MAX_MINUTES)
    shown = frames_at(source, np.arange(max(1, math.ceil(most * fps - _SAME))) / fps, size=size, threads=True)
    near = NEAR * fps
    count = max(1, math.ceil(shown.last * fps - near) + 1, round(min(shown.end, most) * fps))
    return shown.tensor(count), fps, cut_note(source.name, duration, seconds)


def cut_note(name: str, duration: float, seconds: float | None) -> list[str]:
    """Return the note that only the beginning of a file is used, if it is noticeably longer."""
    cut = seconds is not None and duration > 1.1 * seconds
    return [f"{name} lasts {duration:.1f} s: only its beginning is used"] if cut else []


def clip_seconds(source: MediaFile) -> float:
    """Return how long a clip lasts as its header states it, 0 where it does not."""
    animation = animation_seconds(source)
    if animation is not None:
        return animation
    with source.container() as container:
        return duration_of(container, picture_stream(container))


def even_rate(source: MediaFile, header: Header) -> float:
    """Return a rate at which every frame of a clip is shown at its time, at most `FASTEST`.

    That is the rate that the clip states if its frames come evenly, and else the lowest one on whose steps all
    of them come.
    """
    times = frame_times(source, header)
    gaps = np.diff(times)
    gaps = gaps[gaps > 2 * _SAME]
    if not len(gaps) or np.abs(gaps * header.fps - 1).max() <= _JITTER + header.tick * header.fps / 2:
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
