"""Write tensors into media files.

Each file is written beside its destination and then renamed, so that nobody sees half of one. Letters: F
frames, H height, W width.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.io.tags import KEY, append_to_mp4, append_to_wav
from codi.libraries import load
from codi.types import InputError, Modality

if TYPE_CHECKING:
    from PIL import Image


# The library that writes files of a modality, where Python and Pillow do not, and what it is needed for.
WRITERS = {Modality.AUDIO: ("soundfile", "writing a sound"), Modality.VIDEO: ("av", "writing a clip")}


def check_writers(modalities: Iterable[Modality]) -> None:
    """Raise `InputError` if a library does not load that is needed to write files of these modalities."""
    for modality in modalities:
        if modality in WRITERS:
            load(*WRITERS[modality])


def check_folder(folder: str | Path) -> Path:
    """Create a folder if need be, and check that files can be written there.

    Args:
        folder: the path of the folder.

    Returns:
        The folder.

    Raises:
        InputError: if it cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".codi-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write into folder {folder}: {error.strerror or error}. Name another with -o, or change "
            "permissions."
        ) from None
    return folder


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, whose file is renamed to `path` at the end.

    After an error or an interrupt the temporary file is removed.

    Args:
        path: the file to write.

    Yields:
        The temporary name, with the suffix of `path`.

    Raises:
        InputError: if the file cannot be written, such as on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or name another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


NUMBERED = re.compile(r"(\d{3,6})(?=\.)")  # as in 000.png; longer numbers, such as dates, do not count


@contextmanager
def numbered(folder: Path) -> Iterator[str]:
    """Yield the next number that no file of `folder` bears, as a name such as "007", to this process alone.

    While the number is in use a hidden file claims it, created by whoever comes first; afterwards the files
    that were written are the claim.

    Args:
        folder: where files of that name are to be written.

    Yields:
        The number, with at least three digits.

    Raises:
        InputError: if nothing can be written into the folder.
    """
    number = 1 + max(_numbers(folder), default=-1)
    while True:
        claim = folder / f".{number:03d}.claim"
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:  # another process is at it
            number += 1
            continue
        except OSError as error:
            raise InputError(
                f"cannot write into {folder}: {error.strerror or error}. Name another folder."
            ) from error
        try:
            if not taken(folder, f"{number:03d}"):  # else it was claimed, used and freed since we looked
                yield f"{number:03d}"
                return
        finally:
            claim.unlink(missing_ok=True)
        number += 1


def taken(folder: Path, name: str) -> list[Path]:
    """Return the files of `folder` that are called `name`, with or without a suffix."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name == name or (path.stem == name and path.suffix)
    )


def _numbers(folder: Path) -> Iterator[int]:
    """Return the numbers that files of a folder bear."""
    found = (NUMBERED.match(entry.name) for entry in os.scandir(folder))
    return (int(match[1]) for match in found if match)


def create_json(path: Path, value: Any) -> bool:
    """Write JSON as `save_json` does, but never over a file that is there.

    Args:
        path: the file.
        value: what JSON can express; anything else is written as its string.

    Returns:
        Whether the file was written; if not, there was one already.

    Raises:
        InputError: if the file cannot be written.
    """
    content = _json(value)
    try:
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(content)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or name another place."
        ) from error
    return True


def save_manifest(folder: Path, value: Any, keep: bool = True) -> Path:
    """Write manifest.json into a folder.

    If several processes finish at once, the manifest of each of them stays: whoever finds another's moves it
    on.

    Args:
        folder: the folder.
        value: the manifest.
        keep: whether a manifest that is there already is kept as manifest-000.json, or under the next free
            number; otherwise it is replaced.

    Returns:
        The path of manifest.json.
    """
    path = folder / "manifest.json"
    while keep and not create_json(path, value):
        number = 0
        # a placeholder claims the name that the older manifest is moved to
        while not create_json(kept := folder / f"manifest-{number:03d}.json", {}):
            number += 1
        try:
            os.replace(path, kept)
        except FileNotFoundError:  # another process has moved it
            kept.unlink(missing_ok=True)
    return path if keep else save_json(path, value)


def save_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, and return the path."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def save_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON, and return the path. Raises `ValueError` for numbers that are not finite."""
    return save_text(path, _json(value))


def _json(value: Any) -> str:
    """Return a value as indented JSON that can be encoded as UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    # bytes of a file name that are not UTF-8 are written as escapes
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def save_image(
    path: str | Path, image: "Tensor | Image.Image", comment: str | None = None, record: str | None = None
) -> Path:
    """Write a picture in the format that the suffix of its name says.

    Args:
        path: the file.
        image: uint8 (3, H, W), or an image of Pillow.
        comment: a text for people, which a png carries.
        record: how the picture was made, in ASCII, which a png carries as well (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written.
    """
    from PIL import Image, PngImagePlugin

    if isinstance(image, Tensor):
        assert image.dtype == torch.uint8 and image.dim() == 3, (image.dtype, image.shape)
        image = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    options: dict[str, Any] = {}
    texts = {"Comment": comment, KEY: record}
    if any(texts.values()) and Path(path).suffix.lower() == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            if text:
                options["pnginfo"].add_text(key, text)
    with atomic(path) as temporary:
        image.save(temporary, **options)
    return Path(path)


def save_audio(
    path: str | Path, wave: Tensor, rate: int, comment: str | None = None, record: str | None = None
) -> Path:
    """Write a sound as wav (16 bit), flac, ogg or mp3, as the suffix of its name says.

    Args:
        path: the file.
        wave: float (samples,) or (channels, samples) in [-1, 1]; what is beyond is clipped.
        rate: the sampling rate in Hz.
        comment: a text for people that the file carries.
        record: how the sound was made, in ASCII, which a wav carries as well (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written.
    """
    soundfile = load(*WRITERS[Modality.AUDIO])
    wave = _finite(wave)
    with atomic(path) as temporary:
        with soundfile.SoundFile(str(temporary), "w", samplerate=int(rate), channels=len(wave)) as file:
            if comment:
                file.comment = comment
            file.write(wave.T.numpy())
        if record and Path(path).suffix.lower() == ".wav":
            append_to_wav(temporary, record)
    return Path(path)


def save_video(
    path: str | Path,
    frames: Tensor,
    fps: float,
    audio: Tensor | None = None,
    sampling_rate: int | None = None,
    comment: str | None = None,
    record: str | None = None,
) -> Path:
    """Write a clip, with or without sound, as an mp4 (h264, aac) that plays everywhere.

    h264 wants even sides: an odd one repeats its last row or column.

    Args:
        path: the file, whose name ends in .mp4, .mov or .m4v.
        frames: uint8 (F, 3, H, W).
        fps: frames per second, which may be a fraction.
        audio: float (samples,) or (channels, samples) in [-1, 1], of one or two channels; what is beyond is
            clipped. None writes no sound.
        sampling_rate: the sampling rate of the sound in Hz; None without sound.
        comment: a text for people that the file carries.
        record: how the clip was made, in ASCII, which the file carries as well (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written, or has another suffix.
    """
    av = load(*WRITERS[Modality.VIDEO])
    assert frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[1] == 3, (
        frames.dtype,
        frames.shape,
    )
    assert (audio is None) == (sampling_rate is None), "sound comes with its rate"
    if Path(path).suffix.lower() not in (".mp4", ".mov", ".m4v"):
        raise InputError(f"cannot write a clip as {path}: expected a name that ends in .mp4")
    pixels = _even(frames.cpu()).permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
    with atomic(path) as temporary:
        with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
            if comment:
                container.metadata["comment"] = comment
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
            stream.height, stream.width = pixels.shape[1:3]
            stream.pix_fmt = "yuv420p"
            layout = None if audio is None else "mono" if len(torch.atleast_2d(audio)) == 1 else "stereo"
            sound = layout and container.add_stream("aac", rate=int(sampling_rate), layout=layout)
            for picture in pixels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
            if sound:
                encode_sound(container, sound, audio, int(sampling_rate))
        if record:
            append_to_mp4(temporary, record)
    return Path(path)


def encode_sound(container: Any, stream: Any, audio: Tensor, rate: int) -> None:
    """Encode all of a sound into a stream, at the rate of that stream.

    Args:
        container: the open file that the stream belongs to.
        stream: the stream of sound.
        audio: float (samples,) or (channels, samples) in [-1, 1]; what is beyond is clipped.
        rate: the sampling rate of the sound in Hz.
    """
    import av

    frame = av.AudioFrame.from_ndarray(_finite(audio).numpy(), format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _finite(audio: Tensor) -> Tensor:
    """Return a sound as (channels, samples), float32 and clipped to [-1, 1]."""
    audio = torch.atleast_2d(audio.detach().float().cpu())
    assert torch.isfinite(audio).all(), "a sound to write has samples that are not finite"
    return audio.clamp(-1, 1)


def _even(frames: Tensor) -> Tensor:
    """Return frames (F, 3, H, W) with even sides; the last row or column of an odd side is repeated."""
    height, width = frames.shape[-2:]
    return (
        F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else frames
    )
