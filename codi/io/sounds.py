"""Read a stretch of the sound of a file, at its own rate, in its place in time.

Sound keeps the times of its container: what begins late is preceded by silence, a gap is silence, and what an
encoder added before the first sample is left out. A cut at `start` seconds begins with sample
round(start * rate), wherever the cut is. Time 0 is that of `codi.io.media_file`.

Channels become one: mono stays as it is, of two the mean is taken, and more are mixed down to two by FFmpeg's
own matrix before that. FFmpeg's own mono would gain 3 dB.

    libsndfile   wav, flac, aiff, ogg and its like, of one or two channels: exact to the sample, and fast
    FFmpeg       everything else
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.io.animation import animation_seconds, is_animation
from codi.io.gates import MAX_MINUTES, MAX_RATE, MIN_RATE, check_audio, picture_stream, sound_stream
from codi.io.media_file import (
    MAX_SECONDS,
    WARM_UP,
    MediaFile,
    OtherKind,
    decoding,
    duration_of,
    seek,
    zero_of,
)
from codi.libraries import loads
from codi.types import InputError

MAX_CHANNELS = 64
LAID_OUT = 8  # the most channels for which FFmpeg guesses where they stand; more are averaged
# What FFmpeg opens as well, so that it can mix down many channels.
_MIXED = {"WAV", "WAVEX", "RF64", "FLAC", "AIFF", "CAF", "OGG"}
_OVERLAP = 0.5  # seconds: a clock that goes back by more has begun anew
_TAIL = 1 << 16  # bytes: more than a page of ogg has

Piece = tuple[int, np.ndarray]  # the place of its first sample, and the samples


def read_sound(
    source: MediaFile,
    start: float = 0.0,
    seconds: float | None = None,
    until: float | None = None,
    clip: bool = False,
) -> tuple[Tensor, int] | None:
    """Return a stretch of sound as training takes it: whatever is wrong with the file is one `InputError`.

    Args:
        source: the recording, or the clip.
        start: seconds from time 0 of the file.
        seconds: the most seconds to return; None for all.
        until: seconds from time 0 of the file; nothing from there on is returned.
        clip: whether `source` is a clip, which may have no sound.

    Returns:
        float32 (samples,) and the rate in Hz; None for a clip without sound.

    Raises:
        InputError: if the file is damaged or cut short, is no recording, or has no sound from `start` on.
    """
    with decoding(source):
        return sound_at(source, start, seconds, until, clip)


def sound_at(
    source: MediaFile, start: float, seconds: float | None, until: float | None = None, clip: bool = False
) -> tuple[Tensor, int] | None:
    """Return a stretch of sound, the same as `read_sound`; errors of decoders pass through."""
    if clip and is_animation(source):  # FFmpeg cannot open all of these, and none has sound
        return None
    seconds = 60.0 * MAX_MINUTES + 1 if seconds is None else seconds
    found = None if clip else _from_soundfile(source, start, seconds, until)
    found = found or _from_container(source, start, seconds, until)
    if found is None:
        if clip:
            return None
        raise OtherKind(f"{source.name} holds no sound")
    wave, rate = torch.from_numpy(np.ascontiguousarray(found[0], dtype=np.float32)), found[1]
    if not len(wave) and start > 0:
        raise InputError(f"{source.name} has no sound from {start:g} s on")
    check_audio(wave, rate, source=source.name, silence=True)
    return wave, rate


def seconds_of(source: MediaFile, clip: bool) -> float:
    """Return the length of a clip or recording in seconds as its header states it, 0 where it does not."""
    with decoding(source):
        return stated_seconds(source, clip)


def has_sound(source: MediaFile) -> bool:
    """Return whether a clip has a stream of sound. Raises `InputError` for a damaged one."""
    with decoding(source):
        if animation_seconds(source) is not None:
            return False
        with source.container() as container:
            return sound_stream(container) is not None


def stated_seconds(source: MediaFile, clip: bool) -> float:
    """Return the length in seconds, the same as `seconds_of`; errors of decoders pass through."""
    if not clip and (file := _soundfile(source)) is not None:
        with file:
            return float(file.frames / file.samplerate)
    if clip:
        if (seconds := animation_seconds(source)) is not None:
            return seconds
    with source.container() as container:
        stream = picture_stream(container) if clip else None
        stream = stream or sound_stream(container) or picture_stream(container)
        return duration_of(container, stream) if stream is not None else 0.0


def cut_at(start: float, seconds: float, until: float | None, rate: int) -> tuple[int, int]:
    """Return the first sample of a cut, and the one after its last.

    Args:
        start: seconds at which the cut begins.
        seconds: its length.
        until: seconds at which it ends at the latest; None for no such limit.
        rate: samples per second.

    Returns:
        Two numbers of samples.
    """
    first = round(start * rate)
    stop = first + math.ceil(seconds * rate)
    return first, stop if until is None else min(stop, round(until * rate))


def check_sound_header(name: str, rate: float, channels: int, seconds: float) -> None:
    """Raise InputError if a sound states a rate (Hz), channels or a length that is not accepted."""
    if not MIN_RATE <= rate <= MAX_RATE or not 0 < channels <= MAX_CHANNELS or not seconds <= MAX_SECONDS:
        raise InputError(
            f"{name} states {rate:g} Hz, {channels} channels, {seconds:.0f} s: that is outside what is "
            "accepted"
        )


# libsndfile ------------------------------------------------------------


def _soundfile(source: MediaFile) -> Any:
    """Return an open SoundFile, or None if libsndfile cannot read the file, or not to the sample.

    It does not know every format, its seeks in mp3 do not hit the exact sample, and of an ogg file with
    several streams it knows the sound but not its time.
    """
    if not loads("soundfile"):
        return None
    import soundfile

    try:
        file = soundfile.SoundFile(source.handle())
    except soundfile.LibsndfileError:
        return None
    if file.format == "MP3" or (file.format == "OGG" and _is_multiplexed(source)):
        file.close()
        return None
    return file


def _from_soundfile(
    source: MediaFile, start: float, seconds: float, until: float | None
) -> tuple[np.ndarray, int] | None:
    """Return (samples, rate) of a cut read by libsndfile, or None if FFmpeg is to read the file."""
    file = _soundfile(source)
    if file is None:
        return None
    with file:
        rate = file.samplerate
        check_sound_header(source.name, rate, file.channels, file.frames / max(rate, 1))
        if file.channels > 2 and file.format in _MIXED:
            return None
        if file.format == "OGG" and len(links := _links(source)) > 1:
            return _chained(links, start, seconds, until)
        first, stop = cut_at(start, seconds, until, rate)
        file.seek(min(first, file.frames))
        wave = file.read(max(0, stop - first), dtype="float32", always_2d=True)
        if len(wave) < min(stop, file.frames) - first:
            raise InputError(
                f"{source.name} is cut short: {first + len(wave)} of {file.frames} samples can be decoded"
            )
        return wave.mean(axis=1), rate


def _chained(
    links: list[MediaFile], start: float, seconds: float, until: float | None
) -> tuple[np.ndarray, int]:
    """Return (samples, rate) of a cut of recordings that follow one another, at the rate of the first."""
    from codi.io.fit import fit_audio

    waves, rate = [], 0
    for link in links:
        own = _soundfile(link)
        if own is None:
            raise InputError(f"{link.name} holds a part that cannot be decoded: export it again")
        with own:
            wave = own.read(dtype="float32", always_2d=True).mean(axis=1)
            rate = rate or own.samplerate
            if own.samplerate != rate:
                count = round(len(wave) * rate / own.samplerate)
                wave = fit_audio(torch.from_numpy(wave), own.samplerate, rate, count).numpy()
        waves.append(wave)
    first, stop = cut_at(start, seconds, until, rate)
    return np.concatenate(waves)[first:stop], rate


def _pages(stream: Any) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, flags, serial number) of every page of an ogg file."""
    offset = 0
    while True:
        stream.seek(offset)
        head = stream.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        yield offset, head[5], int.from_bytes(head[14:18], "little")
        offset += 27 + head[26] + sum(stream.read(head[26]))


def _is_multiplexed(source: MediaFile) -> bool:
    """Return whether an ogg file has several streams at once: their first pages stand together."""
    with source.stream() as stream:
        pages = _pages(stream)
        first, second = next(pages, None), next(pages, None)
    return first is not None and second is not None and bool(second[1] & 2)


def _links(source: MediaFile) -> list[MediaFile]:
    """Return the recordings that an ogg file holds one after another: usually one, the file itself."""
    with source.stream() as stream:
        first = next(_pages(stream), None)
        stream.seek(max(0, source.size() - _TAIL))
        tail = stream.read()
        place = tail.rfind(b"OggS")
        serial = int.from_bytes(tail[place + 14 : place + 18], "little")
        if first is None or place < 0 or serial == first[2]:
            return [source]
        starts = [offset for offset, flags, _ in _pages(stream) if flags & 2]
        stream.seek(0)
        content = stream.read()
    ends = [*starts[1:], len(content)]
    return [MediaFile(content[low:high], source.name) for low, high in zip(starts, ends)]


# FFmpeg ----------------------------------------------------------------


def _from_container(
    source: MediaFile, start: float, seconds: float, until: float | None
) -> tuple[np.ndarray, int] | None:
    """Return (samples, rate) of a cut of the default sound in a container, or None if it has no sound."""
    with source.container() as container:
        stream = sound_stream(container)
        if stream is None:
            return None
        rate, zero = stream.rate or 0, zero_of(container)
        duration = duration_of(container, stream)
        check_sound_header(source.name, rate, stream.codec_context.channels, duration)
        first, stop = cut_at(start, seconds, until, rate)
        # With a coarser clock, a seek could not tell which sample it landed on: decode from the beginning.
        exact = stream.time_base <= Fraction(1, rate) and container.format.name not in ("mp3", "ogg")
        sought = exact and start > WARM_UP and seek(container, zero + start - WARM_UP)
        wave, begun = _gathered(_pieces(source, container, stream, zero), first, stop)
        if not sought or begun is None or begun <= first:
            return wave, rate
    with source.container() as container:  # the seek landed behind the cut: read from the beginning
        pieces = _pieces(source, container, sound_stream(container), zero)
        return _gathered(pieces, first, stop)[0], rate


def _gathered(pieces: Iterator[Piece], first: int, stop: int) -> tuple[np.ndarray, int | None]:
    """Return the samples from `first` to `stop`, silence where there are none, and the place of the first."""
    kept: list[Piece] = []
    begun, end = None, first
    for at, piece in pieces:
        begun = at if begun is None else begun
        low, high = max(at, first), min(at + len(piece), stop)
        if low < high:
            kept.append((low, piece[low - at : high - at]))
            end = max(end, high)
        if at + len(piece) >= stop:
            break
    wave = np.zeros(end - first, np.float32)
    for at, piece in kept:
        wave[at - first : at - first + len(piece)] = piece
    return wave, begun


def _pieces(source: MediaFile, container: Any, stream: Any, zero: float) -> Iterator[Piece]:
    """Yield (place of the first sample, samples) of every decoded frame, counted from time 0 of the file.

    Frames follow one another without a gap unless their times say otherwise by more than two ticks of the
    container's clock. A clock that begins anew, as in recordings that were put one behind the other, goes on.
    """
    rate, shift, place = stream.rate, 0, None
    slack = max(2.0, 2 * float(stream.time_base) * rate)
    mixer = _Mixer(rate)
    for frame in _decoded(container, stream):
        if frame.is_corrupt:
            raise InputError(f"{source.name} is damaged at {frame.time or 0:.2f} s of its sound")
        stated = None if frame.pts is None else (float(frame.pts * stream.time_base) - zero) * rate + shift
        if place is None:
            place = 0 if stated is None or abs(stated) <= slack else round(stated)
        elif stated is not None and stated < place - _OVERLAP * rate:
            shift += place - round(stated)
        elif stated is not None and abs(stated - place) > slack:
            place = round(stated)
        for samples in mixer.mixed(frame):
            yield place, samples
            place += len(samples)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the decoded frames of a stream; tags between mp3 files that stand one behind another are none."""
    for packet in container.demux(stream):
        if container.format.name != "mp3" or bytes(memoryview(packet)[:3]) != b"ID3":
            yield from packet.decode()


class _Mixer:
    """Brings decoded frames of any number of channels to one channel at one rate.

    Args:
        rate: the rate of the result in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._resamplers: dict[tuple[Any, ...], Any] = {}  # one for each kind of frame: a chain may change it

    def mixed(self, frame: Any) -> Iterator[np.ndarray]:
        """Yield the samples of a frame, float32 (samples,)."""
        import av

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in self._resamplers:
            layout = "stereo" if is_mixed(frame.layout) else None
            rate = None if frame.sample_rate == self.rate else self.rate
            # packed: PyAV cannot take more than eight channels apart
            self._resamplers[kind] = av.AudioResampler(format="flt", layout=layout, rate=rate)
        for piece in self._resamplers[kind].resample(frame):
            yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1)


def is_mixed(layout: Any) -> bool:
    """Return whether channels are mixed down by FFmpeg's matrix before the mean is taken."""
    return 2 < layout.nb_channels <= LAID_OUT
