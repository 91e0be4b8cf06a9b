"""The stage of super-resolution: the second model of a cascade, which makes pictures and frames larger.

Large pictures are the truth, and their small versions, with noise over them, are what the network is given
(noise-conditioning augmentation, arXiv 2106.15282). It predicts v (arXiv 2202.00512) in the details that
interpolation leaves out (`codi.models.upscaler`). It is convolutional, so it trains on crops, which are taken
where there are details: most of a picture of the world is a plain ground.

Letters: B pictures, N crops, f factor, h w size of the small pictures, k side of a small crop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codi.diffusion.losses import denoising_loss
from codi.io import to_unit
from codi.models.upscaler import ImageUpscaler
from codi.types import Modality, ModalitySpec
from codi.upscaling import NOISE_AUG_STRENGTH, STEPS
from codi.world import render_frames
from data.source import Source
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages import Stage
from training.stages.common import export_part, load_part, write_png
from training.stages.files import world_or_files
from training.stages.new_model import spread_timesteps

PART = "image_upscaler"


@dataclass(frozen=True, kw_only=True)
class SuperResolutionOptions:
    """Options of the stage.

    Attributes:
        size: the side in pixels of the large pictures.
        crop: the side in pixels of a crop of them.
        crops: the crops that are taken from each picture.
        plain: the share of crops that lie anywhere; the others lie where details are, the likelier the more.
        unaugmented: the share of crops whose small version has no noise over it; in the others the level is
            drawn evenly up to `max_noise_aug_strength` of the network.
        continue_from: start from the part in the model folder; `part` is not read then.
    """

    size: int = 256
    crop: int = 64
    crops: int = 4
    plain: float = 0.2
    unaugmented: float = 0.1
    continue_from: bool = False

    def __post_init__(self) -> None:
        expect(self.crops >= 1, "crops", self.crops, "1 or more")
        expect(1 <= self.crop <= self.size, "crop", self.crop, "1 to size")
        for name in ("plain", "unaugmented"):
            expect(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")


class SuperResolutionStage(Stage):
    """The stage that trains the upscaler, on frames of scenes at `size` or on picture files."""

    identity = ("size", "crop", "crops", "plain", "unaugmented")

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(SuperResolutionOptions, config.options, where="options")

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the upscaler's name."""
        return (PART,)

    def build(self) -> ImageUpscaler:
        """Return the upscaler of `part`, or the one in the model folder."""
        if self.options.continue_from:
            why = "train it first without continue_from"
            module = load_part(ImageUpscaler, self.config.model / PART, why).requires_grad_(True)
        else:
            module = ImageUpscaler(**self.config.part)
        grid = module.factor * module.step
        for name in ("size", "crop"):
            value = getattr(self.options, name)
            expect(
                value % grid == 0, name, value, f"a multiple of {grid}, the factor times the network's step"
            )
        self.scheduler = module.new_scheduler()
        return module

    def data(self, offset: int = 0) -> Source:
        """Return a source of large pictures.

        Args:
            offset: added to the seed; another offset gives other samples.

        Returns:
            A source whose batches have "frames", uint8 (B, 3, size, size).
        """
        side = self.options.size
        known = {Modality.IMAGE: ModalitySpec(raw_shape=(3, side, side), latent_shape=())}
        return world_or_files(
            self.config,
            self.render,
            [Modality.IMAGE],
            known,
            lambda batch: {"frames": batch[Modality.IMAGE.value]},
            offset,
        )

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Tensor]:
        """Return one frame of each scene, at a random time within two seconds."""
        times = np.array([[rng.uniform(0.0, 2.0)] for rng in rngs])
        return {"frames": render_frames(scenes, times, self.options.size)[:, 0]}

    def crops(
        self, module: ImageUpscaler, pictures: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cut crops out of large pictures and of their small versions.

        Small versions are made of whole pictures, and a crop begins where a small pixel does.

        Args:
            module: what trains, for its factor.
            pictures: (B, 3, f h, f w) in [-1, 1].
            generator: the source of the places.

        Returns:
            Large crops (N, 3, f k, f k) and small ones (N, 3, k, k), `crops` of each picture.
        """
        small = module.downsampled(pictures)
        energy = module.downsampled((pictures - module.interpolated(small)).square()).mean(1, keepdim=True)
        side = self.options.crop // module.factor
        density = functional.avg_pool2d(energy, side, stride=1).flatten(1)  # (B, places)
        even = torch.full_like(density, 1 / density.shape[1])
        detailed = (density + 1e-8) / (density + 1e-8).sum(1, keepdim=True)
        chances = self.options.plain * even + (1 - self.options.plain) * detailed
        places = torch.multinomial(chances, self.options.crops, replacement=True, generator=generator)
        columns = small.shape[-1] - side + 1
        factor = module.factor
        large_crops = []
        small_crops = []
        for row in range(len(pictures)):
            for place in places[row].tolist():
                top, left = divmod(place, columns)
                small_crops.append(small[row, :, top : top + side, left : left + side])
                rows = slice(factor * top, factor * (top + side))
                large_crops.append(pictures[row, :, rows, factor * left : factor * (left + side)])
        return torch.stack(large_crops), torch.stack(small_crops)

    def levels(self, module: ImageUpscaler, count: int, generator: torch.Generator) -> Tensor:
        """Return the strengths s (N,) of the noise over small crops."""
        drawn = torch.rand(2, count, generator=generator, device=generator.device)
        return torch.where(drawn[0] < self.options.unaugmented, 0.0, drawn[1] * module.max_noise_aug_strength)

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean squared error of v, and the unreduced loss by noise level of v for the log."""
        large, small = self.crops(module, to_unit(batch["frames"]), generator)
        level = self.levels(module, len(large), generator)
        noise = torch.randn(small.shape, generator=generator, device=small.device)
        given = small + level[:, None, None, None] * noise
        x_0 = module.details(large, given, level)
        eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        total = module.config.num_train_timesteps
        t = spread_timesteps(len(x_0), total, generator)
        x_t = self.scheduler.add_noise(x_0, eps, t)
        each = denoising_loss(module(x_t, t, given, level), self.scheduler.get_velocity(x_0, eps, t))
        return each.mean(), {"details": x_0.detach().std(), "bins": (t / total, each.detach())}

    def dummy_batch(self, module: Any, count: int) -> dict[str, Tensor]:
        """Return noisy details and small crops of `count` pictures."""
        side = self.options.crop // module.factor
        num_crops = count * self.options.crops
        return {
            "x": empty(num_crops, 3 * module.factor**2, side, side),
            "t": whole_numbers(num_crops),
            "given": empty(num_crops, 3, side, side),
            "level": empty(num_crops),
        }

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Predict v once."""
        module(batch["x"], batch["t"], batch["given"], batch["level"])

    @torch.no_grad()
    def preview(self, module: Any, folder: Path) -> None:
        """Write small pictures above what is made of them, and above the truth."""
        with self.data(offset=2) as source:
            large = to_unit(source.fetch(list(range(4)))["frames"].to(module.device))
        small = module.downsampled(large)
        generator = torch.Generator().manual_seed(0)
        level = min(NOISE_AUG_STRENGTH, module.max_noise_aug_strength)
        made = module.upscale(small, generator, level, STEPS)
        shown = functional.interpolate(small, scale_factor=module.factor)
        write_png(folder / "pictures.png", torch.cat([shown, made, large]), 4)

    def export(self, module: Any, folder: Path) -> None:
        """Write the part."""
        export_part(module, folder / PART)
