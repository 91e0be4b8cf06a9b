"""Pictures against outlines that are tested point by point, and against colours mixed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.path import Path

from codi.world import Scene, events, render_frames, render_images, render_videos, sample_scenes
from codi.world.motion import pose_of
from codi.world.picture import FILL, IMAGE_DELAY, coverage
from codi.world.scene import SHAPES

SIZE = 32
SCENE = Scene(
    shape="ball", colour="orange", place="sand", motion="blink", tempo="slow", start=0.3, x=0.5, seed=0
)


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points belong to an outline of radius one; y points down."""
    points = np.stack([x, y], -1).reshape(-1, 2)
    distance = np.hypot(x, y)
    corner = lambda radius, degrees: (
        radius * np.sin(np.radians(degrees)),
        -radius * np.cos(np.radians(degrees)),
    )
    polygon = {
        "triangle": [corner(1.15, 120 * k) for k in range(3)],
        "star": [corner((1.15, 0.5)[k % 2], 36 * k) for k in range(10)],
    }
    if shape in polygon:
        return Path(polygon[shape]).contains_points(points).reshape(x.shape)
    far, near = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return {
        "ball": distance < 1,
        "ring": (distance < 1) & (distance >= 0.55),
        "box": far < 0.88,
        "cross": (far < 1) & (near < 0.35),
    }[shape]


def sampled(shape: str, cx: float, cy: float, radius: float) -> np.ndarray:
    """The share of sixteen points of every pixel that lie inside."""
    at = (np.arange(4 * SIZE) + 0.5) / (4 * SIZE)
    x, y = (at[None] - cx) / radius, (at[:, None] - cy) / radius
    points = inside(shape, *np.broadcast_arrays(x, y)).astype(float)
    return points.reshape(SIZE, 4, SIZE, 4).mean((1, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_share_of_points_inside_the_outline_also_beyond_the_frame(shape: str) -> None:
    rng = np.random.default_rng(1)
    cx, cy = rng.uniform(-0.05, 1.05, 12), rng.uniform(-0.05, 1.05, 12)
    radius = rng.uniform(0.1, 0.3, 12)
    got = coverage(shape, cx, cy, radius, SIZE)
    for mask, *place in zip(got, cx, cy, radius):
        # A point on the outline itself may be counted either way.
        off = np.abs(mask - sampled(shape, *place))
        assert off.max() < 1 / 16 + 1e-6 and (off > 1e-6).sum() <= 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mirrored_place_gives_a_mirrored_picture(shape: str) -> None:
    cx, cy, radius = np.array([0.2013, 0.6007]), np.array([0.4, 0.7]), np.array([0.2, 0.25])
    left, right = (coverage(shape, x, cy, radius, SIZE) for x in (cx, 1 - cx))
    assert np.allclose(left, right[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize("colour, rgb", [("orange", (245, 130, 32)), ("cyan", (70, 220, 230))])
@pytest.mark.parametrize("place, ground", [("sand", (200, 180, 140)), ("night", (18, 18, 30))])
def test_a_pixel_mixes_ground_and_fill_by_the_opacity_of_the_object(colour, rgb, place, ground) -> None:
    scene = replace(SCENE, colour=colour, place=place)
    times = np.array([[0.0, 0.3, 0.6, 1.05]])
    frames = render_frames([scene], times, SIZE)[0]
    opacity = pose_of([scene], times).opacity[0]
    assert opacity[1] == 1.0 and opacity[0] == pytest.approx(0.08)
    for frame, alpha in zip(frames, opacity):
        mixed = np.array(ground) + alpha * (np.array(rgb) - np.array(ground))
        assert frame[:, SIZE // 2, SIZE // 2].tolist() == np.rint(mixed.astype(np.float32)).tolist()
        assert frame[:, 0, 0].tolist() == list(ground)


def test_fills_are_far_apart_and_colours_are_painted_in_the_order_of_the_table() -> None:
    gaps = np.linalg.norm(FILL[:, None] - FILL[None], axis=-1) + 1000 * np.eye(len(FILL))
    assert gaps.min() > 80
    names = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
    lit = render_frames([replace(SCENE, colour=c) for c in names], np.full((8, 1), 0.3), SIZE)
    assert lit[:, 0, :, SIZE // 2, SIZE // 2].tolist() == FILL.tolist()


def test_a_picture_shows_its_scene_shortly_after_the_first_event() -> None:
    scenes = sample_scenes(12, 3)
    times = np.array([[events(scene)[0][0] + IMAGE_DELAY] for scene in scenes])
    assert torch.equal(render_images(scenes, SIZE), render_frames(scenes, times, SIZE)[:, 0])
    many = sample_scenes(520, 3)  # more than are rendered at once
    assert torch.equal(render_images(many, SIZE)[514:], render_images(many[514:], SIZE))


def test_twice_the_frames_a_second_are_twice_the_frames_of_the_same_clip() -> None:
    scenes = sample_scenes(3, 6)
    slow, quick = (render_videos(scenes, num_frames=n, fps=n / 2, size=SIZE) for n in (8, 16))
    assert torch.equal(quick[:, ::2], slow) and not torch.equal(quick[:, 1::2], slow)


def test_a_larger_picture_shows_the_same_and_long_clips_are_rendered_in_parts() -> None:
    scenes = sample_scenes(6, 9)
    small, large = (render_images(scenes, size).float() for size in (SIZE, 4 * SIZE))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    above = slice(0, round(0.86 * SIZE) - 1)  # the edge of the floor falls into another row
    assert (shrunk - small)[:, :, above].abs().mean() < 1.5
    long = render_videos(scenes[:2], num_frames=600, fps=300.0, size=SIZE)
    parts = render_frames(scenes[:2], np.array([[599 / 300.0], [599 / 300.0]]), SIZE)
    assert torch.equal(long[:, -1], parts[:, 0])
