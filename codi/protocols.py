"""Every contract between the parts of codi, in one place.

A fifth modality is one `Autoencoder`, one `PromptEncoder`, one `Denoiser`, one `EnvironmentEncoder`, one
`NoisedTower` and one `ModalitySpec`. Letters: see `codi.types`.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a denoiser hears of its partners: the concatenated tokens of all the others.

    tokens  (B, L, D)
    times   (B, L) seconds at the mid-point of the token's interval; NaN for a token without time
    """

    tokens: Tensor
    times: Tensor

    @staticmethod
    def cat(parts: "list[Environment]") -> "Environment":
        """All tokens of `parts`, one after another."""
        return Environment(
            tokens=torch.cat([p.tokens for p in parts], dim=1),
            times=torch.cat([p.times for p in parts], dim=1),
        )


@runtime_checkable
class Autoencoder(Protocol):
    """Raw media <-> normalised latents (zero mean, unit variance over the training set, per channel).

    Raw values: pictures and frames float in [-1, 1], (B, 3, H, W) or (B, F, 3, H, W); sound float in [-1, 1],
    (B, samples); text `list[str]`.
    """

    def encode(self, raw: Any, generator: torch.Generator | None = None) -> Tensor:
        """Latent (B, *latent_shape); the posterior's mean without a generator, else a draw from it."""

    def decode(self, latent: Tensor) -> Any:
        """Raw media as above."""


@runtime_checkable
class PromptEncoder(Protocol):
    """A prompt tower: raw media of one modality -> one L2-normalised token in the shared space, (B, D)."""

    def embed(self, raw: Any) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """Predicts noise (or v) for a latent of its modality.

    x        (B, *latent_shape) noisy latent
    t        (B,) diffusion timesteps
    context  (B, L, D) prompt tokens
    env      what it hears of the others, a row for each context; None when it generates alone
    rate     latent steps per second, when it differs from the one in the configuration
    returns  a tensor of the shape of x
    """

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, env: Environment | None = None, rate: float | None = None
    ) -> Tensor: ...


@runtime_checkable
class EnvironmentEncoder(Protocol):
    """A noisy latent -> tokens that its partners attend to.

    x (B, *latent_shape), t (B,) its noise level; rate as in `Denoiser`.
    """

    def __call__(self, x: Tensor, t: Tensor, rate: float | None = None) -> Environment: ...


@runtime_checkable
class NoisedTower(Protocol):
    """A noisy latent, and the prompt -> what it seems to become, as a token of the prompt space (B, D), the
    shorter the less can be told.

    x (B, *latent_shape), t (B,) its noise level, context (B, L, D) its prompt; rate as in `Denoiser`.
    """

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor: ...
