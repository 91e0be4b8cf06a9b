"""Sounds that no scene of the world makes, for models that must know sound beyond the world's own."""

import torch
from torch import Tensor


def random_notes(count: int, length: int, rate: int, generator: torch.Generator, partials: int = 8) -> Tensor:
    """Return sounds (count, length), in each of which one note of random partials comes again and again.

    A note has 1 to `partials` partials between 50 Hz and 15/16 of half the sampling rate, of amplitude 0.003
    to 0.3, with an attack of 1 to 50 ms and a decay of 0.08 to 0.6 s, and comes back every 0.2 to 1.2 s. All
    of these are drawn log-uniformly.

    Args:
        count: how many sounds to make.
        length: samples of each sound.
        rate: samples per second, in Hz.
        generator: gives the random draws; the sounds are made on its device.
        partials: the most partials that a note may have.

    Returns:
        float32 (count, length).
    """

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low * (high / low) ** torch.rand((count, *shape), generator=generator, device=generator.device)

    time = torch.arange(length, device=generator.device) / rate
    frequency = between(50, 15 / 32 * rate, partials, 1)
    loudness = between(0.003, 0.3, partials, 1)
    sounding = torch.arange(partials, device=generator.device) < between(1, partials, 1).round()
    note = (loudness * sounding[..., None] * (2 * torch.pi * frequency * time).sin()).sum(1)
    note = note * (time / between(0.001, 0.05, 1)).clamp_max(1) * (-time / between(0.08, 0.6, 1)).exp()
    sound = torch.zeros_like(note)
    for own, one, first, gap in zip(sound, note, rate * between(0.02, 0.8), rate * between(0.2, 1.2)):
        for start in torch.arange(first, max(first, length), gap).long().tolist():
            own[start:] += one[: length - start]
    return sound
