"""Renderers against the samples that define the world (found by CODI_WORLD_DIR or ../shared/world), and
against the words.
"""

import json
import os
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from codi.world import Scene, caption, events, render_images, render_sounds, render_videos, sample_scenes
from codi.world.picture import BACKGROUND, coverage

WORLD = Path(os.environ.get("CODI_WORLD_DIR", Path(__file__).parents[2] / ".." / "shared" / "world"))
needs_samples = pytest.mark.skipif(
    not (WORLD / "scenes.json").is_file(), reason=f"no conformance samples in {WORLD}: set CODI_WORLD_DIR"
)


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    return json.loads((WORLD / "scenes.json").read_text())


@pytest.fixture(scope="module")
def scenes(samples: list[dict]) -> list[Scene]:
    names = {f.name for f in fields(Scene)}
    return [Scene(**{k: v for k, v in sample.items() if k in names}) for sample in samples]


@needs_samples
def test_pictures_conform(samples: list[dict], scenes: list[Scene]) -> None:
    images = render_images(scenes).permute(0, 2, 3, 1).numpy().astype(float)
    videos = render_videos(scenes).permute(0, 1, 3, 4, 2).numpy().astype(float)
    for sample, image, video in zip(samples, images, videos):
        assert np.abs(image - np.asarray(Image.open(WORLD / f"{sample['id']}.png").convert("RGB"))).mean() < 1
        assert np.abs(video - np.load(WORLD / f"{sample['id']}.npy")).mean() < 1


@needs_samples
def test_sounds_conform(samples: list[dict], scenes: list[Scene]) -> None:
    quiet = [k for k, s in enumerate(scenes) if s.place == "snow"]
    assert quiet
    for k, sound in zip(quiet, render_sounds([scenes[k] for k in quiet]).numpy()):
        wanted, rate = soundfile.read(WORLD / f"{samples[k]['id']}.wav")
        assert rate == 16000
        assert np.sqrt(np.mean((sound - wanted) ** 2)) < 0.01 * np.sqrt(np.mean(wanted**2))


@needs_samples
def test_events_and_captions_conform(samples: list[dict], scenes: list[Scene]) -> None:
    for sample, scene in zip(samples, scenes):
        assert np.allclose(events(scene), sample["events"], atol=1e-3)
        assert caption(scene) == sample["caption"]


@pytest.mark.parametrize(
    "shape, area",
    [
        ("ball", np.pi),
        ("box", 1.76**2),
        ("triangle", 0.75 * np.sqrt(3) * 1.15**2),
        ("star", 5 * 1.15 * 0.5 * np.sin(np.pi / 5)),
        ("ring", np.pi * (1 - 0.55**2)),
        ("cross", 4 * 0.7 - 0.7**2),
    ],
)
def test_coverage_sums_to_the_area_of_the_outline(shape: str, area: float) -> None:
    half = np.full(1, 0.503)
    mask = coverage(shape, half, half, np.full(1, 0.22), 64)
    assert mask.min() >= -1e-6 and mask.max() <= 1 + 1e-6
    assert np.isclose(mask.sum() / 64**2, area * 0.22**2, rtol=0.02)


def test_sound_equals_the_formula() -> None:
    scene = replace(
        sample_scenes(1, 0)[0],
        shape="cross",
        colour="green",
        place="night",
        motion="pulse",
        tempo="fast",
        start=0.2,
    )
    t = np.arange(32000) / 16000
    wanted = 0.03 * np.sin(2 * np.pi * 7200 * t) * (t % 0.125 < 0.0625)
    for e, amplitude in events(scene):
        tau = np.maximum(t - e, 0)
        waves = sum(
            w * np.sin(2 * np.pi * 220 * 2 ** (15 / 12) * r * tau)
            for r, w in ((0.5, 0.8), (1, 1), (2, 0.6), (4, 0.4))
        )
        wanted += 0.35 * amplitude * waves * np.minimum(tau / 0.02, 1) * np.exp(-tau / 0.30)
    assert np.abs(render_sounds([scene])[0].numpy() - np.clip(wanted, -1, 1)).max() < 1e-4


@pytest.mark.parametrize("place, rms", [("grass", 0.03), ("sand", 0.05 * np.sqrt(3 / 8)), ("snow", 0.0)])
def test_ambience_has_its_level(place: str, rms: float) -> None:
    scene = replace(sample_scenes(1, 0)[0], place=place, motion="blink", tempo="fast", start=0.5)
    quiet = render_sounds([replace(scene, place="snow")])
    ambience = render_sounds([scene]) - quiet
    assert float(ambience.square().mean().sqrt()) == pytest.approx(rms, rel=0.15, abs=1e-6)


def test_sizes_rates_and_empty_batches() -> None:
    scenes = sample_scenes(2, 4)
    videos = render_videos(scenes, num_frames=5, fps=4.0, size=48)
    assert videos.shape == (2, 5, 3, 48, 48) and videos.dtype == torch.uint8
    assert render_sounds(scenes, sampling_rate=24000, num_samples=5000).shape == (2, 5000)
    assert render_images([]).shape == (0, 3, 64, 64)
    assert render_videos([]).shape == (0, 16, 3, 64, 64)
    assert render_sounds([]).shape == (0, 32000)


def test_batch_equals_single_and_floor_is_darker() -> None:
    scenes = sample_scenes(40, 5)
    assert torch.equal(render_videos(scenes)[37], render_videos(scenes[37:38])[0])
    assert torch.allclose(render_sounds(scenes)[37], render_sounds(scenes[37:38])[0], atol=1e-5)
    grass = render_images([replace(scenes[0], place="grass")])[0]
    assert grass[:, 0, 0].tolist() == BACKGROUND[2].tolist()
    assert grass[:, -1, 0].tolist() == np.rint(BACKGROUND[2] * 0.75).tolist()


def test_rendering_is_fast_enough_to_train_on() -> None:
    scenes = sample_scenes(48, 0)
    began = time.process_time()  # not the wall's clock: the machine may be busy
    render_videos(scenes)
    render_sounds(scenes)
    assert len(scenes) / (time.process_time() - began) > 50
