"""Environment encoders and the cross-attention through which frozen denoisers hear each other (CoDi, section
3.4), with a clock.

An environment is a sequence: every token of a modality that has time knows its seconds, so that a sound and a
clip of different rates line up. Some of the attention heads are rotated by seconds (arXiv 2104.09864, with
seconds for indices) and look through soft windows; the others see everything and carry meaning. Letters: B
batch, N positions of the listener, L environment tokens, D environment width, C width of the listener, S
steps along time.
"""

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from codi.models.denoisers.attention import transformer, zeroed
from codi.models.denoisers.norm import root_mean_square
from codi.protocols import Environment
from codi.types import Modality

# logit of a sink in a timed head, so that four of them weigh a fourteenth of the token at the same moment
SINK = -4.0


def sinusoid(seconds: Tensor, dim: int, shortest: float = 0.05, longest: float = 20.0) -> Tensor:
    """Seconds (...) -> (..., dim) sines and cosines with periods from `shortest` to `longest` seconds."""
    periods = torch.logspace(math.log10(shortest), math.log10(longest), dim // 2, device=seconds.device)
    angles = 2 * math.pi * seconds[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


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


class EnvironmentEncoder(nn.Module):
    """A noisy latent of one modality -> the tokens that its partners attend to.

    latent_shape     as in `codi.types.ModalitySpec`: (Z,), (Z, H, W), (Z, F, H, W) or, with `time_axis` 1,
                     (Z, T, M)
    latent_rate      latent steps per second, None for a modality without time
    tokens_per_step  tokens for each step along time (for all of a latent without time)
    global_tokens    tokens without time that sum up the whole
    num_layers       transformer layers along time
    pooled           the mean of all tokens in their place, one token without time: the released scheme, kept
                     for comparison
    """

    def __init__(
        self,
        *,
        latent_shape: tuple[int, ...],
        dim: int,
        latent_rate: float | None,
        tokens_per_step: int,
        global_tokens: int,
        num_layers: int,
        num_heads: int = 4,
        pooled: bool = False,
    ):
        super().__init__()
        self.latent_shape, self.latent_rate, self.tokens_per_step = (
            tuple(latent_shape),
            latent_rate,
            tokens_per_step,
        )
        self.global_tokens, self.pooled = global_tokens, pooled
        self.is_map = latent_rate is None and len(latent_shape) == 3 or len(latent_shape) == 4
        if self.is_map:
            self.stem = nn.Sequential(
                nn.Conv2d(latent_shape[0], dim // 2, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(dim // 2, dim // 2, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
            )
            size = dim // 2 * 16
        else:
            self.stem = nn.Identity()
            size = math.prod(latent_shape) if latent_rate is None else latent_shape[0] * latent_shape[2]
        self.project = nn.Sequential(nn.Linear(size, dim), nn.SiLU(), nn.Linear(dim, tokens_per_step * dim))
        self.content_norm = nn.LayerNorm(dim)  # else what is heard is a tenth of when
        self.place = nn.Parameter(torch.randn(tokens_per_step, dim) * 0.02)
        self.time_proj = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.noise_level = TimestepEmbedding(dim, dim)
        self.summary = nn.Parameter(torch.randn(global_tokens, dim) * 0.02)
        self.layers = transformer(dim, num_heads, num_layers)
        self.norm = nn.LayerNorm(dim)
        self.name = nn.Parameter(torch.randn(dim) * 0.02)

    def steps(self, x: Tensor) -> Tensor:
        """Latent -> one flat vector for each step along time, (B, S, size)."""
        if self.is_map:
            frames = x.transpose(1, 2) if x.ndim == 5 else x[:, None]  # (B, S, Z, H, W)
            return self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return x[:, None] if x.ndim == 2 else x.transpose(1, 2).flatten(2)

    def seconds(self, num_steps: int, rate: float | None, device: torch.device) -> Tensor | None:
        """Mid-points of the steps, (S,)."""
        if self.latent_rate is None:
            return None
        return (torch.arange(num_steps, device=device) + 0.5) / (rate or self.latent_rate)

    def forward(
        self, x: Tensor, t: Tensor, rate: float | None = None, hint: Tensor | None = None
    ) -> Environment:
        """x (B, *latent_shape) at the noise level t (B,); rate in latent steps per second if not the
        configured one; hint (B, D) is added to every token.
        """
        hidden = self.project(self.steps(x)).unflatten(-1, (self.tokens_per_step, -1))  # (B, S, k, D)
        hidden = self.content_norm(hidden) + self.place
        times = self.seconds(hidden.shape[1], rate, x.device)
        if times is not None:
            hidden = hidden + sinusoid(times, hidden.shape[-1]).to(hidden.dtype)[:, None]
        level = self.noise_level(self.time_proj(t).to(hidden.dtype))[:, None]
        level = level if hint is None else level + hint[:, None]
        tokens = torch.cat([hidden.flatten(1, 2), self.summary.expand(len(x), -1, -1)], dim=1) + level
        tokens = self.norm(self.layers(tokens)) + self.name
        if self.pooled:
            tokens, times = tokens.mean(dim=1, keepdim=True), None
        return Environment(tokens=tokens, times=self.token_times(times, tokens))

    def token_times(self, times: Tensor | None, tokens: Tensor) -> Tensor:
        """(B, L) seconds, NaN for tokens without time."""
        timeless = tokens.new_full((tokens.shape[1],), torch.nan, dtype=torch.float32)
        if times is not None:
            timeless[: len(times) * self.tokens_per_step] = times.repeat_interleave(self.tokens_per_step)
        return timeless.expand(len(tokens), -1)


class EnvironmentEncoders(ModelMixin, ConfigMixin):
    """One `EnvironmentEncoder` per modality; `latents` holds each one's latent_shape, latent_rate,
    tokens_per_step and further arguments.

    pairs      the modalities that learned to hear each other; None: everyone hears everyone. Those that are
               no pair still reach each other through a third, step by step.
    exchanged  False: each hears itself instead of its partners, as in the released model; kept for
               comparison, like `pooled`
    """

    @register_to_config
    def __init__(
        self,
        latents: dict[str, dict[str, Any]],
        dim: int = 128,
        global_tokens: int = 1,
        num_layers: int = 2,
        num_heads: int = 4,
        pairs: list[list[str]] | None = None,
        pooled: bool = False,
        exchanged: bool = True,
    ):
        super().__init__()
        alike = dict(
            dim=dim, global_tokens=global_tokens, num_layers=num_layers, num_heads=num_heads, pooled=pooled
        )
        self.encoders = nn.ModuleDict(
            {name: EnvironmentEncoder(**{**alike, **latent}) for name, latent in latents.items()}
        )

    def by_modality(self) -> dict[Modality, EnvironmentEncoder]:
        """The encoders under their modalities."""
        return {Modality(name): encoder for name, encoder in self.encoders.items()}

    def hears(self) -> dict[Modality, set[Modality]]:
        """Whom each modality listens to."""
        names = [Modality(name) for name in self.encoders]
        if not self.config.exchanged:
            return {name: {name} for name in names}
        pairs = (
            None if self.config.pairs is None else [{Modality(a), Modality(b)} for a, b in self.config.pairs]
        )
        return {a: {b for b in names if b is not a and (pairs is None or {a, b} in pairs)} for a in names}


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
        if times is not None and attn.clock:
            query, key = attn.with_clock(query, times[None]), attn.with_clock(key, attn.key_times(env))
            mask = attn.closeness(times, attn.key_times(env)).to(query.dtype)
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
        clock: bool = True,
        silent: bool = True,
    ):
        super().__init__()
        self.clock = clock
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
        if silent:
            zeroed(self.to_out)
        self.set_processor(JointProcessor())

    def forward(self, h: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """h (B, N, C); times (N,) seconds of the listener's positions, None for a listener without time."""
        return h + self.heard(h, env, times) * root_mean_square(h)[:, None, None]

    def heard(self, h: Tensor, env: Environment, times: Tensor | None) -> Tensor:
        """What `forward` adds, before it is scaled."""
        return self.processor(self, self.norm(h), env, times)

    def key_times(self, env: Environment) -> Tensor:
        """Seconds of environment tokens and sinks, (B, L + sinks); infinite for a sink, which every window
        holds.
        """
        return functional.pad(env.times, (0, len(self.sinks)), value=torch.inf)

    def with_clock(self, heads: Tensor, seconds: Tensor) -> Tensor:
        """The timed heads of (B, L, heads, d) rotated by seconds (B or 1, L); where there are none, rotated
        by zero.
        """
        seconds = seconds.masked_fill(~seconds.isfinite(), 0.0)
        timed = rotate(heads[:, :, : self.num_timed], seconds, self.shortest, self.longest)
        return torch.cat([timed, heads[:, :, self.num_timed :]], dim=2)

    def closeness(self, times: Tensor, key_times: Tensor) -> Tensor:
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


class MomentListener(nn.Module):
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
        self.attention = JointAttention(dim, env_dim, num_heads, silent=False, **options)
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


__all__ = [
    "EnvironmentEncoder",
    "EnvironmentEncoders",
    "JointAttention",
    "MomentListener",
    "rotate",
    "sinusoid",
]
