"""Distillation of a finished prompt tower: of damaged media it gives the token that it gave of clean ones.

The teacher is the finished tower, which sees the medium as it is; the student, which starts as its
copy, sees it after ordinary damage (`data.damage`). Everything that was trained on the teacher's tokens goes
on to understand the student's. Contrast with captions on damaged media instead moves the tokens of clean
media, too. Normalisation keeps the teacher's statistics and nothing is dropped, or the student's clean tokens
would drift.

Letters: B media, D width of the prompt space.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.modalities import component_class, in_files, kind_of
from codi.types import InputError, Modality, ModalitySpec
from codi.world import RENDERERS
from data.batch import Batch
from data.damage import KINDS, damage, damage_some, kinds_of
from training.config import Config, check_names, expect, strict
from training.dry_run import empty
from training.stages import Source, Stage
from training.stages.common import export_part, load_part
from training.stages.files import known_geometry, world_or_files
from training.stages.latents import as_unit
from training.stages.pairs import PairSource


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """Options of the stage.

    Attributes:
        media: the modalities of one tower, each with the number of its media for one sample of the batch. A
            tower that serves several modalities and is distilled on one of them forgets the others.
        damage: the share of media that are damaged; of the others the student is to give the teacher's token
            as well.
        damage_kinds: the kinds of damage that are drawn from; empty for all of them.
        validation_scenes: the number of media on which agreement with the teacher is measured, for each kind
            of damage.
        teacher: the model folder with the teacher; empty for the model's own. A run that goes on after its
            export needs a copy from before, since the student has taken the teacher's place.
    """

    media: dict[str, float] = field(default_factory=dict)
    damage: float = 0.8
    damage_kinds: tuple[str, ...] = ()
    validation_scenes: int = 32
    teacher: str = ""

    def __post_init__(self) -> None:
        expect(bool(self.media), "media", self.media, "at least one modality, such as {audio: 1}")
        for name, count in self.media.items():
            expect(0 < count <= 1, f"media.{name}", count, "above 0, at most 1")
        expect(0 <= self.damage <= 1, "damage", self.damage, "0 to 1")
        expect(self.validation_scenes >= 1, "validation_scenes", self.validation_scenes, "1 or more")
        check_names(self.damage_kinds, KINDS, "options.damage_kinds")


class Student(nn.Module):
    """The tower that trains. It stays in evaluation mode.

    Args:
        tower: the tower.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def train(self, mode: bool = True) -> "Student":
        """Leave the tower in evaluation mode, whatever is asked for."""
        super().train(mode)
        self.tower.eval()
        return self


class Together(PairSource):
    """A source whose batches have media of several sources, from each as many as its share says.

    Args:
        sources: the sources by the name of their media, which is the entry of their batches.
        shares: for each, the number of its media for one sample of the batch, at most 1.
    """

    def __init__(self, sources: Mapping[str, Any], shares: Mapping[str, float]):
        super().__init__(sources, shares)
        self.infinite = all(source.infinite for source in sources.values())

    def fetch(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the media of the samples, by name."""
        batch = {}
        for name, source in self.sources.items():
            batch[name] = source.fetch(indices[: math.ceil(self.shares[name] * len(indices))])[name]
        return batch


class DistilStage(Stage):
    """The stage that makes a finished tower bear ordinary damage.

    The section `part` of its run holds those arguments of the tower that are to be others than the finished
    one's, such as `peak` of the tower of sounds.
    """

    identity = ("media",)

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(DistilOptions, config.options, where="options")
        able = in_files() if config.data else tuple(RENDERERS)
        self.media = [Modality.parse(name) for name in self.options.media]
        towers = {kind_of(m).tower for m in self.media}
        if not set(self.media) <= set(able) or len(towers) > 1:
            raise InputError(
                f"options: media are {', '.join(self.options.media)}: expected some of {', '.join(able)}, "
                "all of one tower"
            )
        (self.name,) = towers
        self.cls = component_class(self.name)

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the name of the tower."""
        return tuple({kind_of(name).tower: None for name in config.options.get("media") or ()})

    def load(self) -> None:
        """Load the teacher."""
        folder = Path(self.options.teacher or self.config.model)
        self.teacher = load_part(self.cls, folder / self.name, "align it first")

    def build(self) -> Student:
        """Return a copy of the teacher, with the arguments in `part` changed.

        Returns:
            The student.

        Raises:
            InputError: for an argument that the tower does not have.
        """
        known = [name for name in self.teacher.config if not name.startswith("_")]
        check_names(self.config.part, known, "part")
        student = type(self.teacher).from_config(self.teacher.config, **self.config.part)
        student.load_state_dict(self.teacher.state_dict())
        return Student(student.requires_grad_(True))

    def to(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self.teacher.to(device)

    def data(self, offset: int = 0) -> Source:
        """Return a source of media, of scenes or of files; `offset` is added to its seed."""
        sources = {m.value: self.source_of(m, offset) for m in self.media}
        return Together(sources, self.options.media)

    def source_of(self, modality: Modality, offset: int) -> Source:
        """Return a source of media of one modality, {its name: (B, ...)}."""

        def render(scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
            return {modality.value: RENDERERS[modality](scenes)}

        def convert(batch: Batch) -> dict[str, Any]:
            return {modality.value: batch[modality.value]}

        return world_or_files(self.config, render, [modality], self.geometry(modality), convert, offset)

    def geometry(self, modality: Modality) -> dict[Modality, ModalitySpec]:
        """Return the geometry of a modality, as far as the model has it."""
        known = known_geometry(self.config.model).get(modality)
        spec = kind_of(modality).aligned_geometry(known, dict(self.teacher.config))
        return {} if spec is None else {modality: spec}

    @cached_property  # every step asks for them, and the files of parts say them
    def rates(self) -> dict[Modality, float | None]:
        """The rates of the media in their own steps per second, where a part states them."""
        specs = {modality: self.geometry(modality).get(modality) for modality in self.media}
        return {modality: None if spec is None else spec.rate for modality, spec in specs.items()}

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean over modalities of 1 - cosine to the teacher's token, and each for the log."""
        options = self.options
        distances = {}
        for modality in self.media:
            media = batch[modality.value]
            with torch.no_grad():
                wanted = self.teacher.embed(as_unit(media))
            damaged = damage_some(
                media, options.damage, generator, options.damage_kinds, self.rates[modality]
            )
            token = module.tower.embed(as_unit(damaged))
            distances[modality.value] = 1 - (token * wanted).sum(-1).mean()
        total = torch.stack(list(distances.values())).mean()
        return total, {name: value.detach() for name, value in distances.items()}

    def dummy_batch(self, module: Any, count: int) -> dict[str, Tensor] | None:
        """Return media of every modality, as `trunk` of the tower takes them."""
        batch = {}
        for modality in self.media:
            clips = "frames" in kind_of(modality).geometry_keys
            geometry = (self.config.data.get("geometry") or {}).get(modality.value, {})
            shape = module.tower.trunk_shape(geometry, clips=clips)
            if shape is None:
                return None
            batch[modality.value] = empty(math.ceil(self.options.media[modality.value] * count), *shape)
        return batch

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Run the student."""
        for media in batch.values():
            module.tower.trunk(media)

    @torch.no_grad()
    def agreement(self, module: Any, count: int) -> dict[str, dict[str, float]]:
        """Return the mean cosine of the student's tokens to the teacher's clean ones.

        Args:
            module: the student.
            count: the number of fresh media of each modality.

        Returns:
            For each modality the cosine by the kind of damage; "clean" is without any.
        """
        found: dict[str, dict[str, float]] = {}
        with self.data(offset=1) as source:
            batch = source.fetch(list(range(count)))
        for modality in self.media:
            media = batch[modality.value]
            wanted = self.teacher.embed(as_unit(media.to(self.teacher.device)))
            row = found[modality.value] = {}
            for kind in ("clean", *kinds_of(media[0])):
                rng = np.random.default_rng(self.config.seed)
                seen = media
                if kind != "clean":
                    seen = torch.stack([damage(one, kind, rng, self.rates[modality]) for one in media])
                token = module.tower.embed(as_unit(seen.to(wanted.device)))
                row[kind] = round(functional.cosine_similarity(token, wanted).mean().item(), 4)
        return found

    def preview(self, module: Any, folder: Path) -> None:
        """Write the agreement of the student with the teacher to `agreement.json`."""
        found = self.agreement(module, self.options.validation_scenes)
        (folder / "agreement.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def export(self, module: Any, folder: Path) -> None:
        """Write the student in the teacher's place; its bridges stay as they are."""
        export_part(module.tower, folder / self.name)
