"""Notes and places against what an instrument would measure: pitch, decay, bands, levels, no aliasing."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from codi.world import Scene, events, render_sounds
from codi.world.scene import COLOURS, MOTIONS, SHAPES, TEMPOS
from codi.world.sound import note_bank

SCENE = Scene(
    shape="star", colour="pink", place="snow", motion="blink", tempo="fast", start=0.25, x=0.5, seed=7
)
EARLY = {"start": 0.15, "x": 0.5, "seed": 1}
RATE = 16000
BANK = note_bank(RATE, RATE)  # one second of every note
DECAYS = {"ball": 0.12, "box": 0.25, "triangle": 0.45, "star": 0.18, "ring": 0.30, "cross": 0.30}


def spectrum(waves: Tensor, rate: int = RATE) -> tuple[Tensor, Tensor]:
    """Magnitudes and the frequencies of their bins in Hz."""
    window = torch.hann_window(waves.shape[-1])
    return torch.fft.rfft(waves * window).abs(), torch.fft.rfftfreq(waves.shape[-1], 1 / rate)


@pytest.mark.parametrize("shape", SHAPES)
def test_colours_are_pitches_a_fourth_apart(shape: str) -> None:
    row = SHAPES.index(shape) * len(COLOURS)
    loud, hz = spectrum(BANK[row : row + len(COLOURS)])
    found = hz[loud.argmax(1)]
    assert torch.allclose(found, 220 * 2 ** (5 / 12 * torch.arange(8.0)), atol=1.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_notes_decay_by_e_in_the_seconds_of_their_shape(shape: str) -> None:
    notes = BANK[SHAPES.index(shape) * len(COLOURS) :][: len(COLOURS)]
    late = round(DECAYS[shape] * RATE)
    energy = lambda first: notes[:, first : first + 3200].square().sum(1)
    ratios = (energy(800) / energy(800 + late)).log() / 2
    assert torch.allclose(ratios, torch.ones(8), atol=0.03)


def test_a_note_begins_softly_and_is_silent_before_its_event() -> None:
    scene = replace(SCENE, shape="ring", colour="red", motion="bounce", tempo="slow", start=0.25003)
    (sound,) = render_sounds([scene])
    first = 4001  # the first sample after 0.25003 s
    assert (sound[:first] == 0).all() and sound[first : first + 40].abs().min() > 0
    peak = lambda low, high: float(sound[first + low : first + high].abs().max())
    assert peak(0, 73) < 0.2 * peak(500, 800)  # one period, of an attack of 40 ms


@pytest.mark.parametrize("rate, most", [(8000, 4000.0), (16000, 7500.0), (48000, 7500.0)])
def test_no_partial_lies_above_half_the_rate_or_the_limit(rate: int, most: float) -> None:
    (sound,) = render_sounds([SCENE], sampling_rate=rate, num_samples=rate)
    t = np.arange(rate) / rate
    expected, pitch = np.zeros(rate), 220 * 2 ** (35 / 12)
    for event, amplitude in events(SCENE):
        tau = np.maximum(t - event, 0)
        partials = [k for k in range(1, 9) if k * pitch < most]
        waves = sum(np.sin(2 * np.pi * k * pitch * tau) / k for k in partials)
        expected += 0.35 * amplitude * waves * np.minimum(tau / 0.002, 1) * np.exp(-tau / 0.18)
    assert len(partials) in (2, 4)
    assert np.abs(sound.numpy() - expected).max() < 1e-4


def test_twice_the_rate_gives_the_same_sound_with_samples_between() -> None:
    scenes = [replace(SCENE, shape=s, colour=c) for s, c in (("ball", "red"), ("cross", "cyan"))]
    fine = render_sounds(scenes, sampling_rate=2 * RATE, num_samples=2 * RATE)
    assert torch.allclose(fine[:, ::2], render_sounds(scenes, num_samples=RATE), atol=1e-4)


@pytest.mark.parametrize("place, low, high", [("grass", 1990, 3010), ("sand", 45, 95), ("night", 7000, 7400)])
def test_places_sound_in_bands_of_their_own(place: str, low: float, high: float) -> None:
    scene = replace(SCENE, start=0.5, place=place)
    (sound,) = render_sounds([scene], num_samples=7600)  # ends before the first event
    loud, hz = spectrum(sound)
    power = loud.square()
    assert power[(hz >= low) & (hz <= high)].sum() > 0.98 * power.sum() > 0


def test_the_noise_of_a_place_is_drawn_from_the_seed_of_its_scene() -> None:
    def ambience(seed: int, place: str) -> Tensor:
        return render_sounds([replace(SCENE, start=0.5, place=place, seed=seed)], num_samples=7600)[0]

    for place in ("grass", "sand"):
        assert torch.equal(ambience(1, place), ambience(1, place))
        assert not torch.allclose(ambience(1, place), ambience(2, place), atol=1e-2)
    assert torch.equal(ambience(1, "night"), ambience(2, "night"))
    assert (ambience(1, "snow") == 0).all()


def test_surf_comes_and_goes_every_two_seconds_and_crickets_pause() -> None:
    quiet = render_sounds([replace(SCENE, start=0.5)])
    surf, crickets = (render_sounds([replace(SCENE, start=0.5, place=p)]) - quiet for p in ("sand", "night"))
    loud = lambda sound, seconds: float(sound[0, int(seconds * RATE) :][:1600].abs().max())
    assert loud(surf, 0.95) < 0.05 * loud(surf, 0.0) and loud(surf, 1.9) > 0.5 * loud(surf, 0.0)
    gate = crickets[0].reshape(-1, 1000).abs().amax(1)  # sixteenths of a second
    assert torch.allclose(gate[0::2], torch.full((16,), 0.03), atol=1e-4) and gate[1::2].max() < 1e-6


def test_no_scene_reaches_full_scale_so_nothing_is_clipped() -> None:
    """The surf is the loudest ambience, and the earliest start leaves room for the most events."""
    kinds = itertools.product(SHAPES, COLOURS, MOTIONS, TEMPOS)
    scenes = [Scene(shape=s, colour=c, place="sand", motion=m, tempo=t, **EARLY) for s, c, m, t in kinds]
    loudest = render_sounds(scenes).abs().amax(1)
    assert len(loudest) == 384 and 0.25 < loudest.min() and loudest.max() < 0.9
