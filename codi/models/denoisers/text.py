"""TextDenoiser: predicts the noise (or v) in the latent vector of a text.

As released with CoDi (after Versatile Diffusion, arXiv 2211.08332): the vector becomes features of C channels at S places,
a map of (S, 1). Residual blocks are fully connected over all C*S numbers; attention sees S tokens.
"""

import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from codi.models.denoisers.attention import zeroed
from codi.models.denoisers.blocks import Block, Signals
from codi.models.denoisers.pooled import one_token
from codi.models.denoisers.skeleton import Skeleton, at_levels, build_joint, build_transformer
from codi.protocols import Environment


class TextDenoiser(Skeleton):
    """Denoiser of (B, in_channels).

    in_channels         width of the latent
    block_out_channels  channels C of each level; second_dim: places S of each level
    the rest            as in `UNetDenoiser`
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        block_out_channels: tuple[int, ...] = (64, 64),
        second_dim: tuple[int, ...] = (4, 4),
        layers_per_block: int = 1,
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
        environment: dict | None = None,
        first_skip: str = "own",
    ):
        super().__init__()
        width, places = block_out_channels[0], second_dim[0]
        self.emb_dim = self.build_embedding(width, context_dim, prompt_embedding)
        self.proj_in = nn.Linear(in_channels, width * places)
        self.build_layers()
        self.norm_out = nn.GroupNorm(norm_num_groups, width, eps=1e-5)
        self.proj_out = zeroed(nn.Linear(width * places, in_channels))
        self.environment_encoder = VectorEnvironment(in_channels, self.emb_dim, **environment) if environment else None

    def build_layers(self) -> None:
        config = self.config
        levels = list(zip(config.block_out_channels, config.second_dim, strict=True))
        last, groups = len(levels) - 1, config.norm_num_groups
        attention = at_levels(config.attention_levels, lambda c: build_transformer(config, c, config.context_dim, config.prompt))
        joint = at_levels(config.joint_levels, lambda c: build_joint(config, c))
        self.down, (at, _), skips = nn.ModuleList(), levels[0], [levels[0][0]]
        for level, (width, places) in enumerate(levels):
            for _ in range(config.layers_per_block):
                dense = DenseBlock(at, width, places, self.emb_dim, groups)
                self.down.append(Block(dense, attention=attention(level, width), joint=joint(level, width)))
                at = width
                skips.append(at)
            if level < last:
                self.down.append(Remap(at, places, levels[level + 1][1]))
                skips.append(at)
        places = levels[-1][1]
        self.middle = nn.ModuleList([
            Block(DenseBlock(at, at, places, self.emb_dim, groups), attention=build_transformer(config, at, config.context_dim, config.prompt),
                  joint=joint(last, at) if config.joint == "timed" else None),
            Block(DenseBlock(at, at, places, self.emb_dim, groups)),
        ])
        self.up = nn.ModuleList()
        for level, (width, places) in reversed(list(enumerate(levels))):
            for i in range(config.layers_per_block + 1):
                ends = level > 0 and i == config.layers_per_block
                upsample = Remap(width, places, levels[level - 1][1]) if ends else None
                dense = DenseBlock(at + skips.pop(), width, places, self.emb_dim, groups)
                self.up.append(Block(dense, attention=attention(level, width), joint=joint(level, width), upsample=upsample))
                at = width

    def forward(self, x: Tensor, t: Tensor, context: Tensor, env: Environment | None = None, rate: float | None = None) -> Tensor:
        """x (B, in_channels), t (B,), context (B, L, D), env of the partners or None; `rate` is for latents with time."""
        assert x.ndim == 2, f"a text latent is (B, C), got {tuple(x.shape)}"
        h = self.proj_in(x).unflatten(1, (self.config.block_out_channels[0], self.config.second_dim[0], 1))
        h = self.trunk(h, Signals(emb=self.embed(t, context), context=context, env=env))
        return self.proj_out(F.silu(self.norm_out(h)).flatten(1))

    def encode_environment(self, x: Tensor, t: Tensor) -> Environment:
        """This modality's pooled token, by the encoder that belongs to the released denoiser."""
        assert self.environment_encoder is not None, "this denoiser has no environment encoder of its own"
        return self.environment_encoder(x, self.embed(t, x.new_zeros(x.shape[0], 1, self.config.context_dim)))


class DenseBlock(nn.Module):
    """Residual block over all numbers of a (B, C, S, 1) map; norms are over C*S channels."""

    def __init__(self, in_channels: int, out_channels: int, places: int, emb_dim: int, num_groups: int):
        super().__init__()
        self.shape = (out_channels, places, 1)
        source, target = in_channels * places, out_channels * places
        self.norm1 = nn.GroupNorm(num_groups, source, eps=1e-5)
        self.linear1 = nn.Linear(source, target)
        self.time_emb_proj = nn.Linear(emb_dim, target)
        self.norm2 = nn.GroupNorm(num_groups, target, eps=1e-5)
        self.linear2 = zeroed(nn.Linear(target, target))
        self.shortcut = nn.Linear(source, target) if source != target else nn.Identity()

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        h = h.flatten(1)
        y = self.linear1(F.silu(self.norm1(h))) + self.time_emb_proj(signals.emb)
        return (self.shortcut(h) + self.linear2(F.silu(self.norm2(y)))).unflatten(1, self.shape)


class Remap(nn.Module):
    """What resampling is for text: one linear map of all numbers, from S to S' places."""

    def __init__(self, channels: int, places: int, to_places: int):
        super().__init__()
        self.shape = (channels, to_places, 1)
        self.linear = nn.Linear(channels * places, channels * to_places)

    def forward(self, h: Tensor, signals: object = None) -> Tensor:
        return self.linear(h.flatten(1)).unflatten(1, self.shape)


class VectorEnvironment(nn.Module):
    """The released environment encoder of text: (B, in_channels) -> one token. See `pooled.MapEnvironment`."""

    def __init__(
        self, in_channels: int, emb_dim: int, *, stem: int, block_out_channels: tuple[int, ...], second_dim: tuple[int, ...],
        layers_per_block: tuple[int, ...], out_channels: int, norm_num_groups: int = 32,
    ):
        super().__init__()
        self.shape = (stem, second_dim[0], 1)
        self.proj_in = nn.Linear(in_channels, stem * second_dim[0])
        self.layers, at, before = nn.ModuleList(), stem, second_dim[0]
        for level, (width, places, count) in enumerate(zip(block_out_channels, second_dim, layers_per_block, strict=True)):
            if level:
                self.layers.append(Remap(at, before, places))
            for _ in range(count):
                self.layers.append(Block(DenseBlock(at, width, places, emb_dim, norm_num_groups)))
                at = width
            before = places
        self.norm_out = nn.GroupNorm(norm_num_groups, at, eps=1e-5)
        self.proj_out = nn.Linear(at * before, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Environment:
        """x (B, in_channels), emb (B, E) from `Skeleton.embed`."""
        h = self.proj_in(x).unflatten(1, self.shape)
        for layer in self.layers:
            h = layer(h, Signals(emb=emb, context=emb[:, None]))
        return one_token(self.proj_out(F.silu(self.norm_out(h)).flatten(1)))
