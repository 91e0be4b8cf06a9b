"""The released way to listen: an environment pooled to one token (`connecters_out` of the released code).

A small encoder reads the noisy latent and the noise level and gives one L2-normalised token. It has no time, so nothing
that attends to it can be in time; kept for the released weights. Each belongs to a denoiser, whose noise-level
embedding it shares. The other half, attention to the token, is a spatial transformer in the denoiser's blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi.models.denoisers.blocks import Block, Downsample, ResidualBlock, Signals
from codi.models.denoisers.temporal import TemporalModule
from codi.protocols import Environment


class MapEnvironment(nn.Module):
    """Latents of pictures, videos and sounds -> one token.

    block_out_channels  width at each level; `stem` the width before
    temporal            arguments of `TemporalModule` behind each residual block, None for a modality without frames
    """

    def __init__(
        self, in_channels: int, emb_dim: int, *, stem: int, block_out_channels: tuple[int, ...], layers_per_block: tuple[int, ...],
        out_channels: int, temporal: dict | None = None, norm_num_groups: int = 32,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, stem, 3, padding=1)
        self.layers, at = nn.ModuleList(), stem
        for level, (width, count) in enumerate(zip(block_out_channels, layers_per_block, strict=True)):
            if level:
                self.layers.append(Downsample(at))
            for _ in range(count):
                module = None if temporal is None else TemporalModule(width, num_groups=norm_num_groups, **temporal)
                self.layers.append(Block(ResidualBlock(at, width, emb_dim, num_groups=norm_num_groups), temporal=module))
                at = width
        self.norm_out = nn.GroupNorm(norm_num_groups, at, eps=1e-5)
        self.conv_out = nn.Conv2d(at, out_channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Environment:
        """x a latent of 4 or 5 axes, emb (B, E) from `Skeleton.embed`."""
        video = x.ndim == 5
        h = self.conv_in(x.transpose(1, 2).flatten(0, 1) if video else x)
        signals = Signals(emb=emb, context=emb[:, None], frames=x.shape[2] if video else None)
        for layer in self.layers:
            h = layer(h, signals)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return one_token(h.unflatten(0, (x.shape[0], -1)).mean(dim=(1, 3, 4)))


def one_token(pooled: Tensor) -> Environment:
    """(B, D) -> an environment of one timeless, normalised token."""
    tokens = F.normalize(pooled, dim=-1)[:, None]
    return Environment(tokens=tokens, times=torch.full(tokens.shape[:2], float("nan"), device=tokens.device))
