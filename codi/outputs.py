"""What a pipeline gives back: lists per modality, and writing them as files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput
from PIL import Image
from torch import Tensor

from codi import io
from codi.types import InputError, Latents, Modality

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
FIELDS = {Modality.TEXT: "texts", Modality.IMAGE: "images", Modality.AUDIO: "audios", Modality.VIDEO: "videos"}


@dataclass
class CoDiOutput(BaseOutput):
    """One entry per sample in every list that was asked for; the others are empty.

    texts          sentences
    images         by output_type: "pil" PIL images; "pt" uint8 tensors (3, H, W); "np" uint8 arrays (H, W, 3)
    audios         float32 in [-1, 1], (samples,): tensors, or arrays for "np"
    videos         uint8 tensors (F, 3, H, W), or arrays (F, H, W, 3) for "np"
    sampling_rate  Hz of the audios
    fps            frames per second of the videos
    seeds          of each sample: the same seed alone gives the same sample
    latents        normalised latents (B, ...) by modality, for "latent" only
    """

    texts: list[str] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    sampling_rate: int | None = None
    fps: float | None = None
    seeds: list[int] = field(default_factory=list)
    latents: Latents | None = None

    def save(self, folder: str | Path, names: list[str] | None = None) -> list[Path]:
        """Writes NAME.mp4 (with the sound made with it), NAME.wav, NAME.png and NAME.txt of every sample; returns their paths.

        names: one per sample, 000, 001, ... without. Raises `InputError` for a folder that cannot be written.
        """
        if self.latents is not None:
            raise InputError("latents cannot be saved as media: call the pipeline with output_type='pil'")
        names = names or [f"{k:03d}" for k in range(len(self.seeds))]
        assert len(names) == len(self.seeds), f"{len(names)} names for {len(self.seeds)} samples"
        folder = io.check_folder(folder)
        return [path for k, name in enumerate(names) for path in self._save_sample(folder, name, k)]

    def _save_sample(self, folder: Path, name: str, k: int) -> list[Path]:
        made = [modality for modality in (Modality.VIDEO, Modality.AUDIO, Modality.IMAGE, Modality.TEXT) if getattr(self, FIELDS[modality])]
        return [Path(_WRITERS[modality](self, folder / name, k)) for modality in made]


def formatted(modality: Modality, raw: Any, output_type: str) -> list[Any]:
    """Decoded media (B, ...) of one modality -> a list in the form of `output_type`."""
    return _FORMATTERS[modality](raw, output_type)


def _format_images(raw: Tensor, output_type: str) -> list[Any]:
    pixels = list(io.from_unit(raw).cpu())
    if output_type == "pt":
        return pixels
    arrays = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in pixels]
    return arrays if output_type == "np" else [Image.fromarray(array) for array in arrays]


def _format_videos(raw: Tensor, output_type: str) -> list[Any]:
    clips = list(io.from_unit(raw).cpu())
    return [clip.permute(0, 2, 3, 1).numpy() for clip in clips] if output_type == "np" else clips


def _format_audios(raw: Tensor, output_type: str) -> list[Any]:
    waves = list(raw.float().clamp(-1, 1).cpu())
    return [wave.numpy() for wave in waves] if output_type == "np" else waves


_FORMATTERS: dict[Modality, Callable[[Any, str], list[Any]]] = {
    Modality.TEXT: lambda raw, output_type: list(raw),
    Modality.IMAGE: _format_images,
    Modality.AUDIO: _format_audios,
    Modality.VIDEO: _format_videos,
}


def _write_text(out: CoDiOutput, stem: Path, k: int) -> Path:
    return io.save_text(_suffixed(stem, ".txt"), out.texts[k] + "\n")


def _write_image(out: CoDiOutput, stem: Path, k: int) -> Path:
    image = out.images[k]
    return io.save_image(_suffixed(stem, ".png"), Image.fromarray(image) if isinstance(image, np.ndarray) else image)


def _write_audio(out: CoDiOutput, stem: Path, k: int) -> Path:
    return io.save_audio(_suffixed(stem, ".wav"), torch.as_tensor(out.audios[k]), out.sampling_rate)


def _write_video(out: CoDiOutput, stem: Path, k: int) -> Path:
    clip = out.videos[k]
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) if isinstance(clip, np.ndarray) else clip
    sound = dict(audio=torch.as_tensor(out.audios[k]), sampling_rate=out.sampling_rate) if out.audios else {}
    return io.save_video(_suffixed(stem, ".mp4"), frames, out.fps, **sound)


def _suffixed(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


_WRITERS: dict[Modality, Callable[[CoDiOutput, Path, int], Path]] = {
    Modality.TEXT: _write_text,
    Modality.IMAGE: _write_image,
    Modality.AUDIO: _write_audio,
    Modality.VIDEO: _write_video,
}
