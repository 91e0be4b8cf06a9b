"""What a pipeline gives back: lists per modality, and writing them as files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

import torch
from diffusers.utils.outputs import BaseOutput

from codi import io, records
from codi.modalities import Attribute, kind_of
from codi.records import Record, read_record
from codi.types import InputError, Latents, Modality
from codi.version import __version__

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
DUBBED = (".mov", ".mkv", ".webm")  # suffixes of a clip with its new sound that mp4 does not take
FIELDS = Attribute("field")

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
    others         media of modalities that have no field here, by modality; `out.of(name)` gives any
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

    def of(self, modality: Modality | str) -> list[Any]:
        """Returns the media of one modality, one for each sample; an empty list where none were made."""
        modality = Modality.parse(modality)
        return self.others.get(modality) or getattr(self, kind_of(modality).field, [])

    def __getattr__(self, name: str) -> Any:
        """Returns the media of a modality without a field here, by its kind's name for the list."""
        for modality, made in self.__dict__.get("others", {}).items():
            if FIELDS[modality] == name:
                return made
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

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
        return tuple(self.of(m) for m in self.outputs or self.made)

    @property
    def made(self) -> list[Modality]:
        """The modalities of which there are media here, in the order of registration."""
        return [m for m in FIELDS if self.of(m)]

    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    batch: list[dict[str, int]] = field(default_factory=list)
    others: dict[Modality, list[Any]] = field(default_factory=dict)

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
        io.check_writers(self.made)
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
        dubbed = (".mp4", *DUBBED) if self.clip is not None and self.audios and not self.videos else ()
        return (*(kind_of(m).suffix for m in reversed(self.made)), *dubbed)

    def _save_sample(self, folder: Path, name: str, k: int) -> list[Path]:
        paths = [Path(kind_of(m).write(self, folder / name, k)) for m in reversed(self.made)]
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
    """Returns decoded media (B, ...) of one modality as a list in the form of `output_type`."""
    return kind_of(modality).formatted(raw, output_type)


def as_fields(media: Mapping[Modality, list[Any]]) -> dict[str, Any]:
    """Returns lists of media as arguments of a `CoDiOutput`, in `others` those without a field of theirs."""
    own = {item.name for item in fields(CoDiOutput)}
    named = {FIELDS[m]: made for m, made in media.items() if FIELDS[m] in own}
    return named | {"others": {m: made for m, made in media.items() if FIELDS[m] not in own}}
