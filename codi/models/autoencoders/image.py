"""Pictures, and videos frame by frame: diffusers' AutoencoderKL, on space-to-depth patches where `patch_size`
> 1.

Released model: Stable Diffusion's KL-f8, `patch_size` 1, `scaling_factor` 0.18215.
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
    """Frames in [-1, 1] <-> normalised latents.

    vae_config      constructor arguments of AutoencoderKL; its channels in and out are 3 p^2
    patch_size      p: side of the space-to-depth patch in front of it
    scaling_factor  the one released factor; None: per-channel statistics, measured in training
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
        """Pixels per latent position along one side."""
        return self.config.patch_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture."""
        side = self.config.image_size // self.downsampling
        return (self.vae.config.latent_channels, side, side)

    def posterior(self, frames: Tensor):
        """Frames (B, 3, H, W) -> diagonal Gaussian over unnormalised latents (B, C, h, w)."""
        return self.vae.encode(functional.pixel_unshuffle(frames, self.config.patch_size)).latent_dist

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Unnormalised latents (B, C, h, w) -> frames (B, 3, H, W)."""
        return functional.pixel_shuffle(self.vae.decode(latent).sample, self.config.patch_size)

    def set_slicing(self, enabled: bool) -> None:
        """Whether pictures pass through the network one at a time."""
        self.vae.use_slicing = enabled

    def set_tiling(self, enabled: bool) -> None:
        """Whether pictures above `image_size` pass in overlapping tiles of that size, which are blended."""
        self.vae.use_tiling = enabled
        self.vae.tile_sample_min_size = self.config.image_size // self.config.patch_size
        self.vae.tile_latent_min_size = self.latent_shape[-1]

    @apply_forward_hook
    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w), or (B, F, 3, H, W) -> (B, C, F, h, w)."""
        if raw.ndim == 5:
            return _unfold(self.encode(raw.flatten(0, 1), generator), raw.shape[1])
        posterior = self.posterior(raw.to(self.dtype))
        return self.scaling.normalise(posterior.mode() if generator is None else posterior.sample(generator))

    @apply_forward_hook
    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), or (B, C, F, h, w) -> (B, F, 3, H, W); values clamped to [-1, 1]."""
        if latent.ndim == 5:
            return self.decode(latent.transpose(1, 2).flatten(0, 1)).unflatten(
                0, (latent.shape[0], latent.shape[2])
            )
        return self.reconstruct(self.scaling.denormalise(latent)).clamp(-1, 1)


def _unfold(latent: Tensor, num_frames: int) -> Tensor:
    """(B F, C, h, w) -> (B, C, F, h, w)."""
    return latent.unflatten(0, (-1, num_frames)).transpose(1, 2)
