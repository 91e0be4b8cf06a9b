"""Small media files for the tests of `data`: what every test may know about them is written here."""

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from codi.io import save_audio, save_image, save_video
from codi.rows import Ref
from codi.types import Modality, ModalitySpec
from codi.world import caption, render_images, render_sounds, render_videos, sample_scene
from data.decode import Job, Size

RATE = 16_000
GEOMETRY = {
    "image": {"size": 64},
    "video": {"size": 64, "frames": 16, "fps": 8},
    "audio": {"samples": 32000, "rate": RATE},
}
SPECS = {
    Modality.IMAGE: ModalitySpec(raw_shape=(3, 64, 64), latent_shape=()),
    Modality.VIDEO: ModalitySpec(raw_shape=(16, 3, 64, 64), latent_shape=(), rate=8),
    Modality.AUDIO: ModalitySpec(raw_shape=(32000,), latent_shape=(), rate=RATE),
}


def scenes(count: int) -> list:
    return [sample_scene(np.random.default_rng((9, k))) for k in range(count)]


def world_files(folder: Path, count: int) -> tuple[list[dict], dict]:
    """`count` scenes as png, flac and mp4 (with sound); the rows of their manifest, and what was rendered."""
    shown = scenes(count)
    truth = {"image": render_images(shown), "audio": render_sounds(shown), "video": render_videos(shown)}
    rows = []
    for k, scene in enumerate(shown):
        save_image(folder / f"{k}.png", truth["image"][k])
        save_audio(folder / f"{k}.flac", truth["audio"][k], RATE)
        save_video(folder / f"{k}.mp4", truth["video"][k], 8, truth["audio"][k], RATE)
        rows.append(
            {
                "id": f"s{k}",
                "image": f"{k}.png",
                "audio": f"{k}.flac",
                "video": f"{k}.mp4",
                "caption": caption(scene, ("colour",)),
            }
        )
    return rows, truth


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clicks(seconds: float, *times: float, rate: int = RATE) -> torch.Tensor:
    """Silence with one sample of 0.9 at each time."""
    wave = torch.zeros(round(seconds * rate))
    wave[[round(time * rate) for time in times]] = 0.9
    return wave


def numbered(count: int, side: int = 32) -> torch.Tensor:
    """uint8 (count, 3, side, side): frame k is grey of level 8 + 4 k."""
    assert count <= 60
    return (
        (8 + 4 * torch.arange(count))
        .to(torch.uint8)[:, None, None, None]
        .expand(-1, 3, side, side)
        .contiguous()
    )


def number_of(frames: torch.Tensor) -> list[int]:
    """Which frame of `numbered` each of these is."""
    return ((frames.float().mean(dim=(1, 2, 3)) - 8) / 4).round().int().tolist()


def save_clip(
    path: Path, frames: torch.Tensor, fps: float, wave: torch.Tensor | None = None, **options: str
) -> Path:
    """A clip as webm (vp9, opus) or mp4 (h264 with B frames, aac) by its name; `options` go to the encoder of
    frames.
    """
    import av

    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libvpx-vp9" if webm else "libx264", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width, stream.pix_fmt = *frames.shape[2:], "yuv420p"
        sound = (
            None
            if wave is None
            else container.add_stream(
                "libopus" if webm else "aac", rate=48_000 if webm else RATE, layout="mono"
            )
        )
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(wave[None].numpy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def tiny(folder: Path) -> dict[str, bytes]:
    """The smallest good file of every format, by its suffix."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    picture = torch.stack([x * 10, y * 10, (x + y) * 5]).to(torch.uint8)
    wave = 0.5 * torch.sin(torch.arange(2400) * 0.2)
    for suffix in ("png", "jpg", "webp"):
        save_image(folder / f"a.{suffix}", picture)
    for suffix in ("wav", "flac", "mp3", "ogg"):
        save_audio(folder / f"a.{suffix}", wave, RATE)
    for suffix in ("mp4", "webm"):
        save_clip(folder / f"a.{suffix}", numbered(4, 32), 8, wave)
    return {path.suffix[1:]: path.read_bytes() for path in sorted(folder.glob("a.*"))}


def job_of(path: Path, number: int = 0, **changes) -> Job:
    """The job that decodes a whole tiny file; a clip gives its frames and its sound."""
    kind = {"png": "image", "jpg": "image", "webp": "image", "mp4": "video", "webm": "video"}.get(
        path.suffix[1:], "audio"
    )
    sizes = {
        "image": {Modality.IMAGE: Size((3, 16, 16))},
        "audio": {Modality.AUDIO: Size((2400,), RATE)},
        "video": {Modality.VIDEO: Size((4, 3, 16, 16), 8), Modality.AUDIO: Size((2400,), RATE)},
    }[kind]
    return Job(
        key=(0, number),
        id=path.name,
        sizes=sizes,
        refs={Modality(kind): Ref(path=path)},
        path=str(path),
        **changes,
    )


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to eight bytes changed, a piece doubled, left out or zeroed, or its
    end cut off.
    """
    raw, kind = bytearray(content), rng.integers(5)
    start = int(rng.integers(len(raw)))
    stop = min(len(raw), start + int(rng.integers(1, 64)))
    if kind <= 1:
        for _ in range(int(rng.integers(1, 9))):
            raw[rng.integers(len(raw))] = rng.integers(256)
    elif kind == 2:
        del raw[start:stop]
    elif kind == 3:
        raw[start:stop] = bytes(stop - start) if rng.random() < 0.5 else raw[start:stop] * 2
    else:
        del raw[max(1, start) :]
    return bytes(raw)
