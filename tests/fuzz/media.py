"""Mutated pictures, recordings and clips, through the readers of `codi.io`."""

import io as memory
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image

from codi import io
from tests.fuzz.mutate import mutate_bytes, rng


def seeds(folder: Path) -> dict[str, bytes]:
    """Return whole files of every kind by name, which are written into a folder first."""
    noise = torch.randint(0, 255, (6, 3, 24, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    wave = 0.5 * torch.sin(torch.arange(2000) * 0.2)
    made: dict[str, bytes] = {}
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp", "a.ppm"):
        made[name] = io.save_image(folder / name, noise[0], "comment", '{"record": 1}').read_bytes()
    picture = Image.fromarray(noise[0].permute(1, 2, 0).numpy())
    made["palette.png"] = _saved(picture.quantize(8), "PNG", transparency=0)
    made["grey16.png"] = _saved(Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32)), "PNG")
    made["alpha.webp"] = _saved(picture.convert("RGBA"), "WEBP", lossless=True)
    made["lzw.tiff"] = _saved(picture, "TIFF", compression="tiff_lzw")
    made["exif.jpg"] = _saved(picture, "JPEG", exif=_turned())
    frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in noise]
    for form, name in (("GIF", "moving.gif"), ("WEBP", "moving.webp"), ("PNG", "moving.png")):
        made[name] = _saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
    for name in ("a.wav", "a.flac", "a.mp3", "a.ogg"):
        made[name] = io.save_audio(folder / name, wave, 16000, "comment", '{"record": 1}').read_bytes()
    sound = memory.BytesIO()
    soundfile.write(sound, wave.numpy(), 8000, format="WAV", subtype="FLOAT")
    made["float.wav"] = sound.getvalue()
    made["a.mp4"] = io.save_video(
        folder / "a.mp4", noise, 8, wave, 16000, "comment", '{"record": 1}'
    ).read_bytes()
    made["a.mov"] = io.save_video(folder / "a.mov", noise, 8).read_bytes()
    for name, codec in (
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.ts", "mpeg2video"),
    ):
        made[name] = _clip(folder / name, codec, noise)
    return made


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    held = memory.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _clip(path: Path, codec: str, frames: torch.Tensor) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for frame in frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


READERS = {
    "picture": lambda path: io.load_image(path),
    "recording": lambda path: io.load_audio(path),
    "clip": lambda path: io.load_video(path),
    "beginning": lambda path: io.load_video(path, 0.3, size=8),
    "record": lambda path: io.read_text(path),
    "description": lambda path: io.describe(path),
}


def reader_of(name: str, dice) -> str:
    """Return by which reader a file is tried: mostly the one that it is meant for."""
    if dice.random() < 0.2:
        return dice.choice(list(READERS))
    suffix = Path(name).suffix
    if suffix in (".wav", ".flac", ".mp3", ".ogg"):
        return "recording"
    if suffix in (".mp4", ".mov", ".webm", ".avi", ".mkv", ".ts") or name == "moving.gif":
        return dice.choice(("clip", "clip", "clip", "recording"))
    return "picture"


def case_of(folder: Path, seed: int):
    """Return the function that tries the case of a number."""
    whole = seeds(folder)
    names, contents = list(whole), list(whole.values())

    def made(number: int) -> tuple[str, bytes, str]:
        dice = rng(seed, "media", number)
        name = dice.choice(names)
        return name, mutate_bytes(whole[name], dice, contents), reader_of(name, dice)

    def case(number: int) -> None:
        name, content, reader = made(number)
        path = folder / f"case{Path(name).suffix}"
        path.write_bytes(content)
        READERS[reader](path)

    def show(number: int, keep: Path) -> str:
        name, content, reader = made(number)
        (keep / f"media-{number}-{name}").write_bytes(content)
        return f"{name} as {reader}"

    return case, show
