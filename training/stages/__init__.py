"""The contract of a stage, and the table of all of them by name.

One Stage object per objective; the loop, the plan and the dry run know nothing else about what trains.
"""

from __future__ import annotations

import difflib
import importlib
from abc import abstractmethod
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
    """One training objective.

    What can be asked of a configuration alone, before anything is loaded, are class methods.

    Attributes:
        identity: the options that say what is learned; with others it is another run.
        device: where the frozen parts are.
    """

    identity: tuple[str, ...] = ()
    device: torch.device

    @abstractmethod
    def __init__(self, config: Config) -> None:
        """Reads the options strictly, and loads the frozen parts by `training.stages.common.load_part`."""

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Returns the names of the parts that a run makes anew from `part`."""
        return ()

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Returns the folders that a run writes, by their names below the model folder."""
        return cls.builds(config)

    @classmethod
    def reads(cls, config: Config) -> list[str]:
        """Returns where samples come from, for people to read."""
        from training.stages.files import names_of_data

        return names_of_data(config.data)

    @abstractmethod
    def build(self) -> nn.Module:
        """Returns everything that trains, in one module. Frozen parts are loaded outside of it."""

    def part_of(self, module: nn.Module, name: str) -> nn.Module:
        """Returns the part of this name, one of `builds`, in the module that `build` returned."""
        return module

    def to(self, device: torch.device) -> None:
        """Moves the frozen parts."""
        self.device = device

    @abstractmethod
    def data(self) -> Source:
        """Returns the training set."""

    def encodings(self) -> list[Encoding]:
        """Returns what `training.cache` encodes of media files; nothing where media themselves train."""
        return []

    @abstractmethod
    def loss(
        self, module: nn.Module, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Returns the scalar loss of a micro-batch, and what to log: scalars, and optionally "bins", a pair
        of (noise level in [0, 1] (B,), unreduced loss (B,)). Every draw comes from `generator`, which lives
        on the module's device.
        """

    def dummy_batch(self, module: nn.Module, count: int) -> dict[str, Any] | None:
        """Returns the inputs of `dry_pass` for `count` samples, tensors without numbers (on torch's meta
        device); None for a stage whose cost is not known.
        """
        return None

    def dry_pass(self, module: nn.Module, batch: dict[str, Any]) -> None:
        """Runs what the loss runs through `module`, on a dummy batch: its cost is the cost of a step."""
        raise NotImplementedError(f"{type(self).__name__} has a dummy batch and no dry pass")

    @abstractmethod
    def preview(self, module: nn.Module, folder: Path) -> None:
        """Writes pictures, sounds or texts into `folder`, which exists."""

    @abstractmethod
    def export(self, module: nn.Module, folder: Path) -> None:
        """Writes the trained part into the model folder, float16 safetensors, diffusers layout."""


# name in a config -> "module:class", imported when asked for
STAGES: dict[str, str] = {
    "autoencoder_image": "training.stages.autoencoder:ImageStage",
    "autoencoder_audio": "training.stages.autoencoder:MelStage",
    "autoencoder_text": "training.stages.autoencoder:TextStage",
    "vocoder": "training.stages.autoencoder:VocoderStage",
    "align": "training.stages.align:AlignStage",
    "denoise": "training.stages.denoise:DenoiseStage",
    "noisy_latent": "training.stages.noisy_latent:NoisyLatentStage",
    "joint": "training.stages.joint:JointStage",
    "lora_denoise": "training.stages.lora:DenoiseLora",
    "lora_joint": "training.stages.lora:JointLora",
    "textual_inversion": "training.stages.textual_inversion:InversionStage",
    "tower": "training.stages.tower:TowerStage",
}


def find_stage(name: str) -> type[Stage]:
    """Returns the class of a stage. Raises `InputError` for an unknown name."""
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"config: unknown stage {name!r}: {hint}(known: {', '.join(sorted(STAGES)) or 'none'})"
        )
    module, _, attribute = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
