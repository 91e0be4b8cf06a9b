"""The contract of a stage, and the table of all of them by name.

One Stage object per objective; the loop knows nothing else about what it trains.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codi.types import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.config import Config


class Source(Protocol):
    """Samples by index. `infinite = True` says that indices never repeat: they are then counted, not
    shuffled.

    One that has something running also has `close()`; one that meets bad samples counts them in `bad`.
    """

    infinite: bool = False

    def __len__(self) -> int: ...

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """A whole batch, a function of `indices` alone; called from a background thread. "ids", if there,
        name its samples.
        """


class Stage(Protocol):
    """One training objective.

    Options that say what is learned are named in `identity`: with others it is another run.
    A stage on latents also has `encodings()`, a list of `training.stages.latents.Encoding`: what
    `training.cache` encodes of media files.
    """

    identity: tuple[str, ...] = ()

    def __init__(self, config: Config) -> None: ...

    def build(self) -> nn.Module:
        """Everything that trains, in one module. Frozen parts are loaded outside of it."""

    def to(self, device: torch.device) -> None:
        """Moves the frozen parts."""

    def data(self) -> Source: ...

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """The scalar loss of a micro-batch, and what to log: scalars, and optionally "bins", a pair of
        (noise level in [0, 1] (B,), unreduced loss (B,)). Every draw comes from `generator`, which lives on
        the module's device.
        """

    def preview(self, module: nn.Module, folder: Path) -> None:
        """Writes pictures, sounds or texts into `folder`, which exists."""

    def export(self, module: nn.Module, folder: Path) -> None:
        """Writes the trained component into the model folder, float16 safetensors, diffusers layout."""


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
    """The stage's class. Raises `InputError` for an unknown name."""
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"config: unknown stage {name!r}: {hint}(known: {', '.join(sorted(STAGES)) or 'none'})"
        )
    module, _, attribute = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
