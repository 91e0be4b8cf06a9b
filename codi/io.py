"""Media files <-> tensors. Nothing else in codi touches a media file.

Pictures and frames are uint8, (3, H, W) and (F, 3, H, W); sound is float32 in [-1, 1], mono, (samples,). Files are read with Pillow,
soundfile and PyAV, always behind limits on size, length and rate, because damaged and hostile files exist. Whatever is wrong with a file
comes out as one `InputError`. Every file is written beside its destination and then renamed, so that nobody sees half of one.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codi.types import InputError, Modality

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000  # of one picture or frame
MAX_MINUTES = 10  # of one recording or clip
MAX_DECODED = 2 << 30  # bytes of the frames held at once
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
SILENCE = 1e-4  # peak amplitude (-80 dB) below which a recording says nothing

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
CONTAINERS = "mov,mp4,m4a,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg,mp3,wav,flac,aac,aiff,caf,amr"
EXPECTED = {
    Modality.IMAGE: "a picture (png, jpg, webp, gif, bmp, tiff)",
    Modality.AUDIO: "a recording (wav, flac, mp3, ogg, m4a)",
    Modality.VIDEO: "a clip (mp4, webm, mov, mkv, avi, gif)",
    Modality.TEXT: "a text in UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class Video:
    """A clip: frames uint8 (F, 3, H, W) at `fps` per second and, where it has any, mono sound (samples,) at `sampling_rate` Hz."""

    frames: Tensor
    fps: float
    audio: Tensor | None = None
    sampling_rate: int | None = None


# Reading ---------------------------------------------------------------


def load_image(path: str | Path) -> Tensor:
    """The picture in a file, uint8 (3, H, W): turned upright as its camera meant, transparency on white, first frame of an animation."""
    from PIL import ImageOps

    with _reading(path, Modality.IMAGE), _open_image(path) as image:
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
    """The sound in a file, the mean of its channels, float32 (samples,), and its rate in Hz; only the first `seconds` if given.

    Reads the sound of a clip as well. Not finite, no sample at all or longer than `MAX_MINUTES` raises `InputError`.
    """
    with _reading(path, Modality.AUDIO):
        wave, rate = _load_soundfile(path, seconds) or _load_soundtrack(path, seconds) or (None, None)
        if wave is None:
            raise InputError(f"no sound in {path}: expected {EXPECTED[Modality.AUDIO]}")
        wave = torch.from_numpy(wave)
        check_audio(wave, rate, source=path, silence=True)
        return wave, rate


def load_video(path: str | Path, seconds: float | None = None, size: int | None = None, sound: bool = True) -> Video:
    """The frames of a file, at an even rate, and its sound.

    Only the first `seconds` are decoded if given; frames are shrunk to about twice `size` (shorter side) if given, which spares memory.
    """
    with _reading(path, Modality.VIDEO), _open_container(path) as container:
        stream = _picture_stream(container)
        if stream is None:
            raise InputError(_wrong_kind(path, Modality.VIDEO))
        check_pixels(stream.width, stream.height, source=path)
        _check_minutes(_duration(container, stream), path)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not 0 < fps <= 1000:
            raise InputError(f"{path} states {fps:g} frames/s: expected between 0 and 1000. Re-encode the clip, e.g. with ffmpeg.")
        frames = _decode_frames(container, stream, fps, seconds, size, path)
    wave, rate = (sound and _load_soundtrack(path, seconds)) or (None, None)
    return Video(frames=frames, fps=fps, audio=None if wave is None else torch.from_numpy(wave), sampling_rate=rate)


def probe(path: str | Path) -> Modality:
    """What a file holds, judged by its content and never by its name."""
    check_file(path)
    try:
        with _open_image(path) as image:
            return Modality.VIDEO if getattr(image, "n_frames", 1) > 1 and image.format == "GIF" else Modality.IMAGE
    except Exception:
        pass
    try:
        with _open_container(path) as container:
            if _picture_stream(container) is not None:
                return Modality.VIDEO
            if container.streams.audio:
                return Modality.AUDIO
    except Exception:
        pass
    if _is_text(path):
        return Modality.TEXT
    raise InputError(f"cannot tell what {path} is: expected " + ", or ".join(EXPECTED[m] for m in EXPECTED))


def describe(path: str | Path) -> dict[str, Any]:
    """What a manifest records of an input file: name, kind, size in bytes, sha256."""
    check_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"path": str(path), "kind": str(probe(path)), "bytes": os.path.getsize(path), "sha256": digest.hexdigest()}


# Checks ----------------------------------------------------------------


def check_file(path: str | Path) -> None:
    """Raises `InputError` unless `path` is a file that can be read and holds something."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file: {path}. Check the name; relative names start at {Path.cwd()}.")
    if not path.is_file():
        raise InputError(f"{path} is not a file: expected the name of one picture, recording or clip")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user: change its permissions")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): expected a file with content; copy or download it again")


def check_pixels(width: int, height: int, source: Any = "the picture") -> None:
    """Raises `InputError` for a picture without, or with more than `MAX_PIXELS`, pixels."""
    if width <= 0 or height <= 0:
        raise InputError(f"{source} is {width} x {height} pixels: expected at least one")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{source} is {width} x {height}, {width * height / 1e6:.0f} megapixels: at most {MAX_PIXELS / 1e6:.0f} are accepted; shrink it first"
        )


def check_audio(wave: Tensor, rate: float, source: Any = "the recording", silence: bool = False) -> None:
    """Raises `InputError` for a sound that can be no prompt: empty, NaN, silent (unless `silence` is fine), too long, absurd rate."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(f"{source} has a rate of {rate:g} Hz: expected {MIN_RATE} to {MAX_RATE}; resample it first")
    if wave.numel() == 0:
        raise InputError(f"{source} holds no sample: expected at least a fraction of a second of sound")
    _check_minutes(wave.shape[-1] / rate, source)
    if not torch.isfinite(wave).all():
        raise InputError(f"{source} has samples that are NaN or infinite: expected numbers in [-1, 1]; export it again")
    if not silence and wave.abs().max() < SILENCE:
        raise InputError(f"{source} is silent (peak {wave.abs().max():.1e}): expected a sound to go by; choose another recording or part")


def check_prompt(path: str | Path, modality: Modality, seconds: float | None = None) -> None:
    """Raises `InputError` unless the file can serve as a prompt of that kind; decodes no more than the first `seconds`."""
    if modality is Modality.IMAGE:
        load_image(path)
    elif modality is Modality.AUDIO:
        check_audio(*load_audio(path, seconds), source=path)
    elif modality is Modality.VIDEO:
        load_video(path, seconds, size=64, sound=False)


def check_folder(folder: str | Path) -> Path:
    """The folder, created if need be. Raises `InputError` if nothing can be written there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".codi-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"cannot write into folder {folder}: {error.strerror or error}. Name another with -o, or change permissions.") from None
    return folder


# Tensors to a model's geometry -----------------------------------------


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8; beyond is clipped. The inverse of `to_unit`."""
    return ((values.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fit_image(image: Tensor, size: int) -> Tensor:
    """uint8 (..., 3, H, W) -> float [-1, 1] (..., 3, size, size): the central square, resized with antialiasing."""
    assert image.dtype == torch.uint8 and image.shape[-3] == 3, (image.dtype, image.shape)
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[..., top : top + side, left : left + side]
    if side != size:
        flat = square.reshape(-1, 3, side, side)
        square = F.interpolate(flat, (size, size), mode="bicubic", antialias=True).reshape(*image.shape[:-2], size, size)
    return to_unit(square)


def fit_video(frames: Tensor, fps: float, num_frames: int, fps_out: float, size: int) -> Tensor:
    """uint8 (F, 3, H, W) at `fps` -> float [-1, 1] (num_frames, 3, size, size) at `fps_out`, from the start.

    Frame k is the one shown nearest to k / fps_out seconds; a clip that ends early keeps its last frame.
    """
    index = (torch.arange(num_frames) * (fps / fps_out) + 0.5).floor().long().clamp(max=len(frames) - 1)
    return fit_image(frames[index], size)


def fit_audio(wave: Tensor, rate: int, rate_out: int, num_samples: int) -> Tensor:
    """Sound (..., samples) at `rate` -> (num_samples,) at `rate_out`, from the start; channels are averaged, silence fills what lacks."""
    wave = wave.float()
    wave = wave.mean(dim=0) if wave.dim() > 1 else wave
    ratio = Fraction(int(rate_out), int(rate)).limit_denominator(1000)  # an odd rate would need a filter of gigabytes
    wave = wave[: int(num_samples / ratio) + 64]
    if ratio != 1:
        from torchaudio.functional import resample

        wave = resample(wave, ratio.denominator, ratio.numerator)
    return F.pad(wave, (0, max(0, num_samples - len(wave))))[:num_samples]


# Writing ---------------------------------------------------------------


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; renamed to `path` at the end, removed after an error or an interrupt."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}. Free some space or name another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_text(path: str | Path, text: str) -> Path:
    """Writes a text in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def save_json(path: str | Path, value: Any) -> Path:
    """Writes indented JSON; numbers that are not finite raise ValueError."""
    return save_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def save_image(path: str | Path, image: "Tensor | Image.Image", comment: str | None = None) -> Path:
    """Writes a picture, uint8 (3, H, W) or Pillow's, in the format of the suffix; a png carries `comment`."""
    from PIL import Image, PngImagePlugin

    if isinstance(image, Tensor):
        assert image.dtype == torch.uint8 and image.dim() == 3, (image.dtype, image.shape)
        image = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    options: dict[str, Any] = {}
    if comment and Path(path).suffix.lower() == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", comment)
    with atomic(path) as temporary:
        image.save(temporary, **options)
    return Path(path)


def save_audio(path: str | Path, wave: Tensor, rate: int, comment: str | None = None) -> Path:
    """Writes a sound, float (samples,) or (channels, samples), as wav (16 bit), flac, ogg or mp3 by the suffix; beyond [-1, 1] is clipped."""
    import soundfile

    wave = _finite(wave)
    with atomic(path) as temporary:
        with soundfile.SoundFile(str(temporary), "w", samplerate=int(rate), channels=len(wave)) as file:
            if comment:
                file.comment = comment
            file.write(wave.T.numpy())
    return Path(path)


def save_video(
    path: str | Path, frames: Tensor, fps: float, audio: Tensor | None = None, sampling_rate: int | None = None, comment: str | None = None
) -> Path:
    """Writes frames uint8 (F, 3, H, W), and sound (samples,) or (channels, samples) if given, as mp4 (h264, aac) that plays everywhere.

    The rate may be fractional. h264 wants even sides: an odd one repeats its last row or column.
    """
    import av

    assert frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[1] == 3, (frames.dtype, frames.shape)
    assert (audio is None) == (sampling_rate is None), "sound comes with its rate"
    if Path(path).suffix.lower() not in (".mp4", ".mov", ".m4v"):
        raise InputError(f"cannot write a clip as {path}: expected a name that ends in .mp4")
    pixels = _even(frames.cpu()).permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
    with atomic(path) as temporary, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16", "preset": "medium"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        sound = None if audio is None else container.add_stream("aac", rate=int(sampling_rate), layout="mono" if audio.dim() == 1 else "stereo")
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            _encode_sound(container, sound, audio, int(sampling_rate))
    return Path(path)


# Inside ----------------------------------------------------------------


@contextmanager
def _reading(path: str | Path, modality: Modality) -> Iterator[None]:
    """Checks the file, and turns whatever a decoder throws into an `InputError` that says what the file is instead."""
    check_file(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(_wrong_kind(path, modality, error)) from error


def _wrong_kind(path: str | Path, wanted: Modality, error: Exception | None = None) -> str:
    try:
        found = probe(path)
    except InputError:
        found = None
    if found not in (None, wanted):
        return f"{path} is {EXPECTED[found].split(' (')[0]}: expected {EXPECTED[wanted]}; pass it as --{found} instead"
    reason = f" ({' '.join(str(error).split())[:120] or type(error).__name__})" if error else ""
    return f"{path} is damaged or of an unknown format{reason}: expected {EXPECTED[wanted]}; export or download it again"


@contextmanager
def _open_image(path: str | Path) -> Iterator["Image.Image"]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warning on size: `check_pixels` decides
        try:
            image = Image.open(path, formats=IMAGE_FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path} is too large ({error}): at most {MAX_PIXELS / 1e6:.0f} megapixels are accepted; shrink it first") from None
        with image:
            yield image


def _open_container(path: str | Path) -> Any:
    """PyAV on a local file only: playlists, which could name other files or addresses, are not among the formats."""
    import av

    return av.open(f"file:{Path(path).resolve()}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})


def _picture_stream(container: Any) -> Any:
    """The first video stream that is not the cover of an album."""
    return next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)


def _duration(container: Any, stream: Any) -> float:
    """Seconds as the header states them, 0 where it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _check_minutes(seconds: float, source: Any) -> None:
    if seconds > 60 * MAX_MINUTES:
        raise InputError(f"{source} lasts {seconds / 60:.1f} minutes: at most {MAX_MINUTES} are accepted; cut out the part that you mean")


def _is_text(path: str | Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(4096)
    try:
        return b"\0" not in head and head[: len(head) - 3 if len(head) == 4096 else None].decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False


def _load_soundfile(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """(samples,), rate; None if libsndfile does not know the format."""
    import soundfile

    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError:
        return None
    with file:
        _check_minutes(file.frames / file.samplerate, path)
        wave = file.read(-1 if seconds is None else int(seconds * file.samplerate), dtype="float32", always_2d=True)
        return wave.mean(axis=1), file.samplerate


def _load_soundtrack(path: str | Path, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """(samples,), rate of the first sound in a container; None if there is none. Its own mean over channels: FFmpeg's mono gains 3 dB."""
    import av

    with _open_container(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        _check_minutes(_duration(container, stream), path)
        rate, resampler, pieces, count = stream.rate, av.AudioResampler(format="fltp"), [], 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                pieces.append(piece.to_ndarray().mean(axis=0))
                count += len(pieces[-1])
            if count >= rate * (60 * MAX_MINUTES if seconds is None else seconds):
                break
    wave = np.concatenate(pieces or [np.zeros(0, np.float32)]).astype(np.float32)
    return wave if seconds is None else wave[: int(seconds * rate)], rate


def _decode_frames(container: Any, stream: Any, fps: float, seconds: float | None, size: int | None, path: Any) -> Tensor:
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
            raise InputError(f"{path} is damaged at {time:.2f} s: expected {EXPECTED[Modality.VIDEO]}; export or download it again")
        if (len(frames) + 1) * width * height * 3 > MAX_DECODED:
            raise InputError(f"{path} needs more than {MAX_DECODED >> 30} GiB once decoded: cut out the part that you mean, or shrink it")
        picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA" if scale < 1 else "BICUBIC")
        frames.append(np.rot90(picture, round(getattr(frame, "rotation", 0) / 90)))
        times.append(time)
    if not frames or (whole and stream.frames and len(frames) < stream.frames):
        raise InputError(f"{path} is damaged: {len(frames)} of {stream.frames or 'its'} frames can be decoded; export or download it again")
    times = np.asarray(times) - times[0]
    grid = np.arange(max(1, round(times[-1] * fps) + 1)) / fps
    index = np.searchsorted(times, grid + 0.5 / fps, side="left") - 1
    return torch.from_numpy(np.stack(frames)[index.clip(0)]).permute(0, 3, 1, 2).contiguous()


def _encode_sound(container: Any, stream: Any, audio: Tensor, rate: int) -> None:
    import av

    frame = av.AudioFrame.from_ndarray(_finite(audio).numpy(), format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _finite(audio: Tensor) -> Tensor:
    """Sound to write, (channels, samples) within [-1, 1]."""
    audio = torch.atleast_2d(audio.detach().float().cpu())
    assert torch.isfinite(audio).all(), "a sound to write has samples that are not finite"
    return audio.clamp(-1, 1)


def _even(frames: Tensor) -> Tensor:
    """(F, 3, H, W) with an even height and width."""
    height, width = frames.shape[-2:]
    return F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else frames
