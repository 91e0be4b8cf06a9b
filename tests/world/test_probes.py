"""Probes read what renderers made, also when it is blurred, noisy, dim or has lost its phases."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.types import InputError, Modality
from codi.world import (
    VISIBLE,
    Reading,
    events,
    read_images,
    read_sounds,
    read_videos,
    render_images,
    render_sounds,
    render_videos,
    sample_scenes,
)

SCENES = sample_scenes(64, 11, None)


def agreement(readings: list[Reading], modality: Modality) -> float:
    """The share of visible facts read rightly."""
    pairs = [(r.facts[a], getattr(s, a)) for r, s in zip(readings, SCENES) for a in VISIBLE[modality]]
    return sum(read == true for read, true in pairs) / len(pairs)


def onset_f1(readings: list[Reading], tolerance: float) -> float:
    """Onsets are far apart, so the nearest is the only one that can match."""
    true = [np.array([t for t, _ in events(s)]) for s in SCENES]
    hits = sum(
        int((np.abs(r.events[:, None] - t).min(1) < tolerance).sum())
        for r, t in zip(readings, true)
        if len(r.events)
    )
    return 2 * hits / (sum(len(r.events) for r in readings) + sum(map(len, true)))


def spoil(pictures: Tensor) -> Tensor:
    """Blurred, paler and noisy uint8 pictures."""
    flat = pictures.float().reshape(-1, 1, *pictures.shape[-2:])
    soft = nnf.avg_pool2d(nnf.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1).reshape(pictures.shape)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (soft * 0.92 + 12 + 6 * noise).round().clamp(0, 255).byte()


@pytest.mark.parametrize("change, least", [(lambda p: p, 0.99), (spoil, 0.97)], ids=["clean", "spoilt"])
def test_images(change, least: float) -> None:
    readings = read_images(change(render_images(SCENES)))
    assert agreement(readings, Modality.IMAGE) >= least
    assert all(r.facts["motion"] is None and len(r.events) == 0 for r in readings)
    off = [abs(r.x - s.x) for r, s in zip(readings, SCENES) if s.motion == "bounce"]
    assert max(off) < 0.03


@pytest.mark.parametrize("change, least", [(lambda p: p, 0.99), (spoil, 0.97)], ids=["clean", "spoilt"])
def test_videos(change, least: float) -> None:
    readings = read_videos(change(render_videos(SCENES)))
    assert agreement(readings, Modality.VIDEO) >= least
    assert onset_f1(readings, 0.125) >= 0.95 and onset_f1(readings, 0.0625) >= 0.95
    assert all(
        abs(r.x - s.x) < 0.03 if s.motion == "bounce" else r.x is None for r, s in zip(readings, SCENES)
    )


def without_phases(sounds: Tensor) -> Tensor:
    """The same magnitudes with one random, time-constant phase per frequency: what is left without exact
    phases.
    """
    window = torch.hann_window(512)
    spectrum = torch.stft(sounds, 512, 128, window=window, return_complex=True)
    phase = 2 * torch.pi * torch.rand(1, 257, 1, generator=torch.Generator().manual_seed(0))
    return torch.istft(
        spectrum * torch.polar(torch.ones_like(phase), phase), 512, 128, window=window, length=sounds.shape[1]
    )


def hiss(sounds: Tensor) -> Tensor:
    return 0.7 * sounds + 0.005 * torch.randn(sounds.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "change, least",
    [(lambda s: s, 0.99), (hiss, 0.98), (without_phases, 0.95)],
    ids=["clean", "hiss", "phases"],
)
def test_sounds(change, least: float) -> None:
    readings = read_sounds(change(render_sounds(SCENES)))
    assert agreement(readings, Modality.AUDIO) >= least
    assert onset_f1(readings, 0.05) >= (0.97 if least > 0.95 else 0.9)


def test_onsets_are_unbiased() -> None:
    for read, media in ((read_videos, render_videos), (read_sounds, render_sounds)):
        errors = [
            r.start - events(s)[0][0] for r, s in zip(read(media(SCENES)), SCENES) if r.start is not None
        ]
        assert abs(np.mean(errors)) < 0.005


def test_nothing_is_read_from_nothing() -> None:
    empty = torch.full((1, 16, 3, 64, 64), 18, dtype=torch.uint8)
    (video,), (image,) = read_videos(empty), read_images(empty[:, 0])
    assert video.facts["shape"] is None and video.facts["motion"] is None and len(video.events) == 0
    assert image.facts["shape"] is None and image.x is None
    (silence,) = read_sounds(torch.zeros(1, 32000))
    assert silence.facts["shape"] is None and silence.facts["place"] == "snow" and silence.start is None


def test_a_still_video_shows_no_motion() -> None:
    still = render_videos(SCENES[:4])[:, :1].expand(-1, 16, -1, -1, -1)
    for reading in read_videos(still.contiguous()):
        assert reading.facts["motion"] is None and reading.facts["tempo"] is None and len(reading.events) == 0


def test_wrong_media_are_refused_with_what_came() -> None:
    with pytest.raises(InputError, match=r"float32 \(2, 3, 64, 64\)"):
        read_images(torch.zeros(2, 3, 64, 64))
    with pytest.raises(InputError, match="8000"):
        read_sounds(torch.zeros(1, 100), sampling_rate=8000)
