"""UNetDenoiser: predicts the noise (or v) in latents of pictures, clips and sounds.

It is one class, by configuration, after LDM's UNet (arXiv 2112.10752) and CoDi (arXiv 2305.11846). There are
two families: codi-tiny, small and quick on a CPU, and codi-v3, the released geometry; `codi.convert` sets the
latter's switches. The same instance takes pictures (temporal modules stand aside) and clips.
Letters: B batch, C channels, F frames, H W, T M time and bands of a sound's latent, L prompt tokens, D their
width. A picture is (B, C, H, W), a clip (B, C, F, H, W), a sound (B, C, T, M).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config

# diffusers' own loader looks for it beside a class
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from torch import Tensor, nn

from codi.layers import repeated, zeroed
from codi.models.denoisers.blocks import Block, Downsample, ResidualBlock, Signals, Upsample
from codi.models.denoisers.frames import FrameTransformer
from codi.models.denoisers.norm import GroupNorm
from codi.models.denoisers.skeleton import (
    CachedPrompt,
    Skeleton,
    build_joint,
    build_per_frame_attention,
    build_transformer,
    per_level,
)
from codi.models.denoisers.temporal import TemporalModule
from codi.protocols import Control, Environment, Weakening


class UNetDenoiser(Skeleton):
    """The denoiser of latents that are feature maps.

    Args:
        in_channels: latent channels.
        out_channels: channels of the prediction, if not the same.
        block_out_channels: width of each level; between levels space halves (rounded up).
        layers_per_block: residual blocks per level (one number or one each) on the way down; one more on the
            way up.
        attention_levels: levels with a transformer over space; the middle always has one.
        temporal_levels: levels with temporal modules; where the last level has them, so has the middle.
        temporal: arguments of `TemporalModule`.
        frame_transformer: arguments of a `FrameTransformer` in the middle, None for none.
        num_heads: heads of attention over space; give this or `head_dim`.
        head_dim: width of a head; 32 if neither is given.
        context_dim: D, width of prompt tokens.
        prompt: "projection": one prompt token, which is added; "attention": any number (and the released
            parameters).
        prompt_embedding: whether the mean prompt token is also embedded and added to the embedded timestep.
        ff_mult: inner width of a transformer's feed-forward in multiples of its width.
        scale_shift: whether the embedding scales and shifts the second norm of residual blocks; else it is
            added before that norm.
        upsample_conv: whether a 3x3 convolution follows upsampling.
        position_embedding: whether each position of the latent is told its row and column.
        norm_num_groups: groups of every GroupNorm.
        time_axis: the axis of a 4-D latent that is time: 2 for sound, None for pictures.
        latent_rate: latent steps per second, None without time; for a vision model, those of clips.
        num_frames: latent frames of a clip as the model makes it unasked.
        env_dim: width of environment tokens, None for a model that attends to no partners.
        joint: the kind of joint adapter, "timed" or "pooled" (see `build_joint`).
        joint_levels: levels that have one; where "timed" and the last level has one, so has the middle.
        joint_heads: heads of a joint adapter; None: as many as attention over space would have.
        joint_config: further arguments of `JointAttention`.
        joint_parts: those of "down", "middle" and "up" that have joint adapters; without "down",
            gradients need not pass through that part.
        joint_per_frame: whether latents with time attend to partners once for each frame or column. Blocks
            then add the same everywhere in a frame, and the frame transformer (which has a
            `PerFrameJointAttention`) adds to each place what belongs there.
        joint_per_frame_config: further arguments of that `PerFrameJointAttention`.
        first_skip: "own", or "middle" for the released model's lost skip (see `Skeleton.trunk`).
    """

    conditions = ("prompt", "partners", "control")

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int | None = None,
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int | tuple[int, ...] = 1,
        attention_levels: tuple[int, ...] = (1,),
        temporal_levels: tuple[int, ...] = (),
        temporal: dict | None = None,
        frame_transformer: dict | None = None,
        num_heads: int | None = None,
        head_dim: int | None = None,
        context_dim: int = 128,
        prompt: str = "projection",
        prompt_embedding: bool = False,
        ff_mult: int = 4,
        scale_shift: bool = False,
        upsample_conv: bool = True,
        position_embedding: bool = False,
        norm_num_groups: int = 32,
        time_axis: int | None = None,
        latent_rate: float | None = None,
        num_frames: int | None = None,
        env_dim: int | None = None,
        joint: str = "timed",
        joint_levels: tuple[int, ...] = (),
        joint_heads: int | None = None,
        joint_config: dict | None = None,
        joint_parts: tuple[str, ...] = ("down", "middle", "up"),
        joint_per_frame: bool = False,
        joint_per_frame_config: dict | None = None,
        first_skip: str = "own",
    ):
        super().__init__()
        width = block_out_channels[0]
        self.emb_dim = self.build_embedding(width, context_dim, prompt_embedding)
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.position = GridPosition(width) if position_embedding else None
        self.build_layers()
        self.norm_out = GroupNorm(norm_num_groups, width, eps=1e-5)
        self.conv_out = zeroed(nn.Conv2d(width, out_channels or in_channels, 3, padding=1))

    def build_layers(self) -> None:
        """Build `down`, `middle` and `up`, with one entry for each skip connection."""
        config = self.config
        widths = config.block_out_channels
        last = len(widths) - 1
        depths = per_level(config.layers_per_block, len(widths))
        self.down = nn.ModuleList()
        skips = [widths[0]]
        at = widths[0]
        for level, width in enumerate(widths):
            for _ in range(depths[level]):
                self.down.append(self.build_block("down", level, at, width))
                at = width
                skips.append(at)
            if level < last:
                self.down.append(Downsample(at))
                skips.append(at)
        self.middle = self.build_middle(last, at)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(depths[level] + 1):
                ends = level > 0 and i == depths[level]
                upsample = Upsample(width, config.upsample_conv) if ends else None
                block = self.build_block("up", level, at + skips.pop(), width, upsample=upsample)
                self.up.append(block)
                at = width

    def build_block(
        self, part: str, level: int, in_channels: int, channels: int, upsample: Upsample | None = None
    ) -> Block:
        """Build one block of the encoder or decoder, with the layers that its level has."""
        config = self.config
        resnet = self.build_residual(in_channels, channels)
        temporal = self.build_temporal(level, channels)
        attention = None
        if level in config.attention_levels:
            attention = build_transformer(config, channels, config.context_dim, config.prompt)
        joint = None
        if part in config.joint_parts and level in config.joint_levels:
            joint = build_joint(config, channels)
        return Block(resnet, temporal=temporal, attention=attention, joint=joint, upsample=upsample)

    def build_middle(self, last: int, channels: int) -> nn.ModuleList:
        """Build the two blocks of the middle, which belong to the level `last`."""
        config = self.config
        resnet = self.build_residual(channels, channels)
        temporal = self.build_temporal(last, channels)
        attention = build_transformer(config, channels, config.context_dim, config.prompt)
        joint = None
        if config.joint == "timed" and "middle" in config.joint_parts and last in config.joint_levels:
            joint = build_joint(config, channels)
        mixer = self.build_frame_mixer(channels)
        first = Block(resnet, temporal=temporal, attention=attention, joint=joint, frame_mixer=mixer)
        resnet = self.build_residual(channels, channels)
        return nn.ModuleList([first, Block(resnet, temporal=self.build_temporal(last, channels))])

    def build_residual(self, in_channels: int, channels: int) -> ResidualBlock:
        """Build a residual block."""
        config = self.config
        return ResidualBlock(
            in_channels,
            channels,
            self.emb_dim,
            num_groups=config.norm_num_groups,
            scale_shift=config.scale_shift,
        )

    def build_temporal(self, level: int, channels: int) -> TemporalModule | None:
        """Build the temporal module of a block, or return None at a level without."""
        config = self.config
        if level not in config.temporal_levels:
            return None
        return TemporalModule(channels, num_groups=config.norm_num_groups, **(config.temporal or {}))

    def build_frame_mixer(self, channels: int) -> FrameTransformer | None:
        """Build the frame transformer of the middle, or return None where none is configured."""
        config = self.config
        if config.frame_transformer is None:
            return None
        joint = (
            (lambda dim, size: build_per_frame_attention(config, dim, size))
            if config.joint_per_frame and config.env_dim
            else None
        )
        return FrameTransformer(channels, self.emb_dim, **config.frame_transformer, joint=joint)

    def control_sites(self) -> tuple[tuple[int, int], ...]:
        """Return channels and level of the features after the first convolution and after every layer."""
        sites = [(self.conv_in.out_channels, 0)]
        for layer in (*self.down, *self.middle, *self.up):
            channels, level = sites[-1]
            if isinstance(layer, Downsample):
                sites.append((channels, level + 1))
            else:
                sites.append((layer.resnet.out_channels, level - (layer.upsample is not None)))
        return tuple(sites)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: Tensor | CachedPrompt,
        partners: Environment | None = None,
        rate: float | None = None,
        weakening: Weakening | None = None,
        control: Sequence[Control] = (),
    ) -> Tensor:
        """Predict the noise (or v) in latents.

        There may be n times as many contexts as samples (guidance): (n B, L, D), for the whole batch n times,
        one after another. What comes before the first prompt is then computed once, and the result is (n B,
        ...). An environment has a row for each context that attends to it; those contexts come first, and the
        others attend to no partners.

        Args:
            x: noisy latents (B, C, H, W), (B, C, F, H, W) or (B, C, T, M).
            t: their timesteps (B,).
            prompt: prompt tokens (B, L, D), or what `precompute` made of them.
            partners: the environment of the partners, or None.
            rate: latent steps per second, if not the configured ones.
            weakening: which blocks are made worse in this call, with one context for each sample.
            control: what is added to the features at each of `control_sites`.

        Returns:
            The prediction, a tensor of the shape of x but for `out_channels` and the repeated batch.
        """
        assert x.ndim in (4, 5), f"a latent has 4 or 5 axes, got {tuple(x.shape)}"
        cached = self.prepared(prompt, x, weakening)
        signals = replace(self.signals(x, t, cached, partners, rate), control=control)
        h = self.conv_in(fold_frames(x))
        if self.position is not None:
            h = h + self.position(h)
        h = self.trunk(repeated(h, len(signals.emb) * (signals.frames or 1)), signals, iter(cached.layers))
        return unfold_frames(self.conv_out(torch.nn.functional.silu(self.norm_out(h))), x)

    def signals(
        self, x: Tensor, t: Tensor, prompt: CachedPrompt, env: Environment | None, rate: float | None
    ) -> Signals:
        """Return what the layers use in one pass besides their feature maps.

        Args:
            x: noisy latents, as in `forward`.
            t: their timesteps (B,).
            prompt: what `precompute` made of the prompt.
            env: the environment of the partners, or None.
            rate: latent steps per second, if not the configured ones.

        Returns:
            The signals, without a layer's cache.
        """
        video = x.ndim == 5
        timed = video or self.config.time_axis is not None
        return Signals(
            emb=self.embed(t, prompt),
            context=prompt.context,
            env=env,
            per_frame=timed and self.config.joint_per_frame,
            frames=x.shape[2] if video else None,
            time_axis=None if video else self.config.time_axis,
            length=x.shape[2] if timed else None,
            rate=(rate or self.config.latent_rate) if timed else None,
        )


class GridPosition(nn.Module):
    """Tells each position of a map its row and column, by sines of both and one linear layer, at any extent.

    Args:
        channels: C, a multiple of 4.
        longest: the lowest frequency is about 1 / longest radians a step.
    """

    def __init__(self, channels: int, longest: float = 256.0):
        super().__init__()
        assert channels % 4 == 0, f"position_embedding needs a width that divides by 4, got {channels}"
        self.longest = longest
        self.quarter = channels // 4
        self.linear = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Return the embedding (1, C, H, W) for a map of the extent of h."""
        height, width = h.shape[-2:]
        rows = self.sinusoids(height, h.device)[:, None].expand(-1, width, -1)
        columns = self.sinusoids(width, h.device)[None].expand(height, -1, -1)
        grid = torch.cat([rows, columns], dim=-1)  # (H, W, C)
        return self.linear(grid.to(h.dtype)).permute(2, 0, 1)[None]

    def sinusoids(self, count: int, device: torch.device) -> Tensor:
        """Return sines and cosines (count, C/2) of the places along one side."""
        scale = torch.arange(self.quarter, device=device, dtype=torch.float32) / self.quarter
        angles = torch.arange(count, device=device)[:, None] * self.longest**-scale
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def fold_frames(x: Tensor) -> Tensor:
    """Fold frames into the batch, from (B, C, F, H, W) to (B*F, C, H, W); any other shape stays.

    The result is channels-last in memory, which is quick for convolutions.
    """
    if x.ndim == 5:
        x = x.transpose(1, 2).flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last)


def unfold_frames(y: Tensor, like: Tensor) -> Tensor:
    """Undo `fold_frames`: return y in the layout of `like`."""
    if like.ndim == 5:
        y = y.unflatten(0, (-1, like.shape[2])).transpose(1, 2)
    return y.contiguous()
