"""TextSequenceDenoiser: predicts the noise (or v) in the latent of a text that is a sequence of vectors.

A transformer over the positions of the latent, with long skip connections from its first half to its second
(U-ViT, arXiv 2209.12152). Before each attention stands a residual block of 1-D convolutions, as the paper
describes CoDi's denoiser of text (arXiv 2305.11846). A sequence is a map of (S, 1) to the layers.
Letters: B batch, Z channels of the latent, C channels of the map, S positions, L prompt tokens, D their
width, E width of the embedded timestep.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config

# diffusers' own loader looks for it beside a class
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from torch import Tensor, nn

from codi.layers import repeated, zeroed
from codi.models.denoisers.blocks import Block, Signals
from codi.models.denoisers.norm import GroupNorm
from codi.models.denoisers.skeleton import CachedPrompt, Skeleton, at_levels, build_joint, build_transformer
from codi.protocols import Environment, Weakening


class TextSequenceDenoiser(Skeleton):
    """The denoiser of latents that are sequences, (B, in_channels, length).

    Args:
        in_channels: Z, the channels of the latent.
        length: S, its positions.
        width: C, the same in all blocks.
        num_levels: blocks before the middle; behind it stand as many and one, and each of them receives what
            its counterpart gave.
        num_heads: heads of the attention; give this or `head_dim`.
        head_dim: width of a head; 32 if neither is given.
        context_dim: D, the width of prompt tokens.
        prompt: "projection" or "attention", as in `UNetDenoiser`.
        prompt_embedding: whether the mean prompt token is also embedded.
        ff_mult: inner width of a transformer's feed-forward in multiples of its width.
        norm_num_groups: groups of every GroupNorm.
        env_dim: width of environment tokens, None for a model that attends to no partners.
        joint: the kind of joint adapter, "timed" or "pooled".
        joint_levels: levels whose blocks, on both sides, have one, from 0, the outermost; where "timed" and
            the last level has one, so has the middle.
        joint_heads: heads of a joint adapter.
        joint_config: further arguments of `JointAttention`.
        first_skip: "own" or "middle", as in `Skeleton.trunk`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        length: int = 16,
        width: int = 128,
        num_levels: int = 2,
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
        self.emb_dim = self.build_embedding(width, context_dim, prompt_embedding)
        self.proj_in = nn.Linear(in_channels, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.build_layers()
        self.norm_out = GroupNorm(norm_num_groups, width, eps=1e-5)
        self.proj_out = zeroed(nn.Linear(width, in_channels))

    def build_layers(self) -> None:
        """Build `down`, `middle` and `up`, with one entry for each skip connection."""
        config = self.config
        width, groups = config.width, config.norm_num_groups
        last = config.num_levels - 1
        joint = at_levels(config.joint_levels, lambda c: build_joint(config, c))

        def block(channels: int, level: int | None) -> Block:
            return Block(
                SequenceBlock(channels, width, self.emb_dim, groups),
                attention=build_transformer(config, width, config.context_dim, config.prompt),
                joint=None if level is None else joint(level, width),
            )

        self.down = nn.ModuleList(block(width, level) for level in range(config.num_levels))
        self.middle = nn.ModuleList([block(width, last if config.joint == "timed" else None)])
        # the innermost comes first; the outermost level has two, of which one meets the input of the first
        levels = [*reversed(range(config.num_levels)), 0]
        self.up = nn.ModuleList(block(2 * width, level) for level in levels)

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
            x: noisy latents (B, in_channels, length).
            t: their timesteps (B,).
            prompt: prompt tokens (B, L, D), or what `precompute` made of them.
            partners: the environment of the partners, or None.
            rate: for latents with time; not used here.
            weakening: which blocks are made worse in this call, with one context for each sample.

        Returns:
            The prediction, (B, in_channels, length).
        """
        assert x.shape[1:] == (self.config.in_channels, self.config.length), (
            f"a latent is (B, {self.config.in_channels}, {self.config.length}), got {tuple(x.shape)}"
        )
        h = (self.proj_in(x.transpose(1, 2)) + self.positions).transpose(1, 2)[..., None]  # (B, C, S, 1)
        cached = self.prepared(prompt, x, weakening)
        emb = self.embed(t, cached)
        h = self.trunk(
            repeated(h, len(emb)), Signals(emb=emb, context=cached.context, env=partners), iter(cached.layers)
        )
        h = F.silu(self.norm_out(h))[..., 0].transpose(1, 2)  # (B, S, C)
        return self.proj_out(h).transpose(1, 2)


class SequenceBlock(nn.Module):
    """A residual block of 1-D convolutions over the positions of a map (B, C, S, 1).

    Args:
        in_channels: C of the map.
        out_channels: C of the result.
        emb_dim: E, the width of the embedded timestep.
        num_groups: groups of both norms.
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, num_groups: int):
        super().__init__()
        self.norm1 = GroupNorm(num_groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, (3, 1), padding=(1, 0))
        self.time_emb_proj = nn.Linear(emb_dim, out_channels)
        self.norm2 = GroupNorm(num_groups, out_channels, eps=1e-5)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, (3, 1), padding=(1, 0)))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        """Return a map (B, out_channels, S, 1) for h (B, in_channels, S, 1)."""
        emb = signals.per_row(self.time_emb_proj(signals.emb), h)[..., None, None]
        y = self.conv1(F.silu(self.norm1(h))) + emb
        return self.shortcut(h) + self.conv2(F.silu(self.norm2(y)))
