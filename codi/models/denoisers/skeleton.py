"""The pass that every denoiser makes: embed, down, middle, up, out.

The modules `unet`, `text` and `text_sequence` say what the layers are. Encoder and decoder are flat lists,
one entry per skip connection, in the order of execution (LDM, arXiv 2112.10752).
Letters: B batch, C channels, F frames, H W, L prompt tokens, D their width, E width of the embedded timestep.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
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
from codi.protocols import Weakening


@dataclass(frozen=True, kw_only=True)
class CachedPrompt:
    """A prompt, and all that a denoiser computes of it whatever the timestep.

    It is made once and serves every step.

    Attributes:
        context: prompt tokens (B, L, D).
        embedding: what is added to the embedded timestep, (B, E); None where nothing is.
        layers: the cache of each layer, in the order of execution.
    """

    context: Tensor
    embedding: Tensor | None
    layers: tuple[LayerCache, ...]

    def weakened(self, places: Collection[int], how: str) -> "CachedPrompt":
        """Return the same prompt, with layers that are weakened in this call.

        Args:
            places: which layers, counted in the order of execution.
            how: "skipped" or "perturbed", see `LayerCache`.

        Returns:
            The prompt; this one stays as it is.
        """
        layers = [
            replace(layer, weakening=how) if place in places else layer
            for place, layer in enumerate(self.layers)
        ]
        return replace(self, layers=tuple(layers))


class Skeleton(ModelMixin, PeftAdapterMixin, ConfigMixin, protocols.Denoiser):
    """The base of the denoisers.

    A subclass fills `down`, `middle` and `up` with layers that take `(h, signals, ...)`.
    """

    # What `codi.adapters` has put into the denoiser. It belongs to the part: pipelines that share parts share
    # LoRAs, too.
    lora_scales: Mapping[str, float] = MappingProxyType({})  # by name
    lora_files: Mapping[str, Mapping[str, str]] = MappingProxyType({})  # path and sha256 by name, for records
    lora_acts: bool = True  # False: all are set aside
    # the denoiser's own weights by layer, as they were before LoRAs were added to them
    lora_fused: Mapping[str, Tensor] | None = None
    lora_fused_names: tuple[str, ...] = ()
    batches_prompts = True
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _no_split_modules = ["Block"]
    # These are all alike. Of "Block" there are more kinds than torch.compile keeps of one function.
    _repeated_blocks = ["TransformerBlock"]
    _skip_layerwise_casting_patterns = ["norm", "position", "time_embedding"]

    def build_embedding(self, width: int, context_dim: int, prompt_embedding: bool) -> int:
        """Build the layers that embed the timestep, and the prompt beside it if so wished.

        Args:
            width: width of the timestep's sines and cosines.
            context_dim: D, the width of prompt tokens.
            prompt_embedding: whether the mean prompt token is embedded, too.

        Returns:
            E, the width of the embedding, 4 x `width`.
        """
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.prompt_mlp = TimestepEmbedding(context_dim, 4 * width) if prompt_embedding else None
        return 4 * width

    @apply_forward_hook
    def precompute(self, context: Tensor | CachedPrompt, x: Tensor) -> CachedPrompt:
        """Compute what does not depend on the timestep, for many calls with the same prompt.

        Args:
            context: prompt tokens (B, L, D); what was made of them before is returned as it is.
            x: any latent of the shape that will be denoised.

        Returns:
            What `forward` takes in place of prompt tokens.
        """
        if isinstance(context, CachedPrompt):
            return context
        frames = x.shape[2] if x.ndim == 5 else None
        embedding = None if self.prompt_mlp is None else self.prompt_mlp(context.mean(1))
        layers = [LayerCache.of(layer, context, frames) for layer in (*self.down, *self.middle, *self.up)]
        return CachedPrompt(context=context, embedding=embedding, layers=tuple(layers))

    @property
    def transformers(self) -> list[int]:
        """The places, in the order of execution, of the blocks that have a transformer."""
        layers = (*self.down, *self.middle, *self.up)
        return [
            k for k, layer in enumerate(layers) if isinstance(layer, Block) and layer.attention is not None
        ]

    @property
    def num_transformers(self) -> int:
        """How many of the blocks have a transformer that a `Weakening` can name."""
        return len(self.transformers)

    def prepared(self, prompt: Tensor | CachedPrompt, x: Tensor, weakening: Weakening | None) -> CachedPrompt:
        """Return what `precompute` makes of a prompt, with the layers that a weakening names marked.

        Args:
            prompt: prompt tokens (B, L, D), or what was made of them before.
            x: a latent of the shape that is denoised.
            weakening: which blocks are weakened; None for none.

        Returns:
            The prompt and its caches.
        """
        cached = self.precompute(prompt, x)
        if weakening is None:
            return cached
        places = self.transformers
        # the first block of the middle always has a transformer
        chosen = [places[block] for block in weakening.blocks] or [len(self.down)]
        return cached.weakened(chosen, "perturbed" if weakening.perturbs_attention else "skipped")

    def joint_adapters(self) -> dict[str, nn.Module]:
        """Return the modules by which the denoiser attends to its partners, by their names in it."""
        found = {}
        for name, layer in self.named_modules():
            if isinstance(layer, Block) and layer.joint is not None:
                found[f"{name}.joint"] = layer.joint
            if isinstance(layer, FrameTransformer) and layer.joint is not None:
                found[f"{name}.joint"] = layer.joint
        return found

    def embed(self, t: Tensor, prompt: CachedPrompt) -> Tensor:
        """Embed timesteps t (B,) with the prompt, and return SiLU of the embedding, (B, E).

        The mean prompt token's embedding is added where so configured; there is then one row for each prompt.
        """
        weight = self.time_embedding.linear_1.weight
        emb = self.time_embedding(self.time_proj(t).to(weight.dtype))
        if prompt.embedding is not None:
            emb = repeated(emb, len(prompt.embedding)) + prompt.embedding
        return F.silu(emb)

    def trunk(self, h: Tensor, signals: Signals, cache: Iterator[LayerCache]) -> Tensor:
        """Run encoder, middle and decoder over a feature map.

        `first_skip="middle"` is what the released joint model does: its first decoder block receives the
        middle's result a second time, and the last encoder block's result is lost (two names for one list).

        Args:
            h: the map (B*F, C, H, W).
            signals: what the layers use besides.
            cache: the cache of each layer, in the order of execution.

        Returns:
            A map of the same extent.
        """
        site = count()
        h = signals.steered(h, next(site))
        skips = [h]
        for layer in self.down:
            h = signals.steered(self.step(layer, h, signals.at(next(cache))), next(site))
            skips.append(h)
        for layer in self.middle:
            h = signals.steered(self.step(layer, h, signals.at(next(cache))), next(site))
        if self.config.first_skip == "middle":
            skips[-1] = h
        for layer in self.up:
            h = torch.cat([h, repeated(skips.pop(), len(h))], dim=1)
            # A layer that upsamples goes to the extent of the skip connection that comes next.
            h = self.step(layer, h, signals.at(next(cache)), skips[-1].shape[-2:] if skips else None)
            h = signals.steered(h, next(site))
        return h

    def step(self, layer: nn.Module, *inputs) -> Tensor:
        """Run one layer, with gradient checkpointing where that is switched on."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(layer, *inputs)
        return layer(*inputs)


def head_split(channels: int, num_heads: int | None, head_dim: int | None) -> dict[str, int]:
    """Return number and width of heads for attention at a width of `channels`.

    `num_heads` decides where it is given, else `head_dim`, which is 32 where neither is.
    """
    heads = num_heads or max(channels // (head_dim or 32), 1)
    return dict(num_heads=heads, head_dim=channels // heads)


def per_level(count: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """Return one count per level, from one for all levels or a sequence."""
    counts = (count,) * levels if isinstance(count, int) else tuple(count)
    assert len(counts) == levels, f"layers_per_block {counts} for {levels} levels"
    return counts


def build_transformer(config, channels: int, context_dim: int, prompt: str) -> SpatialTransformer:
    """Build the transformer over positions at a width of `channels`, as a denoiser's configuration says."""
    return SpatialTransformer(
        channels,
        **head_split(channels, config.num_heads, config.head_dim),
        context_dim=context_dim,
        prompt=prompt,
        ff_mult=config.ff_mult,
        num_groups=config.norm_num_groups,
    )


def build_joint(config, channels: int) -> nn.Module | None:
    """Build the adapter by which a block of width `channels` attends to the partners.

    The denoiser's configuration says which: "timed" is `codi.joint.attention.JointAttention`; "pooled" is the
    released design, a whole spatial transformer whose context is one pooled token. Where the model attends to
    no partners, None is returned.
    """
    if config.env_dim is None:
        return None
    if config.joint == "pooled":
        return build_transformer(config, channels, config.env_dim, "attention")
    return JointAttention(
        channels, config.env_dim, joint_heads(config, channels), **(config.joint_config or {})
    )


def build_per_frame_attention(config, dim: int, size: int) -> nn.Module:
    """Build what attends to the partners in a frame transformer, as a denoiser's configuration says.

    Its tokens have width `dim`, and its frames are `size` numbers.
    """
    options = {**(config.joint_config or {}), **(config.joint_per_frame_config or {})}
    return PerFrameJointAttention(dim, size, config.env_dim, joint_heads(config, dim), **options)


def joint_heads(config, channels: int) -> int:
    """Return how many heads a joint adapter has at a width of `channels`.

    It is the number that is configured, else as many as attention over space would have.
    """
    return config.joint_heads or head_split(channels, config.num_heads, config.head_dim)["num_heads"]


def at_levels(
    levels: tuple[int, ...] | list[int], build: Callable[[int], nn.Module | None]
) -> Callable[[int, int], nn.Module | None]:
    """Return a function of (level, channels) that gives `build(channels)` on the named levels, else None."""
    return lambda level, channels: build(channels) if level in levels else None
