"""Probes that read images and videos back into facts.

The background is known from the parts that no object reaches; what differs from it is explained as a share of
one of the eight fills (alpha); moments of alpha give the object's pose in each frame; the pose over time is
compared with all motions.

Letters: B clips, F frames, S pixels a side, R rows above the floor, H hypotheses, P pixels of a patch.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.types import InputError
from codi.world.motion import BOUNCE, FLOOR, RADIUS, pose, schedule
from codi.world.picture import BACKGROUND, FILL, FLOOR_SHADE, coverage
from codi.world.reading import Reading, hypotheses, named
from codi.world.scene import SHAPES

_CHUNK = 32  # clips read at once
_LEAST_ALPHA = 0.06  # alpha below this counts as noise, however little noise there is
_NOISE_FACTOR = 3.0  # standard deviations of the background that alpha must exceed
_REACH = 1.15 * 1.6 * RADIUS + 0.03  # of the frame: no part of an object is further from its centre
_LEAST_AREA = 0.004  # of the frame: below there is no object
_PATCH = 28
_PATCH_EXTENT = 1.75  # half side of a patch, in radii of the disc with the object's area
_SHAPE_FRAMES = 6
_SPREAD = {"place": 0.03, "size": 0.08, "opacity": 0.10}  # how far a generated pose may be off
_LOCAL = 0.15  # seconds around an event that decide when it was


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """The object in every frame, four (B, F).

    Attributes:
        cx: the column of its centre in parts of the frame.
        cy: the row of its centre in parts of the frame.
        area: its area in parts of the frame.
        opacity: its opacity, from 0 to 1.
    """

    cx: Tensor
    cy: Tensor
    area: Tensor
    opacity: Tensor


def _ground(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour of the ground (B, 3) and its noise (B,), measured over all frames (B, F, 3, S, S).

    They are taken from the upper corners and the floor, which no object reaches.
    """
    size = frames.shape[-1]
    top = size // 5
    edge = max(1, size // 21)
    floor = round(FLOOR * size) + 1
    corners = torch.cat([frames[..., :top, :edge], frames[..., :top, -edge:]], -1).transpose(1, 2).flatten(2)
    below = frames[..., floor:, ::3].transpose(1, 2).flatten(2)
    ground = 0.5 * (corners.median(-1).values + below.median(-1).values / FLOOR_SHADE)
    return ground, corners.std(-1).mean(1)


def _read_place(ground: Tensor) -> Tensor:
    """Return the table position (B,) of the place whose ground has the nearest colour."""
    return torch.cdist(ground, torch.from_numpy(BACKGROUND)).argmin(1)


def _read_colour(difference: Tensor, ground: Tensor) -> Tensor:
    """Return the table position (B,) of the fill that explains the difference from the ground best.

    The difference is (B, F, 3, R, S), and the frames that show most of it decide.
    """
    energy = difference.square().sum((2, 3, 4))
    most = energy.topk(min(4, energy.shape[1]), dim=1).indices
    shown = difference[torch.arange(len(most))[:, None], most].transpose(2, 1).flatten(2)  # (B, 3, pixels)
    fill = torch.from_numpy(FILL) - ground[:, None]  # (B, 8, 3)
    along = fill @ shown
    norm = fill.square().sum(-1, keepdim=True).clamp_min(1.0)
    share = (along / norm).clamp(0, 1)
    return (share * (norm * share - 2 * along)).sum(-1).argmin(1)


def _alpha(difference: Tensor, ground: Tensor, colour: Tensor, noise: Tensor) -> Tensor:
    """Return the share of the fill in each pixel, (B, F, R, S) in 0..1; 0 where it could be noise."""
    fill = torch.from_numpy(FILL)[colour] - ground
    contrast = fill.square().sum(1).sqrt().clamp_min(1.0)
    alpha = torch.einsum("bfcrs,bc->bfrs", difference, fill / contrast.square()[:, None]).clamp_(0, 1)
    least = (_NOISE_FACTOR * noise / contrast).clamp(_LEAST_ALPHA, 0.4)
    return _near_object(torch.where(alpha < least[:, None, None, None], 0.0, alpha))


def _near_object(alpha: Tensor) -> Tensor:
    """Return alpha without what lies too far from where most of it is to be part of the object."""
    at = (torch.arange(alpha.shape[-1]) + 0.5) / alpha.shape[-1]
    dense = nnf.avg_pool2d(alpha, 5, 1, 2).pow_(3)
    mass = dense.sum((2, 3)).clamp_min(1e-9)
    dx = at - ((dense.sum(2) * at).sum(-1) / mass)[..., None]
    dy = at[: alpha.shape[2]] - ((dense.sum(3) * at[: alpha.shape[2]]).sum(-1) / mass)[..., None]
    return alpha * (dx.square()[:, :, None, :] + dy.square()[:, :, :, None] < _REACH**2)


def _track(alpha: Tensor) -> Tracks:
    """Return the moments of alpha (B, F, R, S)."""
    size = alpha.shape[-1]
    at = (torch.arange(size) + 0.5) / size
    mass = alpha.sum((2, 3))
    safe = mass.clamp_min(1e-6)
    square = alpha.square()
    opacity = (square * alpha).sum((2, 3)) / square.sum((2, 3)).clamp_min(1e-6)
    cx = (alpha.sum(2) * at).sum(-1) / safe
    # Alpha has the rows above the floor only, fewer than columns.
    cy = (alpha.sum(3) * at[: alpha.shape[2]]).sum(-1) / safe
    return Tracks(cx=cx, cy=cy, area=mass / size**2 / opacity.clamp_min(1e-3), opacity=opacity)


def _patches(alpha: Tensor, cx: Tensor, cy: Tensor, area: Tensor) -> Tensor:
    """Return cut-outs (n, P) of alpha (n, R, S), centred and scaled to equal area."""
    rows, size = alpha.shape[1:]
    reach = _PATCH_EXTENT * (area / torch.pi).sqrt()[:, None]
    span = torch.linspace(-1, 1, _PATCH)
    x = (cx[:, None] + reach * span) * 2 - 1
    y = (cy[:, None] + reach * span) * (2 * size / rows) - 1
    grid = torch.stack([x[:, None, :].expand(-1, _PATCH, -1), y[:, :, None].expand(-1, -1, _PATCH)], -1)
    return nnf.grid_sample(alpha[:, None], grid, align_corners=False).flatten(1)


def _centred(patches: Tensor) -> Tensor:
    return nnf.normalize(patches - patches.mean(1, keepdim=True), dim=1)


@cache
def _shape_templates(size: int) -> Tensor:
    """Return the `_patches` of each shape at rest, less their means and normalised, (shapes, P)."""
    middle = np.full(1, 0.5)
    alpha = np.concatenate([coverage(s, middle, middle, np.full(1, RADIUS), size) for s in SHAPES])
    alpha = torch.from_numpy(alpha)[:, : round(FLOOR * size)].contiguous()
    tracks = _track(alpha[None])
    return _centred(_patches(alpha, tracks.cx[0], tracks.cy[0], tracks.area[0]))


def _read_shape(alpha: Tensor, tracks: Tracks) -> Tensor:
    """Return the table position (B,) of the outline seen in the clearest frames of alpha (B, F, R, S)."""
    whole = ((tracks.cx - 0.5).abs() < 0.22).float() + 0.05  # at the sides the frame cuts the object
    weight, best = (whole * tracks.opacity * tracks.area.sqrt()).topk(
        min(_SHAPE_FRAMES, alpha.shape[1]), dim=1
    )
    clip = torch.arange(len(alpha))[:, None]
    picked = [values[clip, best].flatten() for values in (tracks.cx, tracks.cy, tracks.area)]
    patches = _patches(alpha[clip, best].flatten(0, 1), *picked).unflatten(0, best.shape)
    mean = (patches * weight[:, :, None]).sum(1)
    return (_centred(mean) @ _shape_templates(alpha.shape[-1]).T).argmax(1)


def _features(cx: np.ndarray, cy: np.ndarray, radius: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Return a pose (n, F) in units of what may be off, (n, F, 4).

    The centre is taken about its mean (two features), the size against that at rest, and the opacity against
    the clearest frame.
    """
    rest = np.quantile(radius, 0.25, axis=1, keepdims=True)
    return np.stack(
        [
            (cx - cx.mean(1, keepdims=True)) / _SPREAD["place"],
            (cy - cy.mean(1, keepdims=True)) / _SPREAD["place"],
            radius / np.maximum(rest, 1e-6) / _SPREAD["size"],
            opacity / opacity.max(1, keepdims=True).clip(1e-6) / _SPREAD["opacity"],
        ],
        axis=-1,
    )


@cache
def _motion_features(num_frames: int, fps: float) -> np.ndarray:
    """Return the `_features` of every hypothesis, (H, F, 4)."""
    motion, tempo, start = hypotheses()
    t = np.broadcast_to(np.arange(num_frames) / fps, (len(motion), num_frames))
    return _features(*pose(np.zeros_like(motion), motion, tempo, start, np.full(len(motion), 0.5), t))


def _costs(seen: np.ndarray, trust: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Return the squared distance (B, H) of features (B, F, 4) from those of hypotheses (H, F, 4).

    Each difference is weighted by trust (B, F, 4).
    """
    b = len(seen)
    h = len(ideal)
    cross = (trust * seen).reshape(b, -1) @ ideal.reshape(h, -1).T
    return (
        (trust * seen**2).sum((1, 2))[:, None]
        - 2 * cross
        + trust.reshape(b, -1) @ (ideal**2).reshape(h, -1).T
    )


def _local_events(
    seen: np.ndarray, trust: np.ndarray, ideal: np.ndarray, best: np.ndarray, times: np.ndarray
) -> list[np.ndarray]:
    """Return the times of the events of each clip's best hypothesis, each moved by the frames around it.

    `ideal` (H, F, 4) and `best` (B,) index the hypotheses; `times` (F,) are those of the frames.
    """
    motion, tempo, start = hypotheses()
    num_starts = len(np.unique(start))
    out = []
    for b, k in enumerate(best):
        # The hypotheses of the same motion and tempo, with every start, lie one after another.
        like = slice(k - k % num_starts, k - k % num_starts + num_starts)
        cost = (trust[b] * (seen[b] - ideal[like]) ** 2).sum(-1)  # (starts, F)
        events = schedule(motion[k : k + 1], tempo[k : k + 1], start[k : k + 1])[0][0]
        events = events[np.isfinite(events)]
        near = np.exp(-0.5 * ((times - events[:, None]) / _LOCAL) ** 2) + 0.1  # (N, F)
        local = start[like][np.argmin(near @ cost.T, axis=1)]
        out.append(np.sort(np.maximum(events + local - start[k], 0.0)))
    return out


def _fill_gaps(values: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Return values (B, F) with the trusted average in place of those where the object can hardly be seen."""
    mean = (trust * values).sum(1, keepdims=True) / np.maximum(trust.sum(1, keepdims=True), 1e-6)
    return np.where(trust < 0.2, mean, values)


def _faded(opacity: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the opacity (B, F) against the clearest frame.

    Where only a fragment rises above the noise, it is less by what is missing.
    """
    clearest = opacity.argmax(1)[:, None]
    relative = opacity / np.maximum(np.take_along_axis(opacity, clearest, 1), 1e-6)
    share = np.minimum(1.0, area / np.maximum(np.take_along_axis(area, clearest, 1), 1e-6))
    return np.where(relative < 0.6, relative * share, relative)


def _motions(tracks: Tracks, fps: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the best hypothesis (B,), whether anything moves (B,), and the event times of each clip."""
    area = tracks.area.double().numpy()
    opacity = _faded(tracks.opacity.double().numpy(), area)
    clear = np.minimum(1.0, opacity / 0.5) ** 2
    cx = _fill_gaps(tracks.cx.double().numpy(), clear)
    cy = _fill_gaps(tracks.cy.double().numpy(), clear)
    radius = _fill_gaps(np.sqrt(area), clear)
    seen = _features(cx, cy, radius, opacity)
    # Opacity is trusted everywhere: that an object cannot be seen tells about a motion, too.
    trust = np.stack([clear, clear, clear, np.ones_like(clear)], -1)
    ideal = _motion_features(seen.shape[1], fps)
    costs = _costs(seen, trust, ideal)
    still = np.broadcast_to(seen.mean(1, keepdims=True), seen.shape)
    moves = costs.min(1) < (trust * (seen - still) ** 2).sum((1, 2))
    best = costs.argmin(1)
    return best, moves, _local_events(seen, trust, ideal, best, np.arange(seen.shape[1]) / fps)


def _check(pictures: Tensor, rank: int, shape: str) -> None:
    """Raise `InputError` unless pictures are uint8 of this rank, square, and of 32 pixels or more."""
    if pictures.dtype != torch.uint8 or pictures.ndim != rank or pictures.shape[-3] != 3:
        raise InputError(f"expected uint8 {shape}, got {pictures.dtype} {tuple(pictures.shape)}")
    if pictures.shape[-1] != pictures.shape[-2] or pictures.shape[-1] < 32:
        raise InputError(
            f"expected square pictures of 32 pixels or more, got {tuple(pictures.shape[-2:])}: resize first"
        )


def _object(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ground (B, 3), the position of the colour (B,), and alpha (B, F, R, S), of uint8 frames."""
    pixels = frames.float()
    ground, noise = _ground(pixels)
    difference = pixels[..., : round(FLOOR * pixels.shape[-1]), :] - ground[:, None, :, None, None]
    colour = _read_colour(difference, ground)
    return ground, colour, _alpha(difference, ground, colour, noise)


@torch.no_grad()
def object_masks(images: Tensor) -> Tensor:
    """Return which pixels belong to the object of each image, (B, S, S) boolean; none below the floor.

    Args:
        images: (B, 3, S, S) uint8, of 32 pixels or more.

    Returns:
        the pixels in which at least half as much of it is seen as where most is; none where nothing is.

    Raises:
        InputError: the images have another type, shape or size.
    """
    _check(images, 4, "(B, 3, S, S)")
    alpha = torch.cat([_object(part[:, None])[2][:, 0] for part in images.cpu().split(_CHUNK * 8)])
    most = alpha.amax((1, 2), keepdim=True)
    seen = (alpha >= 0.5 * most) & (most > 0)
    return nnf.pad(seen, (0, 0, 0, images.shape[-1] - seen.shape[1]))


def _look(frames: Tensor) -> tuple[list[dict[str, int | None]], Tracks]:
    """Return positions of shape, colour and place per clip, and the tracks, of uint8 (B, F, 3, S, S)."""
    ground, colour, alpha = _object(frames)
    tracks = _track(alpha)
    shape = _read_shape(alpha, tracks)
    place = _read_place(ground)
    there = (tracks.area * tracks.opacity).amax(1) > _LEAST_AREA
    facts = []
    for s, c, p, seen in zip(shape, colour, place, there):
        positions: dict[str, int | None] = {"place": int(p), "shape": None, "colour": None}
        if seen:
            positions["shape"] = int(s)
            positions["colour"] = int(c)
        facts.append(positions)
    return facts, tracks


@torch.no_grad()
def read_images(images: Tensor) -> list[Reading]:
    """Return shape, colour and place of each image, with the column of the object as `x`.

    Args:
        images: (B, 3, S, S) uint8, of 32 pixels or more.

    Returns:
        a reading per image.

    Raises:
        InputError: the images have another type, shape or size.
    """
    _check(images, 4, "(B, 3, S, S)")
    out = []
    for part in images.cpu().split(_CHUNK * 8):
        facts, tracks = _look(part[:, None])
        for seen, x in zip(facts, tracks.cx[:, 0]):
            out.append(Reading(facts=named(**seen), x=None if seen["shape"] is None else float(x)))
    return out


def _video_reading(seen: dict[str, int | None], k: int, moves: bool, events: np.ndarray, x: float) -> Reading:
    """Return one clip's reading from what `_look` and `_motions` found."""
    if seen["shape"] is None or not moves:
        return Reading(facts=named(**seen))
    motion, tempo, _ = hypotheses()
    facts = named(**seen, motion=int(motion[k]), tempo=int(tempo[k]))
    return Reading(facts=facts, events=events, x=x if motion[k] == BOUNCE else None)


@torch.no_grad()
def read_videos(videos: Tensor, fps: float = 8.0) -> list[Reading]:
    """Return all facts and the events of each clip, with the column of a bouncing object as `x`.

    Args:
        videos: (B, F, 3, S, S) uint8, of 32 pixels or more.
        fps: frames per second.

    Returns:
        a reading per clip.

    Raises:
        InputError: the clips have another type, shape or size.
    """
    _check(videos, 5, "(B, F, 3, S, S)")
    out = []
    for part in videos.cpu().split(_CHUNK):
        facts, tracks = _look(part)
        xs = tracks.cx.mean(1)
        for seen, k, moves, events, x in zip(facts, *_motions(tracks, fps), xs):
            out.append(_video_reading(seen, int(k), bool(moves), events, float(x)))
    return out
