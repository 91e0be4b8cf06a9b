"""The pass that every denoiser makes: embed, down, middle, up, out. What the layers are is for `unet` and
`text` to say.

Encoder and decoder are flat lists, one entry per skip connection, in the order of execution (LDM, arXiv
2112.10752).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from codi import protocols
from codi.joint.attention import JointAttention, PerFrameJointAttention
from codi.layers import repeated
from codi.models.denoisers.attention import SpatialTransformer
from codi.models.denoisers.blocks import Block, LayerCache, Signals
from codi.models.denoisers.frames import FrameTransformer


@dataclass(frozen=True, kw_only=True)
class CachedPrompt:
    """A prompt, and all that a denoiser makes of it whatever the noise level: made once, good for every step.

    context    (B, L, D) prompt tokens
    embedding  (B, E) what joins the noise level's embedding, None where nothing does
    layers     what is known of each, in the order of execution
    """

    context: Tensor
    embedding: Tensor | None
    layers: tuple[LayerCache, ...]


class Skeleton(ModelMixin, PeftAdapterMixin, ConfigMixin, protocols.Denoiser):
    """Base of the denoisers. A subclass fills `down`, `middle`, `up` with layers that take (h,
    signals, ...).
    """

    # What `codi.adapters` has put into it. It belongs to the part: pipelines of the same parts have the same
    # LoRAs.
    lora_scales: Mapping[str, float] = MappingProxyType({})  # by name
    lora_files: Mapping[str, Mapping[str, str]] = MappingProxyType({})  # path and sha256 by name, for records
    lora_acts: bool = True  # False: all are set aside
    # the weights as they were before some were added to them, by layer
    lora_fused: Mapping[str, Tensor] | None = None
    lora_fused_names: tuple[str, ...] = ()
    batches_prompts = True
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _no_split_modules = ["Block"]
    # all alike; of "Block" there are more kinds than torch.compile keeps of one function
    _repeated_blocks = ["TransformerBlock"]
    _skip_layerwise_casting_patterns = ["norm", "position", "time_embedding"]

    def build_embedding(self, width: int, context_dim: int, prompt_embedding: bool) -> int:
        """Layers that embed the noise level, and the prompt beside it if so wished. Returns their width, 4 x
        `width`.
        """
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.prompt_mlp = TimestepEmbedding(context_dim, 4 * width) if prompt_embedding else None
        return 4 * width

    @apply_forward_hook
    def precompute(self, context: Tensor | CachedPrompt, x: Tensor) -> CachedPrompt:
        """What `forward` takes in place of prompt tokens (B, L, D), for many calls with the same prompt and
        latents shaped like x.
        """
        if isinstance(context, CachedPrompt):
            return context
        frames = x.shape[2] if x.ndim == 5 else None
        return CachedPrompt(
            context=context,
            embedding=None if self.prompt_mlp is None else self.prompt_mlp(context.mean(1)),
            layers=tuple(
                LayerCache.of(layer, context, frames) for layer in (*self.down, *self.middle, *self.up)
            ),
        )

    def joint_adapters(self) -> dict[str, nn.Module]:
        """Returns the modules by which it attends to its partners, by their names in it."""
        found = {}
        for name, layer in self.named_modules():
            if isinstance(layer, Block) and layer.joint is not None:
                found[f"{name}.joint"] = layer.joint
            if isinstance(layer, FrameTransformer) and layer.joint is not None:
                found[f"{name}.joint"] = layer.joint
        return found

    def embed(self, t: Tensor, prompt: CachedPrompt) -> Tensor:
        """SiLU of the embedded noise level, (B, E), plus the mean prompt token's embedding where
        configured.
        """
        weight = self.time_embedding.linear_1.weight
        emb = self.time_embedding(self.time_proj(t).to(weight.dtype))
        if prompt.embedding is not None:
            emb = repeated(emb, len(prompt.embedding)) + prompt.embedding
        return F.silu(emb)

    def trunk(self, h: Tensor, signals: Signals, cache: Iterator[LayerCache]) -> Tensor:
        """Encoder, middle and decoder over the feature map `h`.

        `first_skip="middle"` is what the released joint model does: its first decoder block receives the
        middle's result a second time, and the last encoder block's result is lost (two names for one list).
        """
        skips = [h]
        for layer in self.down:
            h = self.step(layer, h, signals.at(next(cache)))
            skips.append(h)
        for layer in self.middle:
            h = self.step(layer, h, signals.at(next(cache)))
        if self.config.first_skip == "middle":
            skips[-1] = h
        for layer in self.up:
            h = torch.cat([h, repeated(skips.pop(), len(h))], dim=1)
            h = self.step(layer, h, signals.at(next(cache)), skips[-1].shape[-2:] if skips else None)
        return h

    def step(self, layer: nn.Module, *inputs) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(layer, *inputs)
        return layer(*inputs)


def head_split(channels: int, num_heads: int | None, head_dim: int | None) -> dict[str, int]:
    """Number and width of heads; `num_heads` decides where given, else `head_dim` (32 where neither is)."""
    heads = num_heads or max(channels // (head_dim or 32), 1)
    return dict(num_heads=heads, head_dim=channels // heads)


def per_level(count: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """One count per level, from one for all or a sequence."""
    counts = (count,) * levels if isinstance(count, int) else tuple(count)
    assert len(counts) == levels, f"layers_per_block {counts} for {levels} levels"
    return counts


def build_transformer(config, channels: int, context_dim: int, prompt: str) -> SpatialTransformer:
    """The transformer over positions at a width of `channels`."""
    return SpatialTransformer(
        channels,
        **head_split(channels, config.num_heads, config.head_dim),
        context_dim=context_dim,
        prompt=prompt,
        ff_mult=config.ff_mult,
        num_groups=config.norm_num_groups,
    )


def build_joint(config, channels: int) -> nn.Module | None:
    """The adapter by which a block hears the partners: None where the model has none.

    "timed": `codi.joint.attention.JointAttention`. "pooled": the released design, a whole spatial transformer
    whose context is one pooled token.
    """
    if config.env_dim is None:
        return None
    if config.joint == "pooled":
        return build_transformer(config, channels, config.env_dim, "attention")
    return JointAttention(
        channels, config.env_dim, joint_heads(config, channels), **(config.joint_config or {})
    )


def build_per_frame_attention(config, dim: int, size: int) -> nn.Module:
    """What listens in a frame transformer with tokens of `dim`, for frames of `size` numbers."""
    options = {**(config.joint_config or {}), **(config.joint_per_frame_config or {})}
    return PerFrameJointAttention(dim, size, config.env_dim, joint_heads(config, dim), **options)


def joint_heads(config, channels: int) -> int:
    """Heads of an adapter: its own number where configured, else as many as attention over space
    would have.
    """
    return config.joint_heads or head_split(channels, config.num_heads, config.head_dim)["num_heads"]


def at_levels(
    levels: tuple[int, ...] | list[int], build: Callable[[int], nn.Module | None]
) -> Callable[[int, int], nn.Module | None]:
    """`build(channels)` on the named levels, None on the others."""
    return lambda level, channels: build(channels) if level in levels else None
