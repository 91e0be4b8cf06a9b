"""Initial noise: every sample and every modality has a random stream of its own."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from codi.types import Modality


def stream_seed(seed: int, modality: Modality, use: str = "") -> int:
    """Return the seed of one modality's random stream within the sample `seed`.

    It depends on these alone, so that another output in the same call changes nothing.

    Args:
        seed: the seed of the sample.
        modality: the modality.
        use: what the stream is for, where it is not the output's own noise.

    Returns:
        A whole number from 0.
    """
    name = f"{seed}/{modality.value}" + (f"/{use}" if use else "")
    # A digest, unlike `hash`, is the same in every process; 63 bits fit any generator.
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_noise(
    shape: Sequence[int], seeds: Sequence[int], modality: Modality
) -> tuple[Tensor, list[torch.Generator]]:
    """Return standard normal noise, and the generators from which it was drawn.

    Each sample is drawn from its own seed: its noise does not depend on the batch or on the device.

    Args:
        shape: the shape of one latent.
        seeds: one for each sample.
        modality: the modality of the latents.

    Returns:
        the noise (len(seeds), *shape), float32 on the CPU, and one generator per sample.
    """
    generators = [torch.Generator().manual_seed(stream_seed(seed, modality)) for seed in seeds]
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]), generators
