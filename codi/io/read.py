"""Read media files into tensors.

Letters: F frames, H height, W width.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codi.io.files import sha256_of
from codi.io.gates import (
    EXPECTED,
    MAX_DECODED,
    MAX_MINUTES,
    check_audio,
    check_file,
    check_minutes,
    check_pixels,
    open_container,
    open_image,
    picture_stream,
    probe,
    reading,
    wrong_kind,
)
from codi.libraries import loads
from codi.types import InputError, Modality

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Video:
    """A clip, with or without sound.

    Attributes:
        frames: uint8 (F, 3, H, W).
        fps: frames per second.
        audio: mono sound, float32 (samples,) in [-1, 1]; None for a clip without.
        sampling_rate: the sampling rate of the sound in Hz; None for a clip without.
    """

    frames: Tensor
    fps: float
    audio: Tensor | None = None
    sampling_rate: int | None = None


def load_image(path: str | Path) -> Tensor:
    """Read the picture in a file.

    It is turned upright as its camera meant, and what is transparent becomes white. Of an animation the first
    frame is read.

    Args:
        path: the file.

    Returns:
        The picture, uint8 (3, H, W).

    Raises:
        InputError: if the file is no picture, is damaged, or has more than `MAX_PIXELS`.
    """
    from PIL import ImageOps

    with reading(path, Modality.IMAGE), open_image(path) as image:
        check_pixels(*image.size, source=path)
        return image_to_tensor(ImageOps.exif_transpose(image))


def image_to_tensor(image: "Image.Image") -> Tensor:
    """Convert a Pillow image of any mode to a tensor.

    What is transparent becomes white, and grey of 16 bit is scaled to 8.

    Args:
        image: the image.

    Returns:
        The picture, uint8 (3, H, W).
    """
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would clip these at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def load_audio(path: str | Path, seconds: float | None = None) -> tuple[Tensor, int]:
    """Read the sound in a file, which may be a recording or a clip.

    Args:
        path: the file.
        seconds: read only the beginning, of this many seconds; None reads all.

    Returns:
        The mean of the channels, float32 (samples,), and the sampling rate in Hz.

    Raises:
        InputError: if there is no sound in the file, or if it is damaged, empty, not finite or longer than
            `MAX_MINUTES`.
    """
    with reading(path, Modality.AUDIO):
        wave, rate = _load_soundfile(path, seconds) or _load_soundtrack(path, seconds) or (None, None)
        if wave is None:
            raise InputError(f"no sound in {path}: expected {EXPECTED[Modality.AUDIO]}")
        wave = torch.from_numpy(wave)
        check_audio(wave, rate, source=path, silence=True)
        return wave, rate


def load_video(
    path: str | Path, seconds: float | None = None, size: int | None = None, sound: bool = True
) -> Video:
    """Read the frames of a clip at an even rate, and its sound.

    Args:
        path: the file.
        seconds: decode only the beginning, of this many seconds; None decodes all.
        size: shrink frames until their shorter side is about twice this many pixels, which spares memory;
            None leaves them as they are.
        sound: whether to read the sound as well.

    Returns:
        The clip.

    Raises:
        InputError: if the file is no clip, is damaged, is beyond the limits of `codi.io.gates`, or states an
            absurd frame rate.
    """
    with reading(path, Modality.VIDEO), open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise InputError(wrong_kind(path, Modality.VIDEO))
        check_pixels(stream.width, stream.height, source=path)
        check_minutes(duration := duration_of(container, stream), path)
        _note_cut(path, duration, seconds)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not 0 < fps <= 1000:
            raise InputError(
                f"{path} states {fps:g} frames/s: expected between 0 and 1000. Re-encode the clip, e.g. with "
                "ffmpeg."
            )
        frames = _decode_frames(container, stream, fps, seconds, size, path)
    wave, rate = (sound and _load_soundtrack(path, seconds)) or (None, None)
    return Video(
        frames=frames, fps=fps, audio=None if wave is None else torch.from_numpy(wave), sampling_rate=rate
    )


def describe(path: str | Path) -> dict[str, Any]:
    """Return what a manifest records of an input file: its path, kind, size in bytes and sha256."""
    check_file(path)
    return {
        "path": str(path),
        "kind": str(probe(path)),
        "bytes": os.path.getsize(path),
        "sha256": sha256_of(path),
    }


def check_prompt(path: str | Path, modality: Modality, seconds: float | None = None) -> None:
    """Raise `InputError` unless a file can serve as a prompt.

    Args:
        path: the file.
        modality: the modality of the prompt.
        seconds: decode no more than this many seconds of it; None decodes all.

    Raises:
        InputError: if the file cannot be read as that modality, or is a silent sound.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that only the beginning is used is said when it is used
        if modality is Modality.IMAGE:
            load_image(path)
        elif modality is Modality.AUDIO:
            check_audio(*load_audio(path, seconds), source=path)
        elif modality is Modality.VIDEO:
            load_video(path, seconds, size=64, sound=False)
        else:  # other modalities read their files themselves
            check_file(path)


def duration_of(container: Any, stream: Any) -> float:
    """Return the duration in seconds as the header of a file states it; 0 if it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _note_cut(path: str | Path, duration: float, seconds: float | None) -> None:
    """Warn that only the beginning of a file is used, if it is noticeably longer."""
    if seconds is not None and duration > 1.1 * seconds:
        warnings.warn(f"{path} lasts {duration:.1f} s: only its beginning is used", stacklevel=2)


def _load_soundfile(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """Read a sound by libsndfile, and return it as (samples,) with its rate in Hz.

    Returns None if libsndfile does not know the format, or cannot be used here.
    """
    if not loads("soundfile"):
        return None
    import soundfile

    # opened here, because soundfile takes no name that is not UTF-8
    with open(path, "rb") as source:
        try:
            file = soundfile.SoundFile(source)
        except soundfile.LibsndfileError:
            return None
        return _samples(file, path, seconds)


def _samples(file: Any, path: str | Path, seconds: float | None) -> tuple[np.ndarray, int]:
    """Read an open sound, or its beginning, and return it as (samples,) with its rate in Hz."""
    with file:
        check_minutes(file.frames / file.samplerate, path)
        _note_cut(path, file.frames / file.samplerate, seconds)
        wave = file.read(
            -1 if seconds is None else int(seconds * file.samplerate), dtype="float32", always_2d=True
        )
        return wave.mean(axis=1), file.samplerate


def _load_soundtrack(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """Read the first sound in a container, and return it as (samples,) with its rate in Hz.

    Returns None if there is no sound. The mean over channels is taken here, because FFmpeg's own mono gains 3
    dB.
    """
    import av

    with open_container(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        check_minutes(duration_of(container, stream), path)
        rate, resampler, pieces, count = stream.rate, av.AudioResampler(format="fltp"), [], 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                pieces.append(piece.to_ndarray().mean(axis=0))
                count += len(pieces[-1])
            if count >= rate * (60 * MAX_MINUTES if seconds is None else seconds):
                break
    wave = np.concatenate(pieces or [np.zeros(0, np.float32)]).astype(np.float32)
    return wave if seconds is None else wave[: int(seconds * rate)], rate


def _decode_frames(
    container: Any, stream: Any, fps: float, seconds: float | None, size: int | None, path: Any
) -> Tensor:
    """Decode the frames of a stream onto the even grid k / fps, whatever times they have in the file.

    Args:
        container: the open file.
        stream: its stream of pictures.
        fps: the frame rate of the grid, in frames per second.
        seconds: decode only the beginning, of this many seconds; None decodes all.
        size: shrink frames until their shorter side is about twice this many pixels; None leaves them as they
            are.
        path: the file, for messages.

    Returns:
        The frames, uint8 (F, 3, H, W).

    Raises:
        InputError: if frames are damaged or missing, or need more memory than `MAX_DECODED` bytes.
    """
    stream.thread_type = "AUTO"
    short = min(stream.width, stream.height)
    scale = min(1.0, 2 * size / short) if size else 1.0
    width, height = max(1, round(stream.width * scale)), max(1, round(stream.height * scale))
    frames, times, whole = [], [], True
    for frame in container.decode(stream):
        time = float(frame.time) if frame.time is not None else len(times) / fps
        if seconds is not None and times and time - times[0] >= seconds:
            whole = False
            break
        if frame.is_corrupt:
            raise InputError(
                f"{path} is damaged at {time:.2f} s: expected {EXPECTED[Modality.VIDEO]}; export or download "
                "it again"
            )
        if (len(frames) + 1) * width * height * 3 > MAX_DECODED:
            raise InputError(
                f"{path} needs more than {MAX_DECODED >> 30} GiB once decoded: cut out the part that you "
                "mean, or shrink it"
            )
        picture = frame.to_ndarray(
            format="rgb24", width=width, height=height, interpolation="AREA" if scale < 1 else "BICUBIC"
        )
        frames.append(np.rot90(picture, round(getattr(frame, "rotation", 0) / 90)))
        times.append(time)
    # a file that was cut short, or has damaged packets, gives fewer frames than its header states
    missing = whole and len(frames) < stream.frames and len(frames) < stream.frames - _num_hidden(path)
    if missing or not frames:
        raise InputError(
            f"{path} is damaged: {len(frames)} of {stream.frames or 'its'} frames can be decoded; export or "
            "download it again"
        )
    # each place of the grid shows the last frame with a time below that of the place plus half a step
    times = np.asarray(times) - times[0]
    grid = np.arange(max(1, round(times[-1] * fps) + 1)) / fps
    index = np.searchsorted(times, grid + 0.5 / fps, side="left") - 1
    return torch.from_numpy(np.stack(frames)[index.clip(0)]).permute(0, 3, 1, 2).contiguous()


def _num_hidden(path: Any) -> int:
    """Return how many frames a clip holds that its edit list cuts off.

    There are such frames where a clip was trimmed without encoding it again.
    """
    with open_container(path) as container:
        return sum(packet.is_discard for packet in container.demux(picture_stream(container)) if packet.size)
