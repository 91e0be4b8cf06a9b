"""Where and when: boxes, masks and intervals, as weights on the cells of any latent or medium.

An `Area` says where and when in terms that every modality shares: fractions of a picture, and seconds.
`Cells` say where the elements of a latent (or the pixels, frames and samples of a medium) lie. `Area.weights`
brings the two together: the weight of a cell is the part of it that the area covers, and with a soft edge it
passes from 1 to 0 around the border. A part of an area that a modality lacks is left out: of a box and an
interval, a sound keeps the interval, and a picture the box.

Letters: S steps along time, h w rows and columns of cells, H W height and width of a mask, F its frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codi.border import numbers
from codi.types import InputError, ModalitySpec

Box = tuple[float, float, float, float]
Interval = tuple[float, float]
NEAR = 1e-6  # of seconds, by which an interval may miss the end and yet meet it
SAME_SHAPE = 0.02  # by which the ratio of a mask's sides may differ from that of the picture


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Where the elements of a latent or of a medium lie, in time and in space.

    Attributes:
        edges: the seconds between which the S steps lie, S + 1 of them; None for what has no time.
        size: (h, w) rows and columns; None for what has no places.
        aspect: width over height of the whole; None for what has no places.
    """

    edges: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    aspect: float | None = None

    @classmethod
    def of_latent(cls, spec: ModalitySpec, spatial: bool) -> "Cells":
        """Return the cells of a latent as our own autoencoders make it.

        Args:
            spec: the geometry; the latent is (C, h, w), (C, S, h, w), (C, S, M) or (C,).
            spatial: whether its last two axes are places.

        Returns:
            The cells.
        """
        shape = spec.latent_shape
        edges = None if spec.latent_rate is None else even_edges(shape[1], spec.latent_rate)
        return cls._of(edges, shape, spec, spatial)

    @classmethod
    def of_medium(cls, spec: ModalitySpec, spatial: bool) -> "Cells":
        """Return the cells of a medium: its frames or samples, and its pixels.

        Args:
            spec: the geometry.
            spatial: whether its last two axes are places.

        Returns:
            The cells.
        """
        edges = None if spec.rate is None else even_edges(spec.raw_shape[0], spec.rate)
        return cls._of(edges, spec.raw_shape, spec, spatial)

    @classmethod
    def _of(
        cls, edges: tuple[float, ...] | None, shape: Sequence[int], spec: ModalitySpec, spatial: bool
    ) -> "Cells":
        if not spatial:
            return cls(edges=edges)
        height, width = spec.raw_shape[-2:]
        return cls(edges=edges, size=(shape[-2], shape[-1]), aspect=width / height)

    @property
    def duration(self) -> float | None:
        """The seconds that all steps last; None for what has no time."""
        return None if self.edges is None else self.edges[-1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (S, h, w) of weights; an axis that there is not has length 1."""
        steps = 1 if self.edges is None else len(self.edges) - 1
        return (steps, *(self.size or (1, 1)))

    def over_latent(self, weights: Tensor) -> Tensor:
        """Return weights (S, h, w) in a shape that is broadcast to a latent of our own, without its batch."""
        if self.edges is None:
            return weights  # (1, h, w) for (C, h, w)
        return weights[None] if self.size is not None else weights[None, :, :, 0]


def even_edges(count: int, rate: float) -> tuple[float, ...]:
    """Return the seconds (count + 1) between which steps lie that are all equally long, `rate` a second."""
    return tuple(k / rate for k in range(count + 1))


def edges_around(middles: Sequence[float]) -> tuple[float, ...]:
    """Return the seconds between which steps lie whose mid-points are known; the first begins at 0."""
    edges = [0.0]
    for middle in middles:
        edges.append(2 * middle - edges[-1])
    return tuple(edges)


@dataclass(frozen=True, kw_only=True, eq=False)
class Area:
    """A part of an output in space, in time or both; what is None does not bound it.

    Attributes:
        box: (x0, y0, x1, y1) in fractions of width and height, from the upper left corner.
        mask: (H, W) or (F, H, W) in [0, 1], 1 inside, stretched over the whole picture; frames are spread
            evenly over the whole time.
        interval: (begin, end) in seconds.
        feather: over how much of the width and height the edge of a box or mask is soft.
        fade: over how many seconds the ends of an interval are soft.
    """

    box: Box | None = None
    mask: Tensor | None = None
    interval: Interval | None = None
    feather: float = 0.0
    fade: float = 0.0

    @classmethod
    def read(
        cls,
        name: str,
        *,
        box: Any = None,
        mask: Tensor | None = None,
        interval: Any = None,
        feather: Any = None,
        fade: Any = None,
    ) -> "Area":
        """Read an area as a person gives it.

        Args:
            name: what it is the area of, for messages.
            box: four fractions.
            mask: (H, W) or (F, H, W) in [0, 1].
            interval: two seconds.
            feather: from 0 to 1; None for no soft edge in space.
            fade: seconds; None for none in time.

        Returns:
            The area.

        Raises:
            InputError: for a box that leaves the picture or is empty, a mask without any place in it, an
                empty interval, and anything that is none of these.
        """
        return cls(
            box=None if box is None else read_box(name, box),
            mask=None if mask is None else _checked_mask(name, mask),
            interval=None if interval is None else read_interval(name, interval),
            feather=0.0 if feather is None else _softness(name, "feather", feather, 1.0),
            fade=0.0 if fade is None else _softness(name, "fade", fade, math.inf),
        )

    @property
    def in_space(self) -> bool:
        """Whether a box or a mask bounds it."""
        return self.box is not None or self.mask is not None

    @property
    def in_time(self) -> bool:
        """Whether an interval, or a mask with frames, bounds it."""
        return self.interval is not None or (self.mask is not None and self.mask.ndim == 3)

    def bounds(self, cells: Cells) -> bool:
        """Return whether it bounds anything that has these cells."""
        return (self.in_space and cells.size is not None) or (self.in_time and cells.edges is not None)

    def check(self, name: str, cells: Cells) -> None:
        """Raise `InputError` for an interval beyond the end, or a mask of another form than the picture."""
        if self.interval is not None and cells.duration is not None:
            begin, end = self.interval
            if end > cells.duration + NEAR:
                raise InputError(
                    f"{name} goes from {begin:g} to {end:g} s, beyond the end: expected seconds within "
                    f"{cells.duration:g}"
                )
        if self.mask is not None and cells.aspect is not None:
            height, width = self.mask.shape[-2:]
            if abs(width / height / cells.aspect - 1) > SAME_SHAPE:
                raise InputError(
                    f"the mask of {name} is {height} x {width}: expected height and width in the ratio of "
                    f"what is made, 1 to {cells.aspect:g}"
                )

    def weights(self, cells: Cells) -> Tensor:
        """Return the weight of every cell.

        Args:
            cells: where the cells lie.

        Returns:
            (S, h, w) in [0, 1], float32. An axis that the cells lack has length 1.
        """
        weights = torch.ones(cells.shape)
        if cells.edges is not None and self.interval is not None:
            inside = _covered(torch.tensor(cells.edges), self.interval, self.fade, cells.edges[-1])
            weights = weights * inside[:, None, None]
        if cells.size is not None and self.box is not None:
            x0, y0, x1, y1 = self.box
            rows, columns = cells.size
            down = _covered(torch.linspace(0, 1, rows + 1), (y0, y1), self.feather, 1.0)
            across = _covered(torch.linspace(0, 1, columns + 1), (x0, x1), self.feather, 1.0)
            weights = weights * down[:, None] * across
        if cells.size is not None and self.mask is not None:
            weights = weights * _pooled(self.mask, cells, self.feather)
        return weights


def _covered(edges: Tensor, part: Interval, soft: float, end: float) -> Tensor:
    """Return how much of each cell between `edges` (n + 1,) a part of [0, end] covers, (n,) in [0, 1].

    Where the part meets an end of the whole, its own end is not soft: there is nothing beyond it.
    """
    begin = -math.inf if part[0] <= 0 else part[0]
    last = math.inf if part[1] >= end - NEAR else part[1]
    edges = edges.double()
    areas = edges if math.isinf(begin) else _area_after(edges, begin, soft)
    if not math.isinf(last):
        areas = areas - _area_after(edges, last, soft)
    return (areas.diff() / edges.diff()).clamp(0, 1).float()


def _area_after(x: Tensor, at: float, soft: float) -> Tensor:
    """Return the integral up to x of a step from 0 to 1 at `at`, which rises over the width `soft`."""
    if soft <= 0:
        return (x - at).clamp(min=0)
    u = (x - at) / soft + 0.5
    return soft * torch.where(u < 1, 0.5 * u.clamp(min=0).square(), u - 0.5)


def _pooled(mask: Tensor, cells: Cells, feather: float) -> Tensor:
    """Return the mean of a mask in every cell, (S or 1, h, w)."""
    assert cells.size is not None, "a mask needs places"
    frames = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if feather > 0:
        # The mean over a window turns a step into a ramp as wide as the window.
        window = [2 * round(feather * side / 2) + 1 for side in mask.shape[-2:]]
        margin = [length // 2 for length in window]
        frames = functional.avg_pool2d(frames, window, stride=1, padding=margin, count_include_pad=False)
    pooled = functional.adaptive_avg_pool2d(frames, cells.size)[:, 0]
    if len(pooled) == 1:
        return pooled
    if cells.edges is None:
        return pooled.amax(0, keepdim=True)
    return functional.adaptive_avg_pool1d(pooled.flatten(1).T, cells.shape[0]).T.unflatten(1, cells.size)


def read_box(name: str, value: Any) -> Box:
    """Return a box; raise `InputError` for one that is empty or leaves the picture."""
    sides = numbers(value, 4)
    if sides is None or not all(0 <= side <= 1 for side in sides):
        raise InputError(
            f"the box of {name} is {_shown(value)}: expected x0, y0, x1, y1 in fractions of width and "
            "height, from 0 to 1"
        )
    x0, y0, x1, y1 = sides
    if x0 >= x1 or y0 >= y1:
        raise InputError(
            f"the box of {name} is {_shown(value)}, which is empty: expected x0 below x1, and y0 below y1"
        )
    return x0, y0, x1, y1


def read_interval(name: str, value: Any) -> Interval:
    """Return an interval; raise `InputError` for one that is empty or begins before 0."""
    ends = numbers(value, 2)
    if ends is None or ends[0] < 0:
        raise InputError(
            f"the interval of {name} is {_shown(value)}: expected the seconds at which it begins and ends"
        )
    begin, end = ends
    if begin >= end:
        raise InputError(
            f"the interval of {name} goes from {begin:g} to {end:g} s, which is empty: expected a beginning "
            "before the end"
        )
    return begin, end


def _softness(name: str, what: str, value: Any, most: float) -> float:
    """Return the width of a soft edge; raise `InputError` for one that is none."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= most:
        limit = "of at least 0" if math.isinf(most) else f"from 0 to {most:g}"
        raise InputError(f"the {what} of {name} is {_shown(value)}: expected a number {limit}")
    return float(value)


def _checked_mask(name: str, mask: Tensor) -> Tensor:
    """Return a mask; raise `InputError` for one of another rank or range, or that is 0 everywhere."""
    shape = " x ".join(map(str, mask.shape))
    if mask.ndim not in (2, 3) or not mask.numel():
        raise InputError(
            f"the mask of {name} is {shape}: expected height x width, or frames x height x width"
        )
    mask = mask.float()
    if not mask.isfinite().all() or mask.min() < 0 or mask.max() > 1:
        raise InputError(f"the mask of {name} leaves the range 0 to 1: expected 1 inside and 0 outside")
    if not mask.any():
        raise InputError(f"the mask of {name} is 0 everywhere: expected one with a place inside")
    return mask


def _shown(value: Any) -> str:
    """Return a value as messages show it."""
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:60] + "..."
