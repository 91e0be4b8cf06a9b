"""Initial noise: every sample and every modality has a random stream of its own."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from codi.types import Modality


def stream_seed(seed: int, modality: Modality) -> int:
    """Seed of one modality's random stream within the sample `seed`: another output in the same call changes
    nothing.
    """
    digest = hashlib.sha256(f"{seed}/{modality.value}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_noise(
    shape: Sequence[int], seeds: Sequence[int], modality: Modality
) -> tuple[Tensor, list[torch.Generator]]:
    """Standard normal noise (len(seeds), *shape), float32 on the CPU, and the generators it came from.

    Each sample is drawn from its own seed: its noise does not depend on the batch or on the device.
    """
    generators = [torch.Generator().manual_seed(stream_seed(seed, modality)) for seed in seeds]
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]), generators
