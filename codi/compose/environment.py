"""Environment encoders of foreign latents: what the model of somebody else makes, as tokens for its partners.

The encoders are those of `codi.joint.encoders`. A latent of any layout is brought to steps along time, and
the tokens of a step know its seconds from the grid of the latent, because the steps of a causal autoencoder
are not even. The timestep that they are given is the noise level on the one scale that all schedules share,
times `codi.joint.sampler.LEVEL_SCALE` (`codi.diffusion.levels`).

Letters: B batch, C channels, S steps along time, H W height and width, M bands, D width of tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from codi import protocols
from codi.compose.grid import Grid, Layout
from codi.joint.encoders import EnvironmentEncoder
from codi.protocols import Environment
from codi.types import InputError, Modality

MAP = 8  # stems of pictures and frames halve their sides until about so many are left


def describe_latent(latent: Tensor, grid: Grid) -> dict[str, Any]:
    """Return the arguments of `ForeignEnvironmentEncoder` for latents of one model.

    Args:
        latent: a latent of the model.
        grid: its grid.

    Returns:
        The arguments by name, which JSON can hold.
    """
    channels = grid.to_steps(latent).shape[1]
    timed = grid.seconds is not None
    if grid.layout in (Layout.SPECTROGRAM, Layout.WAVE):
        return {"channels": channels, "timed": timed, "bands": grid.shape[1]}
    halvings = round(math.log2(max(grid.shape[1:]) / MAP))
    return {"channels": channels, "timed": timed, "bands": None, "stem_layers": max(1, halvings)}


class ForeignEnvironmentEncoder(EnvironmentEncoder):
    """The environment encoder of the latents of one foreign model.

    Args:
        channels: C.
        timed: whether they have steps along time.
        bands: M, the rows of one step of a sound, 1 for a wave; None for pictures and frames, which may be of
            any size.
        **options: further arguments of `EnvironmentEncoder`.
    """

    def __init__(self, *, channels: int, timed: bool, bands: int | None, **options: Any):
        # sizes that a stem of pictures does not depend on are 1 here, and so is the rate, which grids say
        if bands is not None:
            shape: tuple[int, ...] = (channels, 1, bands)
        else:
            shape = (channels, 1, 1, 1) if timed else (channels, 1, 1)
        super().__init__(latent_shape=shape, latent_rate=1.0 if timed else None, **options)
        self.channels = channels
        self.timed = timed
        self.bands = bands

    def encode(self, x: Tensor, t: Tensor, grid: Grid, hint: Tensor | None = None) -> Environment:
        """Return the environment of noisy latents.

        Args:
            x: (B, ...) noisy latents in the layout of their grid.
            t: (B,) their noise levels, from 0, clean, to `LEVEL_SCALE`, nothing but noise.
            grid: their grid.
            hint: as in `EnvironmentEncoder`.

        Returns:
            The environment: tokens (B, L, D) and their seconds (B, L).
        """
        steps = grid.to_steps(x)  # (B, C, S, H, W)
        rows = steps.shape[3] if self.bands is not None else None
        if (steps.shape[1], grid.seconds is not None, rows) != (self.channels, self.timed, self.bands):
            raise InputError(
                f"latents of {tuple(x.shape)} do not fit an encoder of {self.channels} channels"
                + ("" if self.bands is None else f" and {self.bands} bands")
                + ": expected latents of the model that it was trained beside"
            )
        if self.bands is not None:
            steps = steps[..., 0]  # (B, C, S, M)
        elif not self.timed:
            steps = steps[:, :, 0]  # (B, C, H, W)
        return self(steps, t, hint=hint, seconds=grid.seconds)


class _OnGrid(protocols.EnvironmentEncoder):
    """An encoder with the grid of the latents that it is going to be given."""

    def __init__(self, encoder: ForeignEnvironmentEncoder, grid: Grid):
        self.encoder = encoder
        self.grid = grid

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The precision in which it takes latents."""
        return self.encoder.name.dtype

    def forward(self, x: Tensor, t: Tensor, rate: float | None = None, cache: Any = None) -> Environment:
        """Return the environment of noisy latents (B, ...) at noise levels t (B,).

        Args:
            x: (B, ...) noisy latents in the layout of the grid.
            t: (B,) their noise levels, from 0 to `LEVEL_SCALE`.
            rate: unused: the grid says when the steps are.
            cache: unused.

        Returns:
            The environment.
        """
        return self.encoder.encode(x, t, self.grid)


class ForeignEnvironmentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):  # type: ignore[misc]
    """The environment encoders of a composed model, one for the latents of each of its models.

    Args:
        latents: by the name of a modality, the arguments of its encoder (`describe_latent`), and any of the
            following that is another for it.
        dim: D, the width of the tokens of all encoders.
        tokens_per_step: as in `EnvironmentEncoder`.
        global_tokens: as in `EnvironmentEncoder`.
        num_layers: as in `EnvironmentEncoder`.
        num_heads: as in `EnvironmentEncoder`.
        pairs: the modalities that learned to attend to each other, two by two; None if all attend to all.
    """

    @register_to_config
    def __init__(
        self,
        latents: dict[str, dict[str, Any]],
        dim: int = 256,
        tokens_per_step: int = 2,
        global_tokens: int = 1,
        num_layers: int = 2,
        num_heads: int = 4,
        pairs: list[list[str]] | None = None,
    ):
        super().__init__()
        alike = dict(
            dim=dim,
            tokens_per_step=tokens_per_step,
            global_tokens=global_tokens,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        self.encoders = nn.ModuleDict()
        for name, latent in latents.items():
            self.encoders[name] = ForeignEnvironmentEncoder(**{**alike, **latent})

    def by_modality(self) -> dict[Modality, ForeignEnvironmentEncoder]:
        """Return the encoders by their modalities."""
        return {Modality(name): encoder for name, encoder in self.encoders.items()}  # type: ignore[misc]

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return the modalities whose environments each modality attends to."""
        names = set(map(Modality, self.encoders))
        if self.config["pairs"] is None:
            return {modality: names - {modality} for modality in names}
        attended: dict[Modality, set[Modality]] = {modality: set() for modality in names}
        for first, second in (tuple(map(Modality, pair)) for pair in self.config["pairs"]):
            attended.setdefault(first, set()).add(second)
            attended.setdefault(second, set()).add(first)
        return attended

    def at(self, grids: Mapping[Modality, Grid]) -> dict[Modality, protocols.EnvironmentEncoder]:
        """Return the encoders as a sampler calls them, for latents on these grids.

        Args:
            grids: the grid of the latents of each modality; one without a grid gets no encoder.

        Returns:
            By modality an encoder that takes latents in the layout of their grid.
        """
        return {m: _OnGrid(encoder, grids[m]) for m, encoder in self.by_modality().items() if m in grids}
