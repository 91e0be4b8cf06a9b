"""TextDenoiser: predicts the noise (or v) in the latent vector of a text.

As released with CoDi (after Versatile Diffusion, arXiv 2211.08332), the vector becomes features of C channels
at S places, a map of (S, 1). Residual blocks are fully connected over all C*S numbers; attention sees S
tokens.
Letters: B batch, C channels, S places, L prompt tokens, D their width, E width of the embedded timestep.
"""

import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config

# diffusers' own loader looks for it beside a class
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from torch import Tensor, nn

from codi.layers import repeated, zeroed
from codi.models.denoisers.blocks import Block, Signals
from codi.models.denoisers.norm import GroupNorm
from codi.models.denoisers.skeleton import (
    CachedPrompt,
    Skeleton,
    at_levels,
    build_joint,
    build_transformer,
    per_level,
)
from codi.protocols import Environment, Weakening


class TextDenoiser(Skeleton):
    """The denoiser of latents that are vectors, (B, in_channels).

    Args:
        in_channels: width of the latent.
        block_out_channels: C of each level.
        second_dim: S, the places of each level.
        layers_per_block: as in `UNetDenoiser`, like all that follow.
        attention_levels: levels with a transformer over places; the middle always has one.
        num_heads: heads of the attention; give this or `head_dim`.
        head_dim: width of a head; 32 if neither is given.
        context_dim: D, the width of prompt tokens.
        prompt: "projection" or "attention".
        prompt_embedding: whether the mean prompt token is also embedded.
        ff_mult: inner width of a transformer's feed-forward in multiples of its width.
        norm_num_groups: groups of every GroupNorm.
        env_dim: width of environment tokens, None for a model that attends to no partners.
        joint: the kind of joint adapter, "timed" or "pooled".
        joint_levels: levels that have one; where "timed" and the last level has one, so has the middle.
        joint_heads: heads of a joint adapter.
        joint_config: further arguments of `JointAttention`.
        first_skip: "own" or "middle".
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        block_out_channels: tuple[int, ...] = (32, 32),
        second_dim: tuple[int, ...] = (4, 4),
        layers_per_block: int | tuple[int, ...] = 1,
        attention_levels: tuple[int, ...] = (0, 1),
        num_heads: int | None = None,
        head_dim: int | None = None,
        context_dim: int = 128,
        prompt: str = "projection",
        prompt_embedding: bool = False,
        ff_mult: int = 4,
        norm_num_groups: int = 32,
        env_dim: int | None = None,
        joint: str = "timed",
        joint_levels: tuple[int, ...] = (),
        joint_heads: int | None = None,
        joint_config: dict | None = None,
        first_skip: str = "own",
    ):
        super().__init__()
        width = block_out_channels[0]
        places = second_dim[0]
        self.emb_dim = self.build_embedding(width, context_dim, prompt_embedding)
        self.proj_in = nn.Linear(in_channels, width * places)
        self.build_layers()
        self.norm_out = GroupNorm(norm_num_groups, width, eps=1e-5)
        self.proj_out = zeroed(nn.Linear(width * places, in_channels))

    def build_layers(self) -> None:
        """Build `down`, `middle` and `up`, with one entry for each skip connection."""
        config = self.config
        levels = list(zip(config.block_out_channels, config.second_dim, strict=True))
        last = len(levels) - 1
        groups = config.norm_num_groups
        depths = per_level(config.layers_per_block, len(levels))
        attention = at_levels(
            config.attention_levels, lambda c: build_transformer(config, c, config.context_dim, config.prompt)
        )
        joint = at_levels(config.joint_levels, lambda c: build_joint(config, c))
        self.down = nn.ModuleList()
        at, _ = levels[0]
        skips = [at]
        for level, (width, places) in enumerate(levels):
            for _ in range(depths[level]):
                dense = DenseBlock(at, width, places, self.emb_dim, groups)
                self.down.append(Block(dense, attention=attention(level, width), joint=joint(level, width)))
                at = width
                skips.append(at)
            if level < last:
                self.down.append(Remap(at, places, levels[level + 1][1]))
                skips.append(at)
        places = levels[-1][1]
        first = Block(
            DenseBlock(at, at, places, self.emb_dim, groups),
            attention=build_transformer(config, at, config.context_dim, config.prompt),
            joint=joint(last, at) if config.joint == "timed" else None,
        )
        second = Block(DenseBlock(at, at, places, self.emb_dim, groups))
        self.middle = nn.ModuleList([first, second])
        self.up = nn.ModuleList()
        for level, (width, places) in reversed(list(enumerate(levels))):
            for i in range(depths[level] + 1):
                ends = level > 0 and i == depths[level]
                upsample = Remap(width, places, levels[level - 1][1]) if ends else None
                dense = DenseBlock(at + skips.pop(), width, places, self.emb_dim, groups)
                block = Block(
                    dense, attention=attention(level, width), joint=joint(level, width), upsample=upsample
                )
                self.up.append(block)
                at = width

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: Tensor | CachedPrompt,
        partners: Environment | None = None,
        rate: float | None = None,
        weakening: Weakening | None = None,
    ) -> Tensor:
        """Predict the noise (or v) in latents.

        There may be more contexts than samples, as in `UNetDenoiser.forward`.

        Args:
            x: noisy latents (B, in_channels).
            t: their timesteps (B,).
            prompt: prompt tokens (B, L, D), or what `precompute` made of them.
            partners: the environment of the partners, or None.
            rate: for latents with time; not used here.
            weakening: which blocks are made worse in this call, with one context for each sample.

        Returns:
            The prediction, (B, in_channels).
        """
        assert x.ndim == 2, f"a text latent is (B, C), got {tuple(x.shape)}"
        h = self.proj_in(x).unflatten(1, (self.config.block_out_channels[0], self.config.second_dim[0], 1))
        cached = self.prepared(prompt, x, weakening)
        emb = self.embed(t, cached)
        h = self.trunk(
            repeated(h, len(emb)), Signals(emb=emb, context=cached.context, env=partners), iter(cached.layers)
        )
        return self.proj_out(F.silu(self.norm_out(h)).flatten(1))


class DenseBlock(nn.Module):
    """A residual block over all numbers of a map (B, C, S, 1); its norms are over C*S channels.

    Args:
        in_channels: C of the map.
        out_channels: C of the result.
        places: S, the number of places.
        emb_dim: E, the width of the embedded timestep.
        num_groups: groups of both norms.
    """

    def __init__(self, in_channels: int, out_channels: int, places: int, emb_dim: int, num_groups: int):
        super().__init__()
        self.shape = (out_channels, places, 1)
        source = in_channels * places
        target = out_channels * places
        self.norm1 = GroupNorm(num_groups, source, eps=1e-5)
        self.linear1 = nn.Linear(source, target)
        self.time_emb_proj = nn.Linear(emb_dim, target)
        self.norm2 = GroupNorm(num_groups, target, eps=1e-5)
        self.linear2 = zeroed(nn.Linear(target, target))
        self.shortcut = nn.Linear(source, target) if source != target else nn.Identity()

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        """Return a map (B, out_channels, S, 1) for h (B, in_channels, S, 1)."""
        h = h.flatten(1)
        y = self.linear1(F.silu(self.norm1(h))) + signals.per_row(self.time_emb_proj(signals.emb), h)
        return (self.shortcut(h) + self.linear2(F.silu(self.norm2(y)))).unflatten(1, self.shape)


class Remap(nn.Module):
    """Stands in for resampling in a text's denoiser: one linear map of all numbers, from S to S' places.

    Args:
        channels: C, of the map and the result.
        places: S, the places of the map.
        to_places: S', the places of the result.
    """

    def __init__(self, channels: int, places: int, to_places: int):
        super().__init__()
        self.shape = (channels, to_places, 1)
        self.linear = nn.Linear(channels * places, channels * to_places)

    def forward(self, h: Tensor, signals: object = None) -> Tensor:
        """Return a map (B, C, S', 1) for h (B, C, S, 1); `signals` is not used."""
        return self.linear(h.flatten(1)).unflatten(1, self.shape)
