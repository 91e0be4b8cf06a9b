"""What a pipeline gives back: lists per modality, and writing them as files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput
from PIL import Image
from torch import Tensor

from codi import io, records
from codi.records import Record, read_record
from codi.types import InputError, Latents, Modality
from codi.version import __version__

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
WRITTEN = (".mp4", ".wav", ".png", ".txt")  # suffixes of what `save` writes
DUBBED = (".mov", ".mkv", ".webm")  # and of a clip with its new sound that mp4 does not take
FIELDS = {
    Modality.TEXT: "texts",
    Modality.IMAGE: "images",
    Modality.AUDIO: "audios",
    Modality.VIDEO: "videos",
}

__all__ = ["CoDiOutput", "Record", "read_record"]


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
    selection      with candidates, per sample: the number of the one that was kept, and the seeds and scores
                   of all
    model          name of what made them, for the comment in the files
    clip           the file whose picture the sounds were made for
    outputs        what was asked for, in that order, which is the order of `to_tuple` and of `out[0]`
    settings       every setting of the call, the model's own values included (see `codi.records`)
    origin         outputs, prompts and model, as a record has them
    batch          row and number of rows of each sample in the batch that it was made in
    """

    texts: list[str] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    sampling_rate: int | None = None
    fps: float | None = None
    seeds: list[int] = field(default_factory=list)
    latents: Latents | None = None
    selection: list[dict[str, Any]] = field(default_factory=list)
    model: str | None = None
    clip: Path | None = None
    outputs: list[Modality] = field(default_factory=list)

    @property
    def frames(self) -> list[Any]:
        """The videos, by diffusers' name."""
        return self.videos

    def __getitem__(self, key: Any) -> Any:
        return self.videos if key == "frames" else super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """The media alone, one list for each output, or its latents for "latent", in the order in which they
        were asked for.
        """
        if self.latents is not None:
            return tuple(self.latents[m] for m in self.outputs or self.latents)
        made = self.outputs or [m for m in FIELDS if getattr(self, FIELDS[m])]
        return tuple(getattr(self, FIELDS[m]) for m in made)

    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    batch: list[dict[str, int]] = field(default_factory=list)

    def save(self, folder: str | Path, names: list[str] | None = None, overwrite: bool = False) -> list[Path]:
        """Writes NAME.mp4 (with the sound made with it), NAME.wav, NAME.png and NAME.txt of every sample;
        returns their paths.

        Sound made for a clip, and no video: NAME.mp4 is that clip with the new sound, its frames untouched
        (see `io.save_dubbed`). All but the text carry the record of how they were made (`read_record`).
        names: one per sample; without, the next free numbers of the folder, from 000. Nothing is overwritten
        unless `overwrite` is set, which also counts from 000. Raises `InputError` for a folder that cannot be
        written, or a name that is taken.
        """
        if self.latents is not None:
            raise InputError("latents cannot be saved as media: call the pipeline with output_type='pil'")
        io.check_writers(m for m in Modality if getattr(self, FIELDS[m]))
        folder = io.check_folder(folder)
        if names is None and not overwrite:
            return [path for k in range(len(self.seeds)) for path in self._save_numbered(folder, k)]
        names = names or [f"{k:03d}" for k in range(len(self.seeds))]
        assert len(names) == len(self.seeds), f"{len(names)} names for {len(self.seeds)} samples"
        if not overwrite:
            self._check_free(folder, names)
        return [path for k, name in enumerate(names) for path in self._save_sample(folder, name, k)]

    def _save_numbered(self, folder: Path, k: int) -> list[Path]:
        with io.numbered(folder) as name:
            return self._save_sample(folder, name, k)

    def _check_free(self, folder: Path, names: list[str]) -> None:
        there = [
            path
            for name in names
            for suffix in self.suffixes
            for path in [folder / (name + suffix)]
            if path.exists()
        ]
        if there:
            raise InputError(
                f"{there[0]} is there already: expected another name or folder, or overwrite=True to replace "
                "it"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those that `save` may write."""
        fields = dict(zip(WRITTEN, (self.videos, self.audios, self.images, self.texts)))
        dubbed = (".mp4", *DUBBED) if self.clip is not None and self.audios and not self.videos else ()
        return (*(suffix for suffix, made in fields.items() if made), *dubbed)

    def _save_sample(self, folder: Path, name: str, k: int) -> list[Path]:
        made = [
            modality
            for modality in (Modality.VIDEO, Modality.AUDIO, Modality.IMAGE, Modality.TEXT)
            if getattr(self, FIELDS[modality])
        ]
        paths = [Path(_WRITERS[modality](self, folder / name, k)) for modality in made]
        if self.clip is not None and self.audios and not self.videos:
            wave = torch.as_tensor(self.audios[k])
            dubbed = io.save_dubbed(
                folder / name, self.clip, wave, self.sampling_rate, self.comment(k), self.record_text(k)
            )
            paths += [] if dubbed is None else [dubbed]
        return paths

    def record(self, k: int) -> dict[str, Any]:
        """Returns how sample `k` was made, as its files carry it; empty for an output that was put together
        by hand.
        """
        if not self.settings:
            return {}
        place = {"batch": self.batch[k]} if self.batch else {}
        chosen = {"selection": self.selection[k]} if self.selection else {}
        asked = {**self.origin, "seed": self.seeds[k], **place, **chosen}
        return records.head() | asked | {"resolved": self.settings}

    def record_text(self, k: int) -> str | None:
        """Returns the record of sample `k` as it is written into files."""
        record = self.record(k)
        return records.to_text(record) if record else None

    def comment(self, k: int) -> str:
        """Where sample `k` comes from, as written into files that can hold it."""
        return f"generated by codi {__version__}, model {self.model or 'unnamed'}, seed {self.seeds[k]}"


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
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return io.save_image(_suffixed(stem, ".png"), picture, out.comment(k), out.record_text(k))


def _write_audio(out: CoDiOutput, stem: Path, k: int) -> Path:
    wave = torch.as_tensor(out.audios[k])
    return io.save_audio(_suffixed(stem, ".wav"), wave, out.sampling_rate, out.comment(k), out.record_text(k))


def _write_video(out: CoDiOutput, stem: Path, k: int) -> Path:
    clip = out.videos[k]
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) if isinstance(clip, np.ndarray) else clip
    sound = dict(audio=torch.as_tensor(out.audios[k]), sampling_rate=out.sampling_rate) if out.audios else {}
    return io.save_video(
        _suffixed(stem, ".mp4"), frames, out.fps, **sound, comment=out.comment(k), record=out.record_text(k)
    )


def _suffixed(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


_WRITERS: dict[Modality, Callable[[CoDiOutput, Path, int], Path]] = {
    Modality.TEXT: _write_text,
    Modality.IMAGE: _write_image,
    Modality.AUDIO: _write_audio,
    Modality.VIDEO: _write_video,
}
