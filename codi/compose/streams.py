"""The streams of a foreign network: where in the output of a block the steps of its latent are.

A network's blocks hand on hidden states of many forms: feature maps, frames that are folded into the batch,
tokens. A `Stream` brings those of one block into one form, N queries for each sample, and spreads what is
answered over the hidden states again. Which blocks have such a stream is found by a survey, which runs the
network once on torch's meta device, at no cost.

Letters: B batch, C channels of the hidden states, S steps of the latent along time, H W its height and width,
N queries: one for each step along time, or one for each position of a picture.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from codi.compose.grid import Grid, Layout

# The blocks of networks of diffusers, by their names in the network.
BLOCKS = re.compile(
    r"mid_block|(down_blocks|up_blocks|transformer_blocks|single_transformer_blocks|blocks|layers)\.\d+"
)
PATCHES = (1, 2, 4)  # sides of the patches that become one token, in elements of the latent
LEADING = 16  # tokens before those of the latent, at most
DEEP = 8  # how many blocks of a deep transformer are chosen


@dataclass(frozen=True, kw_only=True)
class Stream(ABC):
    """The hidden states of one block, as queries.

    Attributes:
        rows: the number of rows in the batch for each sample: frames may be folded into it.
        times: (N,) seconds of the queries; None for pictures.
    """

    rows: int
    times: Tensor | None

    @abstractmethod
    def queries(self, h: Tensor) -> Tensor:
        """Return the queries (B, N, C) of hidden states."""

    @abstractmethod
    def spread(self, y: Tensor, h: Tensor) -> Tensor:
        """Return what is said to each query, (B, N, C), as something that can be added to `h`."""


class _Frames(Stream):
    """Frames (B S, C, h, w), which are folded into the batch."""

    def queries(self, h: Tensor) -> Tensor:
        return h.mean((2, 3)).unflatten(0, (-1, self.rows))

    def spread(self, y: Tensor, h: Tensor) -> Tensor:
        return y.flatten(0, 1)[:, :, None, None]


class _Columns(Stream):
    """Maps (B, C, t, m) of spectrograms, whose height is time."""

    def queries(self, h: Tensor) -> Tensor:
        return h.mean(3).transpose(1, 2)

    def spread(self, y: Tensor, h: Tensor) -> Tensor:
        return y.transpose(1, 2)[..., None]


class _Map(Stream):
    """Maps (B, C, h, w) of pictures."""

    def queries(self, h: Tensor) -> Tensor:
        return h.flatten(2).transpose(1, 2)

    def spread(self, y: Tensor, h: Tensor) -> Tensor:
        return y.transpose(1, 2).unflatten(2, h.shape[2:])


@dataclass(frozen=True, kw_only=True)
class _Tokens(Stream):
    """Tokens (B, leading + S H W, C), or those of patches.

    Attributes:
        leading: how many tokens before the first step are not of the latent.
        steps: S; None for pictures.
    """

    leading: int
    steps: int | None

    def queries(self, h: Tensor) -> Tensor:
        own = h[:, self.leading :]
        return own if self.steps is None else own.unflatten(1, (self.steps, -1)).mean(2)

    def spread(self, y: Tensor, h: Tensor) -> Tensor:
        if self.steps is not None:
            y = y.repeat_interleave((h.shape[1] - self.leading) // self.steps, dim=1)
        return nn.functional.pad(y, (0, 0, self.leading, 0))


def stream_of(h: Tensor, grid: Grid) -> Stream | None:
    """Return the stream that hidden states are.

    Args:
        h: the hidden states.
        grid: the grid of the network's latent.

    Returns:
        The stream; None if they are not laid out as the latent is.
    """
    if h.ndim == 3:
        return _tokens(h, grid)
    if h.ndim != 4:
        return None
    if grid.layout is Layout.CLIP:
        return None if len(h) % grid.steps else _Frames(rows=grid.steps, times=grid.seconds)
    if grid.layout is Layout.SPECTROGRAM:
        return _Columns(rows=1, times=_pooled_seconds(grid, h.shape[2]))
    return _Map(rows=1, times=None) if grid.layout is Layout.PICTURE else None


def _tokens(h: Tensor, grid: Grid) -> Stream | None:
    """Return the stream of tokens, one for each patch of the latent, behind a few others."""
    steps, height, width = grid.shape
    for side in PATCHES:
        count = steps * (height // side) * (width // side) if height > 1 else steps * width
        leading = h.shape[1] - count
        if 0 <= leading <= LEADING and count > 0:
            steps_in_time = None if grid.seconds is None else steps
            return _Tokens(rows=1, times=grid.seconds, leading=leading, steps=steps_in_time)
    return None


def _pooled_seconds(grid: Grid, count: int) -> Tensor:
    """Return the mid-points (count,) in seconds of steps that each stand for 1, 2, 4, ... of the latent's."""
    ratio = 2 ** round(math.log2(grid.steps / count))
    assert grid.duration is not None, "a spectrogram lasts some time"
    return (torch.arange(count) + 0.5) * ratio * grid.duration / grid.steps


def find_stream(output: Any, grid: Grid) -> tuple[int | None, Tensor, Stream] | None:
    """Return the stream in the output of a block.

    Args:
        output: a tensor, or a tuple of which one is the stream. Where the tokens of the prompt have the same
            form as those of the latent, the latter come last.
        grid: the grid of the network's latent.

    Returns:
        Its place in the tuple, or None for a single tensor; the hidden states; and their stream. None if
        there is no stream in it.
    """
    if isinstance(output, Tensor):
        stream = stream_of(output, grid)
        return None if stream is None else (None, output, stream)
    found = []
    for place, item in enumerate(output):
        if isinstance(item, Tensor) and (stream := stream_of(item, grid)) is not None:
            found.append((place, item, stream))
    exact = [entry for entry in found if not getattr(entry[2], "leading", 0)]
    return (exact or found)[-1] if found else None


# Sites --------------------------------------------------------------------------------------------------


def survey(network: nn.Module, grid: Grid, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the blocks of a network whose output has the steps of its latent.

    The network is built again from its configuration, on torch's meta device, and runs there once.

    Args:
        network: the network, a model of diffusers.
        grid: the grid of the latent.
        arguments: all arguments of its `forward` by name.

    Returns:
        The channels of each block by its name in the network.
    """
    found: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> None:
        if BLOCKS.fullmatch(name):
            module.register_forward_hook(_note(found, name, grid))

    run_without_memory(network, arguments, watch)
    return found


def run_without_memory(
    network: nn.Module, arguments: Mapping[str, Any], watch: Callable[[str, nn.Module], None]
) -> None:
    """Build a network again from its configuration, on torch's meta device, and run it there once.

    Args:
        network: the network, a model of diffusers.
        arguments: all arguments of its `forward` by name.
        watch: what is called before the run with the name and each module of it, to put hooks there.
    """
    meta = torch.device("meta")
    with meta, torch.no_grad():
        shadow = type(network).from_config(network.config).eval()  # type: ignore[attr-defined]
        nn.Module.to(
            shadow, next(network.parameters()).dtype
        )  # the plain `to`: diffusers' own warns of nothing here
        for name, module in shadow.named_modules():
            watch(name, module)
        shadow(**pytree.tree_map_only(Tensor, lambda x: x.to(meta), dict(arguments)))


def _note(found: dict[str, int], name: str, grid: Grid) -> Any:
    """Return a hook that notes the channels of a block's stream, if it has one."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        entry = find_stream(output, grid)
        if entry is not None:
            _, h, _ = entry
            found[name] = h.shape[1] if h.ndim == 4 else h.shape[2]

    return hook


def default_sites(found: Mapping[str, int]) -> dict[str, int]:
    """Return the blocks that get an adapter: all but down blocks, or evenly spaced ones where there are many.

    Args:
        found: what `survey` returned.

    Returns:
        The channels of each by name.
    """
    names = [name for name in found if not name.startswith("down_blocks")]
    if len(names) > DEEP:
        # the last of each of DEEP equal parts: what the first blocks know of a noisy latent is little
        names = [names[(k + 1) * len(names) // DEEP - 1] for k in range(DEEP)]
    return {name: found[name] for name in names}
