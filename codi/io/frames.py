"""Read the frames of a clip that are on show at given times, by PyAV or by decord, which agree.

On show at a time is the last frame whose own time has come. The first frame is on show from time 0 of the
file on (`codi.io.media_file`), and the last one stays. Only frames that are shown are converted and kept,
upright, in the shape in which a player shows them, with what is transparent on white.

decord is the faster one for short clips; it reads a file's whole index first, and gives way to PyAV where it
would show a clip wrongly. PyAV decodes from the key frame before the cut on, and notices more damage; most
damage inside a frame neither of them notices, only a digest does.

Letters: F frames, H height, W width, N times. `times` are seconds from time 0 of the file.
"""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from codi.io.animation import is_animation, repeats_of
from codi.io.clip_decoders import Shown, Wanted, by_av, by_decord, by_pillow
from codi.io.clip_header import NEAR, SAME, Header, even_rate, gate
from codi.io.gates import MAX_MINUTES, check_minutes
from codi.io.media_file import MediaFile, decoding
from codi.libraries import loads
from codi.types import InputError

Backend = Literal["decord", "av"]
BACKENDS = ("auto", "decord", "av")


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
    return "decord" if name == "decord" else "av"


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


def read_shown(
    source: MediaFile,
    start: float,
    count: int,
    fps: float,
    until: float | None = None,
    backend: Backend = "decord",
    size: int | None = None,
) -> tuple[Tensor, int]:
    """Return the frames as `read_frames` does, and how many of them come before the clip ends.

    The rest, which repeat the last frame, are padding. An animated picture that repeats goes on, unless
    `until` says where it ends.

    Args:
        source: the clip.
        start: seconds from time 0 of the file.
        count: how many frames to return.
        fps: frames per second of the result, whatever the clip's own rate is.
        until: seconds; frames from this time on are not shown.
        backend: which library decodes.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.

    Returns:
        uint8 (count, 3, H, W), and a number from 1 to `count`.

    Raises:
        InputError: for the same reasons as `read_frames`.
    """
    times = start + np.arange(count) / fps
    with decoding(source):
        header = gate(source, 1 if size else count)
        found = frames_at(source, times, until, size, backend, header=header, loop=until is None)
    # of a last frame whose length the file does not say, that of the others is taken
    end = found.end if found.end > found.last else found.last + 1 / header.fps
    end = end if until is None else min(end, until)
    return found.tensor(), max(1, int((times < end - NEAR).sum()))


def frames_at(
    source: MediaFile,
    times: np.ndarray,
    until: float | None = None,
    size: int | None = None,
    backend: Backend = "av",
    threads: bool = False,
    header: Header | None = None,
    loop: bool = False,
) -> Shown:
    """Return the frames of a clip that are on show at given times; errors of decoders pass through.

    Args:
        source: the clip.
        times: (N,) seconds from time 0 of the file, in order.
        until: seconds; frames from this time on are not shown.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.
        backend: which library decodes.
        threads: whether several threads decode.
        header: the header of the clip, where it was checked already.
        loop: whether an animated picture that repeats goes on.

    Returns:
        The frames.

    Raises:
        InputError: if the file is no clip, is damaged or cut short, is too large, or has no frame at the
            first of the times.
    """
    limit = math.inf if until is None else until - SAME
    header = header or gate(source, 1 if size else len(times))
    if loop and (repeats := repeats_of(source)) is not None:
        return _repeated(source, times, *repeats, size, backend, threads, header)
    wanted = Wanted(source, times, limit, header, size)
    if is_animation(source):
        return by_pillow(wanted)
    if backend == "decord" and header.decord:
        return by_decord(wanted)
    return by_av(wanted, threads)


def _repeated(source: MediaFile, times: np.ndarray, lasts: float, passes: float, *how: Any) -> Shown:
    """Return the frames of an animated picture that are on show at given times, over all of its passes.

    Args:
        source: the animated picture.
        times: (N,) seconds from its start, in order.
        lasts: the seconds of one pass.
        passes: how often it is shown; infinite where it never ends.
        *how: the further arguments of `frames_at`, from `size` on.

    Returns:
        The frames.
    """
    # a frame may come a little early (NEAR), and so may the first one of a pass
    within = ((times + NEAR) % lasts - NEAR).clip(0)
    within[times + NEAR >= passes * lasts] = max(0.0, lasts - 2 * NEAR)
    once, back = np.unique(within, return_inverse=True)
    size, backend, threads, header = how
    shown = frames_at(source, once, None, size, backend, threads, header)
    return replace(shown, index=shown.index[back], end=passes * lasts)


def read_clip(
    source: MediaFile,
    fps: float | None = None,
    seconds: float | None = None,
    size: int | None = None,
    loop: bool = False,
) -> tuple[Tensor, float, list[str]]:
    """Return the frames of a clip from time 0 on, at an even rate; errors of decoders pass through.

    Args:
        source: the clip.
        fps: frames per second of the result; None for a rate that shows the clip as it is (`even_rate`).
        seconds: decode only the beginning, of this many seconds; None decodes all.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them.
        loop: whether an animated picture that repeats goes on until `seconds` are full.

    Returns:
        The frames, uint8 (F, 3, H, W), which end where the clip does; their rate; and notes on what was left
        out.

    Raises:
        InputError: if the file is no clip, is damaged, too long or too large, or states an absurd rate.
    """
    header = gate(source, 1)
    check_minutes(header.stated, source.name)
    fps = even_rate(source, header) if fps is None else fps
    most = 60.0 * MAX_MINUTES if seconds is None else min(seconds, 60.0 * MAX_MINUTES)
    times = np.arange(max(1, math.ceil(most * fps - SAME))) / fps
    goes_on = loop and seconds is not None
    shown = frames_at(source, times, size=size, threads=True, header=header, loop=goes_on)
    near = NEAR * fps
    count = max(1, math.ceil(shown.last * fps - near) + 1, round(min(shown.end, most) * fps))
    return shown.tensor(count), fps, cut_note(source.name, header.stated, seconds)


def cut_note(name: str, duration: float, seconds: float | None) -> list[str]:
    """Return the note that only the beginning of a file is used, if it is noticeably longer."""
    cut = seconds is not None and duration > 1.1 * seconds
    return [f"{name} lasts {duration:.1f} s: only its beginning is used"] if cut else []
