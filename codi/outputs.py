"""Hold what a pipeline returns, as lists by modality, and write it as files.

Letters: B batch, F frames, H W height and width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

import torch
from diffusers.utils.outputs import BaseOutput

from codi import io, records
from codi.filters import Filter, show
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
    """The media of a call, with one entry per sample in every list that was asked for; other lists are empty.

    Attributes:
        texts: sentences.
        images: by output_type: "pil" PIL images; "pt" uint8 tensors (3, H, W); "np" uint8 arrays (H, W, 3).
        audios: float32 in [-1, 1], (samples,): tensors, or arrays for "np".
        videos: uint8 tensors (F, 3, H, W), or arrays (F, H, W, 3) for "np".
        sampling_rate: the rate of the audios in Hz.
        fps: frames per second of the videos.
        seeds: the seed of each sample: the same seed alone gives the same sample.
        latents: normalised latents (B, ...) by modality, for "latent" only.
        selection: with candidates, for each sample: the number of the one that was kept, and the seeds and
            scores of all.
        model: the name of the model that made them, for the comment in the files.
        clip: the file whose picture the sounds were made for.
        outputs: what was asked for, in that order, which is the order of `to_tuple` and of `out[0]`.
        settings: every setting of the call, the model's own values included (see `codi.records`).
        origin: outputs, prompts and model, as a record has them.
        batch: for each sample, its row and the number of rows in the batch in which it was made.
        others: media of modalities that have no field here, by modality; `out.of(name)` gives any.
        filtered: for each sample, which filter changed what (see `filtered_by`); empty without a filter.
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
        """Return the media of one modality, one for each sample; an empty list where none were made."""
        modality = Modality.parse(modality)
        return self.others.get(modality) or getattr(self, kind_of(modality).field, [])

    def __getattr__(self, name: str) -> Any:
        """Return the media of a modality without a field here.

        The name is the one that the modality's kind gives to the list (`codi.modalities`).
        """
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
        """Return the media alone, one list for each output, in the order in which they were asked for.

        For the output type "latent" they are latents in place of lists.
        """
        if self.latents is not None:
            return tuple(self.latents[m] for m in self.outputs or self.latents)
        return tuple(map(self.of, self.outputs or self.made))

    @property
    def made(self) -> list[Modality]:
        """The modalities of which there are media here, in the order of registration."""
        return [m for m in FIELDS if self.of(m)]

    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    batch: list[dict[str, int]] = field(default_factory=list)
    others: dict[Modality, list[Any]] = field(default_factory=dict)
    filtered: list[dict[str, Any]] = field(default_factory=list)

    def filtered_by(self, filter: Filter | Callable[[Any], Any] | str | None) -> "CoDiOutput":
        """Return what a filter lets pass, with what it changed in place of what was made.

        Args:
            filter: a function of one sample (`codi.filters`), or its name; None lets everything pass.

        Returns:
            This output where nothing was changed, or another.

        Raises:
            Refused: if the filter refuses a sample, or fails on it.
        """
        chosen = Filter.parse(filter)
        if chosen is None:
            return self
        made = {m: list(self.of(m)) for m in self.made}
        notes = []
        for k, seed in enumerate(self.seeds):
            media = {m: items[k] for m, items in made.items()}
            rates = {"sampling_rate": self.sampling_rate, "fps": self.fps}
            changed = chosen.changed(show(media, self.record(k), seed=seed, **rates))
            for name, new in changed.items():
                made[Modality.parse(name)][k] = new
            notes.append({**chosen.described(), "changed": sorted(changed)} if changed else {})
        if not any(notes):
            return self
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{**values, **as_fields(made), "filtered": notes})

    def save(
        self,
        folder: str | Path,
        names: list[str] | None = None,
        overwrite: bool = False,
        filter: Filter | Callable[[Any], Any] | str | None = None,
        sign: Callable[[list[Path], Mapping[str, Any]], list[Path]] | None = None,
    ) -> list[Path]:
        """Write NAME.mp4 (with the sound made with it), NAME.wav, NAME.png and NAME.txt of every sample.

        For sound that was made for a clip, without a video, NAME.mp4 is that clip with the new sound, its
        frames untouched (see `io.save_dubbed`). All but the text carry the record of how they were made
        (`read_record`).

        Args:
            folder: where the files go.
            names: one name per sample; None for the next free numbers of the folder, from 000.
            overwrite: whether files that are there may be replaced; numbers then count from 000.
            filter: is asked of every sample before the first is written (see `filtered_by`).
            sign: signs the files of a sample before anybody sees them, and returns the paths of what it wrote
                beside them (`codi.credentials.Signer`).

        Returns:
            The paths of the files.

        Raises:
            InputError: for latents, a folder that cannot be written, or a name that is taken. Of the sample
                at which that happens nothing is left. For what a filter refuses nothing is written at all.
        """
        if self.latents is not None:
            raise InputError("latents cannot be saved as media: call the pipeline with output_type='pil'")
        if filter is not None:
            return self.filtered_by(filter).save(folder, names, overwrite, sign=sign)
        io.check_writers(self.made)
        folder = io.check_folder(folder)
        num_samples = len(self.seeds)
        paths: list[Path] = []
        if names is None and not overwrite:
            for k in range(num_samples):
                paths += self._save_numbered(folder, k, sign)
            return paths
        names = names or [f"{k:03d}" for k in range(num_samples)]
        assert len(names) == num_samples, f"{len(names)} names for {num_samples} samples"
        for name in names:
            if Path(name).name != name:
                raise InputError(f"{name!r} is no name for a file: expected one without a folder")
        if not overwrite:
            self._check_free(folder, names)
        for k, name in enumerate(names):
            paths += self._save_sample(folder, name, k, overwrite, sign)
        return paths

    def _save_numbered(self, folder: Path, k: int, sign: Any) -> list[Path]:
        with io.numbered(folder) as name:
            return self._save_sample(folder, name, k, False, sign)

    def _check_free(self, folder: Path, names: list[str]) -> None:
        """Raise `InputError` if any file that could be written under these names is there already."""
        paths = [folder / (name + suffix) for name in names for suffix in self.suffixes]
        for path in paths:
            if path.exists():
                raise InputError(
                    f"{path} is there already: expected another name or folder, or overwrite=True to replace "
                    "it"
                )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that `save` may write."""
        suffixes = [kind_of(m).suffix for m in reversed(self.made)]
        if self.clip is not None and self.audios and not self.videos:
            suffixes += [".mp4", *DUBBED]
        return tuple(suffixes)

    def _save_sample(self, folder: Path, name: str, k: int, replace: bool, sign: Any) -> list[Path]:
        """Write the files of sample `k` under `name`, all of them or none, and return their paths."""
        try:
            with io.staged(folder, replace) as place:
                # whatever a modality does to write its file, half of it stays in the hidden folder
                paths = [Path(kind_of(m).write(self, place / name, k)) for m in reversed(self.made)]
                if self.clip is not None and self.audios and not self.videos:
                    paths += self._save_dubbed(folder, place / name, k)
                if sign is not None:
                    paths += sign(paths, self.record(k))
        except FileExistsError as error:
            raise InputError(
                f"{folder / name}.* came to be while it was made ({error}): expected another name or folder"
            ) from None
        return [folder / path.name for path in paths]

    def _save_dubbed(self, folder: Path, stem: Path, k: int) -> list[Path]:
        """Write the clip that a sound was made for with that sound, if a container takes it."""
        assert self.clip is not None and self.sampling_rate is not None
        wave, rate = torch.as_tensor(self.audios[k]), self.sampling_rate
        path = io.save_dubbed(stem, self.clip, wave, rate, self.comment(k), self.record_text(k))
        if path is None:
            return []
        there = folder / path.name
        if there.exists() and there.samefile(self.clip):
            raise InputError(
                f"{self.clip} would be overwritten by itself with another sound: name another folder for "
                "what is made"
            )
        return [path]

    def record(self, k: int) -> dict[str, Any]:
        """Return how sample `k` was made, as its files carry it.

        The record of an output that was put together by hand is empty.
        """
        if not self.settings:
            return {}
        place = {"batch": self.batch[k]} if self.batch else {}
        chosen = {"selection": self.selection[k]} if self.selection else {}
        changed = {"filter": self.filtered[k]} if self.filtered and self.filtered[k] else {}
        asked = {**self.origin, "seed": self.seeds[k], **place, **chosen, **changed}
        return records.head() | asked | {"resolved": self.settings}

    def record_text(self, k: int) -> str | None:
        """Return the record of sample `k` as it is written into files; None where it is empty."""
        record = self.record(k)
        return records.to_text(record) if record else None

    def comment(self, k: int) -> str:
        """Return a line on where sample `k` comes from, for files that can hold a comment."""
        return f"generated by codi {__version__}, model {self.model or 'unnamed'}, seed {self.seeds[k]}"


def formatted(modality: Modality, raw: Any, output_type: str) -> list[Any]:
    """Return decoded media of one modality as a list in the form of an output type.

    Args:
        modality: the modality of the media.
        raw: media as an autoencoder decodes them, (B, ...) or sentences.
        output_type: one of `OUTPUT_TYPES` but "latent"; `CoDiOutput` describes the forms.

    Returns:
        One entry for each sample.
    """
    return kind_of(modality).formatted(raw, output_type)


def as_fields(media: Mapping[Modality, list[Any]]) -> dict[str, Any]:
    """Return lists of media as keyword arguments of a `CoDiOutput`.

    Those of modalities without a field of their own are in `others`.
    """
    own = {item.name for item in fields(CoDiOutput)}
    named: dict[str, Any] = {}
    others = {}
    for modality, made in media.items():
        if FIELDS[modality] in own:
            named[FIELDS[modality]] = made
        else:
            others[modality] = made
    return named | {"others": others}
