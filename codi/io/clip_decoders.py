"""Decode the frames of a clip that are on show at given times, by PyAV, decord or Pillow, which agree.

On show at a time is the last frame whose own time has come. Only frames that are shown are converted.

Letters: H height, W width, N times, M pictures. `times` are seconds from time 0 of the file; `limit` is the
time in seconds from which on no frame is shown.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.io.animation import animation_frames, open_animation
from codi.io.clip_header import NEAR, Header, is_by_order
from codi.io.display import Display, display_of
from codi.io.gates import MAX_DECODED, picture_stream
from codi.io.media_file import MAX_SECONDS, WARM_UP, MediaFile, seek
from codi.io.pictures import image_to_tensor
from codi.types import InputError

_CHUNK = 8  # frames that decord decodes at a time
# The share of frames that decord may replace by their neighbours, which by default it does silently.
_NO_REPAIR = 1e-9


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


@dataclass(frozen=True)
class Wanted:
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

        Returns:
            The frames that are shown.

        Raises:
            InputError: if there is none, or the clip is cut short.
        """
        index = np.zeros(len(self.times), np.int64)
        pictures: list[np.ndarray] = []
        held, shown, count, ended = None, 0, 0, True
        last = end = 0.0
        for time, lasts, frame in frames:
            if time >= self.limit:
                ended, end = False, max(end, self.limit)
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
        """Convert a frame if it is on show at a time before `until`, and return how many times are done."""
        upto = int(np.searchsorted(self.times, until - NEAR, side="left"))
        if upto > shown:
            pictures.append(convert(frame))
            if pictures[-1].shape != pictures[0].shape:
                (height, width, _), (later, wide, _) = pictures[0].shape, pictures[-1].shape
                raise InputError(
                    f"{self.source.name} changes its size from {width} x {height} to {wide} x {later}: "
                    "re-encode it in one size"
                )
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
                f"{name} is damaged or cut short: {count} of {header.frames} frames can be decoded; export "
                "or download it again"
            )
        stated = header.start + header.duration
        if max(last + 2.5 / header.fps, end + 0.5 / header.fps) < min(self.times[-1], self.limit, stated):
            raise InputError(f"{name} is cut short: its last frame is at {last:.2f} of {stated:.2f} s")


# Pillow ----------------------------------------------------------------


def by_pillow(wanted: Wanted) -> Shown:
    """Return the frames that are on show of an animated picture, decoded by Pillow."""
    with open_animation(wanted.source) as image:
        return wanted.show(animation_frames(image), _from_pillow(wanted.size), whole=True)


def _from_pillow(size: int | None) -> Callable[[Any], np.ndarray]:
    """Return what makes pixels (H, W, 3) of an image of Pillow."""

    def convert(image: Any) -> np.ndarray:
        pixels = image_to_tensor(image).permute(1, 2, 0).contiguous().numpy()
        return Display(*pixels.shape[1::-1]).resized(pixels, size)

    return convert


# PyAV ------------------------------------------------------------------


def by_av(wanted: Wanted, threads: bool) -> Shown:
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


def _decoded_from(wanted: Wanted, container: Any, threads: bool) -> Shown | None:
    """Return the frames that are on show, from where a seek landed; None if that is behind the first time."""
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

    def __init__(self, wanted: Wanted, container: Any, threads: bool) -> None:
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

        Yields:
            The frames, with times from time 0 of the file.

        Raises:
            InputError: if a frame is damaged.
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


def by_decord(wanted: Wanted) -> Shown:
    """Return the frames that are on show, decoded by decord."""
    import decord

    source, header, times = wanted.source, wanted.header, wanted.times
    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(source.handle(), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_REPAIR)
    stamps = reader.get_frame_timestamp(np.arange(len(reader))).astype(np.float64)  # float32 of seconds
    if not (np.abs(stamps) <= MAX_SECONDS).all() or (np.diff(stamps[:, 0]) <= 0).any():
        return by_av(wanted, threads=False)  # of some files decord knows no times
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
