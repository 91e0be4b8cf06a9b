"""Cross-attention through which frozen denoisers attend to their partners.

The scheme is that of CoDi (arXiv 2305.11846, section 3.4). Here some of the attention heads, the timed heads,
rotate queries and keys by seconds (rotary embedding, arXiv 2104.09864, with seconds in place of indices) and
look through soft windows in time, so that a sound and a clip of different rates line up. The other heads see
every token and carry meaning.

Letters: B batch, N positions of the denoiser that attends, L environment tokens, D environment width, C width
of the denoiser's hidden states, S steps along time, d width of a head.
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

# The logit of a sink in a timed head. Four sinks together weigh 4 exp(-4), a fourteenth of an environment
# token at the moment of the query.
SINK = -4.0


def rotate(x: Tensor, seconds: Tensor, shortest: float, longest: float) -> Tensor:
    """Apply a rotary embedding by seconds (arXiv 2104.09864) to queries or keys.

    Components i and i + d/2 of a head form a pair, and every pair turns with a period of its own. The periods
    are evenly spaced on a logarithmic scale.

    Args:
        x: (B, L, heads, d) queries or keys.
        seconds: (B, L) or (1, L), the time of each token.
        shortest: the shortest period in seconds.
        longest: the longest period in seconds.

    Returns:
        (B, L, heads, d), x rotated.
    """
    half = x.shape[-1] // 2
    periods = torch.logspace(math.log10(shortest), math.log10(longest), half, device=x.device)
    angles = (2 * math.pi * seconds[..., None] / periods)[:, :, None]  # (B, L, 1, d/2)
    cos = angles.cos().to(x.dtype)
    sin = angles.sin().to(x.dtype)
    first = x[..., :half]
    second = x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class JointProcessor:
    """Attention from a denoiser's positions to environment tokens and sinks, by the chosen backend."""

    _attention_backend = _parallel_config = None

    def __call__(
        self, attn: "JointAttention", hidden: Tensor, env: Environment, times: Tensor | None
    ) -> Tensor:
        """Return the output of the attention, (B, N, C).

        Args:
            attn: the module whose projections are used.
            hidden: (B, N, C) normalised hidden states of the denoiser.
            env: the environment of its partners, L tokens.
            times: (N,) seconds of the denoiser's positions; None where its latent has no time, and then no
                head is timed.

        Returns:
            (B, N, C), before it is scaled.
        """
        # Sinks stand behind the environment, so that a head can look away when nothing concerns it.
        sinks = attn.sinks.to(env.tokens.dtype).expand(len(hidden), -1, -1)
        tokens = torch.cat([env.tokens, sinks], dim=1)
        by_head = (attn.num_heads, -1)
        query = attn.to_q(hidden).unflatten(-1, by_head)  # (B, N, heads, d)
        key = attn.to_k(tokens).unflatten(-1, by_head)  # (B, L, heads, d)
        value = attn.to_v(tokens).unflatten(-1, by_head)
        mask = None
        if times is not None and attn.time_rotary:
            key_times = attn.key_times(env)
            query = attn.apply_time_rotary(query, times[None])
            key = attn.apply_time_rotary(key, key_times)
            mask = attn.window_bias(times, key_times).to(query.dtype)
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
    """Joint attention: h + |h| attention(h -> environments of the partners).

    |h| is the root mean square of each sample. What is added is scaled by it, because the hidden states of a
    denoiser may be several times as large as a token. The output projection starts at zero, so that before
    training a joint generation equals independent ones, to the bit.

    Args:
        channels: C, the width of the denoiser's hidden states.
        env_dim: D, the width of environment tokens.
        num_heads: how many heads there are in all.
        num_sinks: learned tokens that are always there, for heads that find nothing to attend to.
        timed_heads: how many heads, the first ones, are rotated by seconds and look through windows where the
            denoiser's latent has time; half of all by default, at least one.
        inner: the width of all heads together, C by default.
        windows: standard deviations in seconds of the Gaussian windows of the timed heads, the narrowest and
            the widest. They let a head, before it has learned anything, attend to what sounds or shows at its
            own moment.
        shortest: the shortest period of the rotary embedding in seconds.
        longest: the longest period of the rotary embedding in seconds.
        time_rotary: with False no head looks at seconds; kept for comparison.
        zero_init: whether the output projection starts at zero.
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
        self.num_heads = num_heads
        self.num_timed = max(1, num_heads // 2) if timed_heads is None else timed_heads
        self.shortest = shortest
        self.longest = longest
        inner = inner or channels
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
        """Add to hidden states what they attend to.

        Args:
            h: (B, N, C) hidden states of the denoiser.
            env: the environment of its partners.
            times: (N,) seconds of the denoiser's positions; None where its latent has no time.

        Returns:
            (B, N, C), equal to `h` before training if `zero_init` is on.
        """
        return h + self.attended(h, env, times) * root_mean_square(h)[:, None, None]

    def attended(self, h: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """Return what `forward` adds to `h`, before it is scaled, (B, N, C)."""
        return self.processor(self, self.norm(h), env, times)

    def key_times(self, env: Environment) -> Tensor:
        """Return the seconds of environment tokens and sinks, (B, L + num_sinks).

        They are NaN for a token without time, and infinite for a sink, which lies in every window.
        """
        return functional.pad(env.times, (0, len(self.sinks)), value=torch.inf)

    def apply_time_rotary(self, heads: Tensor, seconds: Tensor) -> Tensor:
        """Rotate the timed heads by seconds and leave the others as they are.

        Args:
            heads: (B, L, heads, d) queries or keys.
            seconds: (B, L) or (1, L), the time of each token; one that is not finite rotates by zero.

        Returns:
            (B, L, heads, d).
        """
        # The sine of a time that is infinite or missing is NaN, which the softmax would spread to all tokens.
        seconds = seconds.masked_fill(~seconds.isfinite(), 0.0)
        timed = rotate(heads[:, :, : self.num_timed], seconds, self.shortest, self.longest)
        return torch.cat([timed, heads[:, :, self.num_timed :]], dim=2)

    def window_bias(self, times: Tensor, key_times: Tensor) -> Tensor:
        """Return what is added to the attention logits, (B, heads, N, L + num_sinks).

        In a timed head it is the exponent of a Gaussian of the difference in seconds: such a head sees no
        token without time, and sinks faintly, at the logit `SINK`. In the other heads it is zero.

        Args:
            times: (N,) seconds of the denoiser's positions.
            key_times: (B, L + num_sinks) what `key_times` returned.

        Returns:
            (B, heads, N, L + num_sinks) in the logarithm of a weight.
        """
        windows = key_times.new_tensor(self.windows)[:, None, None]
        apart = (times[:, None] - key_times[:, None, None]) / windows  # (B, timed, N, L + sinks)
        # A difference is NaN where the key has no time; a key at infinity is a sink.
        near = -0.5 * apart.square()
        near = near.masked_fill(key_times.isinf()[:, None, None], SINK)
        near = near.masked_fill(apart.isnan(), -torch.inf)
        return functional.pad(near, (0, 0, 0, 0, 0, self.num_heads - self.num_timed))


class PerFrameJointAttention(nn.Module):
    """Per-frame queries: every frame of a clip, or column of a sound, asks its partners once.

    The queries are the tokens of a frame transformer, one per frame, which were made by layers that know what
    moves. What they attend to is added to every frame. It leaves by an output projection of its own, because
    the tokens' own projection is frozen and its scale cannot change. That projection starts at zero, so that
    nothing is added before training.

    Args:
        dim: the width of a token.
        size: the width of what is added to a frame.
        env_dim: D, the width of environment tokens.
        num_heads: how many heads the attention has.
        hidden: the width between the attention and the output projection.
        num_layers: transformer layers of width `hidden` along time. They work out what follows from what was
            attended to: a note rings on long after its event.
        **options: further arguments of `JointAttention`.
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
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, hidden)
        self.out = zeroed(nn.Linear(hidden, size))
        self.layers = transformer(hidden, max(1, hidden // 32), num_layers)

    def forward(self, tokens: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """Return what is added to every frame, (B, S, size).

        Args:
            tokens: (B, S, dim) one token per frame.
            env: the environment of the partners.
            times: (S,) seconds of the frames; None where the latent has no time.

        Returns:
            (B, S, size), zeros before training.
        """
        attended = self.norm(self.attention(tokens, env, times))
        return self.out(self.layers(functional.gelu(self.proj(attended))))
