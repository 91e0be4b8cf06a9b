"""Parts of a denoiser: residual block, resampling, and the block that runs the layers of one place.

Feature maps are (B*F, C, H, W): the frames of a clip are folded into the batch for all work over space. A
sound is a map of (T, M), a text a map of (S, 1).
Letters: B batch, F frames, C channels, H W, T M time and bands of a sound's latent, L tokens, D their width,
E width of the embedded timestep, N positions, S steps along time, or the places of a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from codi.layers import for_first, repeated, root_mean_square, zeroed
from codi.models.denoisers.attention import SpatialTransformer, to_map, to_tokens
from codi.models.denoisers.norm import GroupNorm, for_conv
from codi.protocols import Control, Environment


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """The results of one layer that depend neither on the latent nor on its timestep.

    They are computed once for many steps.

    Attributes:
        prompt: what attention to a prompt of one token adds, (B, 1, C); None where there is none, or more
            tokens.
        bias: the bias of temporal attention by distance in frames, (1, heads, F, F); None where there is
            none.
        weakening: "skipped" where the layer's transformers are passed over in this call, "perturbed" where
            its self-attention is the identity; None for neither (`codi.protocols.Weakening`).
    """

    prompt: Tensor | None = None
    bias: Tensor | None = None
    weakening: str | None = None

    @classmethod
    def of(cls, layer: nn.Module, context: Tensor | None, frames: int | None) -> "LayerCache":
        """Compute the cache of any layer.

        Args:
            layer: the layer; one without attention has an empty cache.
            context: prompt tokens (B, L, D), or None.
            frames: latent frames of a clip, or None.

        Returns:
            The cache.
        """
        attention = getattr(layer, "attention", None)
        temporal = getattr(layer, "temporal", None)
        return cls(
            prompt=None if attention is None or context is None else attention.block.constant(context),
            bias=None if temporal is None or frames is None else temporal.attention.bias(frames),
        )


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The inputs of every layer in one pass, besides its feature map.

    Attributes:
        emb: SiLU of the embedded timestep, (B, E).
        context: prompt tokens (B, L, D).
        cache: the cache of this layer, if it was computed before.
        env: the environment of the partners, None without any. If it has fewer rows than there are samples,
            the first samples attend to it and the others do not.
        per_frame: whether partners are asked once for each step along time, not at every position.
        frames: latent frames of a clip, None for a latent without frames.
        time_axis: the axis of a feature map that is time (2 for sound), None if none is; the time of a clip
            is `frames`.
        length: steps of the input along time, None without time.
        rate: steps of the input per second, None without time.
        control: what is added to the features after the first convolution and after every layer.
    """

    emb: Tensor
    context: Tensor
    cache: "LayerCache | None" = None
    env: Environment | None = None
    per_frame: bool = False
    frames: int | None = None
    time_axis: int | None = None
    length: int | None = None
    rate: float | None = None
    control: Sequence[Control] = ()

    def steered(self, h: Tensor, site: int) -> Tensor:
        """Return the map `h` (B*F, C, H, W) at a site, with what every control adds to it there."""
        for control in self.control:
            h = h + repeated(control.residual(site, self.emb), len(h))
        return h

    def at(self, cache: "LayerCache") -> "Signals":
        """Return the same signals for one layer, with its cache."""
        return replace(self, cache=cache)

    def samples(self, h: Tensor) -> int:
        """Return how many samples the map `h` holds.

        They are B until the first prompt has entered, then one for each context (see `UNetDenoiser.forward`).
        """
        return h.shape[0] // (self.frames or 1)

    def for_samples(self, y: Tensor, h: Tensor) -> Tensor:
        """Repeat y (B, ...) so that it has one row for each sample in `h`."""
        return repeated(y, self.samples(h))

    def per_row(self, y: Tensor, h: Tensor) -> Tensor:
        """Repeat y (B, C) so that it has one row for each row of `h`: each frame of each sample."""
        y = self.for_samples(y, h)
        return y if self.frames is None else y.repeat_interleave(self.frames, dim=0)

    def step_times(self, h: Tensor) -> Tensor | None:
        """Return the seconds (S,) at the middle of each step of the map `h` along time; None without time."""
        if self.rate is None or (self.frames is None and self.time_axis is None):
            return None
        steps = h.shape[2] if self.frames is None else self.frames
        index = torch.arange(steps, device=h.device, dtype=torch.float32)
        return (index + 0.5) / (self.rate * steps / self.length)

    def times(self, h: Tensor) -> Tensor | None:
        """Return the seconds (N,) of all positions of `h`, flattened over time and space.

        Without time, None is returned.
        """
        seconds = self.step_times(h)
        return (
            None
            if seconds is None
            else seconds.repeat_interleave(h.shape[3] if self.frames is None else h[0, 0].numel())
        )

    def for_attending(self, attend: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        """Repeat the map `h` for each context, and change those samples that attend to the partners.

        Args:
            attend: what changes them.
            h: a map (B*F, C, H, W).

        Returns:
            The map, with one sample for each context.
        """
        frames = self.frames or 1
        return for_first(attend, repeated(h, len(self.context) * frames), len(self.env.tokens) * frames)


class ResidualBlock(ResnetBlock2D):
    """diffusers' residual block, with one timestep for all frames of a sample, and in any memory format.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        emb_dim: E, the width of the embedded timestep.
        num_groups: groups of both norms.
        scale_shift: whether the embedded timestep scales and shifts the second norm (ADM); without it, it is
            only added before that norm.
        eps: added to the variance in both norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        *,
        num_groups: int,
        scale_shift: bool = False,
        eps: float = 1e-5,
    ):
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=emb_dim,
            groups=num_groups,
            eps=eps,
            time_embedding_norm="scale_shift" if scale_shift else "default",
        )
        self.norm1 = GroupNorm(num_groups, in_channels, eps=eps)
        self.norm2 = GroupNorm(num_groups, out_channels, eps=eps)
        # Untrained, the block is its shortcut alone.
        zeroed(self.conv2)

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        """Return a map (B*F, out_channels, H, W) for h (B*F, in_channels, H, W)."""
        emb = signals.per_row(self.time_emb_proj(signals.emb), h)[:, :, None, None]
        y = self.conv1(for_conv(F.silu(self.norm1(h))))
        if self.time_embedding_norm == "scale_shift":
            scale, shift = emb.chunk(2, dim=1)
            y = self.norm2(y) * (1 + scale) + shift
        else:
            y = self.norm2(y + emb)
        y = self.conv2(for_conv(F.silu(y)))
        return y + (h if self.conv_shortcut is None else self.conv_shortcut(h))


class Downsample(nn.Module):
    """A strided 3x3 convolution; an odd extent n becomes (n + 1) / 2.

    Args:
        channels: C, of the map and the result.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        """Return the map h (B*F, C, H, W) at half its extent; `signals` is not used."""
        return self.conv(for_conv(h))


class Upsample(nn.Module):
    """Nearest neighbour to the extent of the coming skip connection, then a 3x3 convolution.

    Args:
        channels: C, of the map and the result.
        conv: False leaves the convolution out.
    """

    def __init__(self, channels: int, conv: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, h: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map h (B*F, C, H, W) at the extent `size`."""
        return self.conv(for_conv(F.interpolate(h, size=size, mode="nearest")))


class Block(nn.Module):
    """A residual block, then whatever this place of the denoiser has.

    In this order: temporal module, transformer, timed joint attention, frame mixer, upsampling, pooled joint
    attention.

    Args:
        resnet: the residual block: `resnet(h, signals) -> h`.
        temporal: mixes the frames of a clip.
        attention: the transformer, which attends to the prompt.
        joint: attends to the partners. Timed: `joint(tokens (B, N, C), env, times (N,) | None) -> tokens`,
            before any upsampling, or with `Signals.per_frame` `joint.attended` of the means over space of
            each step. Pooled: a spatial transformer whose context is the environment's one token, after any
            upsampling.
        upsample: `upsample(h, size) -> h`.
        frame_mixer: mixes whole frames of a clip, or columns of a sound: `frame_mixer(h (B*F, C, H, W), emb
            (B, E), F, env | None, times (F,)) -> h`.
    """

    def __init__(
        self,
        resnet: nn.Module,
        *,
        temporal: nn.Module | None = None,
        attention: nn.Module | None = None,
        joint: nn.Module | None = None,
        upsample: nn.Module | None = None,
        frame_mixer: nn.Module | None = None,
    ):
        super().__init__()
        self.resnet = resnet
        self.temporal = temporal
        self.attention = attention
        self.joint = joint
        self.upsample = upsample
        self.frame_mixer = frame_mixer

    def forward(self, h: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        """Run all layers of the block.

        Args:
            h: a map (B*F, C, H, W).
            signals: what else the layers use, with this block's cache if there is one.
            size: the extent (H, W) to upsample to, where the block does.

        Returns:
            The map, of the residual block's output channels.
        """
        cache = signals.cache or LayerCache()
        skipped = cache.weakening == "skipped"
        h = self.resnet(h, signals)
        if self.temporal is not None and signals.frames is not None and not skipped:
            h = self.temporal(h, signals.frames, cache.bias)
        if self.attention is not None and not skipped:
            perturbed = cache.weakening == "perturbed"
            h = self.attention(h, signals.context, signals.frames or 1, cache.prompt, perturbed)
        attends = self.joint is not None and signals.env is not None
        pooled = isinstance(self.joint, SpatialTransformer)
        if attends and not pooled:
            h = signals.for_attending(lambda attending: self.attend(attending, signals), h)
        if self.frame_mixer is not None and signals.length is not None and not skipped:
            h = self.mix_frames(h, signals)
        if self.upsample is not None:
            h = self.upsample(h, size)
        if attends and pooled:
            h = signals.for_attending(lambda attending: self.attend_pooled(attending, signals), h)
        return h

    def attend_pooled(self, h: Tensor, signals: Signals) -> Tensor:
        """Attend to the one token of a pooled environment; `h` holds the samples that attend to it."""
        tokens = signals.env.tokens
        return self.joint(h, tokens, signals.frames or 1, self.joint.block.constant(tokens))

    def mix_frames(self, h: Tensor, signals: Signals) -> Tensor:
        """Mix the frames of a clip, or the columns of a sound.

        Columns are given to the mixer as if each were a frame of one row.
        """
        emb = signals.for_samples(signals.emb, h)
        env = signals.env
        times = signals.step_times(h)
        if signals.frames is not None:
            return self.frame_mixer(h, emb, signals.frames, env, times)
        columns = h.transpose(1, 2).flatten(0, 1)[:, :, None]  # (B*T, C, 1, M)
        return (
            self.frame_mixer(columns, emb, h.shape[2], env, times)[:, :, 0]
            .unflatten(0, (len(h), -1))
            .transpose(1, 2)
        )

    def attend(self, h: Tensor, signals: Signals) -> Tensor:
        """Attend to the partners; `h` holds the samples that do."""
        if signals.per_frame:
            return self.attend_per_frame(h, signals)
        tokens = to_tokens(h)
        grouped = tokens.reshape(len(signals.env.tokens), -1, tokens.shape[-1])  # (B, F*H*W, C)
        return to_map(self.joint(grouped, signals.env, signals.times(h)).view(tokens.shape), h)

    def attend_per_frame(self, h: Tensor, signals: Signals) -> Tensor:
        """Attend to the partners once for each step along time.

        The result is added at every position of the step.
        """
        clip = signals.frames is not None
        # (B, C, F, H, W) or (B, C, T, M)
        map_ = h.unflatten(0, (-1, signals.frames)).transpose(1, 2) if clip else h
        # Queries are means over space, but the scale is that of the map: what is added must match the stream.
        means = map_.flatten(3).mean(3).transpose(1, 2)  # (B, S, C)
        attended = (
            self.joint.attended(means, signals.env, signals.step_times(h))
            * root_mean_square(map_)[:, None, None]
        )
        return h + (attended.flatten(0, 1)[..., None, None] if clip else attended.transpose(1, 2)[..., None])
