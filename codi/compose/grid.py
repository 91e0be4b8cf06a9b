"""Where the elements of a latent are: in time, in seconds, and in space.

Every published model has a layout of its own. A `Grid` brings all of them into one: S steps along time, H
rows and W columns, where a picture has one step and a sound has one column.

Letters: B batch, C channels, F frames, S steps along time, H W height and width of the latent, T columns of a
spectrogram along time, M its bands.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from codi.conditions.areas import edges_around


class Layout(Enum):
    """How a latent is laid out in memory."""

    PICTURE = "(B, C, H, W)"
    SPECTROGRAM = "(B, C, T, M)"
    WAVE = "(B, C, T)"
    CLIP = "(B, C, F, H, W)"
    TOKENS = "(B, S H W, C)"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of a latent.

    Attributes:
        layout: how the latent is laid out.
        shape: (S, H, W); S is 1 for a picture, and H and W are 1 for a wave. A spectrogram has its bands
            as H.
        seconds: (S,) the mid-point of each step in seconds; None for a latent without time.
        duration: the seconds that the latent lasts; None for a latent without time.
    """

    layout: Layout
    shape: tuple[int, int, int]
    seconds: Tensor | None = None
    duration: float | None = None

    @property
    def steps(self) -> int:
        """The number of steps along time."""
        return self.shape[0]

    def edges(self, rate: float | None) -> list[int] | None:
        """Return the raw steps, `rate` a second, between which the S steps lie; None without time."""
        if self.seconds is None or rate is None:
            return None
        return [round(edge * rate) for edge in edges_around(self.seconds.tolist())]

    def fitted(self, x: Tensor, like: Tensor) -> Tensor:
        """Return a latent (B, ...) with as many steps along time as `like`: cut, or its last one repeated.

        Autoencoders of sounds round lengths in their own way.
        """
        if x.shape[1:] == like.shape[1:]:
            return x
        steps = self.to_steps(x)
        places = torch.arange(self.steps, device=x.device).clamp(max=steps.shape[2] - 1)
        return self.from_steps(steps[:, :, places])

    def to_steps(self, x: Tensor) -> Tensor:
        """Return a latent of this layout as (B, C, S, H, W)."""
        if self.layout is Layout.TOKENS:
            return x.transpose(1, 2).unflatten(2, self.shape)
        if self.layout is Layout.PICTURE:
            return x[:, :, None]
        if self.layout is Layout.SPECTROGRAM:
            return x[..., None]
        if self.layout is Layout.WAVE:
            return x[..., None, None]
        return x

    def from_steps(self, x: Tensor) -> Tensor:
        """Return (B, C, S, H, W) as a latent of this layout: the inverse of `to_steps`."""
        if self.layout is Layout.TOKENS:
            return x.flatten(2).transpose(1, 2)
        if self.layout is Layout.PICTURE:
            return x[:, :, 0]
        if self.layout is Layout.SPECTROGRAM:
            return x[..., 0]
        if self.layout is Layout.WAVE:
            return x[..., 0, 0]
        return x


def even_seconds(count: int, rate: float) -> Tensor:
    """Return the mid-points (count,) in seconds of steps that are all equally long, `rate` a second."""
    return (torch.arange(count) + 0.5) / rate


def causal_seconds(count: int, ratio: int, fps: float) -> Tensor:
    """Return the mid-points in seconds of the latent frames of a causal video autoencoder.

    The first latent frame stands for one frame of the clip, and every other one for `ratio` of them, so that
    they are not even.

    Args:
        count: the number of latent frames.
        ratio: how many frames of the clip a latent frame stands for, besides the first.
        fps: frames per second of the clip.

    Returns:
        (count,) seconds.
    """
    edges = torch.tensor([0.0, *(1.0 + ratio * k for k in range(count))]) / fps
    return (edges[1:] + edges[:-1]) / 2
