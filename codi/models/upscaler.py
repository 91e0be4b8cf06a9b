"""The network of super-resolution: a diffusion model of what a small picture lacks, in pixels.

It is the second model of a cascade (Cascaded Diffusion Models, arXiv 2106.15282; Imagen, arXiv 2205.11487)
with noise-conditioning augmentation: the small picture y is given as z = y + s eps, the network is told the
strength s of that noise, and training draws s at random. So details are not copied from the faults of a
generated picture, which has others than the small pictures of training.

The network sees pixels in blocks of f x f (space to depth), on the grid of the small picture. It predicts
    x_0 = (x_high - up(z)) / c(s),   c(s)^2 = detail_std^2 + (2 s / 3)^2,
the details above bilinear interpolation `up`, at about unit variance; (2 / 3)^2 is the share of the variance
of white noise that interpolation leaves. It is convolutional, and takes pictures of any size.

Letters: B pictures, f the factor, h w the size of the small pictures, C = 3 f^2, s the strength of the noise
over the small pictures.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn import functional

from codi.protocols import Upscaler

LEVEL_SCALE = 1000.0  # of strengths s, which are embedded like timesteps
CHUNK = 16 * 64 * 64  # positions h w of pictures that pass the network at once
INTERPOLATED = 2 / 3  # the deviation of white noise of deviation 1 after bilinear interpolation
CORRECTIONS = 10  # at most, between the two sets in `consistent`


class ImageUpscaler(ModelMixin, ConfigMixin, Upscaler):  # type: ignore[misc]
    """Makes pictures and frames `factor` times as large by diffusion.

    Args:
        unet_config: constructor arguments of diffusers' UNet2DModel; its channels and its embedding of the
            strength of noise follow from the factor.
        factor: f, how many times larger a side becomes.
        detail_std: the deviation of the details above interpolation in the pictures of training, in pixels of
            [-1, 1].
        max_noise_aug_strength: the largest s that training draws.
        num_train_timesteps: the steps of the noise process: cosine (arXiv 2102.09672) with v-prediction,
            without signal at its end (arXiv 2305.08891).
        tile_size: the side in small pixels above which pictures are made in overlapping tiles.
        tile_overlap: small pixels that neighbouring tiles share.
        fidelity: how near the downsampled result stays to what was given, as a peak signal-to-noise ratio in
            decibels (`consistent`).
    """

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        factor: int = 4,
        detail_std: float = 0.1,
        max_noise_aug_strength: float = 0.3,
        num_train_timesteps: int = 1000,
        tile_size: int = 128,
        tile_overlap: int = 16,
        fidelity: float = 36.0,
    ):
        super().__init__()
        channels = 3 * factor**2
        self.unet = UNet2DModel(
            **{
                "in_channels": channels + 3,
                "out_channels": channels,
                "class_embed_type": "timestep",
                **unet_config,
            }
        )

    @property
    def settings(self) -> Any:
        """What the constructor was given, by name."""
        return self.config

    @property
    def factor(self) -> int:
        """How many times larger a side becomes."""
        return self.settings.factor

    @property
    def max_noise_aug_strength(self) -> float:
        """The largest strength of noise that training drew."""
        return self.settings.max_noise_aug_strength

    @property
    def step(self) -> int:
        """The number of positions by which the grid of a picture must divide in the network."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def new_scheduler(self) -> DDIMScheduler:
        """Return a scheduler of the noise process that the network is trained on."""
        return DDIMScheduler(
            num_train_timesteps=self.settings.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
        )

    # What the network learns

    def downsampled(self, pictures: Tensor) -> Tensor:
        """Return the means of blocks of f x f pixels, (B, 3, f h, f w) -> (B, 3, h, w)."""
        return functional.avg_pool2d(pictures, self.factor)

    def interpolated(self, small: Tensor) -> Tensor:
        """Return small pictures (B, 3, h, w) enlarged by bilinear interpolation, (B, 3, f h, f w)."""
        return functional.interpolate(small, scale_factor=self.factor, mode="bilinear", align_corners=False)

    def scale(self, level: Tensor) -> Tensor:
        """Return c(s), by which details are divided, of strengths s (B,): (B, 1, 1, 1)."""
        noise = INTERPOLATED * level
        return (self.settings.detail_std**2 + noise**2).sqrt()[:, None, None, None]

    def details(self, pictures: Tensor, given: Tensor, level: Tensor) -> Tensor:
        """Return what pictures have above what is given of them.

        Args:
            pictures: x_high (B, 3, f h, f w) in [-1, 1].
            given: z (B, 3, h, w), the noisy small pictures.
            level: s (B,).

        Returns:
            x_0 (B, C, h, w).
        """
        above = (pictures - self.interpolated(given)) / self.scale(level)
        return functional.pixel_unshuffle(above, self.factor)

    def with_details(self, x_0: Tensor, given: Tensor, level: Tensor) -> Tensor:
        """Return the pictures (B, 3, f h, f w) of which x_0 (B, C, h, w) are the `details`."""
        above = functional.pixel_shuffle(x_0, self.factor) * self.scale(level)
        return self.interpolated(given) + above

    def forward(self, x: Tensor, t: Tensor, given: Tensor, level: Tensor) -> Tensor:
        """Predict v in noisy details.

        Args:
            x: (B, C, h, w) noisy details; h and w divide by `step`.
            t: (B,) timesteps.
            given: z (B, 3, h, w).
            level: s (B,).

        Returns:
            v (B, C, h, w).
        """
        seen = torch.cat([x, given], dim=1).to(self.dtype)
        return self.unet(seen, t, class_labels=level * LEVEL_SCALE).sample.to(x.dtype)

    # Sampling

    @torch.no_grad()
    def upscale(
        self, small: Tensor, generator: torch.Generator, noise_aug_strength: float, num_inference_steps: int
    ) -> Tensor:
        """Make one picture, or the frames of one clip, larger.

        All frames have the same noise, so that what does not move stays as it is from frame to frame.

        Args:
            small: (B, 3, h, w) in [-1, 1].
            generator: the source of the noise, on the CPU.
            noise_aug_strength: s, from 0 to `max_noise_aug_strength`.
            num_inference_steps: the steps of the sampler.

        Returns:
            (B, 3, f h, f w) in [-1, 1], float32, whose downsampled version lies within `fidelity` of `small`.
        """
        small = small.float()
        height, width = small.shape[-2:]
        padding = (0, -width % self.step, 0, -height % self.step)
        padded = functional.pad(small, padding, mode="replicate")
        grid = padded.shape[-2:]
        eps = torch.randn(1, 3, *grid, generator=generator).to(small.device)
        noise = torch.randn(1, 3 * self.factor**2, *grid, generator=generator).to(small.device)
        rows = max(1, CHUNK // (grid[0] * grid[1]))
        made = [
            self._sample(part + noise_aug_strength * eps, noise, noise_aug_strength, num_inference_steps)
            for part in padded.split(rows)
        ]
        large = torch.cat(made)[..., : height * self.factor, : width * self.factor]
        return self.consistent(large, small)

    def _sample(self, given: Tensor, noise: Tensor, noise_aug_strength: float, steps: int) -> Tensor:
        """Return large pictures of what is given of them (B, 3, h, w), from noise (1, C, h, w)."""
        level = given.new_full((len(given),), noise_aug_strength)
        scheduler = self.new_scheduler()
        scheduler.set_timesteps(steps, device=given.device)
        x = noise.expand(len(given), -1, -1, -1)
        for t in scheduler.timesteps:
            v = self._predicted(x, t.expand(len(x)), given, level)
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return self.with_details(x, given, level)

    def _predicted(self, x: Tensor, t: Tensor, given: Tensor, level: Tensor) -> Tensor:
        """Return v (B, C, h, w), of large pictures as the mean over tiles that overlap.

        The mean is taken at every step, so that tiles agree on what they share (arXiv 2302.08113).
        """
        height, width = x.shape[-2:]
        size = self.settings.tile_size
        if max(height, width) <= size:
            return self(x, t, given, level)
        total = torch.zeros_like(x)
        weight = x.new_zeros(1, 1, height, width)
        for rows in self._tiles(height):
            for columns in self._tiles(width):
                place = (..., rows, columns)
                v = self(x[place], t, given[place], level)
                shares = _faded(v.shape[-2], v)[:, None] * _faded(v.shape[-1], v)
                total[place] += shares * v
                weight[place] += shares
        return total / weight

    def _tiles(self, length: int) -> Iterator[slice]:
        """Yield the places of tiles along a side, each of the full size where the side is long enough."""
        size = self.settings.tile_size
        last = max(0, length - size)
        stride = size - self.settings.tile_overlap
        for start in [*range(0, last, stride), last]:
            yield slice(start, start + size)

    def consistent(self, large: Tensor, small: Tensor) -> Tensor:
        """Return the nearest pictures whose downsampled versions lie within `fidelity` of the small ones.

        This is back-projection (Irani and Peleg, 1991). Blocks are moved as a whole, no further than needed:
        what remains of the difference lets the network correct faults of a generated picture.

        Args:
            large: (B, 3, f h, f w).
            small: (B, 3, h, w) in [-1, 1].

        Returns:
            (B, 3, f h, f w) in [-1, 1].
        """
        bound = 2 * 10 ** (-self.settings.fidelity / 20)  # of the root of the mean square; the peak is 2
        for _ in range(CORRECTIONS):  # clamping may lead a little out of the bound again
            large = large.clamp(-1, 1)
            missing = small - self.downsampled(large)
            error = missing.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            if bool((error <= bound * 1.001).all()):
                break
            share = (1 - bound / error.clamp(min=bound)).clamp(min=0)
            large = large + functional.interpolate(share * missing, scale_factor=self.factor)
        return large.clamp(-1, 1)


def _faded(length: int, like: Tensor) -> Tensor:
    """Return the weights (length,) of a tile along one side, which fall towards its ends."""
    place = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    return torch.minimum(place, length - place)
