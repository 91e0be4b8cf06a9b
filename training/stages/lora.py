"""LoRA stages (arXiv 2106.09685): a few numbers beside a finished denoiser, or beside joint attention.

The objective, the data and the previews are those of the stage that trained the denoisers; only what trains
differs. The denoisers stand outside of the trained module, so checkpoints hold the LoRA and its optimizer
state, nothing else.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi.adapters.files import save_lora
from codi.joint.encoders import EnvironmentEncoders
from codi.models.lora import ATTENTION, add_lora, find_layers, need_peft
from codi.types import InputError
from training.config import Config, strict
from training.stages import Source, Stage
from training.stages.common import load_part
from training.stages.denoise import DenoiseStage
from training.stages.joint import JointStage
from training.stages.joint_adapters import JointAdapters, strip
from training.stages.latents import Encoding

FOLDER = "loras"  # below the model folder, one folder per run


@dataclass(frozen=True, kw_only=True)
class LoraPart:
    """Arguments of a LoRA, the section `part` of its run.

    Attributes:
        rank: the rank R: a layer of I inputs and O outputs gets R (I + O) numbers.
        alpha: the LoRA acts with the factor alpha / rank; None stands for a factor of one.
        dropout: the share of the values entering the LoRA that is dropped in training.
        target_modules: the last names of the layers that get a LoRA.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ATTENTION

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise InputError(
                f"part: rank is {self.rank} and dropout {self.dropout}: expected a rank of 1 or more, a "
                "dropout in [0, 1)"
            )


class Adapters(nn.ModuleDict):
    """The LoRA of every denoiser, by component.

    Args:
        loras: what trains.
        denoisers: the denoisers that the LoRA acts in. They are known, not owned: their weights are no part
            of the module's state.
    """

    # the attribute by which parts of diffusers say so, and for which the engine looks
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    def __init__(self, loras: dict[str, nn.Module], denoisers: Iterable[nn.Module]):
        super().__init__(loras)
        # in a tuple torch does not see them, so they are no part of the state
        self._denoisers = tuple(denoisers)

    def enable_gradient_checkpointing(self) -> None:
        """Enable gradient checkpointing in the denoisers, where the activations are."""
        for denoiser in self._denoisers:
            denoiser.enable_gradient_checkpointing()


class LoraStage(Stage):
    """The base class of both LoRA stages.

    Args:
        config: the run.

    Attributes:
        joint: whether the layers of joint attention get a LoRA, or all others.
    """

    joint: bool

    def __init__(self, config: Config):
        need_peft()
        if config.compile:
            raise InputError("config: compile has no effect where only a LoRA trains: leave it out")
        self.config = config
        self.part = strict(LoraPart, config.part, where="part")
        self.alpha = self.part.rank if self.part.alpha is None else self.part.alpha
        self.inner = self.make_inner(config)

    def make_inner(self, config: Config) -> Any:
        """Return the stage whose objective this one has."""
        raise NotImplementedError

    def with_data(self, data: dict[str, Any]) -> Any:
        """Return this stage over other samples, as the stage inside is."""
        other: Any = super().with_data(data)
        other.inner = self.inner.with_data(data)
        return other

    def load(self) -> None:
        """Load the inner stage's frozen parts."""
        self.inner.load()

    def finished(self) -> nn.Module:
        """Return the finished module that the inner stage's loss is computed with."""
        raise NotImplementedError

    def denoisers(self) -> dict[str, nn.Module]:
        """Return the denoisers in that module, by component."""
        raise NotImplementedError

    def build(self) -> Adapters:
        """Return the LoRA of every denoiser, and freeze everything else."""
        self.base = self.finished().requires_grad_(False).eval()
        settings = {"rank": self.part.rank, "alpha": self.alpha, "dropout": self.part.dropout}
        denoisers = self.denoisers()
        layers = {}
        for name, denoiser in denoisers.items():
            layers[name] = find_layers(denoiser, self.part.target_modules, self.joint)
        loras = {name: add_lora(denoiser, layers[name], **settings) for name, denoiser in denoisers.items()}
        return Adapters(loras, denoisers.values())

    def to(self, device: torch.device) -> None:
        """Move the inner stage's frozen parts and the denoisers to `device`."""
        self.inner.to(device)
        self.base.to(device)

    def data(self) -> Source:
        """Return the inner stage's training set."""
        return self.inner.data()

    def encodings(self) -> list[Encoding]:
        """Return the inner stage's encodings."""
        return self.inner.encodings()

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the inner stage's loss, computed with the denoisers in which the LoRA acts."""
        return self.inner.loss(self.base, batch, generator)

    def preview(self, module: nn.Module, folder: Path) -> None:
        """Write the inner stage's preview, with the LoRA at work."""
        self.inner.preview(self.base, folder)

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the folder loras/<run> of the LoRA."""
        return (f"{FOLDER}/{config.output.name}",)

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write loras/<run>/pytorch_lora_weights.safetensors into the model folder."""
        settings = {"rank": self.part.rank, "alpha": self.alpha, "targets": self.part.target_modules}
        target = folder / self.produces(self.config)[0]
        save_lora(target, self.denoisers(), base=folder.resolve().name, **settings)


class DenoiseLora(LoraStage):
    """The stage of a LoRA beside one denoiser; its options are those of the denoise stage."""

    joint = False
    identity = DenoiseStage.identity

    def make_inner(self, config: Config) -> DenoiseStage:
        """Return the denoise stage of the finished denoiser. Raise `InputError` for `temporal_change`."""
        if temporal_change := config.options.get("temporal_change"):
            raise InputError(
                f"options: temporal_change is {temporal_change!r}: expected 0, a LoRA trains beside a "
                "finished denoiser alone"
            )
        return DenoiseStage(
            dataclasses.replace(config, part={}, options={**config.options, "continue_from": True})
        )

    def finished(self) -> nn.Module:
        """Return the finished denoiser."""
        return self.inner.build()

    def denoisers(self) -> dict[str, nn.Module]:
        """Return the one denoiser."""
        return {self.inner.component: self.base}


class JointLora(LoraStage):
    """The stage of a LoRA beside the joint attention of all denoisers in the pairs.

    The environment encoders are finished; the options are those of the joint stage.
    """

    joint = True
    identity = JointStage.identity

    def make_inner(self, config: Config) -> JointStage:
        """Return the joint stage, built with the arguments of the finished environment encoders."""
        self.environment_encoders = load_part(
            EnvironmentEncoders, config.model / "environment_encoders", "run joint first"
        )
        # `pairs` comes from the options of this run, as in the joint stage
        part = strip(self.environment_encoders.config)
        part.pop("pairs", None)
        return JointStage(dataclasses.replace(config, part=part))

    def finished(self) -> JointAdapters:
        """Return the finished denoisers and encoders. Raise `InputError` for options that change them."""
        for name in ("contrast", "temporal_change", "joint_config", "into"):
            if getattr(self.inner.options, name) not in (0, None):
                raise InputError(
                    f"options: {name} changes what is finished here, or trains beside it: leave it out for a "
                    "LoRA"
                )
        adapters = self.inner.build()
        # the joint stage builds new encoders; a LoRA needs those that the adapters learned with
        adapters.environment_encoders.load_state_dict(self.environment_encoders.state_dict())
        return adapters

    def denoisers(self) -> dict[str, nn.Module]:
        """Return the denoisers of all pairs."""
        return dict(self.base.denoisers.items())
