"""The autoencoder of pictures, and of clips frame by frame: diffusers' AutoencoderKL.

With `patch_size` > 1 it works on space-to-depth patches. The released model is Stable Diffusion's KL-f8:
`patch_size` 1, `scaling_factor` 0.18215.
Letters: B batch, C channels, F frames, H W pixels, h w latent positions, p patch size.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor
from torch.nn import functional

from codi.models.autoencoders.scaling import LatentScaling
from codi.protocols import Autoencoder


class ImageAutoencoder(ModelMixin, ConfigMixin, Autoencoder):
    """Turns pictures and clips in [-1, 1] into normalised latents, and back.

    Args:
        vae_config: constructor arguments of AutoencoderKL; its channels in and out are 3 p^2.
        image_size: the side in pixels of a picture, as the model makes it unasked.
        patch_size: p, the side of the space-to-depth patch in front of the VAE.
        scaling_factor: the one released factor; None: per-channel statistics, measured in training.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        vae_config: dict[str, Any],
        image_size: int,
        patch_size: int = 1,
        scaling_factor: float | None = None,
    ):
        super().__init__()
        channels = 3 * patch_size**2
        self.vae = AutoencoderKL(**{"in_channels": channels, "out_channels": channels, **vae_config})
        self.scaling = LatentScaling(self.vae.config.latent_channels, scaling_factor)

    @property
    def downsampling(self) -> int:
        """The number of pixels per latent position along one side."""
        return self.config.patch_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latent of one picture."""
        side = self.config.image_size // self.downsampling
        return (self.vae.config.latent_channels, side, side)

    def posterior(self, frames: Tensor):
        """Return the diagonal Gaussian over unnormalised latents (B, C, h, w) of pictures (B, 3, H, W)."""
        return self.vae.encode(functional.pixel_unshuffle(frames, self.config.patch_size)).latent_dist

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Decode unnormalised latents (B, C, h, w) into pictures (B, 3, H, W)."""
        return functional.pixel_shuffle(self.vae.decode(latent).sample, self.config.patch_size)

    def set_slicing(self, enabled: bool) -> None:
        """Set whether pictures pass through the VAE one at a time, which takes less memory."""
        self.vae.use_slicing = enabled

    def set_tiling(self, enabled: bool) -> None:
        """Set whether pictures above `image_size` pass the VAE in tiles of that size.

        Tiles overlap and are blended.
        """
        self.vae.use_tiling = enabled
        # The VAE sees patches, not pixels, so the sizes of its tiles are in patches.
        self.vae.tile_sample_min_size = self.config.image_size // self.config.patch_size
        self.vae.tile_latent_min_size = self.latent_shape[-1]

    @apply_forward_hook
    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode pictures or clips into normalised latents.

        Args:
            raw: pictures (B, 3, H, W) or clips (B, F, 3, H, W) in [-1, 1].
            generator: draws from the posterior; None takes its mean.

        Returns:
            The latents, (B, C, h, w) or (B, C, F, h, w).
        """
        if raw.ndim == 5:
            return _unfold(self.encode(raw.flatten(0, 1), generator), raw.shape[1])
        posterior = self.posterior(raw.to(self.dtype))
        return self.scaling.normalise(posterior.mode() if generator is None else posterior.sample(generator))

    @apply_forward_hook
    def decode(self, latent: Tensor) -> Tensor:
        """Decode normalised latents into pictures or clips.

        Args:
            latent: (B, C, h, w) of pictures or (B, C, F, h, w) of clips.

        Returns:
            Pictures (B, 3, H, W) or clips (B, F, 3, H, W), clamped to [-1, 1].
        """
        if latent.ndim == 5:
            return self.decode(latent.transpose(1, 2).flatten(0, 1)).unflatten(
                0, (latent.shape[0], latent.shape[2])
            )
        return self.reconstruct(self.scaling.denormalise(latent)).clamp(-1, 1)


def _unfold(latent: Tensor, num_frames: int) -> Tensor:
    """Take frames out of the batch, from (B F, C, h, w) to (B, C, F, h, w)."""
    return latent.unflatten(0, (-1, num_frames)).transpose(1, 2)
