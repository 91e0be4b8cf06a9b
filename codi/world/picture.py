"""Render scenes as images and videos, anti-aliased by 4 x 4 samples per pixel.

Every outline is mirror-symmetric and meets a horizontal line in at most one interval with at most one gap, so
a shape is two functions of the row: outer and inner half-width. A row of samples is then four edges, each
edge touches one pixel, and a running sum along the row fills what lies between: work grows with the outline,
not with the area.

Letters: B scenes, F frames, n = B * F pictures, S pixels a side.
"""

import numpy as np
import torch
from torch import Tensor

from codi.world.motion import FLOOR, Pose, pose_of, schedule_of
from codi.world.scene import SHAPES, Scene, indices

FILL = np.array(
    [
        [220, 50, 47],
        [245, 130, 32],
        [250, 210, 50],
        [60, 180, 75],
        [70, 220, 230],
        [50, 90, 220],
        [150, 60, 190],
        [250, 130, 190],
    ],
    dtype=np.float32,
)
BACKGROUND = np.array([[18, 18, 30], [232, 236, 240], [88, 110, 70], [200, 180, 140]], dtype=np.float32)
FLOOR_SHADE = 0.75
IMAGE_DELAY = 0.06  # seconds from the first event to the image
_SUB = 4  # samples per pixel and axis
_CHUNK = 512  # pictures rendered at once; as many fit the cache

_TURN = np.pi / 5 * np.arange(6)
# The right half of the star, from its apex.
_STAR = np.where(np.arange(6) % 2, 0.5, 1.15)[:, None] * np.stack([np.sin(_TURN), -np.cos(_TURN)], 1)


def _disc(y: np.ndarray, r: float) -> np.ndarray:
    return np.sqrt(np.maximum(r * r - y * y, 0.0))


def _triangle(y: np.ndarray) -> np.ndarray:
    return np.where((y >= -1.15) & (y <= 0.575), (y + 1.15) / np.sqrt(3), 0.0)


def _cross(y: np.ndarray) -> np.ndarray:
    return np.where(np.abs(y) < 0.35, 1.0, np.where(np.abs(y) < 1.0, 0.35, 0.0))


def _star(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x_outer, y_outer = _STAR.T
    x_notch, y_notch = _STAR[4:][::-1].T
    outer = np.interp(y, y_outer[:5], x_outer[:5], left=0.0, right=0.0)
    inner = np.interp(y, y_notch, x_notch, left=0.0, right=0.0)
    return outer, inner


def half_widths(shape: str, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the outer and inner half-width of an outline at given heights, all in radii.

    Args:
        shape: one of `SHAPES`.
        y: heights from the centre, downwards.

    Returns:
        two arrays like y; None in place of the inner one for a shape that is not hollow.
    """
    match shape:
        case "ball":
            return _disc(y, 1.0), None
        case "box":
            return np.where(np.abs(y) < 0.88, 0.88, 0.0), None
        case "triangle":
            return _triangle(y), None
        case "star":
            return _star(y)
        case "ring":
            return _disc(y, 1.0), _disc(y, 0.55)
    assert shape == "cross", shape
    return _cross(y), None


def _add_edges(grid: np.ndarray, row: np.ndarray, edge: np.ndarray, sign: float, size: int) -> None:
    """Add an edge per row to the differences along rows: `sign` from the first sample at or beyond `edge`.

    `grid` (n*S*(S+2),) holds the differences of all rows of all pictures and is changed in place; `row` says
    in which row an edge lies, and `edge` where, in pixels. A sample counts if its middle lies at the edge or
    to its right.
    """
    first = np.clip(np.ceil(edge * _SUB - 0.5), 0, size * _SUB).astype(np.int64)
    pixel = first // _SUB
    inside = first % _SUB
    part = (_SUB - inside) * (sign / _SUB**2)
    at = row * (size + 2) + pixel
    grid += np.bincount(at, part, grid.size)
    grid += np.bincount(at + 1, sign / _SUB - part, grid.size)


def coverage(shape: str, cx: np.ndarray, cy: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """Return the share of each pixel that a shape covers.

    Args:
        shape: one of `SHAPES`.
        cx: (n,) columns of the centre, in parts of the frame.
        cy: (n,) rows of the centre, in parts of the frame.
        radius: (n,) in parts of the frame.
        size: S.

    Returns:
        (n, S, S) float32 in 0..1.
    """
    n = len(cx)
    lines = (np.arange(size * _SUB) + 0.5) / (size * _SUB)
    y = (lines[None] - cy[:, None]) / radius[:, None]  # (n, 4S)
    row = np.arange(n)[:, None] * size + np.arange(size * _SUB) // _SUB
    met = np.abs(y) < 1.16
    which = np.nonzero(met)[0]
    row = row[met]
    y = y[met]
    centre = cx[which] * size
    scale = radius[which] * size
    grid = np.zeros(n * size * (size + 2))
    for width, sign in zip(half_widths(shape, y), (1.0, -1.0)):
        if width is not None:
            _add_edges(grid, row, centre - width * scale, sign, size)
            _add_edges(grid, row, centre + width * scale, -sign, size)
    return np.cumsum(grid.reshape(n, size, size + 2)[:, :, :size], axis=2, dtype=np.float32)


def backgrounds(place: np.ndarray, size: int) -> np.ndarray:
    """Return ground and floor of places (n,), one column of pixels each: (n, 3, S, 1) float32 in 0..255."""
    shade = np.where(np.arange(size) < round(FLOOR * size), 1.0, FLOOR_SHADE).astype(np.float32)
    return BACKGROUND[place][:, :, None, None] * shade[:, None]


def _paint(shape: np.ndarray, colour: np.ndarray, place: np.ndarray, pose: Pose, size: int) -> np.ndarray:
    """Return pictures (n, 3, S, S) uint8, from table positions (n,) and a flat pose."""
    mask = np.zeros((len(shape), size, size), dtype=np.float32)
    for k, name in enumerate(SHAPES):
        mine = shape == k
        if mine.any():
            mask[mine] = coverage(name, pose.cx[mine], pose.cy[mine], pose.radius[mine], size)
    mask *= pose.opacity[:, None, None]
    ground = backgrounds(place, size)
    out = (FILL[colour][:, :, None, None] - ground) * mask[:, None]
    out += ground
    return np.rint(out, out=out).astype(np.uint8)


def render_frames(scenes: list[Scene], times: np.ndarray, size: int) -> Tensor:
    """Render every scene at times of its own.

    Args:
        scenes: B scenes.
        times: (B, F) seconds.
        size: S.

    Returns:
        (B, F, 3, S, S) uint8.
    """
    num_frames = times.shape[1]
    out = np.empty((len(scenes), num_frames, 3, size, size), dtype=np.uint8)
    step = max(1, _CHUNK // num_frames)
    for at in range(0, len(scenes), step):
        part = scenes[at : at + step]
        pose = Pose(*(values.reshape(-1) for values in pose_of(part, times[at : at + step])))
        shape = np.repeat(indices(part, "shape"), num_frames)
        colour = np.repeat(indices(part, "colour"), num_frames)
        place = np.repeat(indices(part, "place"), num_frames)
        painted = _paint(shape, colour, place, pose, size)
        out[at : at + step] = painted.reshape(-1, num_frames, 3, size, size)
    return torch.from_numpy(out)


def render_videos(scenes: list[Scene], num_frames: int = 16, fps: float = 8.0, size: int = 64) -> Tensor:
    """Render clips: frame k shows the scene at k / fps seconds.

    Args:
        scenes: B scenes.
        num_frames: F.
        fps: frames per second.
        size: S.

    Returns:
        (B, F, 3, S, S) uint8.
    """
    times = np.broadcast_to(np.arange(num_frames) / fps, (len(scenes), num_frames))
    return render_frames(scenes, times, size)


def render_images(scenes: list[Scene], size: int = 64) -> Tensor:
    """Render pictures of scenes, each shortly after its first event.

    Args:
        scenes: B scenes.
        size: S.

    Returns:
        (B, 3, S, S) uint8.
    """
    if not scenes:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    return render_frames(scenes, schedule_of(scenes)[0][:, :1] + IMAGE_DELAY, size)[:, 0]
