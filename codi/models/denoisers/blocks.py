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

from codi.models.denoisers.attention import SpatialTransformer, for_first, repeated, to_map, to_tokens, zeroed
from codi.models.denoisers.norm import GroupNorm, for_conv, root_mean_square
from codi.protocols import Environment


@dataclass(frozen=True, kw_only=True)
class Known:
    """What of one layer does not depend on the latent or on its noise level: computed once for many steps.

    prompt  (B, 1, C) what attention to a prompt of one token adds; None where there is none, or more tokens
    bias    (1, heads, L, L) by distance in frames; None where there is none
    """

    prompt: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Module, context: Tensor | None, frames: int | None) -> "Known":
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
    known: "Known | None" = None
    env: Environment | None = None
    moments: bool = False
    frames: int | None = None
    time_axis: int | None = None
    length: int | None = None
    rate: float | None = None

    def at(self, known: "Known") -> "Signals":
        """The same for one layer, with what is known of it."""
        return replace(self, known=known)

    def samples(self, h: Tensor) -> int:
        """Samples in the map `h`: B until the first prompt is heard, then one for each context (see
        `UNetDenoiser.forward`).
        """
        return h.shape[0] // (self.frames or 1)

    def for_samples(self, y: Tensor, h: Tensor) -> Tensor:
        """(B, ...) -> one row for each sample in `h`."""
        return repeated(y, self.samples(h))

    def per_frame(self, y: Tensor, h: Tensor) -> Tensor:
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

    def for_hearing(self, listen: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        """The map `h`, one sample for each context, with what `listen` makes of those samples that hear the
        partners.
        """
        frames = self.frames or 1
        return for_first(listen, repeated(h, len(self.context) * frames), len(self.env.tokens) * frames)


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
        emb = signals.per_frame(self.time_emb_proj(signals.emb), h)[:, :, None, None]
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
        whole: nn.Module | None = None,
    ):
        super().__init__()
        self.resnet, self.temporal, self.attention, self.joint, self.upsample = (
            resnet,
            temporal,
            attention,
            joint,
            upsample,
        )
        self.whole = whole

    def forward(self, h: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        known = signals.known or Known()
        h = self.resnet(h, signals)
        if self.temporal is not None and signals.frames is not None:
            h = self.temporal(h, signals.frames, known.bias)
        if self.attention is not None:
            h = self.attention(h, signals.context, signals.frames or 1, known.prompt)
        listens = self.joint is not None and signals.env is not None
        pooled = isinstance(self.joint, SpatialTransformer)
        if listens and not pooled:
            h = signals.for_hearing(lambda hearing: self.listen(hearing, signals), h)
        if self.whole is not None and signals.length is not None:
            h = self.mix_whole(h, signals)
        if self.upsample is not None:
            h = self.upsample(h, size)
        return (
            signals.for_hearing(lambda hearing: self.listen_pooled(hearing, signals), h)
            if listens and pooled
            else h
        )

    def listen_pooled(self, h: Tensor, signals: Signals) -> Tensor:
        tokens = signals.env.tokens
        return self.joint(h, tokens, signals.frames or 1, self.joint.block.constant(tokens))

    def mix_whole(self, h: Tensor, signals: Signals) -> Tensor:
        emb = signals.for_samples(signals.emb, h)
        env, times = signals.env, signals.step_times(h)
        if signals.frames is not None:
            return self.whole(h, emb, signals.frames, env, times)
        columns = h.transpose(1, 2).flatten(0, 1)[:, :, None]  # (B*T, C, 1, M)
        return (
            self.whole(columns, emb, h.shape[2], env, times)[:, :, 0]
            .unflatten(0, (len(h), -1))
            .transpose(1, 2)
        )

    def listen(self, h: Tensor, signals: Signals) -> Tensor:
        if signals.moments:
            return self.listen_by_moments(h, signals)
        tokens = to_tokens(h)
        whole = tokens.reshape(len(signals.env.tokens), -1, tokens.shape[-1])  # (B, F*H*W, C)
        return to_map(self.joint(whole, signals.env, signals.times(h)).view(tokens.shape), h)

    def listen_by_moments(self, h: Tensor, signals: Signals) -> Tensor:
        clip = signals.frames is not None
        # (B, C, F, H, W) or (B, C, T, M)
        whole = h.unflatten(0, (-1, signals.frames)).transpose(1, 2) if clip else h
        moments = whole.flatten(3).mean(3).transpose(1, 2)  # (B, S, C)
        heard = (
            self.joint.heard(moments, signals.env, signals.step_times(h))
            * root_mean_square(whole)[:, None, None]
        )
        return h + (heard.flatten(0, 1)[..., None, None] if clip else heard.transpose(1, 2)[..., None])
