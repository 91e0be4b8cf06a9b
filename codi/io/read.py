"""Media files -> tensors."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

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
    """A clip: frames uint8 (F, 3, H, W) at `fps` per second and, where it has any, mono sound (samples,) at
    `sampling_rate` Hz.
    """

    frames: Tensor
    fps: float
    audio: Tensor | None = None
    sampling_rate: int | None = None


def load_image(path: str | Path) -> Tensor:
    """The picture in a file, uint8 (3, H, W): turned upright as its camera meant, transparency on white,
    first frame of an animation.
    """
    from PIL import ImageOps

    with reading(path, Modality.IMAGE), open_image(path) as image:
        check_pixels(*image.size, source=path)
        return image_to_tensor(ImageOps.exif_transpose(image))


def image_to_tensor(image: "Image.Image") -> Tensor:
    """A Pillow image of any mode -> uint8 (3, H, W); transparency on white, 16-bit grey scaled to 8."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would clip these at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def load_audio(path: str | Path, seconds: float | None = None) -> tuple[Tensor, int]:
    """The sound in a file, the mean of its channels, float32 (samples,), and its rate in Hz; only the first
    `seconds` if given.

    Reads the sound of a clip as well. Not finite, no sample at all or longer than `MAX_MINUTES` raises
    `InputError`.
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
    """The frames of a file, at an even rate, and its sound.

    Only the first `seconds` are decoded if given; frames are shrunk to about twice `size` (shorter side) if
    given, which spares memory.
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
    """What a manifest records of an input file: name, kind, size in bytes, sha256."""
    check_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "path": str(path),
        "kind": str(probe(path)),
        "bytes": os.path.getsize(path),
        "sha256": digest.hexdigest(),
    }


def check_prompt(path: str | Path, modality: Modality, seconds: float | None = None) -> None:
    """Raises `InputError` unless the file can serve as a prompt of that kind; decodes no more than the first
    `seconds`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is cut is said when it is cut
        if modality is Modality.IMAGE:
            load_image(path)
        elif modality is Modality.AUDIO:
            check_audio(*load_audio(path, seconds), source=path)
        elif modality is Modality.VIDEO:
            load_video(path, seconds, size=64, sound=False)
        else:  # of a kind that is not ours to read
            check_file(path)


def duration_of(container: Any, stream: Any) -> float:
    """Seconds as the header states them, 0 where it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _note_cut(path: str | Path, duration: float, seconds: float | None) -> None:
    if seconds is not None and duration > 1.1 * seconds:
        warnings.warn(f"{path} lasts {duration:.1f} s: only its beginning is used", stacklevel=2)


def _load_soundfile(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """(samples,), rate; None if libsndfile does not know the format, or cannot be used here."""
    if not loads("soundfile"):
        return None
    import soundfile

    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError:
        return None
    with file:
        check_minutes(file.frames / file.samplerate, path)
        _note_cut(path, file.frames / file.samplerate, seconds)
        wave = file.read(
            -1 if seconds is None else int(seconds * file.samplerate), dtype="float32", always_2d=True
        )
        return wave.mean(axis=1), file.samplerate


def _load_soundtrack(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """(samples,), rate of the first sound in a container; None if there is none. Its own mean over channels:
    FFmpeg's mono gains 3 dB.
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
    """(F, 3, H, W) on the even grid k / fps, whatever times the frames of the file have."""
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
    missing = whole and len(frames) < stream.frames and len(frames) < stream.frames - _num_hidden(path)
    if missing or not frames:
        raise InputError(
            f"{path} is damaged: {len(frames)} of {stream.frames or 'its'} frames can be decoded; export or "
            "download it again"
        )
    times = np.asarray(times) - times[0]
    grid = np.arange(max(1, round(times[-1] * fps) + 1)) / fps
    index = np.searchsorted(times, grid + 0.5 / fps, side="left") - 1
    return torch.from_numpy(np.stack(frames)[index.clip(0)]).permute(0, 3, 1, 2).contiguous()


def _num_hidden(path: Any) -> int:
    """Frames that a clip holds and its edit list cuts off, as where it was trimmed without
    encoding it again.
    """
    with open_container(path) as container:
        return sum(packet.is_discard for packet in container.demux(picture_stream(container)) if packet.size)
