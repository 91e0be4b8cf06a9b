"""Statistics of latents, kept in the checkpoint so that diffusion sees zero mean and unit variance.

They start as NaN: a model whose statistics were never measured fails loudly instead of sampling from the
wrong prior.
Letters: B batch, C channels, N latents.
"""

import torch
from torch import Tensor, nn


class LatentScaling(nn.Module):
    """An affine map between an autoencoder's latent and the normalised one, per channel (axis 1).

    Args:
        num_channels: C, the number of channels.
        fixed_scale: the single released factor: normalised = latent * fixed_scale; None: statistics that
            `measure` sets.
    """

    def __init__(self, num_channels: int, fixed_scale: float | None = None):
        super().__init__()
        known = fixed_scale is not None
        self.register_buffer("mean", torch.full((num_channels,), 0.0 if known else torch.nan))
        self.register_buffer("std", torch.full((num_channels,), 1.0 / fixed_scale if known else torch.nan))

    def normalise(self, latent: Tensor) -> Tensor:
        """Bring a latent (B, C, ...), as the encoder gives it, to zero mean and unit variance."""
        return (latent - self._like(self.mean, latent)) / self._like(self.std, latent)

    def denormalise(self, latent: Tensor) -> Tensor:
        """Undo `normalise`."""
        return latent * self._like(self.std, latent) + self._like(self.mean, latent)

    @torch.no_grad()
    def measure(self, latents: Tensor) -> None:
        """Set the statistics from unnormalised latents (N, C, ...)."""
        by_channel = latents.detach().float().transpose(0, 1).flatten(1)
        self.mean.copy_(by_channel.mean(1))
        # A channel that never changes must not be divided by zero.
        self.std.copy_(by_channel.std(1).clamp_min(1e-4))

    @staticmethod
    def _like(statistic: Tensor, latent: Tensor) -> Tensor:
        """Return a statistic (C,) in the latent's precision, in a shape that broadcasts over its channels."""
        return statistic.to(latent).reshape(1, -1, *(1,) * (latent.ndim - 2))
