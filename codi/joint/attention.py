"""The cross-attention through which frozen denoisers hear each other (CoDi, section 3.4), with rotary heads
by seconds.

Some of the attention heads are rotated by seconds (arXiv 2104.09864, with seconds for indices) and look
through soft windows, so that a sound and a clip of different rates line up; the others see everything and
carry meaning. Letters: B batch, N positions of the listener, L environment tokens, D environment width, C
width of the listener, S steps along time.
"""

import math
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn import functional

from codi.layers import root_mean_square, transformer, zeroed
from codi.protocols import Environment

# logit of a sink in a timed head, so that four of them weigh a fourteenth of the token at the same moment
SINK = -4.0


def rotate(x: Tensor, seconds: Tensor, shortest: float, longest: float) -> Tensor:
    """Rotary embedding by seconds: x (B, L, heads, d), seconds (B or 1, L); pairs (i, i + d/2) turn with one
    period each.
    """
    half = x.shape[-1] // 2
    periods = torch.logspace(math.log10(shortest), math.log10(longest), half, device=x.device)
    angles = (2 * math.pi * seconds[..., None] / periods)[:, :, None]  # (B, L, 1, d/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class JointProcessor:
    """Attention from the listener's positions to environment tokens and sinks, by whichever backend is
    chosen.
    """

    _attention_backend = _parallel_config = None

    def __call__(
        self, attn: "JointAttention", hidden: Tensor, env: Environment, times: Tensor | None
    ) -> Tensor:
        split = lambda y: y.unflatten(-1, (attn.num_heads, -1))  # (B, L, heads, d)
        tokens = torch.cat([env.tokens, attn.sinks.to(env.tokens.dtype).expand(len(hidden), -1, -1)], dim=1)
        query, key, value = split(attn.to_q(hidden)), split(attn.to_k(tokens)), split(attn.to_v(tokens))
        mask = None
        if times is not None and attn.time_rotary:
            query, key = (
                attn.apply_time_rotary(query, times[None]),
                attn.apply_time_rotary(key, attn.key_times(env)),
            )
            mask = attn.window_bias(times, attn.key_times(env)).to(query.dtype)
        out = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out(out.flatten(2))


class JointAttention(nn.Module, AttentionModuleMixin):
    """h + |h| attention(h -> environments of the others), |h| the root mean square of a sample, since a
    listener's stream may be several times as large as a token. Zero before training, so that joint starts as
    independent, to the bit.

    channels     C, width of the listener
    env_dim      D
    inner        width of all heads together, C by default
    num_heads    of which the first `timed_heads` (half) are rotated by seconds and look through windows,
                 where the listener has time
    num_sinks    learned tokens that are always there, for heads that have nothing to hear
    windows      standard deviations in seconds of the Gaussian windows of the timed heads, from the narrowest
                 to the widest: before it has learned anything, a head hears what sounds or shows at its
                 moment
    clock        False: no head looks at seconds; kept for comparison
    silent       the output projection starts at zero
    """

    _default_processor_cls = JointProcessor
    _available_processors = [JointProcessor]
    _supports_qkv_fusion = False

    def __init__(
        self,
        channels: int,
        env_dim: int,
        num_heads: int,
        num_sinks: int = 4,
        timed_heads: int | None = None,
        inner: int | None = None,
        windows: tuple[float, float] = (0.04, 0.5),
        shortest: float = 0.1,
        longest: float = 4.0,
        time_rotary: bool = True,
        zero_init: bool = True,
    ):
        super().__init__()
        self.time_rotary = time_rotary
        self.num_heads, self.num_timed = (
            num_heads,
            max(1, num_heads // 2) if timed_heads is None else timed_heads,
        )
        self.shortest, self.longest, inner = shortest, longest, inner or channels
        steps = max(self.num_timed - 1, 1)
        self.windows = [windows[0] * (windows[1] / windows[0]) ** (i / steps) for i in range(self.num_timed)]
        self.norm = nn.LayerNorm(channels)
        self.sinks = nn.Parameter(torch.randn(num_sinks, env_dim) * 0.02)
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(env_dim, inner, bias=False)
        self.to_v = nn.Linear(env_dim, inner, bias=False)
        self.to_out = nn.Linear(inner, channels)
        if zero_init:
            zeroed(self.to_out)
        self.set_processor(JointProcessor())

    def forward(self, h: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """h (B, N, C); times (N,) seconds of the listener's positions, None for a listener without time."""
        return h + self.attended(h, env, times) * root_mean_square(h)[:, None, None]

    def attended(self, h: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """What `forward` adds, before it is scaled."""
        return self.processor(self, self.norm(h), env, times)

    def key_times(self, env: Environment) -> Tensor:
        """Seconds of environment tokens and sinks, (B, L + sinks); infinite for a sink, which every window
        holds.
        """
        return functional.pad(env.times, (0, len(self.sinks)), value=torch.inf)

    def apply_time_rotary(self, heads: Tensor, seconds: Tensor) -> Tensor:
        """The timed heads of (B, L, heads, d) rotated by seconds (B or 1, L); where there are none, rotated
        by zero.
        """
        seconds = seconds.masked_fill(~seconds.isfinite(), 0.0)
        timed = rotate(heads[:, :, : self.num_timed], seconds, self.shortest, self.longest)
        return torch.cat([timed, heads[:, :, self.num_timed :]], dim=2)

    def window_bias(self, times: Tensor, key_times: Tensor) -> Tensor:
        """What is added to the logits, (B, heads, N, L + sinks): timed heads see no token without time and
        sinks faintly.
        """
        windows = key_times.new_tensor(self.windows)[:, None, None]
        apart = (times[:, None] - key_times[:, None, None]) / windows  # (B, timed, N, L + sinks)
        near = (
            (-0.5 * apart.square())
            .masked_fill(key_times.isinf()[:, None, None], SINK)
            .masked_fill(apart.isnan(), -torch.inf)
        )
        return functional.pad(near, (0, 0, 0, 0, 0, self.num_heads - self.num_timed))


class PerFrameJointAttention(nn.Module):
    """What the tokens of a frame transformer, each a moment, hear of their partners, as something to add to
    every frame.

    The tokens were made by layers that know what moves; what is heard leaves by a way of its own, since that
    of the tokens is frozen and as loud as it is. Zero before training.

    dim, size    widths of a token and of a frame
    hidden       width between
    num_layers   transformer layers of width `hidden` along time, which work out what follows from what was
                 heard: a note rings on long after its event
    the rest     as in `JointAttention`
    """

    def __init__(
        self,
        dim: int,
        size: int,
        env_dim: int,
        num_heads: int,
        hidden: int = 96,
        num_layers: int = 0,
        **options: Any,
    ):
        super().__init__()
        self.attention = JointAttention(dim, env_dim, num_heads, zero_init=False, **options)
        self.norm, self.proj, self.out = (
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            zeroed(nn.Linear(hidden, size)),
        )
        self.layers = transformer(hidden, max(1, hidden // 32), num_layers)

    def forward(self, tokens: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """tokens (B, S, dim) -> (B, S, size)."""
        return self.out(
            self.layers(functional.gelu(self.proj(self.norm(self.attention(tokens, env, times)))))
        )
