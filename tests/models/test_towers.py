"""Prompt towers take what the model's other parts hand them."""

import pytest
import torch
from torch.nn import functional

from codi.models.conditioning import VisionTower
from codi.world import render_images, render_videos, sample_scenes
from tests import tiny_pipeline

SHAPE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    projection_dim=16,
    image_size=32,
    patch_size=8,
)


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return VisionTower(SHAPE, max_frames=16).eval()


def unit(pixels):
    return torch.as_tensor(pixels).float() / 127.5 - 1


@torch.no_grad()
def test_a_picture_of_the_towers_own_size_is_left_alone(tower):
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    clips = pictures[:, None]
    assert tower.resize(clips) is clips
    assert torch.equal(tower.features(pictures), tower.features(clips))


@torch.no_grad()
def test_the_same_thing_in_another_size_gives_nearly_the_same_token(tower):
    small = torch.rand(3, 3, 8, 8) * 1.6 - 0.8
    own, larger = (functional.interpolate(small, size, mode="bicubic") for size in (32, 96))
    answers = tower.embed(own), tower.embed(larger)
    others = functional.cosine_similarity(answers[0], answers[0].roll(1, 0))
    assert (
        functional.cosine_similarity(*answers) > 0.5 + 0.5 * others
    ).all() and functional.cosine_similarity(*answers).min() > 0.99
    plain = torch.full((1, 3, 1, 1), 0.25)
    assert torch.allclose(
        tower.embed(plain.expand(1, 3, 32, 32)), tower.embed(plain.expand(1, 3, 50, 70)), atol=1e-5
    )


@torch.no_grad()
def test_clips_are_resized_frame_by_frame(tower):
    clips = unit(render_videos(sample_scenes(2, seed=1)))
    by_frame = torch.stack([tower.resize(clips[:, [k]])[:, 0] for k in range(clips.shape[1])], dim=1)
    assert clips.shape[-1] == 64 and by_frame.shape == (2, 16, 3, 32, 32) and by_frame.abs().max() <= 1
    assert torch.allclose(tower.features(clips), tower.features(by_frame), atol=1e-5)


def test_a_tower_of_another_size_than_the_autoencoder_serves_a_pipeline():
    pipe = tiny_pipeline.pipeline()
    torch.manual_seed(1)
    own = pipe.vision_tower
    pipe.vision_tower = VisionTower({**own.config.vision_config, "image_size": 16}, max_frames=4).eval()
    assert pipe.image_autoencoder.config.image_size == 32
    picture = torch.as_tensor(render_images(sample_scenes(1, seed=2)))[0]
    out = pipe(image=picture, outputs="image", seed=0, num_inference_steps=2, output_type="pt").images[0]
    assert out.shape == (3, 32, 32) and torch.isfinite(out.float()).all()
