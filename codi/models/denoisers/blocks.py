"""What a denoiser is built of: residual block, resampling, and the block that strings its layers together.

Feature maps are (B*F, C, H, W): the frames of a video are folded into the batch for all work over space. A
sound is a map of (T, M), a text a map of (S, 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from codi.layers import for_first, repeated, root_mean_square, zeroed
from codi.models.denoisers.attention import SpatialTransformer, to_map, to_tokens
from codi.models.denoisers.norm import GroupNorm, for_conv
from codi.protocols import Environment


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """What of one layer does not depend on the latent or on its noise level: computed once for many steps.

    prompt  (B, 1, C) what attention to a prompt of one token adds; None where there is none, or more tokens
    bias    (1, heads, L, L) by distance in frames; None where there is none
    """

    prompt: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Module, context: Tensor | None, frames: int | None) -> "LayerCache":
        """Of any layer, for a prompt (B, L, D) and a clip of so many latent frames."""
        attention, temporal = getattr(layer, "attention", None), getattr(layer, "temporal", None)
        return cls(
            prompt=None if attention is None or context is None else attention.block.constant(context),
            bias=None if temporal is None or frames is None else temporal.attention.bias(frames),
        )


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What every layer of one pass may listen to.

    emb        (B, E) SiLU of the embedded noise level
    context    (B, L, D) prompt tokens
    known      of this layer, if it was computed before
    env        the partners' environment, None when alone; of fewer rows than there are samples, the first
               ones hear it
    moments    it is heard moment by moment, one query for each step along time, not at every position
    frames     latent frames of a video, None for a latent without frames
    time_axis  axis of a feature map that is time (2 for sound), None if none is; a video's time is `frames`
    length     steps of the input along time, None without time
    rate       input steps per second, None without time
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

    def at(self, cache: "LayerCache") -> "Signals":
        """The same for one layer, with what is known of it."""
        return replace(self, cache=cache)

    def samples(self, h: Tensor) -> int:
        """Samples in the map `h`: B until the first prompt is heard, then one for each context (see
        `UNetDenoiser.forward`).
        """
        return h.shape[0] // (self.frames or 1)

    def for_samples(self, y: Tensor, h: Tensor) -> Tensor:
        """(B, ...) -> one row for each sample in `h`."""
        return repeated(y, self.samples(h))

    def per_row(self, y: Tensor, h: Tensor) -> Tensor:
        """(B, C) -> one row for each row of `h`."""
        y = self.for_samples(y, h)
        return y if self.frames is None else y.repeat_interleave(self.frames, dim=0)

    def step_times(self, h: Tensor) -> Tensor | None:
        """Seconds at the middle of each step of the map `h` along time, (S,); None without time."""
        if self.rate is None or (self.frames is None and self.time_axis is None):
            return None
        steps = h.shape[2] if self.frames is None else self.frames
        index = torch.arange(steps, device=h.device, dtype=torch.float32)
        return (index + 0.5) / (self.rate * steps / self.length)

    def times(self, h: Tensor) -> Tensor | None:
        """The same for each position, flattened over time and space, (N,)."""
        seconds = self.step_times(h)
        return (
            None
            if seconds is None
            else seconds.repeat_interleave(h.shape[3] if self.frames is None else h[0, 0].numel())
        )

    def for_attending(self, attend: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        """The map `h`, one sample for each context, with what `listen` makes of those samples that hear the
        partners.
        """
        frames = self.frames or 1
        return for_first(attend, repeated(h, len(self.context) * frames), len(self.env.tokens) * frames)


class ResidualBlock(ResnetBlock2D):
    """diffusers' residual block; its forward done per sample where frames share a noise level, and in any
    memory format.

    `scale_shift` lets the noise level scale and shift the second norm (ADM); without it the level is only
    added.
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
        self.norm1, self.norm2 = (GroupNorm(num_groups, c, eps=eps) for c in (in_channels, out_channels))
        zeroed(self.conv2)

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
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
    """Strided 3x3 convolution; an odd extent n becomes (n + 1) / 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, signals: Signals) -> Tensor:
        return self.conv(for_conv(h))


class Upsample(nn.Module):
    """Nearest neighbour to the extent of the coming skip, then a 3x3 convolution (or none)."""

    def __init__(self, channels: int, conv: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, h: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(for_conv(F.interpolate(h, size=size, mode="nearest")))


class Block(nn.Module):
    """Residual block, then whatever this place has: temporal module, transformer, timed joint attention,
    upsampling, pooled joint attention.

    `joint` listens to the partners. Timed: `joint(tokens (B, N, C), env, times (N,) | None) -> tokens`,
    before any upsampling, or (`Signals.moments`) `joint.heard` of the means over space of each step. Pooled:
    a spatial transformer whose context is the environment's one token, after it. `whole` mixes whole frames
    of a video, or columns of a sound, after everything else: `whole(h (B*F, C, H, W), emb (B, E), F, env |
    None, times (F,)) -> h`.
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
        self.resnet, self.temporal, self.attention, self.joint, self.upsample = (
            resnet,
            temporal,
            attention,
            joint,
            upsample,
        )
        self.frame_mixer = frame_mixer

    def forward(self, h: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        cache = signals.cache or LayerCache()
        h = self.resnet(h, signals)
        if self.temporal is not None and signals.frames is not None:
            h = self.temporal(h, signals.frames, cache.bias)
        if self.attention is not None:
            h = self.attention(h, signals.context, signals.frames or 1, cache.prompt)
        attends = self.joint is not None and signals.env is not None
        pooled = isinstance(self.joint, SpatialTransformer)
        if attends and not pooled:
            h = signals.for_attending(lambda attending: self.attend(attending, signals), h)
        if self.frame_mixer is not None and signals.length is not None:
            h = self.mix_frames(h, signals)
        if self.upsample is not None:
            h = self.upsample(h, size)
        return (
            signals.for_attending(lambda attending: self.attend_pooled(attending, signals), h)
            if attends and pooled
            else h
        )

    def attend_pooled(self, h: Tensor, signals: Signals) -> Tensor:
        tokens = signals.env.tokens
        return self.joint(h, tokens, signals.frames or 1, self.joint.block.constant(tokens))

    def mix_frames(self, h: Tensor, signals: Signals) -> Tensor:
        emb = signals.for_samples(signals.emb, h)
        env, times = signals.env, signals.step_times(h)
        if signals.frames is not None:
            return self.frame_mixer(h, emb, signals.frames, env, times)
        columns = h.transpose(1, 2).flatten(0, 1)[:, :, None]  # (B*T, C, 1, M)
        return (
            self.frame_mixer(columns, emb, h.shape[2], env, times)[:, :, 0]
            .unflatten(0, (len(h), -1))
            .transpose(1, 2)
        )

    def attend(self, h: Tensor, signals: Signals) -> Tensor:
        if signals.per_frame:
            return self.attend_per_frame(h, signals)
        tokens = to_tokens(h)
        grouped = tokens.reshape(len(signals.env.tokens), -1, tokens.shape[-1])  # (B, F*H*W, C)
        return to_map(self.joint(grouped, signals.env, signals.times(h)).view(tokens.shape), h)

    def attend_per_frame(self, h: Tensor, signals: Signals) -> Tensor:
        clip = signals.frames is not None
        # (B, C, F, H, W) or (B, C, T, M)
        map_ = h.unflatten(0, (-1, signals.frames)).transpose(1, 2) if clip else h
        means = map_.flatten(3).mean(3).transpose(1, 2)  # (B, S, C)
        attended = (
            self.joint.attended(means, signals.env, signals.step_times(h))
            * root_mean_square(map_)[:, None, None]
        )
        return h + (attended.flatten(0, 1)[..., None, None] if clip else attended.transpose(1, 2)[..., None])
