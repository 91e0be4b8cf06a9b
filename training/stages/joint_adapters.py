"""This module holds what the joint stage trains.

These are the environment encoders, and the joint attention of denoisers that are frozen otherwise.
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
    """Environment encoders, and the denoisers of which only the joint attention trains, as one module.

    Args:
        environment_encoders: the encoders.
        denoisers: the finished denoisers by component, each with joint attention.
        contrast: the contrast between environments, if it trains.
        temporal_change: the decoders of the temporal-change loss, if it trains.
        learning: the names of the denoisers whose joint attention trains; None stands for all.
    """

    def __init__(
        self,
        environment_encoders: EnvironmentEncoders,
        denoisers: dict[str, nn.Module],
        contrast: TimedContrast | None = None,
        temporal_change: TemporalChangeDecoder | None = None,
        learning: Collection[str] | None = None,
    ):
        super().__init__()
        self.environment_encoders = environment_encoders
        self.denoisers = nn.ModuleDict(denoisers)
        self.contrast = contrast
        self.temporal_change = temporal_change
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
        """Return the denoiser that makes a modality."""
        return self.denoisers[DENOISERS[modality]]


def has_joint_attention(folder: Path) -> bool:
    """Return whether the denoiser in a folder has joint attention.

    One that is not there yet is expected to have it.
    """
    config = folder / "config.json"
    return not config.is_file() or bool(json.loads(config.read_text(encoding="utf-8")).get("env_dim"))


def adapted(
    model: Path, attending: Mapping[Pair, Collection[Modality]], anew: bool
) -> tuple[list[str], list[str]]:
    """Return the denoisers whose joint adapters a run changes.

    Args:
        model: the model folder.
        attending: the sides of each pair that learn to attend to the other.
        anew: whether adapters start anew.

    Returns:
        (learning, reset), component names. The joint attention of the first trains. The second are the other
        sides of the run's pairs where adapters start anew: they go back to zero, since their adapters would
        attend to other encoders than they learned from.
    """
    learning: dict[str, None] = {}
    others: dict[str, None] = {}
    for pair, sides in attending.items():
        learning |= dict.fromkeys(DENOISERS[m] for m in sides)
        others |= dict.fromkeys(DENOISERS[m] for m in pair)
    reset = []
    for name in others:
        if anew and name not in learning and has_joint_attention(model / name):
            reset.append(name)
    return list(learning), reset


def add_joint_adapters(
    denoiser: nn.Module, joint_config: dict[str, Any] | None, adapters: dict[str, Any]
) -> nn.Module:
    """Return the denoiser with joint adapters, new ones where they are asked for or missing.

    Args:
        denoiser: a finished denoiser.
        joint_config: laid over the denoiser's own `joint_config`; all adapters are then new. None keeps those
            that are there.
        adapters: arguments of joint attention for a denoiser that has none yet.

    Returns:
        `denoiser` itself if nothing changes; else a new one in eval mode with the same weights besides the
        adapters.
    """
    lacks = not denoiser.config.get("env_dim")
    if joint_config is None and not lacks:
        return denoiser
    config = strip(denoiser.config) | (adapters if lacks else {})
    config["joint_config"] = {**(config.get("joint_config") or {}), **(joint_config or {})}
    fresh = type(denoiser)(**config)
    adapters_of_old = prefixes(denoiser)
    adapters_of_new = prefixes(fresh)
    known = {}
    for name, tensor in denoiser.state_dict().items():
        if not name.startswith(adapters_of_old):
            known[name] = tensor
    # `strict=False`, since the new adapters find no weights; nothing else may be missing
    missing, unexpected = fresh.load_state_dict(known, strict=False)
    assert not unexpected and all(name.startswith(adapters_of_new) for name in missing), (missing, unexpected)
    return fresh.eval()


def prefixes(denoiser: Denoiser) -> tuple[str, ...]:
    """Return the beginnings of the names of all tensors in a denoiser's joint adapters."""
    return tuple(f"{name}." for name in denoiser.joint_adapters())


def with_others(
    trained: EnvironmentEncoders, attended: Collection[Modality], folder: Path
) -> EnvironmentEncoders:
    """Return the encoders of this run together with the others that are in the model folder.

    Args:
        trained: the encoders of this run.
        attended: the modalities whose encoders this run trained; all others are kept as they are in `folder`.
        folder: the encoders in the model folder, which may be missing.

    Returns:
        All encoders, with the pairs of both that know each other. If those in `folder` were built with other
        arguments nothing is kept of them.
    """
    if not folder.is_dir():
        return trained
    found = load_part(EnvironmentEncoders, folder, "train a first pair")
    # with other arguments than these, encoders make tokens of another form
    alike = ("dim", "global_tokens", "num_layers", "num_heads", "pooled", "exchanged")
    if any(found.config[name] != trained.config[name] for name in alike):
        return trained
    kept = [name for name in found.encoders if Modality(name) not in attended]
    pairs = set(map(tuple, [*(found.config.pairs or []), *(trained.config.pairs or [])]))
    config = strip(trained.config)
    config["latents"] = dict(trained.config.latents)
    for name in kept:
        config["latents"][name] = found.config.latents[name]
    config["pairs"] = list(map(list, sorted(pairs)))
    whole = EnvironmentEncoders(**config)
    for name, encoder in whole.encoders.items():
        encoder.load_state_dict((found if name in kept else trained).encoders[name].state_dict())
    return whole


def strip(config: Any) -> dict[str, Any]:
    """Return the arguments in a diffusers configuration, without what diffusers adds."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
