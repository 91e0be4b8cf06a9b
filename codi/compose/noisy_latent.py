"""Noisy-latent encoders of foreign latents: what a published model is making, in the words of prompts.

They are those of `codi.joint.noisy_latent_encoder` over the trunk of `codi.compose.environment`: a latent of
any layout is read on its grid, at its noise level on the one scale that all schedules share, and the estimate
is a token of the shared prompt space. A foreign network does not take that token. What the token adds to a
prompt reaches it through the prompt translators (`PromptTranslators.refit`).

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from codi import protocols
from codi.compose.environment import ForeignEnvironmentEncoder
from codi.compose.grid import Grid
from codi.joint.noisy_latent_encoder import NoisyLatentEncoder
from codi.types import Modality


class ForeignNoisyLatentEncoder(NoisyLatentEncoder):
    """The noisy-latent encoder of the latents of one foreign model.

    Its arguments are those of `NoisyLatentEncoder`, with `ForeignEnvironmentEncoder` as the trunk.
    """

    trunk_class = ForeignEnvironmentEncoder
    trunk: ForeignEnvironmentEncoder

    def estimate(self, x: Tensor, t: Tensor, context: Tensor, grid: Grid) -> Tensor:
        """Return the estimated token (B, D), the shorter the less can be told.

        Args:
            x: (B, ...) noisy latents in the layout of their grid.
            t: (B,) their noise levels, from 0, clean, to `LEVEL_SCALE`, nothing but noise.
            context: (B, L, D) the prompt tokens from which they are generated.
            grid: their grid.

        Returns:
            (B, D).
        """
        return self.estimated(self.trunk.encode(x, t, grid, hint=self.hint(context)))


class _OnGrid(protocols.NoisyLatentEncoder):
    """An encoder with the grid of the latents that it is going to be given."""

    def __init__(self, encoder: ForeignNoisyLatentEncoder, grid: Grid):
        self.encoder = encoder
        self.grid = grid

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The precision in which it takes latents and prompts."""
        weight: Any = self.encoder.out.weight
        dtype: torch.dtype = weight.dtype
        return dtype

    def forward(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor:
        """Return the token (B, D) of noisy latents (B, ...) at noise levels t (B,).

        Args:
            x: (B, ...) noisy latents in the layout of the grid.
            t: (B,) their noise levels, from 0 to `LEVEL_SCALE`.
            context: (B, L, D) the prompt tokens from which they are generated.
            rate: unused: the grid says when the steps are.

        Returns:
            (B, D).
        """
        return self.encoder.estimate(x, t, context, self.grid)


class ForeignNoisyLatentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):  # type: ignore[misc]
    """The noisy-latent encoders of a composed model, one for the latents of each of its models.

    Args:
        latents: by the name of a modality, the arguments of its encoder (`describe_latent`), and any of the
            others where it has its own.
        context_dim: D, the width of the shared prompt space.
        dim: the width of the encoders.
        tokens_per_step: as in `EnvironmentEncoder`.
        num_layers: as in `EnvironmentEncoder`.
        num_heads: as in `EnvironmentEncoder`.
    """

    @register_to_config
    def __init__(
        self,
        latents: dict[str, dict[str, Any]],
        context_dim: int = 128,
        dim: int = 128,
        tokens_per_step: int = 2,
        num_layers: int = 2,
        num_heads: int = 4,
    ):
        super().__init__()
        alike = dict(
            context_dim=context_dim,
            dim=dim,
            tokens_per_step=tokens_per_step,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        self.encoders = nn.ModuleDict()
        for name, latent in latents.items():
            self.encoders[name] = ForeignNoisyLatentEncoder(**{**alike, **latent})

    def by_modality(self) -> dict[Modality, ForeignNoisyLatentEncoder]:
        """Return the encoders by their modalities."""
        return {Modality(name): encoder for name, encoder in self.encoders.items()}  # type: ignore[misc]

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return the modalities whose estimates each modality is given: all others that have an encoder."""
        estimated = set(map(Modality, self.encoders))
        return {m: estimated - {m} for m in Modality}

    def at(self, grids: Mapping[Modality, Grid]) -> dict[Modality, protocols.NoisyLatentEncoder]:
        """Return the encoders as a sampler calls them, for latents on these grids.

        Args:
            grids: the grid of the latents of each modality; one without a grid gets no encoder.

        Returns:
            By modality an encoder that takes latents in the layout of their grid.
        """
        return {m: _OnGrid(encoder, grids[m]) for m, encoder in self.by_modality().items() if m in grids}
