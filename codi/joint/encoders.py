"""Environment encoders turn a noisy latent into the tokens that its partners attend to (CoDi, section 3.4).

An environment is a sequence: every token of a modality that has time knows its seconds, so that a sound and a
clip of different rates line up in the attention of their partners (`codi.joint.attention`).

Letters: B batch, L environment tokens, D environment width, S steps along time; in shapes of latents Z
channels, F frames, H W height and width, T audio frames, M mel bands.
"""

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from codi import protocols
from codi.layers import transformer
from codi.protocols import Environment
from codi.types import Modality


def sinusoid(seconds: Tensor, dim: int, shortest: float = 0.05, longest: float = 20.0) -> Tensor:
    """Encode seconds as sines and cosines of several periods.

    Args:
        seconds: (...) times.
        dim: the width of the encoding; the first half are sines, the second half cosines.
        shortest: the shortest period in seconds.
        longest: the longest period in seconds.

    Returns:
        (..., dim).
    """
    periods = torch.logspace(math.log10(shortest), math.log10(longest), dim // 2, device=seconds.device)
    angles = 2 * math.pi * seconds[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class EnvironmentEncoder(nn.Module, protocols.EnvironmentEncoder):
    """The environment encoder of one modality: a noisy latent becomes the tokens that its partners attend to.

    Args:
        latent_shape: as in `codi.types.ModalitySpec`: text (Z,) or a sequence (Z, K), picture (Z, H, W), clip
            (Z, F, H, W), sound (Z, T, M). A shape of three axes is that of a sound if there is a
            `latent_rate`.
        dim: D, the width of the tokens.
        latent_rate: latent steps per second; None for a modality without time.
        tokens_per_step: tokens for each step along time or position of a sequence, or for the whole of any
            other latent without time.
        global_tokens: tokens without time that sum up the whole.
        num_layers: transformer layers along time.
        num_heads: heads of each layer.
        stem_layers: convolutions of pictures and frames that halve their sides, before what they found is
            pooled to 4 x 4 places. The larger a latent, the more of them see enough of it.
        pooled: replace all tokens by their mean, one token without time: the scheme of the released model,
            kept for comparison.
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
        stem_layers: int = 1,
        pooled: bool = False,
    ):
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.latent_rate = latent_rate
        self.tokens_per_step = tokens_per_step
        self.global_tokens = global_tokens
        self.pooled = pooled
        self.is_map = latent_rate is None and len(latent_shape) == 3 or len(latent_shape) == 4
        if self.is_map:
            layers: list[nn.Module] = [nn.Conv2d(latent_shape[0], dim // 2, 3, padding=1), nn.SiLU()]
            for _ in range(stem_layers):
                layers += [nn.Conv2d(dim // 2, dim // 2, 3, stride=2, padding=1), nn.SiLU()]
            self.stem = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
            size = dim // 2 * 16
        else:
            self.stem = nn.Identity()
            # of one step: of the whole vector, of one position of a sequence, of one column of a sound
            size = latent_shape[0] * math.prod(latent_shape[2:])
        self.project = nn.Sequential(nn.Linear(size, dim), nn.SiLU(), nn.Linear(dim, tokens_per_step * dim))
        # Without it the content of a token would be a tenth as large as the encoding of its time.
        self.content_norm = nn.LayerNorm(dim)
        self.place = nn.Parameter(torch.randn(tokens_per_step, dim) * 0.02)  # tells a step's tokens apart
        self.positions: nn.Parameter | None = None  # tells the positions of a sequence apart
        if latent_rate is None and len(latent_shape) == 2:
            self.positions = nn.Parameter(torch.randn(latent_shape[1], 1, dim) * 0.02)
        self.time_proj = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.noise_level = TimestepEmbedding(dim, dim)
        self.summary = nn.Parameter(torch.randn(global_tokens, dim) * 0.02)
        self.layers = transformer(dim, num_heads, num_layers)
        self.norm = nn.LayerNorm(dim)
        self.name = nn.Parameter(torch.randn(dim) * 0.02)  # tells partners which modality the tokens are of

    def steps(self, x: Tensor) -> Tensor:
        """Return one flat vector for each step along time or position of a sequence, (B, S, size).

        Args:
            x: latents (B, *latent_shape).

        Returns:
            (B, S, size).
        """
        if self.is_map:
            frames = x.transpose(1, 2) if x.ndim == 5 else x[:, None]  # (B, S, Z, H, W)
            return self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return x[:, None] if x.ndim == 2 else x.transpose(1, 2).flatten(2)

    def seconds(self, num_steps: int, rate: float | None, device: torch.device) -> Tensor | None:
        """Return the mid-points of the steps in seconds, (S,); None for a modality without time.

        Args:
            num_steps: S.
            rate: latent steps per second; None for the configured rate.
            device: where the result lies.

        Returns:
            (S,) seconds or None.
        """
        if self.latent_rate is None:
            return None
        return (torch.arange(num_steps, device=device) + 0.5) / (rate or self.latent_rate)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        rate: float | None = None,
        cache: None = None,
        hint: Tensor | None = None,
        seconds: Tensor | None = None,
    ) -> Environment:
        """Return the environment of noisy latents.

        Args:
            x: (B, *latent_shape) noisy latents.
            t: (B,) their timesteps.
            rate: latent steps per second, where it differs from the configured rate.
            cache: unused; this encoder has nothing to precompute.
            hint: (B, D) what is added to every token beside the timestep.
            seconds: (S,) the mid-points of the steps, where they are not even; None for `rate`.

        Returns:
            the environment, tokens (B, L, D) and their seconds (B, L).
        """
        hidden = self.project(self.steps(x)).unflatten(-1, (self.tokens_per_step, -1))  # (B, S, k, D)
        hidden = self.content_norm(hidden) + self.place
        times = self.seconds(hidden.shape[1], rate, x.device) if seconds is None else seconds.to(x.device)
        if self.positions is not None:
            hidden = hidden + self.positions
        if times is not None:
            hidden = hidden + sinusoid(times, hidden.shape[-1]).to(hidden.dtype)[:, None]
        level = self.noise_level(self.time_proj(t).to(hidden.dtype))[:, None]
        if hint is not None:
            level = level + hint[:, None]
        tokens = torch.cat([hidden.flatten(1, 2), self.summary.expand(len(x), -1, -1)], dim=1) + level
        tokens = self.norm(self.layers(tokens)) + self.name
        if self.pooled:
            tokens = tokens.mean(dim=1, keepdim=True)
            times = None
        return Environment(tokens=tokens, times=self.token_times(times, tokens))

    def token_times(self, times: Tensor | None, tokens: Tensor) -> Tensor:
        """Return the seconds of all tokens, (B, L), NaN for tokens without time.

        Args:
            times: (S,) mid-points of the steps; None for a modality without time.
            tokens: (B, L, D) the tokens, those of the steps first.

        Returns:
            (B, L) in float32.
        """
        timeless = tokens.new_full((tokens.shape[1],), torch.nan, dtype=torch.float32)
        if times is not None:
            timeless[: len(times) * self.tokens_per_step] = times.repeat_interleave(self.tokens_per_step)
        return timeless.expand(len(tokens), -1)


class EnvironmentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):
    """The environment encoders of a model, one `EnvironmentEncoder` for each modality.

    Args:
        latents: by the name of a modality, the latent_shape, latent_rate, tokens_per_step and further
            arguments of its encoder.
        dim: D, the width of the tokens of all encoders.
        global_tokens: as in `EnvironmentEncoder`.
        num_layers: as in `EnvironmentEncoder`.
        num_heads: as in `EnvironmentEncoder`.
        pairs: the modalities that learned to attend to each other, two by two; None if all attend to all. Two
            that are no pair still reach each other through a third, step by step.
        pooled: as in `EnvironmentEncoder`.
        exchanged: with False each modality attends to itself instead of its partners, as in the released
            model; kept for comparison, like `pooled`.
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
        self.encoders = nn.ModuleDict()
        for name, latent in latents.items():
            self.encoders[name] = EnvironmentEncoder(**{**alike, **latent})

    def by_modality(self) -> dict[Modality, EnvironmentEncoder]:
        """Return the encoders by their modalities."""
        return {Modality(name): encoder for name, encoder in self.encoders.items()}

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return the modalities whose environments each modality attends to."""
        names = [Modality(name) for name in self.encoders]
        if not self.config.exchanged:
            return {name: {name} for name in names}
        if self.config.pairs is None:
            return {name: set(names) - {name} for name in names}
        attended: dict[Modality, set[Modality]] = {name: set() for name in names}
        for pair in self.config.pairs:
            a, b = map(Modality, pair)
            if a is not b and a in attended and b in attended:
                attended[a].add(b)
                attended[b].add(a)
        return attended
