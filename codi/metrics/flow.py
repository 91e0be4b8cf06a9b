"""Estimate dense optical flow between frames.

The method is Farneback's ("Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003).
Around every pixel a frame is approximated by a quadratic polynomial, f(x) = x' A x + b' x + c, weighted by
a Gaussian. A shift by d changes b by -2 A d, which is solved for d over a window, from a coarse to a fine
scale. The settings, and what is done at borders and on flat areas, are those with which AV-Align (arXiv
2309.16429) uses `calcOpticalFlowFarneback` of OpenCV.

Letters: N pairs of frames, F frames, H height, W width.
"""

import torch
import torch.nn.functional as nnf
from torch import Tensor

LEVELS, WINDOW, ITERATIONS, REACH, SIGMA = 3, 15, 3, 5, 1.2
SMALLEST = 32  # pixels of the shorter side of the coarsest scale
FLAT = 1e-3  # added to the determinant, so that flat areas have no flow
BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weight of the outermost pixels, whose polynomials are unsure
GREY = (0.299, 0.587, 0.114)
AT_ONCE = 1 << 22  # pixels whose flow is found together


def flow_magnitudes(frames: Tensor) -> Tensor:
    """Return how far pixels move, on average, from each frame to the next.

    Args:
        frames: uint8 (F, 3, H, W).

    Returns:
        Pixels per frame, (F - 1,) float32.
    """
    weights = torch.tensor(GREY, device=frames.device)[:, None, None]
    grey = (frames.float() * weights).sum(1)  # (F, H, W)
    step = max(1, AT_ONCE // grey[0].numel())
    found = []
    for start in range(0, len(grey) - 1, step):
        part = grey[start : start + step + 1]
        found.append(optical_flow(part[:-1], part[1:]).norm(dim=1).mean((1, 2)))
    return torch.cat(found) if found else grey.new_zeros(0)


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the flow from one frame to another.

    Args:
        first: (N, H, W) grey values in [0, 255], float32.
        second: the frames that follow them.

    Returns:
        (N, 2, H, W) pixels to the right and downwards.
    """
    sides = torch.tensor(first.shape[1:])
    flow = None
    for level in range(LEVELS, -1, -1):
        if level and sides.min() / 2**level < SMALLEST:
            continue
        size = [max(1, round(side / 2**level)) for side in sides.tolist()]
        one, other = (_scaled(frames, level, size) for frames in (first, second))
        if flow is None:
            flow = first.new_zeros(len(first), 2, *size)
        else:
            flow = nnf.interpolate(flow, size, mode="bilinear", align_corners=False) * 2
        flow = _refined(_polynomials(one), _polynomials(other), flow)
    assert flow is not None  # level 0 is never left out
    return flow


def _scaled(frames: Tensor, level: int, size: list[int]) -> Tensor:
    """Return frames (N, H, W) at a scale, blurred before they are shrunk, as (N, 1, *size)."""
    frames = frames[:, None]
    if level:
        sigma = (2**level - 1) / 2
        reach = max(2, round(2.5 * sigma))
        frames = _separably(frames, _gaussian(reach, sigma).to(frames))
        frames = nnf.interpolate(frames, size, mode="bilinear", align_corners=False)
    return frames


def _gaussian(reach: int, sigma: float) -> Tensor:
    """Return the weights (2 reach + 1,) of a Gaussian, whose sum is one."""
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return weights / weights.sum()


def _separably(images: Tensor, weights: Tensor) -> Tensor:
    """Return images (N, C, H, W) filtered by the same weights along both axes."""
    channels, reach = images.shape[1], len(weights) // 2
    kernel = weights.expand(channels, 1, 1, -1)
    images = nnf.pad(images, (reach, reach, reach, reach), mode="replicate")
    images = nnf.conv2d(images, kernel, groups=channels)
    return nnf.conv2d(images, kernel.transpose(2, 3), groups=channels)


def _polynomials(frames: Tensor) -> Tensor:
    """Return the polynomials of frames (N, 1, H, W): the factors of x, y, x^2, y^2, xy, (N, 5, H, W)."""
    x = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    weights = _gaussian(REACH, SIGMA)
    plane = weights[:, None] * weights  # (rows, columns)
    across, down = x.expand(len(x), -1), x[:, None].expand(-1, len(x))
    basis = torch.stack([torch.ones_like(plane), across, down, across**2, down**2, across * down])
    gram = torch.einsum("iab,jab,ab->ij", basis, basis, plane)
    kernels = torch.einsum("ij,jab,ab->iab", torch.linalg.inv(gram), basis, plane)[1:, None]  # (5, 1, 11, 11)
    padded = nnf.pad(frames, (REACH,) * 4, mode="replicate")
    return nnf.conv2d(padded, kernels.to(frames))


def _refined(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Return a better flow (N, 2, H, W) than a given one, from the polynomials of both frames."""
    weight = _border(first)
    box = first.new_full((WINDOW,), 1 / WINDOW)
    for _ in range(ITERATIONS):
        there, inside = _moved(second, flow)
        # Where the flow points out of the frame, the first polynomial stands alone.
        xx, yy, xy = torch.where(inside, (first + there) / 2, first)[:, 2:].unbind(1)
        xy = xy / 2
        half = torch.where(inside, (first - there) / 2, torch.zeros_like(first))
        dx, dy = half[:, 0], half[:, 1]
        u, v = flow.unbind(1)
        dx, dy = dx + xx * u + xy * v, dy + xy * u + yy * v
        parts = torch.stack(
            [xx * xx + xy * xy, xy * (xx + yy), yy * yy + xy * xy, xx * dx + xy * dy, xy * dx + yy * dy],
            dim=1,
        )
        g11, g12, g22, h1, h2 = _separably(parts * weight.square(), box).unbind(1)
        scale = 1 / (g11 * g22 - g12 * g12 + FLAT)
        flow = torch.stack([(g22 * h1 - g12 * h2) * scale, (g11 * h2 - g12 * h1) * scale], dim=1)
    return flow


def _border(like: Tensor) -> Tensor:
    """Return how much the polynomials of each pixel count, (H, W)."""
    sides = []
    for length in like.shape[-2:]:
        weight = like.new_ones(length)
        for k, factor in enumerate(BORDER[: length // 2]):
            weight[k] = weight[-1 - k] = factor
        sides.append(weight)
    return sides[0][:, None] * sides[1]


def _moved(polynomials: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return polynomials (N, 5, H, W) at the places to which a flow points, and which of these are inside."""
    height, width = flow.shape[-2:]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1)
    there = nnf.grid_sample(polynomials, grid.to(flow), align_corners=True, padding_mode="border")
    return there, inside[:, None]
