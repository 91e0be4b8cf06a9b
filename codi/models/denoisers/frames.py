"""A transformer along time with a whole frame, or a column of a sound, as one token; and kernels that the
prompt makes, for rhythm.

Letters: B batch, F frames, D width of a token, C channels, E width of the embedded noise level and prompt.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi.layers import for_first, root_mean_square, transformer, zeroed
from codi.models.denoisers.temporal import waves
from codi.protocols import Environment


class FrameTransformer(nn.Module):
    """(B*F, C, H, W) -> the same, with every frame (or column of a sound) as one token of a transformer along
    time.

    What moves is at another position in every frame, so attention of a position to itself cannot follow it; a
    token that holds a whole (small) frame can. The way back starts at zero and is told in multiples of what
    it is added to: the stream in the middle of a UNet grows to several times the size of a token, and a small
    branch is lost in it, with its gradient.

    grid        (rows, columns) that a frame is pooled to before it becomes a token
    emb_dim     width of `Signals.emb`, which every token is told
    kernel_layers  of `num_layers`, how many of the first have kernels (`PromptedKernels`) in place of
                   attention
    reach       tokens to either side that a kernel sees
    joint       makes what listens, of the widths of a token and of a frame: `joint(tokens, env, times) -> (B,
                F, size)`; None for none
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
        self.grid, size = tuple(grid), channels * grid[0] * grid[1]
        self.norm = nn.LayerNorm(size)
        self.proj_in, self.emb_proj = nn.Linear(size, dim), nn.Linear(emb_dim, dim)
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
        """h (B*F, C, H, W), emb (B, emb_dim); env of the partners of the first samples or None; times (F,)
        seconds of the frames.
        """
        whole = h.shape[-2:] == self.grid
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
        return h + y * root_mean_square(h.unflatten(0, (-1, frames))).repeat_interleave(frames, 0).view(
            -1, 1, 1, 1
        )


class KernelLayer(nn.Module):
    """A transformer layer (B, F, D) -> the same in which kernels along time take the place of attention."""

    def __init__(self, dim: int, emb_dim: int, num_heads: int, ff_mult: int, reach: int):
        super().__init__()
        self.mixer = PromptedKernels(dim, emb_dim, num_heads, reach)
        inner = ff_mult * dim
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim)
        )

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        """tokens (B, F, D), emb (B, E) of the noise level and the prompt."""
        tokens = tokens + self.mixer(tokens, emb)
        return tokens + self.feed_forward(tokens)


class PromptedKernels(nn.Module):
    """Tokens mixed along time by kernels k that the prompt and the noise level make: y_i = sum over j of k(i
    - j) v_j, one a head.

    A rhythm is a distance in time, and the prompt says which. A kernel holds it as a number at that distance,
    where attention has to find it as an angle between query and key. Beyond `reach` tokens a kernel is zero,
    so that any number of them can be mixed.
    """

    def __init__(self, dim: int, emb_dim: int, num_heads: int, reach: int):
        super().__init__()
        self.num_heads, self.reach = num_heads, reach
        self.norm, self.value, self.out = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.kernel = nn.Linear(emb_dim, num_heads * (2 * reach + 1))

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        """tokens (B, F, D), emb (B, E)."""
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        later = steps[:, None] - steps  # (F, F)
        kernels = self.kernel(emb).unflatten(1, (self.num_heads, -1))[
            :, :, later.clamp(-self.reach, self.reach) + self.reach
        ]
        kernels = kernels * (later.abs() <= self.reach)  # (B, heads, F, F)
        # (B, heads, F, d)
        value = self.value(self.norm(tokens)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return self.out((kernels @ value).transpose(1, 2).flatten(2))
