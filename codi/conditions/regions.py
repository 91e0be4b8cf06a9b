"""Regions of a medium that are kept: as masks of the medium, as masks of its latent, and pasted back.

A mask is True where the medium is kept. It has an axis of time, the first of the medium's own, where the
modality has time, and the last two axes of the medium, where it has places: (H, W), (F, H, W) or (samples,).
Whatever is kept in part only, a pixel, a frame or an element of the latent, counts as remade.

Letters: B batch, F frames, S steps of a latent along time, H W height and width, h w those of a latent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codi.types import ModalitySpec

NEAR = 1e-6  # of a raw step by which an end may miss it and yet meet it
CROSSFADE = 0.01  # seconds over which a sound passes from what is kept to what is made
SEAM = 4  # pixels over which what the autoencoder changed at the border of a kept part fades away


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What masks of a medium look like.

    Attributes:
        spec: the geometry of the medium.
        spatial: whether its last two axes are places.
    """

    spec: ModalitySpec
    spatial: bool

    @property
    def timed(self) -> bool:
        """Whether the first axis of the medium is time."""
        return self.spec.rate is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a mask."""
        raw = self.spec.raw_shape
        return (raw[:1] if self.timed else ()) + (raw[-2:] if self.spatial else ())

    def over_medium(self, mask: Tensor) -> Tensor:
        """Return a mask (..., *shape) so that it is broadcast to media (..., *raw_shape)."""
        return mask.unsqueeze(-3) if self.spatial else mask


def interval_mask(geometry: Geometry, begin: float, end: float) -> Tensor:
    """Return the mask of the whole raw steps within `begin` and `end`, in seconds."""
    rate, _ = geometry.spec.timed
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    mask[max(0, math.ceil(begin * rate - NEAR)) : max(0, math.floor(end * rate + NEAR))] = True
    return mask


def frame_mask(geometry: Geometry, frame: int) -> Tensor:
    """Return the mask of one frame."""
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    mask[frame] = True
    return mask


def box_pixels(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """Return the whole pixels (left, top, right, bottom) within a box in fractions of width and height."""
    left, top, right, bottom = box
    return (
        math.ceil(left * width - NEAR),
        math.ceil(top * height - NEAR),
        math.floor(right * width + NEAR),
        math.floor(bottom * height + NEAR),
    )


def box_mask(geometry: Geometry, box: Sequence[float]) -> Tensor:
    """Return the mask of the pixels within a box (left, top, right, bottom) in fractions."""
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    left, top, right, bottom = box_pixels(box, *geometry.shape[-2:])
    mask[..., top:bottom, left:right] = True
    return mask


def fitted_mask(kept: Tensor, geometry: Geometry) -> Tensor:
    """Return a mask in the size of the medium, cut and resized as the picture that it belongs to was.

    Args:
        kept: (H', W') or (F, H', W') bool.
        geometry: what masks of the medium look like.

    Returns:
        The mask, True where everything that a pixel is made of is kept.
    """
    size = geometry.shape[-2:]
    remade = (~kept).float().reshape(-1, 1, *kept.shape[-2:])
    height, width = kept.shape[-2:]
    scale = min(height / size[0], width / size[1])
    part = [max(1, min(old, round(new * scale))) for old, new in zip((height, width), size, strict=True)]
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    cut = remade[..., top : top + part[0], left : left + part[1]]
    resized = functional.interpolate(cut, size, mode="bilinear", antialias=True)
    fitted = (resized < 1e-3)[:, 0]
    return (fitted if kept.ndim == 3 else fitted[0]).expand(geometry.shape).clone()


def even_edges(geometry: Geometry, steps: int) -> list[int]:
    """Return the raw steps between which the `steps` steps of an even latent lie, `steps + 1` of them."""
    spec = geometry.spec
    rate, _ = spec.timed
    assert spec.latent_rate is not None, "a latent of what has time has a rate"
    return [round(k * rate / spec.latent_rate) for k in range(steps + 1)]


def latent_grid(mask: Tensor, edges: Sequence[int] | None, size: tuple[int, int] | None) -> Tensor:
    """Return which elements of a latent are known: those of which every raw step and pixel is kept.

    Args:
        mask: the mask of the medium.
        edges: the raw steps between which the S steps of the latent lie; None for what has no time.
        size: (h, w) of the latent; None for what has no places.

    Returns:
        (S, h, w) bool; an axis that the medium lacks has length 1.
    """
    remade = (~mask).float()
    if edges is None:
        remade = remade[None]
    if size is None:
        remade = remade[..., None, None]
    else:
        height, width = remade.shape[-2:]
        cells = (-(-height // size[0]), -(-width // size[1]))
        remade = functional.max_pool2d(remade[:, None], cells, ceil_mode=True)[:, 0]
    if edges is not None:
        parts = []
        for begin, end in zip(edges, edges[1:]):
            # a latent may reach beyond its medium, where nothing is to be kept or remade
            part = remade[min(begin, len(remade) - 1) : max(end, begin + 1)]
            parts.append(part.amax(0))
        remade = torch.stack(parts)
    return remade == 0


def known_seconds(known: Tensor, edges: Sequence[int], rate: float) -> tuple[tuple[float, float], ...]:
    """Return the seconds of which a latent (S, h, w) is known in all places, as pairs of begin and end."""
    whole = known.flatten(1).all(1).tolist()
    found: list[tuple[float, float]] = []
    for step, kept in enumerate(whole):
        begin, end = edges[step] / rate, edges[step + 1] / rate
        if not kept:
            continue
        if found and found[-1][1] == begin:
            begin = found.pop()[0]
        found.append((begin, end))
    return tuple(found)


def nearest_known(known: Tensor) -> Tensor:
    """Return for every step of a latent (S, h, w) the number (S,) of the nearest that is known everywhere."""
    places = torch.arange(len(known))
    whole = places[known.flatten(1).all(1)]
    return places if not len(whole) else whole[(places[:, None] - whole[None]).abs().argmin(1)]


def without_unknown(raw: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """Return a medium (B, ...) that says nothing of what is not kept.

    Sounds are silent there. In pictures and frames what is kept goes on smoothly: an autoencoder looks
    around, and of grey it would put something into what is kept. A frame of which nothing is kept is grey.
    """
    kept = geometry.over_medium(mask)
    return torch.where(kept, raw, _continued(raw, kept) if geometry.spatial else torch.zeros_like(raw))


def _continued(raw: Tensor, kept: Tensor) -> Tensor:
    """Return pictures (..., 3, H, W) in which what is kept goes on: each pixel is the mean around it.

    The mean is taken of as small a square as holds anything that is kept (push and pull, Gortler et al.,
    SIGGRAPH 1996).
    """
    weight = kept.expand(raw.shape).float().reshape(-1, *raw.shape[-3:])[:, :1]
    value = raw.reshape(-1, *raw.shape[-3:]) * weight
    levels = [(value, weight)]
    while max(value.shape[-2:]) > 1:
        value, weight = (functional.avg_pool2d(part, 2, ceil_mode=True) for part in (value, weight))
        levels.append((value, weight))
    mean = value / weight.clamp(min=NEAR)
    for value, weight in reversed(levels[:-1]):
        coarser = functional.interpolate(mean, value.shape[-2:], mode="bilinear")
        mean = torch.where(weight > 0, value / weight.clamp(min=NEAR), coarser)
    return mean.reshape(raw.shape)


def pasted(made: Tensor, source: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """Return what was made with the kept part of its source put back, which is then the source to the bit.

    The seam lies on the remade side. A sound passes over by a crossfade. Of a picture the difference at the
    border, which is the autoencoder's, fades away from the border.

    Args:
        made: (B, ...) decoded media.
        source: (B, ...) or (1, ...) the media that are kept in part.
        mask: what is kept of them.
        geometry: what the mask looks like.

    Returns:
        (B, ...).
    """
    source = source.to(made).expand_as(made)
    mask = mask.to(made.device)
    kept = geometry.over_medium(mask)
    if geometry.spatial:
        made = (made + _faded(source - made, mask, geometry)).clamp(-1, 1)
    else:
        weight = _crossfade(mask, round(CROSSFADE * geometry.spec.timed[0]))
        made = weight * source + (1 - weight) * made
    return torch.where(kept, source, made)


def _faded(difference: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """Return a difference (B, ...) that is known where the mask is True, continued beyond it and fading.

    Each ring of pixels gets the mean of its neighbours that have one, over `SEAM` rings. Frames of which
    nothing is kept stay as they are.
    """
    known = geometry.over_medium(mask).expand(difference.shape[1:]).float()
    flat_known = known.reshape(-1, 1, *known.shape[-2:])[:: known.shape[-3]]  # one channel of each frame
    values = difference.reshape(-1, known.shape[-3], *known.shape[-2:])
    have = flat_known.repeat(len(difference), 1, 1, 1)
    values = values * have
    faded = torch.zeros_like(values)
    for ring in range(SEAM):
        count = _around(have)
        grown = torch.where(have > 0, values, _around(values) / count.clamp(min=1))
        reached = (count > 0).float()
        weight = 1 - (ring + 1) / (SEAM + 1)
        faded = faded + weight * grown * (reached - have)
        values, have = grown * reached, reached
    return faded.reshape(difference.shape)


def _around(x: Tensor) -> Tensor:
    """Return the sum of each pixel of x (N, C, H, W) and its eight neighbours."""
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, stride=1) * 9


def _crossfade(mask: Tensor, length: int) -> Tensor:
    """Return the weight (samples,) of the source: 1 where it is kept, falling to 0 over `length` samples."""
    places = torch.arange(len(mask), device=mask.device)
    kept = places[mask]
    if not len(kept):
        return mask.float()
    after = torch.searchsorted(kept, places).clamp(max=len(kept) - 1)
    before = (after - 1).clamp(min=0)
    distance = torch.minimum((kept[after] - places).abs(), (kept[before] - places).abs())
    return (1 - distance / (length + 1)).clamp(min=0)


def mask_values(value: Any) -> Tensor:
    """Return a mask of any form, a tensor or an array, as bool: above half of its range is kept."""
    found = torch.as_tensor(value)
    if found.dtype == torch.bool:
        return found
    return found > (127 if found.dtype == torch.uint8 else 0.5)
