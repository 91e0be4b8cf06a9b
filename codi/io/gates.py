"""What a media file may be, and the one way to open it: limits, checks and errors.

Errors say what a file is instead of what was expected. Damaged and hostile files exist, and decoders differ
in what they raise at them; here all of it becomes an `InputError`.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codi.border import check_address
from codi.libraries import load
from codi.types import InputError, Modality

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000  # of one picture or frame
MAX_MINUTES = 10  # of one recording or clip
MAX_DECODED = 2 << 30  # bytes of the frames held at once
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
SILENCE = 1e-4  # peak amplitude (-80 dB) below which a recording says nothing

# A sound in [-1, 1] that clips has no peak above this: floats beyond it are integers in floats.
LOUDEST = 100.0

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
STILLS = {b"heic", b"heix", b"mif1", b"avif"}  # brands of pictures in HEIF containers
SEQUENCES = {b"hevc", b"hevx", b"msf1", b"avis"}  # and of sequences of them
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # pictures that are clips where they have several frames
CONTAINERS = (
    "mov,mp4,m4a,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,mp3,wav,flac,aac,aiff,caf,amr,au,w64"
)
# What FFmpeg is told as it opens a file. A frame of an APNG whose duration is stated as 0 lasts a tenth of a
# second, as it does in every other animated picture.
OPENING = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "default_fps": "10"}
EXPECTED = {
    Modality.IMAGE: "a picture (png, jpg, webp, avif, heic, gif, bmp, tiff)",
    Modality.AUDIO: "a recording (wav, flac, mp3, ogg, m4a)",
    Modality.VIDEO: "a clip (mp4, webm, mov, mkv, avi, gif)",
    Modality.TEXT: "a text in UTF-8",
}


def check_file(path: str | Path) -> None:
    """Raise `InputError` unless `path` is a file that can be read and holds something."""
    path = Path(path)
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("a null byte")
        exists = path.exists()
    except (OSError, ValueError) as error:  # such as content that was passed as a name, or a null byte
        reason = getattr(error, "strerror", None) or "it holds letters that no name may have"
        raise InputError(
            f"{ascii(str(path))[1:-1][:60]}... is no name of a file: {reason}; content belongs into bytes, "
            "decoded"
        ) from None
    if not exists:
        check_address(str(path))
        raise InputError(f"no such file: {path}. Check the name; relative names start at {Path.cwd()}.")
    if not path.is_file():
        raise InputError(f"{path} is not a file: expected the name of one picture, recording or clip")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user: change its permissions")
    if path.stat().st_size == 0:
        raise InputError(
            f"{path} is empty (0 bytes): expected a file with content; copy or download it again"
        )


def check_pixels(width: int, height: int, source: Any = "the picture") -> None:
    """Raise `InputError` for a picture without pixels, or with more than `MAX_PIXELS`.

    Args:
        width: its width in pixels.
        height: its height in pixels.
        source: what the message calls the picture, such as the path of its file.

    Raises:
        InputError: if there are too few or too many pixels.
    """
    if width <= 0 or height <= 0:
        raise InputError(f"{source} is {width} x {height} pixels: expected at least one")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{source} is {width} x {height}, {width * height / 1e6:.0f} megapixels: at most "
            f"{MAX_PIXELS / 1e6:.0f} are accepted; shrink it first"
        )


def check_audio(wave: Tensor, rate: float, source: Any = "the recording", silence: bool = False) -> None:
    """Raise `InputError` for a sound that cannot be a prompt.

    Args:
        wave: the sound, (..., samples) in [-1, 1].
        rate: its sampling rate in Hz.
        source: what the message calls the sound, such as the path of its file.
        silence: whether a silent sound will do.

    Raises:
        InputError: if the sound is empty, silent (unless that will do), not finite, far beyond [-1, 1] or
            longer than `MAX_MINUTES`, or its rate is not from `MIN_RATE` to `MAX_RATE`.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(
            f"{source} has a rate of {rate:g} Hz: expected {MIN_RATE} to {MAX_RATE}; resample it first"
        )
    if wave.numel() == 0:
        raise InputError(f"{source} holds no sample: expected at least a fraction of a second of sound")
    check_minutes(wave.shape[-1] / rate, source)
    if not torch.isfinite(wave).all():
        raise InputError(
            f"{source} has samples that are NaN or infinite: expected numbers in [-1, 1]; export it again"
        )
    if (peak := wave.abs().max().item()) > LOUDEST:
        raise InputError(
            f"{source} has floats up to {peak:.4g}: expected [-1, 1]; samples of 16 bits that were made "
            "floats are to be divided by 32768"
        )
    if not silence and wave.abs().max() < SILENCE:
        raise InputError(
            f"{source} is silent (peak {wave.abs().max():.1e}): expected a sound to go by; choose another "
            "recording or part"
        )


def probe(path: str | Path) -> Modality:
    """Find out what a file holds, by its content and never by its name.

    Args:
        path: the file.

    Returns:
        The modality of the file. An animated picture counts as a clip.

    Raises:
        InputError: if the file cannot be read, or holds no modality that codi can read.
    """
    check_file(path)
    try:
        with open_image(path) as image:
            moves = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
            return Modality.VIDEO if moves else Modality.IMAGE
    except Exception:
        pass
    try:
        if is_heif(path):
            return Modality.IMAGE
        with open_container(path) as container:
            if picture_stream(container) is not None:
                return Modality.VIDEO
            if container.streams.audio:
                return Modality.AUDIO
    except Exception:
        pass
    try:
        if _is_text(path):
            return Modality.TEXT
    except OSError as error:  # such as a file that has vanished meanwhile
        raise InputError(f"{path} cannot be read ({error.strerror}): leave it where it is") from None
    raise InputError(f"cannot tell what {path} is: expected " + ", or ".join(EXPECTED[m] for m in EXPECTED))


@contextmanager
def reading(path: str | Path, modality: Modality) -> Iterator[None]:
    """Check a file, and turn whatever is raised while it is decoded into an `InputError`.

    Args:
        path: the file.
        modality: the modality that it should be of.

    Yields:
        Nothing.

    Raises:
        InputError: if the file cannot be read; the message says what the file is instead, if that is known.
    """
    check_file(path)
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) and not getattr(error, "other_kind", False):
            raise
        raise InputError(
            wrong_kind(path, modality, None if isinstance(error, InputError) else error)
        ) from error


def wrong_kind(path: str | Path, wanted: Modality, error: Exception | None = None) -> str:
    """Return the message for a file that is not of the modality that was wanted.

    Args:
        path: the file.
        wanted: the modality that it should be of.
        error: what a decoder raised, which is the reason if the file is not of another modality.

    Returns:
        The message in one line: what the file is, what was expected and what to do.
    """
    try:
        found = probe(path)
    except InputError:
        found = None
    if found not in (None, wanted):
        advice = "pass its words" if found is Modality.TEXT else "pass it"
        return (
            f"{path} is {EXPECTED[found].split(' (')[0]}: expected {EXPECTED[wanted]}; {advice} as --{found} "
            "instead"
        )
    reason = f" ({' '.join(str(error).split())[:120] or type(error).__name__})" if error else ""
    return (
        f"{path} is damaged or of an unknown format{reason}: expected {EXPECTED[wanted]}; export or download "
        "it again"
    )


@contextmanager
def open_image(path: str | Path) -> Iterator["Image.Image"]:
    """Open a file with Pillow, for the known formats of pictures alone, and yield the image."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large pictures, but `check_pixels` decides
        try:
            image = Image.open(path, formats=IMAGE_FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{path} is too large ({error}): at most {MAX_PIXELS / 1e6:.0f} megapixels are accepted; "
                "shrink it first"
            ) from None
        with image:
            yield image


def open_container(path: str | Path) -> Any:
    """Open a local file with PyAV, for the known formats of recordings and clips alone.

    Playlists, which could name other files or addresses, are not among the formats.
    """
    av = load("av", "a recording or clip in a container")
    return av.open(f"file:{Path(path).resolve()}", options=OPENING)


def picture_stream(container: Any) -> Any:
    """Return the video stream that a player shows; None if there is none.

    That is the default one, else the first. The cover of an album and thumbnails of chapters are none.
    """
    return _default(
        s
        for s in container.streams.video
        if not s.disposition & (s.disposition.attached_pic | s.disposition.timed_thumbnails)
    )


def sound_stream(container: Any) -> Any:
    """Return the audio stream that a player plays, the default one, else the first; None if there is none."""
    return _default(container.streams.audio)


def _default(streams: Iterable[Any]) -> Any:
    """Return the first stream that is marked as default, else the first of all; None of none."""
    found = list(streams)
    return next((s for s in found if s.disposition & s.disposition.default), found[0] if found else None)


def check_minutes(seconds: float, source: Any) -> None:
    """Raise `InputError` for a recording or clip of more than `MAX_MINUTES`."""
    if seconds > 60 * MAX_MINUTES:
        raise InputError(
            f"{source} lasts {seconds / 60:.1f} minutes: at most {MAX_MINUTES} are accepted; cut out the "
            "part that you mean"
        )


def _is_text(path: str | Path) -> bool:
    """Return whether the file begins with UTF-8 and no control characters but the usual ones."""
    with open(path, "rb") as file:
        head = file.read(4096)
    text = head.decode("utf-8", errors="ignore")
    whole = len(text.encode()) >= len(head) - 3  # a character may be cut at the end
    return whole and all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


def is_heif(path: str | Path) -> bool:
    """Return whether a file is a picture in a HEIF container (HEIC, AVIF), by the brands that it states."""
    with open(path, "rb") as file:
        head = file.read(64)
    return names_heif(head)


def names_heif(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a still picture in a HEIF container."""
    size = min(int.from_bytes(head[:4], "big"), 64)
    brands = {head[8:12], *(head[k : k + 4] for k in range(16, size - 3, 4))}
    return head[4:8] == b"ftyp" and head[8:12] not in SEQUENCES and bool(brands & STILLS)
