"""Make what was decoded larger: the super-resolution stage of a cascade (docs/cascade.md).

    pipe(text="a red star", outputs=["image", "audio"], upscale=4)
    pipe(..., upscale={"factor": 4, "noise_aug_strength": 0.05, "num_inference_steps": 8})

It comes after everything that makes outputs agree, and after candidates were chosen, so that it changes none
of them: with it and without it the same pictures are made, and sounds and texts stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi import io
from codi.border import check_number
from codi.diffusion import stream_seed
from codi.modalities import kind_of
from codi.protocols import Upscaler
from codi.types import InputError, Modality, ModalitySpec

NOISE_AUG_STRENGTH = 0.05
STEPS = 8
MOST_STEPS = 1000
OPTIONS = ("factor", "noise_aug_strength", "num_inference_steps")


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """How much larger pictures and clips are made, and how.

    Attributes:
        factor: how many times larger a side becomes.
        noise_aug_strength: the deviation of the noise that is put over what was decoded before its details
            are made, in pixels of [-1, 1] (noise-conditioning augmentation, arXiv 2106.15282).
        num_inference_steps: the steps of the sampler.
    """

    factor: int
    noise_aug_strength: float = NOISE_AUG_STRENGTH
    num_inference_steps: int = STEPS

    @classmethod
    def parse(cls, value: Any) -> "Upscale | None":
        """Read a factor, or a mapping with "factor" and any of the other attributes.

        Args:
            value: 4, {"factor": 4, "noise_aug_strength": 0.1}, another `Upscale`, or None for none.

        Returns:
            It with a value for each attribute; None for None.

        Raises:
            InputError: for anything else.
        """
        if value is None or isinstance(value, cls):
            return value
        given = dict(value) if isinstance(value, Mapping) else {"factor": value}
        for name in given:
            if name not in OPTIONS:
                raise InputError(f"upscale has {name!r:.80}: expected some of {', '.join(OPTIONS)}")
        factor = _whole("upscale", given.get("factor"), 2, 16)
        steps = _whole("upscale num_inference_steps", given.get("num_inference_steps", STEPS), 1, MOST_STEPS)
        level = check_number(
            "upscale noise_aug_strength", given.get("noise_aug_strength", NOISE_AUG_STRENGTH)
        )
        return cls(factor=factor, noise_aug_strength=level, num_inference_steps=steps)

    def described(self) -> dict[str, Any]:
        """Return it as a record has it, in a form that `parse` takes."""
        return {name: getattr(self, name) for name in OPTIONS}

    def check(
        self,
        outputs: Sequence[Modality],
        upscalers: Mapping[Modality, Upscaler],
        specs: Mapping[Modality, ModalitySpec],
        output_type: str = "pil",
    ) -> None:
        """Check that it can be done to these outputs.

        Args:
            outputs: what is made.
            upscalers: what makes it larger, by modality.
            specs: the geometry in which it is decoded.
            output_type: the form of what is made.

        Raises:
            InputError: where there is nothing with pixels, no part that makes it larger, or one that cannot
                do it like this; and for latents, which are not decoded.
        """
        seen = [m for m in outputs if kind_of(m).spatial]
        if not seen:
            raise InputError("upscale makes pictures and clips larger, and none is made: expected no upscale")
        if output_type == "latent":
            raise InputError("upscale acts on decoded pixels: expected another output_type than 'latent'")
        for modality in seen:
            self.check_part(modality, upscalers.get(modality))
            height, width = specs[modality].raw_shape[-2:]
            io.check_pixels(width * self.factor, height * self.factor, "what is to be made")

    def check_part(self, modality: Modality, part: Upscaler | None) -> None:
        """Raise `InputError` where a model has no part for a modality, or one that cannot do it like this."""
        if part is None:
            name = kind_of(modality).upscaler or f"upscaler of {modality}"
            raise InputError(
                f"this model has no {name}: expected one that was trained by the stage super_resolution "
                "(docs/cascade.md), or no upscale"
            )
        if self.factor != part.factor:
            raise InputError(
                f"upscale is {self.factor}: this model makes {modality} {part.factor} times as large; "
                f"expected {part.factor}"
            )
        if self.noise_aug_strength > part.max_noise_aug_strength:
            raise InputError(
                f"upscale noise_aug_strength is {self.noise_aug_strength:g}: expected 0 to "
                f"{part.max_noise_aug_strength:g}, what the network was trained with"
            )

    def apply(
        self,
        media: Mapping[Modality, Any],
        seeds: Sequence[int],
        upscalers: Mapping[Modality, Upscaler],
        device: torch.device | str,
    ) -> dict[Modality, Any]:
        """Return media, pictures and clips of them larger.

        A sample is made by itself, from its own seed, so that its batch changes nothing.

        Args:
            media: decoded media (B, ...) by modality.
            seeds: the seed of each of the B samples.
            upscalers: what makes them larger, checked by `check`.
            device: where the networks are.

        Returns:
            Media by modality, in the same order.
        """
        found = dict(media)
        for modality, raw in media.items():
            if kind_of(modality).spatial:
                rows = zip(raw, seeds, strict=True)
                made = [self.one(modality, row.to(device), seed, upscalers[modality]) for row, seed in rows]
                found[modality] = torch.stack(made)
        return found

    def one(self, modality: Modality, raw: Tensor, seed: int, part: Upscaler) -> Tensor:
        """Return one picture (3, H, W) or clip (F, 3, H, W) in [-1, 1], each side `factor` times as long."""
        frames = raw if raw.ndim == 4 else raw[None]
        generator = torch.Generator().manual_seed(stream_seed(seed, modality, "upscale"))
        large = part.upscale(frames, generator, self.noise_aug_strength, self.num_inference_steps)
        return large if raw.ndim == 4 else large[0]


def _whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number within bounds; raise `InputError` for anything else."""
    number = check_number(name, value)
    if number != int(number) or not least <= number <= most:
        raise InputError(f"{name} is {value!r}: expected a whole number from {least} to {most}")
    return int(number)
