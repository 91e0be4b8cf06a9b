"""Ordinary damage: every kind changes its medium as its generator says, and does what its name says."""

import numpy as np
import pytest
import torch

from codi.io import to_unit
from codi.types import InputError
from codi.world import render_images, render_sounds, render_videos, sample_scenes
from data.damage import KINDS, SOUNDS, damage, damage_some, kinds_of

SCENES = sample_scenes(2, 3)
MEDIA = [render_sounds(SCENES)[0], render_images(SCENES)[0], render_videos(SCENES[:1])[0]]
CASES = [(medium, kind) for medium in MEDIA for kind in kinds_of(medium)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("medium", "kind"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_kind_changes_its_medium_as_the_generator_says(medium, kind):
    before = medium.clone()
    made = damage(medium, kind, rng())
    assert made.shape == medium.shape and made.dtype == medium.dtype
    assert torch.equal(medium, before) and not torch.equal(made, before)
    assert torch.equal(damage(medium, kind, rng()), made)
    if kind not in ("screenshot", "telephone"):  # still the same: nearer to it than silence or grey are
        assert (made.float() - medium.float()).std() < 0.95 * medium.float().std()


def test_every_kind_is_in_some_table():
    assert {kind for _, kind in CASES} == set(KINDS)


def test_what_was_sent_at_8_khz_has_nothing_above_4():
    wave = torch.from_numpy(rng().standard_normal(16000).astype(np.float32)) * 0.1
    for kind, low in (("mu_law", 0), ("telephone", 100)):
        spectrum = torch.fft.rfft(damage(wave, kind, rng())).abs()  # bins of 1 Hz
        inside = spectrum[500:3000].mean()
        assert spectrum[4500:].mean() < 0.05 * inside
        assert not low or spectrum[:low].mean() < 0.2 * inside


def test_straight_lines_weaken_high_tones_and_leave_low_ones():
    t = torch.arange(16000) / 16000
    for hz, least, most in ((200, 0.97, 1.01), (6000, 0.0, 0.9)):
        tone = 0.5 * torch.sin(2 * torch.pi * hz * t)
        made = damage(tone, "linear_resampling", rng(4))
        assert least < made.square().mean().sqrt() / tone.square().mean().sqrt() < most


def test_an_mp3_is_in_its_place_in_time():
    made = damage(MEDIA[0], "mp3", rng())
    assert (made - MEDIA[0]).square().mean() < 0.02 * MEDIA[0].square().mean()


@pytest.mark.parametrize("kind", ["noise", "speech_band_noise", "hum"])
def test_noise_lies_5_to_20_db_below_the_sound(kind):
    ratios = []
    for seed in range(8):
        added = damage(0.3 * MEDIA[0], kind, rng(seed)) - 0.3 * MEDIA[0]
        ratios.append(
            float(20 * (0.3 * MEDIA[0].square().mean().sqrt() / added.square().mean().sqrt()).log10())
        )
    assert 4.9 < min(ratios) < max(ratios) < 20.1 and max(ratios) - min(ratios) > 3


def test_silence_bears_all_of_it():
    for kind in SOUNDS:
        made = damage(torch.zeros(8000), kind, rng())
        assert made.isfinite().all() and made.abs().max() < 1e-3


def test_all_frames_of_a_clip_suffer_the_same():
    still = MEDIA[1][None].repeat(3, 1, 1, 1)
    for kind in kinds_of(MEDIA[1]):
        made = damage(still, kind, rng(1))
        assert torch.equal(made[0], made[2]) and torch.equal(made[0], damage(MEDIA[1], kind, rng(1)))


def test_a_lost_frame_shows_the_one_before():
    clip = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 3, 4, 4)
    shown = damage(clip, "lost_frames", rng())[:, 0, 0, 0].long()
    assert shown[0] == 0 and (shown.diff() >= 0).all() and 0 < (shown != torch.arange(16)).sum() < 10


def test_a_screenshot_shows_the_whole_picture_smaller():
    made = damage(torch.zeros(3, 40, 40, dtype=torch.uint8), "screenshot", rng())
    rows, columns = (made[0] == 0).nonzero().T
    assert (made[0, 0] == 60).all() and (made[0, -1] == 240).all()
    height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
    assert height == width and 30 <= height <= 36 and len(rows) == height * width


def test_pixels_may_be_floats():
    floats = damage(to_unit(MEDIA[1]), "dim", rng())
    assert torch.allclose(floats, to_unit(damage(MEDIA[1], "dim", rng())))


def test_a_share_is_damaged_and_none_of_none():
    sounds = render_sounds(SCENES[:1])[:, :1600].repeat(100, 1)
    assert damage_some(sounds, 0.0, torch.Generator()) is sounds
    made = damage_some(sounds, 0.5, torch.Generator().manual_seed(0), ["gain", "noise"])
    assert 30 < (made != sounds).any(1).sum() < 70
    assert torch.equal(damage_some(sounds, 0.5, torch.Generator().manual_seed(0), ["gain", "noise"]), made)
    louder = damage_some(sounds, 1.0, torch.Generator().manual_seed(0), ["gain", "blur"])
    loudest = sounds[0].abs().argmax()
    ratio = louder[:, loudest] / sounds[:, loudest]  # of one kind that befalls sounds: nothing but a factor
    assert torch.allclose(louder, sounds * ratio[:, None], atol=1e-5) and ratio.std() > 0.1


def test_what_does_not_befall_a_medium_is_named():
    with pytest.raises(InputError, match="'blur' is none of such media: expected one of mp3"):
        damage(MEDIA[0], "blur", rng())
    with pytest.raises(InputError, match="damage blur is none of such media: expected some of mp3"):
        damage_some(MEDIA[0][None], 1.0, torch.Generator(), ["blur"])
