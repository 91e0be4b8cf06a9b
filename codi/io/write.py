"""Tensors -> media files, each written beside its destination and then renamed, so that nobody sees half of
one.
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


# The library that writes files of a modality, where it is more than Python and Pillow, and what for.
WRITERS = {Modality.AUDIO: ("soundfile", "writing a sound"), Modality.VIDEO: ("av", "writing a clip")}


def check_writers(modalities: Iterable[Modality]) -> None:
    """Raises `InputError` where a library does not load that is needed to write files of these modalities."""
    for modality in modalities:
        if modality in WRITERS:
            load(*WRITERS[modality])


def check_folder(folder: str | Path) -> Path:
    """The folder, created if need be. Raises `InputError` if nothing can be written there."""
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
    """Gives a temporary name beside `path`; renamed to `path` at the end, removed after an error or an
    interrupt.
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


NUMBERED = re.compile(r"(\d{3,6})(?=\.)")  # 000.png; longer ones, such as dates, are nobody's number


@contextmanager
def numbered(folder: Path) -> Iterator[str]:
    """Gives the next number that no file of `folder` bears, as a name such as "007", to this process alone.

    While it is in use a hidden file claims it, created by whoever comes first; afterwards the files that were
    written are the claim.
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
    """Returns the files of `folder` that are called `name` but for their suffix."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name == name or (path.stem == name and path.suffix)
    )


def _numbers(folder: Path) -> Iterator[int]:
    """Numbers that files of a folder bear."""
    found = (NUMBERED.match(entry.name) for entry in os.scandir(folder))
    return (int(match[1]) for match in found if match)


def create_json(path: Path, value: Any) -> bool:
    """Writes JSON as `save_json` does, but never over a file that is there; returns whether it
    was written.
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
    """Writes manifest.json. With `keep` one that is there first becomes manifest-000.json, or the next free
    number.

    Of several processes that finish at once every one's manifest stays: who finds another's moves it on.
    """
    path = folder / "manifest.json"
    while keep and not create_json(path, value):
        number = 0
        # a name of our own to move it to
        while not create_json(kept := folder / f"manifest-{number:03d}.json", {}):
            number += 1
        try:
            os.replace(path, kept)
        except FileNotFoundError:  # another process has moved it
            kept.unlink(missing_ok=True)
    return path if keep else save_json(path, value)


def save_text(path: str | Path, text: str) -> Path:
    """Writes a text in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def save_json(path: str | Path, value: Any) -> Path:
    """Writes indented JSON; numbers that are not finite raise ValueError."""
    return save_text(path, _json(value))


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    # bytes of a file name that are no UTF-8 stay escapes
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def save_image(
    path: str | Path, image: "Tensor | Image.Image", comment: str | None = None, record: str | None = None
) -> Path:
    """Writes a picture, uint8 (3, H, W) or Pillow's, in the format of the suffix; a png carries `comment`,
    and `record` (ASCII).
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
    """Writes a sound, float (samples,) or (channels, samples), as wav (16 bit), flac, ogg or mp3 by the
    suffix.

    Beyond [-1, 1] is clipped. A wav carries `record` (ASCII), too.
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
    """Writes frames uint8 (F, 3, H, W), and sound (samples,) or (channels, samples) if given, as mp4 (h264,
    aac) that plays everywhere.

    The rate may be fractional. It carries `comment`, and `record` (ASCII). h264 wants even sides: an odd one
    repeats its last row or column.
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
    """All of a sound (samples,) or (channels, samples) at `rate` into a stream, at the rate of
    that stream.
    """
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
    return (
        F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else frames
    )
