"""What the joint stage trains: environment encoders, and the denoisers of which only the joint attention
learns.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from codi.joint.encoders import EnvironmentEncoders
from codi.models.codi import DENOISERS
from codi.protocols import Denoiser
from codi.types import InputError, Modality
from training.stages.common import load_part
from training.stages.contrast import TimedContrast
from training.stages.pairs import Pair
from training.stages.temporal_change import TemporalChangeDecoder


class JointAdapters(nn.Module):
    """Environment encoders, and the denoisers of which only the joint attention trains."""

    def __init__(
        self,
        environment_encoders: EnvironmentEncoders,
        denoisers: dict[str, nn.Module],
        contrast: TimedContrast | None = None,
        temporal_change: TemporalChangeDecoder | None = None,
        learning: Collection[str] | None = None,
    ):
        """`learning` names the denoisers whose joint attention trains; None: all."""
        super().__init__()
        self.environment_encoders, self.denoisers = environment_encoders, nn.ModuleDict(denoisers)
        self.contrast, self.temporal_change = contrast, temporal_change
        self.denoisers.requires_grad_(False)
        for name, denoiser in denoisers.items():
            if not denoiser.joint_adapters():
                raise InputError(
                    f"{name} has no joint attention: expected `options: adapters`, or one trained with "
                    "env_dim"
                )
            if learning is None or name in learning:
                for adapter in denoiser.joint_adapters().values():
                    adapter.requires_grad_(True)

    def denoiser(self, modality: Modality) -> nn.Module:
        """The denoiser that makes a modality."""
        return self.denoisers[DENOISERS[modality]]


def has_joint_attention(folder: Path) -> bool:
    """Whether the denoiser in a folder has joint attention; of one that is not there yet it is expected."""
    config = folder / "config.json"
    return not config.is_file() or bool(json.loads(config.read_text(encoding="utf-8")).get("env_dim"))


def adapted(
    model: Path, attending: Mapping[Pair, Collection[Modality]], anew: bool
) -> tuple[list[str], list[str]]:
    """(learning, reset): denoisers whose joint attention a run trains; and, where adapters start anew, those
    that go back to zero, the other sides of its pairs, whose adapters would attend to other encoders than
    they learned from.
    """
    learning = list(dict.fromkeys(DENOISERS[m] for sides in attending.values() for m in sides))
    others = dict.fromkeys(DENOISERS[m] for pair in attending for m in pair) if anew else {}
    return learning, [name for name in others if name not in learning and has_joint_attention(model / name)]


def add_joint_adapters(
    denoiser: nn.Module, joint_config: dict[str, Any] | None, adapters: dict[str, Any]
) -> nn.Module:
    """The denoiser, with new adapters if it has none (of these arguments) or there is a `joint_config` to lay
    over its own.
    """
    lacks = not denoiser.config.get("env_dim")
    if joint_config is None and not lacks:
        return denoiser
    config = strip(denoiser.config) | (adapters if lacks else {})
    config["joint_config"] = {**(config.get("joint_config") or {}), **(joint_config or {})}
    fresh = type(denoiser)(**config)
    adapters_of_old, adapters_of_new = prefixes(denoiser), prefixes(fresh)
    known = {
        name: tensor for name, tensor in denoiser.state_dict().items() if not name.startswith(adapters_of_old)
    }
    missing, unexpected = fresh.load_state_dict(known, strict=False)
    assert not unexpected and all(name.startswith(adapters_of_new) for name in missing), (missing, unexpected)
    return fresh.eval()


def prefixes(denoiser: Denoiser) -> tuple[str, ...]:
    """Returns how the names of the tensors in its joint adapters begin."""
    return tuple(f"{name}." for name in denoiser.joint_adapters())


def with_others(
    trained: EnvironmentEncoders, attended: Collection[Modality], folder: Path
) -> EnvironmentEncoders:
    """The encoders that this run trained beside the others, and all pairs that know each other, as they are
    in the model folder. Nothing is kept of encoders that were built otherwise.
    """
    if not folder.is_dir():
        return trained
    found = load_part(EnvironmentEncoders, folder, "train a first pair")
    alike = ("dim", "global_tokens", "num_layers", "num_heads", "pooled", "exchanged")
    if any(found.config[name] != trained.config[name] for name in alike):
        return trained
    kept = [name for name in found.encoders if Modality(name) not in attended]
    pairs = sorted({tuple(pair) for pair in [*(found.config.pairs or []), *(trained.config.pairs or [])]})
    latents = {**trained.config.latents, **{name: found.config.latents[name] for name in kept}}
    whole = EnvironmentEncoders(
        **{**strip(trained.config), "latents": latents, "pairs": [list(pair) for pair in pairs]}
    )
    for name, encoder in whole.encoders.items():
        encoder.load_state_dict((found if name in kept else trained).encoders[name].state_dict())
    return whole


def strip(config: Any) -> dict[str, Any]:
    """The arguments in a diffusers configuration, without what diffusers adds."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
