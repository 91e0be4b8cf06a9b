"""Temporal modules: attention, feed-forward and shifts along frames make a picture's denoiser a clip's.

It is one module with switches. Off, they give a temporal transformer as used today; on, the released CoDi's
module to the number, `RELEASED` (its surprises are described in docs/released-weights.md). Every branch ends
in zeros at the start, so an untrained module passes each frame through unchanged.
Letters: B batch, F frames, N = H*W positions of a frame, C channels, d width of a head.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from codi.layers import zeroed
from codi.models.denoisers.attention import to_map, to_tokens
from codi.models.denoisers.norm import GroupNorm, for_conv

# The switches of `TemporalModule` under which it is the released module of the denoisers.
RELEASED = dict(
    num_heads=8,
    inner_ratio=2,
    norm="frames",
    relative_bias=True,
    rate_embedding=True,
    feed_forward="shifted",
    frame_shift=True,
    max_frames=30,
    out_bias=False,
)


class TemporalModule(nn.Module):
    """Mixes the frames of a map: (B*F, C, H, W) -> the same.

    Args:
        channels: C, the number of channels.
        num_heads: heads of the attention; give this or `head_dim`.
        head_dim: width of a head; 32 if neither is given.
        inner_ratio: width of all heads together in multiples of C.
        span: "pixel": a position attends to itself over frames; "all": to every position of every frame.
        norm: "channels" is a LayerNorm; "frames" normalises each channel over the frames (released).
        positions: whether a learned vector for each frame is added before attention. Under norm="channels" it
            starts as sinusoids as large as what they are added to, because a vector that is learned from near
            zero leaves the order of frames without effect for thousands of steps. With span "all", sinusoids
            of row and column are added, too.
        relative_bias: whether a small network gives a bias by distance in frames.
        rate_embedding: whether a learned vector for the frame rate is added, constant over frames (released:
            without effect under norm="frames").
        feed_forward: "geglu", of inner width `ff_mult` x C; or the released one: "inner_norm", or "shifted"
            with half of its inner channels one frame late.
        ff_mult: inner width of the "geglu" feed-forward in multiples of C.
        frame_shift: whether there is a last branch: a 3x3 convolution whose result is delayed by 0..7 frames
            in eight groups of channels (the paper's latent shift).
        max_frames: frames of the longest clip.
        out_bias: whether the attention's output layer has a bias.
        num_groups: groups of the GroupNorm in the last branch.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        inner_ratio: int = 1,
        span: str = "pixel",
        norm: str = "channels",
        positions: bool = True,
        relative_bias: bool = False,
        rate_embedding: bool = False,
        feed_forward: str = "geglu",
        ff_mult: int = 2,
        frame_shift: bool = False,
        max_frames: int = 30,
        out_bias: bool = True,
        num_groups: int = 32,
    ):
        super().__init__()
        heads = num_heads or channels * inner_ratio // (head_dim or 32)
        self.attention = TemporalAttention(
            channels,
            num_heads=heads,
            inner=channels * inner_ratio,
            span=span,
            norm=norm,
            positions=positions,
            relative_bias=relative_bias,
            rate_embedding=rate_embedding,
            max_frames=max_frames,
            out_bias=out_bias,
        )
        released = {"inner_norm": False, "shifted": True}
        self.feed_forward = (
            InnerNormFeedForward(channels, released[feed_forward])
            if feed_forward in released
            else NormedFeedForward(channels, ff_mult)
        )
        self.frame_shift = FrameShift(channels, num_groups) if frame_shift else None

    def mix(self, x: Tensor, size: tuple[int, int] | None = None, bias: Tensor | None = None) -> Tensor:
        """Run the part that works on tokens: attention and feed-forward, both residual.

        Args:
            x: tokens (B, F, N, C).
            size: (H, W) of a frame, for positions over space.
            bias: what `TemporalAttention.bias` gives, where it is known already.

        Returns:
            Tokens (B, F, N, C).
        """
        x = x + self.attention(x, size, bias)
        return x + self.feed_forward(x)

    def forward(self, h: Tensor, frames: int, bias: Tensor | None = None) -> Tensor:
        """Mix the frames of a map.

        Args:
            h: the map (B*F, C, H, W).
            frames: F, the number of frames.
            bias: as in `mix`.

        Returns:
            The map (B*F, C, H, W).
        """
        x = self.mix(to_tokens(h).unflatten(0, (-1, frames)), tuple(h.shape[-2:]), bias)  # (B, F, N, C)
        h = to_map(x.flatten(0, 1), h)
        return h if self.frame_shift is None else self.frame_shift(h, frames)


class TemporalProcessor:
    """Attention over frames by whichever backend is chosen; `span` decides what is one sequence."""

    _attention_backend = _parallel_config = None

    def __call__(self, attn: "TemporalAttention", x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the attention of tokens x (B, F, N, C) along frames, with the bias added to the logits."""
        batch, frames, places, _ = x.shape
        by_head = (attn.num_heads, -1)
        key, value = attn.to_kv(x).chunk(2, dim=-1)
        q = attn.to_sequences(attn.to_q(x).unflatten(-1, by_head))
        k = attn.to_sequences(key.unflatten(-1, by_head))
        v = attn.to_sequences(value.unflatten(-1, by_head))
        if bias is not None and attn.span == "all":
            bias = bias.repeat_interleave(places, 2).repeat_interleave(places, 3)
        bias = None if bias is None else bias.to(q.dtype)
        y = dispatch_attention_fn(
            q, k, v, attn_mask=bias, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return attn.to_out(attn.from_sequences(y, batch, frames).flatten(3))


class TemporalAttention(nn.Module, AttentionModuleMixin):
    """Attention along frames of x (B, F, N, C), without the residual.

    Args:
        channels: C, the number of channels.
        num_heads: number of heads.
        inner: width of all heads together.
        span: as in `TemporalModule`, like all that follow.
        norm: "channels" or "frames".
        positions: whether a learned vector for each frame is added.
        relative_bias: whether there is a bias by distance in frames.
        rate_embedding: whether a learned vector for the frame rate is added.
        max_frames: frames of the longest clip.
        out_bias: whether the output layer has a bias.
    """

    _default_processor_cls = TemporalProcessor
    _available_processors = [TemporalProcessor]
    _supports_qkv_fusion = False

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        inner: int,
        span: str,
        norm: str,
        positions: bool,
        relative_bias: bool,
        rate_embedding: bool,
        max_frames: int,
        out_bias: bool,
    ):
        super().__init__()
        assert span in ("pixel", "all") and norm in ("channels", "frames"), (span, norm)
        self.num_heads = num_heads
        self.span = span
        self.max_frames = max_frames
        self.norm = FrameNorm(channels) if norm == "frames" else nn.LayerNorm(channels)
        self.normalise_last = norm == "frames"  # positions enter before the norm
        start = (
            waves(max_frames, channels) if norm == "channels" else 0.02 * torch.randn(max_frames, channels)
        )
        self.position = nn.Parameter(start) if positions else None
        self.rate_embedding = nn.Parameter(torch.zeros(max_frames, channels)) if rate_embedding else None
        self.relative_bias = RelativeBias(num_heads, channels // 2) if relative_bias else None
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_kv = nn.Linear(channels, 2 * inner, bias=False)
        self.to_out = zeroed(nn.Linear(inner, channels, bias=out_bias))
        self.set_processor(TemporalProcessor())

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the attention of tokens along frames, without the residual.

        Args:
            x: tokens (B, F, N, C).
            size: (H, W) with H * W = N, for positions over space.
            bias: what `bias` gives, where it is known already.

        Returns:
            (B, F, N, C).
        """
        frames = x.shape[1]
        bias = self.bias(frames) if bias is None else bias
        if self.position is None:
            return self.processor(self, self.norm(x), bias)
        assert frames <= self.max_frames, (
            f"{frames} latent frames, the temporal positions reach {self.max_frames}"
        )
        position = self.position[:frames, None]  # (F, 1, C)
        if self.rate_embedding is not None:
            position = position + self.rate_embedding[3]  # the released code always says 4 frames per second
        if self.span == "all" and size is not None:
            position = position + grid_waves(size, x.shape[-1]).to(x)  # (F, N, C)
        return self.processor(
            self, self.norm(x + position) if self.normalise_last else self.norm(x) + position, bias
        )

    def to_sequences(self, y: Tensor) -> Tensor:
        """Turn (B, F, N, heads, d) into sequences: (B, F*N, heads, d), or (B*N, F, heads, d) by `span`."""
        return y.flatten(1, 2) if self.span == "all" else y.transpose(1, 2).flatten(0, 1)

    def from_sequences(self, y: Tensor, batch: int, frames: int) -> Tensor:
        """Undo `to_sequences`: return (B, F, N, heads, d)."""
        return (
            y.unflatten(1, (frames, -1))
            if self.span == "all"
            else y.unflatten(0, (batch, -1)).transpose(1, 2)
        )

    def bias(self, frames: int) -> Tensor | None:
        """Return the bias of the logits by distance in frames, (1, heads, F, F); None where there is none."""
        return None if self.relative_bias is None else self.relative_bias(frames)[None]


class RelativeBias(nn.Module):
    """A bias per head, made by a network from the signed logarithm of the distance in frames.

    Args:
        num_heads: number of heads.
        width: width of the network's layers.
    """

    def __init__(self, num_heads: int, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, num_heads)
        )

    def forward(self, frames: int) -> Tensor:
        """Return the bias (heads, F, F) of a clip of so many frames."""
        d = torch.arange(1 - frames, frames, device=self.net[0].weight.device)  # every distance once
        values = self.net((d.sign() * (d.abs() + 1.0).log())[:, None].to(self.net[0].weight.dtype))
        index = torch.arange(frames, device=d.device)
        return values[index[:, None] - index[None] + frames - 1].permute(2, 0, 1)


def least_variance(x: Tensor) -> float:
    """Return the value to which the released normalisations raise any smaller variance of x."""
    return 1e-5 if x.dtype == torch.float32 else 1e-3


class FrameNorm(nn.Module):
    """Normalisation over the frames of (B, F, N, C), for each channel of each position.

    There is a gain and no bias, and the variance is clamped, as released.

    Args:
        channels: C, the number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, F, N, C) normalised over its frames."""
        # This is done by hand, because `torch.var_mean` over an outer axis does not vectorise.
        centred = x - x.mean(1, keepdim=True)
        var = centred.square().mean(1, keepdim=True)
        return centred * (var.clamp(min=least_variance(x)).rsqrt() * self.gain)


class InnerNorm(nn.Module):
    """Normalisation over the channels of (..., C), with a gain and a clamped variance, as released.

    Part of the scale is returned as a factor for each row, so that the caller applies it wherever that is
    cheapest. Without gradients torch's layer norm does the work in one pass. It knows no clamp; the factor,
    which is then 1 but for rows of hardly any variance, makes up for that.

    Args:
        channels: C, the number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised values (..., C), and a factor (..., 1) for each row.

        The values must still be multiplied by the factor.
        """
        floor = least_variance(x)
        if torch.is_grad_enabled():
            var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
            return (x - mean) * self.gain, var.clamp(min=floor).rsqrt()
        y, _, rstd = torch.native_layer_norm(x, x.shape[-1:], self.gain, None, 1e-12)
        return y, (rstd * floor**0.5).reciprocal().clamp(max=1)


class NormedFeedForward(nn.Module):
    """A LayerNorm and a gated feed-forward, whose last layer starts at zero.

    Args:
        channels: C, the number of channels.
        mult: inner width in multiples of C.
    """

    def __init__(self, channels: int, mult: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, mult=mult, activation_fn="geglu")
        zeroed(self.ff.net[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to tokens x (..., C)."""
        return self.ff(self.norm(x))


class EvenLinear(nn.Linear):
    """A linear layer without bias that is quick for an uneven number of outputs, such as 1706.

    On a CPU a product whose rows do not start where cache lines do takes half as long again (8192 x 320 x
    1706: 166 ms, x 1728: 99 ms), so a few outputs more are computed and left out.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for x (..., inputs), computed with some more where that is quicker."""
        extra = -self.out_features % 32
        if extra == 0 or x.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(x)
        return F.linear(x, F.pad(self.weight, (0, 0, 0, extra)))[..., : self.out_features]


class InnerNormFeedForward(nn.Module):
    """The released gated feed-forward of (B, F, N, C): normalised inside, without biases.

    Args:
        channels: C, the number of channels.
        shift: whether the second half of its inner channels comes one frame late (zeros enter). The denoisers
            have the shift, CLIP does not.
    """

    def __init__(self, channels: int, shift: bool):
        super().__init__()
        inner = int(channels * 8 / 3)
        self.shift = shift
        self.proj_in = EvenLinear(channels, 2 * inner, bias=False)
        self.norm = InnerNorm(inner)
        self.proj_out = zeroed(nn.Linear(inner, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to tokens x (B, F, N, C)."""
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        y = value * F.gelu(gate)
        if self.shift:
            now, late = y.chunk(2, dim=-1)
            y = torch.cat([now, delay(late, 1)], dim=-1)
        y, factor = self.norm(y)
        return self.proj_out(y) * factor.to(y.dtype)


class FrameShift(nn.Module):
    """The paper's latent shift: a 3x3 convolution per frame whose channels come late in groups.

    It is a residual. The channels are in eight groups, and group i is delayed by i frames (see `LateConv`).

    Args:
        channels: C, the number of channels.
        num_groups: groups of the GroupNorm in front.
    """

    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.norm = GroupNorm(num_groups, channels, eps=1e-5)
        self.conv = zeroed(LateConv(channels, channels, 3, padding=1))

    def forward(self, h: Tensor, frames: int) -> Tensor:
        """Return the map h (B*F, C, H, W) with the delayed channels added."""
        return self.conv(F.silu(self.norm(h)), h, frames)


class LateConv(nn.Conv2d):
    """A convolution whose eight groups of output channels come 0 to 7 frames late, added to h.

    The last frames of a late group fall out. Only what stays is computed, two groups at a time: five eighths
    of it all for 8 frames.
    """

    def forward(self, x: Tensor, h: Tensor, frames: int) -> Tensor:
        """Convolve x, delay the result, and add it to h.

        Args:
            x: what is convolved, (B*F, C, H, W).
            h: what the result is added to, of the same shape.
            frames: F, the number of frames.

        Returns:
            A map of the shape of h.
        """
        out = h.clone()
        width = -(-self.out_channels // 8)
        shifted = out.unflatten(0, (-1, frames))  # (B, F, C, H, W), a view
        clips = x.split(frames)
        for late in range(0, min(frames, 8), 2):
            kept = frames - late
            start = late * width
            channels = slice(start, start + 2 * width)
            rows = for_conv(torch.cat([clip[:kept] for clip in clips]))
            y = F.conv2d(
                rows,
                self.weight[channels],
                None if self.bias is None else self.bias[channels],
                padding=self.padding,
            )
            y = y.unflatten(0, (-1, kept))
            shifted[:, late:, start : start + width] += y[:, :, :width]
            shifted[:, late + 1 :, start + width : start + 2 * width] += y[:, :-1, width:]
        return out


def delay(x: Tensor, steps: int) -> Tensor:
    """Shift x (B, F, ...) to `steps` frames later; zeros enter, and the last frames fall out."""
    if steps == 0:
        return x
    kept = x[:, : max(x.shape[1] - steps, 0)]
    return torch.cat([x.new_zeros(x.shape[0], x.shape[1] - kept.shape[1], *x.shape[2:]), kept], dim=1)


def waves(count: int, dim: int, longest: float = 32.0) -> Tensor:
    """Return sines and cosines of 0 .. count - 1, at frequencies from 1 to 1 / `longest` radians a step.

    Each row of the result (count, dim) has sines in its first half and cosines in its second.
    """
    half = (dim + 1) // 2
    angles = torch.arange(count)[:, None] * longest ** -(torch.arange(half) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :dim]


def grid_waves(size: tuple[int, int], dim: int) -> Tensor:
    """Return sines and cosines of the rows and columns of a map, (H*W, dim).

    Half of the numbers say the row, half the column.
    """
    rows = waves(size[0], dim // 2)
    columns = waves(size[1], dim - dim // 2)
    return torch.cat(
        [rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1)], dim=-1
    ).flatten(0, 1)
