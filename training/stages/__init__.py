"""This module holds the contract of a stage and the table of all stages by name.

Each training objective is one `Stage` object. The loop, the plan and the dry run know what trains through
this contract alone.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.types import InputError
from data.source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.config import Config
    from training.stages.latents import Encoding


class Stage:
    """The base class of all stages: one training objective, with its data, its loss and its export.

    The class methods answer what can be asked of a configuration alone, before anything is loaded.

    Args:
        config: the run. A subclass reads its options strictly; it loads nothing before `load`.

    Attributes:
        identity: the names of those options that say what is learned; a run with other values of them is
            another run, and does not resume this one.
        device: where the frozen parts are.
        config: the run.
        progress: the share in [0, 1) of the run's samples that were seen before this step; the loop sets it.
            A measurement on held-out samples is made at 1.
    """

    identity: tuple[str, ...] = ()
    device: torch.device
    config: Config
    progress: float = 0.0

    @abstractmethod
    def __init__(self, config: Config) -> None:
        pass

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the parts that a run makes anew from `part`."""
        return ()

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the folders that a run writes below the model folder."""
        return cls.builds(config)

    @classmethod
    def reads(cls, config: Config) -> list[str]:
        """Return the places that samples come from, as names for people to read."""
        from training.stages.files import names_of_data

        return names_of_data(config.data)

    def rows_of_data(self) -> str:
        """Return in a line for people how many rows the data have, by the media in them; "" for scenes."""
        from training.stages.rows import rows_in_words

        return rows_in_words(self.config.data)

    def load(self) -> None:
        """Load the frozen parts, by `training.stages.common.load_part`: a plan does without their weights."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Return everything that trains, in one module; frozen parts stay outside of it."""

    def part_of(self, module: nn.Module, name: str) -> nn.Module:
        """Return one of the parts that a run builds.

        Args:
            module: what `build` returned.
            name: the part's name, one of `builds`.

        Returns:
            The part, which lies in `module` or is `module` itself.
        """
        return module

    def to(self, device: torch.device) -> None:
        """Move the frozen parts to `device`."""
        self.device = device

    @abstractmethod
    def data(self) -> Source:
        """Return the training set."""

    def with_data(self, data: dict[str, Any]) -> Stage:
        """Return this stage over other samples, such as held-out ones.

        Args:
            data: takes the place of the section `data` of the run.

        Returns:
            A stage that shares everything else with this one, frozen parts included.

        Raises:
            InputError: if nothing that the stage learns is among the samples.
        """
        other = copy.copy(self)
        other.config = self.config.over(data)
        return other

    def scores(self, module: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        """Return what can be measured on held-out samples beside the loss.

        Args:
            module: what `build` returned, as it would be exported.
            batches: batches of held-out samples, on the CPU.

        Returns:
            Numbers by name; none where the loss says it all.
        """
        return {}

    def encodings(self) -> list[Encoding]:
        """Return what `training.cache` encodes of media files; nothing where the media themselves train."""
        return []

    @abstractmethod
    def loss(
        self, module: nn.Module, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a micro-batch, and values for the log.

        Args:
            module: what `build` returned.
            batch: what the source of `data` returned, moved to the module's device.
            generator: the source of every random draw; it lives on the module's device.

        Returns:
            The scalar loss, and a dict of scalars to log. The dict may also have "bins": a pair of the noise
            levels (B,) in [0, 1] and the unreduced losses (B,), which are logged by noise level.
        """

    def dummy_batch(self, module: nn.Module, count: int) -> dict[str, Any] | None:
        """Return the inputs of `dry_pass` as tensors without numbers, on torch's meta device.

        Args:
            module: what `build` returned.
            count: the number of samples.

        Returns:
            The inputs by name; None for a stage whose cost is not known.
        """
        return None

    def dry_pass(self, module: nn.Module, batch: dict[str, Any]) -> None:
        """Run through `module` what the loss runs through it, at the cost of a step, on a dummy batch.

        Args:
            module: what `build` returned.
            batch: what `dummy_batch` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has a dummy batch and no dry pass")

    @abstractmethod
    def preview(self, module: nn.Module, folder: Path) -> None:
        """Write pictures, sounds or texts that show what was learned so far into `folder`, which exists."""

    @abstractmethod
    def export(self, module: nn.Module, folder: Path) -> None:
        """Write the trained part into the model folder as float16 safetensors, in the layout of diffusers."""


# name in a config -> "module:class", imported when asked for
STAGES: dict[str, str] = {
    "autoencoder_image": "training.stages.autoencoder:ImageStage",
    "autoencoder_audio": "training.stages.autoencoder:MelStage",
    "autoencoder_text": "training.stages.autoencoder:TextStage",
    "vocoder": "training.stages.autoencoder:VocoderStage",
    "phase_seeded_vocoder": "training.stages.phase_seeded:PhaseSeededStage",
    "align": "training.stages.align:AlignStage",
    "distil": "training.stages.distil:DistilStage",
    "denoise": "training.stages.denoise:DenoiseStage",
    "noisy_latent": "training.stages.noisy_latent:NoisyLatentStage",
    "joint": "training.stages.joint:JointStage",
    "composed_joint": "training.stages.composed_joint:ComposedJointStage",
    "composed_attention": "training.stages.composed_attention:ComposedAttentionStage",
    "composed_noisy_latent": "training.stages.composed_noisy_latent:ComposedNoisyLatentStage",
    "composed_prompts": "training.stages.composed_prompts:ComposedPromptsStage",
    "lora_denoise": "training.stages.lora:DenoiseLora",
    "lora_joint": "training.stages.lora:JointLora",
    "control": "training.stages.control:ControlStage",
    "textual_inversion": "training.stages.textual_inversion:InversionStage",
    "super_resolution": "training.stages.super_resolution:SuperResolutionStage",
    "tower": "training.stages.tower:TowerStage",
}


def find_stage(name: str) -> type[Stage]:
    """Return the class of a stage.

    Args:
        name: the stage's name in a configuration, a key of `STAGES`.

    Returns:
        The class, whose module is imported now.

    Raises:
        InputError: for an unknown name, with the one that is nearest to it.
    """
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"config: unknown stage {name!r}: {hint}(known: {', '.join(sorted(STAGES)) or 'none'})"
        )
    module, _, attribute = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def open_stage(config: Config) -> Stage:
    """Return the stage of a run, its frozen parts loaded. Raise `InputError` for what is wrong with it."""
    stage = find_stage(config.stage)(config)
    stage.load()
    return stage
