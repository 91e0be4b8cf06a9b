"""Read pictures and sounds as they lie in a data set, upright and cut by time.

Time 0 is the first frame of a clip, or the first sample of a recording. A cut at `start` seconds begins with
sample round(start * rate) of the sound, and its frame k is the one nearest to start + k / fps: sound and
picture of one file stay together to the sample, wherever the cut is. What a decoder throws at a damaged file
becomes one `InputError`; a mistake in this code base stays what it is (`decoding`).

Letters: H height, W width.
"""

import io
import math
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import codi.types
from codi.io import check_audio, check_pixels, image_to_tensor
from codi.io.gates import CONTAINERS, MAX_RATE, MIN_RATE, picture_stream
from codi.io.read import duration_of
from codi.types import InputError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SECONDS = 12 * 3600  # of a whole file, of which a cut is read
MAX_CHANNELS = 64
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
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else str(self.content.resolve())

    def container(self) -> Any:
        """Return a PyAV container on this source only: no format that names other files is allowed."""
        import av

        handle = self.handle()
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        return av.open(f"file:{handle}" if isinstance(handle, str) else handle, options=options)


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


def read_image(source: MediaFile) -> Tensor:
    """Return a picture as uint8 (3, H, W), upright, with transparency on white.

    Only png, jpg and webp are opened; anything else, and a damaged picture, raises `InputError`.
    """
    from PIL import Image, ImageOps

    with decoding(source):
        try:
            image = Image.open(source.handle(), formats=IMAGE_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(f"{source.name} has more pixels than are accepted") from None
        with image:
            check_pixels(*image.size, source=source.name)
            return image_to_tensor(ImageOps.exif_transpose(image))


def read_sound(
    source: MediaFile, start: float, seconds: float, until: float | None = None, clip: bool = False
) -> tuple[Tensor, int] | None:
    """Return a stretch of sound, the mean of its channels, with its rate.

    Args:
        source: the recording, or the clip.
        start: seconds from time 0 of the file.
        seconds: the most seconds to return.
        until: seconds from time 0 of the file; nothing from there on is returned.
        clip: whether `source` is a clip, which may have no sound.

    Returns:
        float32 (samples,) and the rate in Hz; None for a clip without sound.

    Raises:
        InputError: if the file is damaged or cut short, is no recording, or has no sound from `start` on.
    """
    with decoding(source):
        found = None if clip else _from_soundfile(source, start, seconds, until)
        found = found or _from_container(source, start, seconds, until)
    if found is None:
        if clip:
            return None
        raise InputError(f"{source.name} holds no sound")
    wave, rate = torch.from_numpy(found[0]), found[1]
    if not len(wave):
        raise InputError(f"{source.name} has no sound from {start:g} s on")
    check_audio(wave, rate, source=source.name, silence=True)
    return wave, rate


def seconds_of(source: MediaFile, clip: bool) -> float:
    """Return the length of a clip or recording in seconds as its header states it, 0 where it does not."""
    with decoding(source):
        if not clip and (file := _soundfile(source)) is not None:
            with file:
                return file.frames / file.samplerate
        with source.container() as container:
            stream = picture_stream(container) or next(iter(container.streams.audio), None)
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


def origin_of(container: Any) -> float:
    """Return where time 0 lies on the clock of a container, in seconds.

    That is its first frame, or its first sample where it has no picture.
    """
    stream = picture_stream(container) or next(iter(container.streams.audio), None)
    return 0.0 if stream is None or stream.start_time is None else float(stream.start_time * stream.time_base)


def _soundfile(source: MediaFile) -> Any:
    """Return an open SoundFile, or None if libsndfile cannot read the format to the sample.

    It does not know every format, and its seeks in mp3 do not hit the exact sample.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(source.handle())
    except soundfile.LibsndfileError:
        return None
    if file.format == "MP3":
        file.close()
        return None
    return file


def _from_soundfile(
    source: MediaFile, start: float, seconds: float, until: float | None
) -> tuple[np.ndarray, int] | None:
    """Return (samples, rate) of a cut read by libsndfile, or None if that cannot read the file."""
    file = _soundfile(source)
    if file is None:
        return None
    with file:
        rate = file.samplerate
        check_sound_header(source.name, rate, file.channels, file.frames / max(rate, 1))
        first, stop = cut_at(start, seconds, until, rate)
        file.seek(min(first, file.frames))
        wave = file.read(max(0, stop - first), dtype="float32", always_2d=True)
        if len(wave) < min(stop, file.frames) - first:
            raise InputError(
                f"{source.name} is cut short: {first + len(wave)} of {file.frames} samples can be decoded"
            )
        return wave.mean(axis=1), rate


def _from_container(
    source: MediaFile, start: float, seconds: float, until: float | None
) -> tuple[np.ndarray, int] | None:
    """Return (samples, rate) of a cut of the first sound in a container, or None if it has no sound."""
    with source.container() as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        rate = stream.rate or 0
        check_sound_header(source.name, rate, stream.codec_context.channels, duration_of(container, stream))
        origin = origin_of(container)
        # With a coarser clock, a seek could not tell which sample it landed on: decode from the beginning.
        exact = stream.time_base <= Fraction(1, rate) and container.format.name != "mp3"
        if exact and start > WARM_UP:
            container.seek(int((origin + start - WARM_UP) * 1e6))
        first, stop = cut_at(start, seconds, until, rate)
        wave, end = np.zeros(max(0, stop - first), np.float32), first
        for at, piece in _pieces(source, container, stream, origin, rate):
            low, high = max(at, first), min(at + len(piece), stop)
            if low < high:
                wave[low - first : high - first] = piece[low - at : high - at]
                end = high
            if at + len(piece) >= stop:
                break
    return wave[: end - first], rate


def _pieces(
    source: MediaFile, container: Any, stream: Any, origin: float, rate: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place of the first sample, samples) of every decoded frame, on the clock of the picture.

    Frames follow one another without a gap unless their times say otherwise by more than two ticks of the
    container's clock.
    """
    import av

    resampler, place = av.AudioResampler(format="fltp"), None
    slack = max(2.0, 2 * float(stream.time_base) * rate)
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise InputError(f"{source.name} is damaged at {frame.time or 0:.2f} s of its sound")
        stated = None if frame.pts is None else (float(frame.pts * stream.time_base) - origin) * rate
        if place is None:
            place = 0 if stated is None or abs(stated) <= slack else round(stated)
        elif stated is not None and abs(stated - place) > slack:
            place = round(stated)
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray().mean(axis=0)
            yield place, samples
            place += len(samples)
