"""The released environment encoders: an environment is one pooled token (`connecters_out` there).

A small encoder reads the noisy latent and the timestep and gives one L2-normalised token. The token has no
time, so nothing that attends to it can be in time; this is kept for the released weights. The other half,
attention to the token, is a spatial transformer in the denoiser's blocks (`joint="pooled"`). As released,
each denoiser attends to its own token; the paper draws the arrows crossed. Both work, and the argument
`environment` says which it is.
Letters: B batch, C channels, F frames, H W, S places of a text, D width of the token, E width of the embedded
timestep.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from codi import protocols
from codi.models.denoisers.blocks import Block, Downsample, LayerCache, ResidualBlock, Signals
from codi.models.denoisers.norm import GroupNorm
from codi.models.denoisers.temporal import TemporalModule
from codi.models.denoisers.text import DenseBlock, Remap
from codi.protocols import Environment
from codi.types import InputError, Modality

# The encoder that serves each modality.
KINDS = {Modality.TEXT: "text", Modality.IMAGE: "vision", Modality.VIDEO: "vision", Modality.AUDIO: "audio"}


class PooledEnvironmentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):
    """The released environment encoders, one for each kind of latent.

    Args:
        text: arguments of `VectorEncoder`, None for none.
        vision: arguments of `MapEncoder`, None for none.
        audio: arguments of `MapEncoder`, None for none.
        environment: "own": each denoiser attends to its own token, as released, so that nothing passes
            between outputs; "exchanged": it attends to those of the others, as the paper draws it.
    """

    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        text: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        audio: dict[str, Any] | None = None,
        environment: str = "own",
    ):
        super().__init__()
        if environment not in ("own", "exchanged"):
            raise InputError(
                f"environment is {environment!r}: expected own (as released) or exchanged (as in the paper)"
            )
        kinds = {"text": (VectorEncoder, text), "vision": (MapEncoder, vision), "audio": (MapEncoder, audio)}
        self.encoders = nn.ModuleDict()
        for name, (kind, config) in kinds.items():
            if config:
                self.encoders[name] = kind(**config)

    def by_modality(self) -> dict[Modality, "PooledEncoder"]:
        """Return the encoders under their modalities; pictures and clips share one."""
        return {modality: self.encoders[kind] for modality, kind in KINDS.items() if kind in self.encoders}

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return, for each modality, those that it attends to."""
        names = set(self.by_modality())
        if self.config.environment == "own":
            return {m: {m} for m in names}
        return {m: names - {m} for m in names}


class PooledEncoder(nn.Module, protocols.EnvironmentEncoder):
    """The base of both kinds of encoder: levels of blocks that lead from a latent to one token.

    Args:
        emb_width: width of the timestep's sines and cosines; E is 4 times as much.
        stem: width before the first level.
        block_out_channels: width of each level.
        layers_per_block: blocks of each level.
        block: makes a block: `block(in, out, level)`.
        between: makes what leads to a level from the one before: `between(width, level)`.
        norm_num_groups: groups of the last GroupNorm.
    """

    def __init__(
        self,
        emb_width: int,
        stem: int,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        *,
        block: Callable[[int, int, int], nn.Module],
        between: Callable[[int, int], nn.Module],
        norm_num_groups: int,
    ):
        super().__init__()
        self.time_proj = Timesteps(emb_width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(emb_width, 4 * emb_width)
        self.layers = nn.ModuleList()
        at = stem
        for level, (width, count) in enumerate(zip(block_out_channels, layers_per_block, strict=True)):
            if level:
                self.layers.append(between(at, level))
            for _ in range(count):
                self.layers.append(block(at, width, level))
                at = width
        self.norm_out = GroupNorm(norm_num_groups, at, eps=1e-5)

    def precompute(self, x: Tensor) -> list[LayerCache]:
        """Return, for `forward`, what of each layer is the same in many calls with latents shaped like x."""
        frames = x.shape[2] if x.ndim == 5 else None
        return [LayerCache.of(layer, None, frames) for layer in self.layers]

    def forward(
        self, x: Tensor, t: Tensor, rate: float | None = None, cache: list[LayerCache] | None = None
    ) -> Environment:
        """Encode noisy latents into their environment.

        Args:
            x: noisy latents (B, *latent_shape).
            t: their timesteps (B,).
            rate: without effect, because the token is timeless.
            cache: what `precompute` gave for latents of this shape, or None.

        Returns:
            The environment, of one token (B, 1, D) without time.
        """
        emb = F.silu(self.time_embedding(self.time_proj(t).to(x.dtype)))
        pooled = self.pool(x, emb, self.precompute(x) if cache is None else cache)
        tokens = F.normalize(pooled, dim=-1)[:, None]  # (B, 1, D)
        return Environment(
            tokens=tokens, times=torch.full(tokens.shape[:2], float("nan"), device=tokens.device)
        )

    def pool(self, x: Tensor, emb: Tensor, cache: list[LayerCache]) -> Tensor:
        """Return the token (B, D), not yet normalised, of latents x and their embedded timesteps (B, E)."""
        raise NotImplementedError


class MapEncoder(PooledEncoder):
    """The encoder for latents of pictures, clips and sounds.

    Args:
        in_channels: channels of the latent.
        emb_width: first width of the denoiser, from which the width of the timestep's embedding follows.
        stem: width before the first level.
        block_out_channels: width of each level.
        layers_per_block: blocks of each level.
        out_channels: D, the width of the token.
        temporal: arguments of `TemporalModule` behind each residual block, None for a modality without
            frames.
        norm_num_groups: groups of every GroupNorm.
    """

    def __init__(
        self,
        in_channels: int,
        emb_width: int,
        stem: int,
        block_out_channels: tuple[int, ...],
        layers_per_block: tuple[int, ...],
        out_channels: int,
        temporal: dict[str, Any] | None = None,
        norm_num_groups: int = 32,
    ):

        def block(before: int, width: int, level: int) -> Block:
            module = None
            if temporal is not None:
                module = TemporalModule(width, num_groups=norm_num_groups, **temporal)
            resnet = ResidualBlock(before, width, 4 * emb_width, num_groups=norm_num_groups)
            return Block(resnet, temporal=module)

        def between(width: int, level: int) -> Downsample:
            return Downsample(width)

        levels = (emb_width, stem, block_out_channels, layers_per_block)
        super().__init__(*levels, block=block, between=between, norm_num_groups=norm_num_groups)
        self.conv_in = nn.Conv2d(in_channels, stem, 3, padding=1)
        self.conv_out = nn.Conv2d(block_out_channels[-1], out_channels, 3, padding=1)

    def pool(self, x: Tensor, emb: Tensor, cache: list[LayerCache]) -> Tensor:
        """Run the layers on a map, and return the mean over all positions and frames, (B, D)."""
        video = x.ndim == 5
        pictures = x.transpose(1, 2).flatten(0, 1) if video else x
        h = self.conv_in(pictures.contiguous(memory_format=torch.channels_last))
        signals = Signals(emb=emb, context=emb[:, None], frames=x.shape[2] if video else None)
        for layer, of_layer in zip(self.layers, cache, strict=True):
            h = layer(h, signals.at(of_layer))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return h.unflatten(0, (x.shape[0], -1)).mean(dim=(1, 3, 4))


class VectorEncoder(PooledEncoder):
    """The encoder for latents of text.

    Args:
        in_channels: width of the latent.
        emb_width: as in `MapEncoder`.
        stem: width before the first level.
        block_out_channels: width of each level.
        second_dim: S, the places of each level, as in `TextDenoiser`.
        layers_per_block: blocks of each level.
        out_channels: D, the width of the token.
        norm_num_groups: groups of every GroupNorm.
    """

    def __init__(
        self,
        in_channels: int,
        emb_width: int,
        stem: int,
        block_out_channels: tuple[int, ...],
        second_dim: tuple[int, ...],
        layers_per_block: tuple[int, ...],
        out_channels: int,
        norm_num_groups: int = 32,
    ):
        def block(before: int, width: int, level: int) -> Block:
            return Block(DenseBlock(before, width, second_dim[level], 4 * emb_width, norm_num_groups))

        def between(width: int, level: int) -> Remap:
            return Remap(width, second_dim[level - 1], second_dim[level])

        levels = (emb_width, stem, block_out_channels, layers_per_block)
        super().__init__(*levels, block=block, between=between, norm_num_groups=norm_num_groups)
        self.shape = (stem, second_dim[0], 1)
        self.proj_in = nn.Linear(in_channels, stem * second_dim[0])
        self.proj_out = nn.Linear(block_out_channels[-1] * second_dim[-1], out_channels)

    def pool(self, x: Tensor, emb: Tensor, cache: list[LayerCache]) -> Tensor:
        """Run the layers on a vector's features, and return the token (B, D); the cache is not used."""
        h = self.proj_in(x).unflatten(1, self.shape)
        for layer in self.layers:
            h = layer(h, Signals(emb=emb, context=emb[:, None]))
        return self.proj_out(F.silu(self.norm_out(h)).flatten(1))
