"""Sounds that no scene makes: where their partials lie, that a note comes back, that they follow from the
generator alone.
"""

import torch

from data.notes import random_notes

RATE, LENGTH = 16000, 32000


def notes(count: int, seed: int = 0, **more: int) -> torch.Tensor:
    return random_notes(count, LENGTH, RATE, torch.Generator().manual_seed(seed), **more)


def test_the_generator_decides():
    assert torch.equal(notes(3), notes(3)) and not torch.equal(notes(3), notes(3, seed=1))
    assert notes(0).shape == (0, LENGTH)


def test_partials_lie_in_every_octave_and_none_above_the_band():
    spectrum = torch.fft.rfft(notes(200, partials=1)).abs()
    loudest = spectrum.argmax(1) * RATE / LENGTH
    assert loudest.min() >= 45 and loudest.max() <= 15 / 32 * RATE + 5
    counts = torch.histogram(
        loudest.float().log2(), bins=torch.tensor([5.6, 6.6, 7.6, 8.6, 9.6, 10.6, 11.6, 12.9])
    ).hist
    assert counts.min() >= 10


def test_one_note_comes_back_as_it_was():
    sounds = notes(20)
    assert (
        sounds.isfinite().all()
        and not sounds[:, : int(0.02 * RATE)].any()
        and sounds.abs().amax(1).min() > 1e-4
    )
    for sound in sounds:
        echo = torch.fft.irfft(torch.fft.rfft(sound, 2 * LENGTH).abs() ** 2)[int(0.19 * RATE) : LENGTH]
        assert echo.max() > 0.2 * sound.square().sum()
