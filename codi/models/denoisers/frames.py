"""A transformer along time whose tokens are whole frames of a clip, or columns of a sound.

Some of its layers may have kernels that the prompt makes, for rhythm.
Letters: B batch, F frames, D width of a token, C channels, H W, E width of the embedded timestep and prompt.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi.layers import for_first, root_mean_square, transformer, zeroed
from codi.models.denoisers.temporal import waves
from codi.protocols import Environment


class FrameTransformer(nn.Module):
    """Exchanges between frames, or columns of a sound, each of which is one token.

    A map (B*F, C, H, W) becomes another of the same shape. What moves is at another position in every frame,
    so attention of a position to itself cannot follow it; a token that holds a whole (small) frame can.

    The layer that leads back from tokens to frames starts at zero, and its result is scaled by the size of
    what it is added to: the stream in the middle of a UNet grows to several times the size of a token, and a
    small branch would be lost in it, with its gradient.

    Args:
        channels: C, the number of channels.
        emb_dim: E, width of `Signals.emb`, which is added to every token.
        grid: (rows, columns) that a frame is pooled to before it becomes a token.
        dim: D, the width of a token.
        num_layers: number of layers, those with kernels included.
        num_heads: heads of attention, and kernels of a layer.
        ff_mult: inner width of the feed-forward in multiples of D.
        max_frames: frames of the longest clip, or columns of the longest sound.
        kernel_layers: how many of the first layers have kernels (`PromptedKernels`) in place of attention.
        reach: tokens to either side that a kernel sees.
        joint: makes what attends to the partners, of the widths of a token and of a frame: `joint(tokens,
            env, times) -> (B, F, size)`; None for none.
    """

    def __init__(
        self,
        channels: int,
        emb_dim: int,
        *,
        grid: tuple[int, int] = (4, 4),
        dim: int = 192,
        num_layers: int = 3,
        num_heads: int = 6,
        ff_mult: int = 2,
        max_frames: int = 64,
        kernel_layers: int = 0,
        reach: int = 24,
        joint: Callable[[int, int], nn.Module] | None = None,
    ):
        super().__init__()
        self.grid = tuple(grid)
        size = channels * grid[0] * grid[1]
        self.norm = nn.LayerNorm(size)
        self.proj_in = nn.Linear(size, dim)
        self.emb_proj = nn.Linear(emb_dim, dim)
        self.position = nn.Parameter(waves(max_frames, dim))
        self.kernels = nn.ModuleList(
            KernelLayer(dim, emb_dim, num_heads, ff_mult, reach) for _ in range(kernel_layers)
        )
        self.layers = transformer(dim, num_heads, num_layers - kernel_layers, ff_mult)
        self.last_norm = nn.LayerNorm(dim)
        self.proj_out = zeroed(nn.Linear(dim, size))
        self.joint = None if joint is None else joint(dim, size)

    def forward(
        self, h: Tensor, emb: Tensor, frames: int, env: Environment | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Exchange between the frames of a map.

        Args:
            h: the map (B*F, C, H, W).
            emb: the embedded timestep and prompt (B, E).
            frames: F, the number of frames.
            env: the environment of the partners, whose rows are for the first samples; or None.
            times: the seconds (F,) at the middle of each frame; None without time.

        Returns:
            The map (B*F, C, H, W).
        """
        whole = h.shape[-2:] == self.grid
        # Pooling and interpolation are left out where they would change nothing.
        pooled = h if whole else F.adaptive_avg_pool2d(h, self.grid)
        tokens = self.proj_in(self.norm(pooled.reshape(len(h), -1))).unflatten(0, (-1, frames))  # (B, F, D)
        tokens = tokens + self.position[:frames] + self.emb_proj(emb)[:, None]
        for layer in self.kernels:
            tokens = layer(tokens, emb)
        tokens = self.last_norm(self.layers(tokens))
        y = self.proj_out(tokens)
        if self.joint is not None and env is not None:
            attending = len(env.tokens)
            y = for_first(lambda own: own + self.joint(tokens[:attending], env, times), y, attending)
        y = y.flatten(0, 1).view(pooled.shape)
        y = y if whole else F.interpolate(y, size=h.shape[-2:], mode="bilinear")
        size = root_mean_square(h.unflatten(0, (-1, frames)))
        return h + y * size.repeat_interleave(frames, 0).view(-1, 1, 1, 1)


class KernelLayer(nn.Module):
    """A transformer layer in which kernels along time take the place of attention: (B, F, D) -> the same.

    Args:
        dim: D, the width of a token.
        emb_dim: E, the width of the embedded timestep.
        num_heads: number of kernels.
        ff_mult: inner width of the feed-forward in multiples of D.
        reach: tokens to either side that a kernel sees.
    """

    def __init__(self, dim: int, emb_dim: int, num_heads: int, ff_mult: int, reach: int):
        super().__init__()
        self.mixer = PromptedKernels(dim, emb_dim, num_heads, reach)
        inner = ff_mult * dim
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim)
        )

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        """Return tokens (B, F, D) after the layer.

        Its kernels are made from emb (B, E), the embedded timestep and prompt.
        """
        tokens = tokens + self.mixer(tokens, emb)
        return tokens + self.feed_forward(tokens)


class PromptedKernels(nn.Module):
    """Mixes tokens along time by kernels k that the prompt and the timestep make, one for each head.

    The result is y_i = sum over j of k(i - j) v_j. A rhythm is a distance in time, and the prompt says which.
    A kernel holds it as a number at that distance, where attention has to find it as an angle between query
    and key. Beyond `reach` tokens a kernel is zero, so that any number of them can be mixed.

    Args:
        dim: D, the width of a token.
        emb_dim: E, the width of the embedded timestep.
        num_heads: number of kernels.
        reach: tokens to either side that a kernel sees.
    """

    def __init__(self, dim: int, emb_dim: int, num_heads: int, reach: int):
        super().__init__()
        self.num_heads = num_heads
        self.reach = reach
        self.norm = nn.LayerNorm(dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.kernel = nn.Linear(emb_dim, num_heads * (2 * reach + 1))

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        """Return tokens (B, F, D) mixed by the kernels that emb (B, E) makes, without the residual."""
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        later = steps[:, None] - steps  # (F, F)
        kernels = self.kernel(emb).unflatten(1, (self.num_heads, -1))[
            :, :, later.clamp(-self.reach, self.reach) + self.reach
        ]
        kernels = kernels * (later.abs() <= self.reach)  # (B, heads, F, F)
        # (B, heads, F, d)
        value = self.value(self.norm(tokens)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return self.out((kernels @ value).transpose(1, 2).flatten(2))
