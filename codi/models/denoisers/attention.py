"""Attention of the denoisers: heads over a sequence, the transformer over positions, and the prompt's part in
it.

Attention goes through diffusers' dispatcher, so `set_attention_backend` reaches every head here.
Letters: B batch, F frames, C channels, H W, N positions of a query, L context tokens, D context width.
"""

from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from codi.layers import repeated, zeroed
from codi.models.denoisers.norm import GroupNorm


class AttentionProcessor:
    """Scaled dot-product attention by whichever backend is chosen."""

    _attention_backend = _parallel_config = None

    def __call__(self, attn: "Attention", x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (attn.num_heads, -1))
            for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        y = dispatch_attention_fn(
            q, k, v, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return attn.to_out(y.flatten(2))  # (B, N, C)


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention of (B, N, C) to itself, or to a context (B, L, D).

    One context token is a constant whatever the query (the softmax over one key is 1): then the result is
    that token projected, (B, 1, C), and no query or key is computed.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        head_dim: int,
        context_dim: int | None = None,
        out_bias: bool = True,
    ):
        super().__init__()
        inner = num_heads * head_dim
        source = channels if context_dim is None else context_dim
        self.num_heads, self.use_bias, self.is_cross_attention = num_heads, False, context_dim is not None
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.Linear(inner, channels, bias=out_bias)
        self.set_processor(AttentionProcessor())

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if context is None:
            return self.processor(self, x, x, mask)
        if context.shape[1] == 1:
            return self.to_out(self.to_v(context))  # (B, 1, C)
        return self.processor(self, x, context, mask)


class PromptProjection(nn.Module):
    """What cross-attention to a single token amounts to, without the parameters that cannot act: (B, 1, D) ->
    (B, 1, C).
    """

    def __init__(self, channels: int, context_dim: int):
        super().__init__()
        self.to_out = nn.Linear(context_dim, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        assert context.shape[1] == 1, f"prompt='projection' takes one context token, got {context.shape[1]}"
        return self.to_out(context)


class TransformerBlock(nn.Module):
    """Self-attention over the positions of one frame, attention to the prompt, gated feed-forward; all
    residual.
    """

    def __init__(
        self, channels: int, *, num_heads: int, head_dim: int, context_dim: int, prompt: str, ff_mult: int
    ):
        super().__init__()
        heads = dict(num_heads=num_heads, head_dim=head_dim)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, **heads)
        if prompt == "attention":
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = Attention(channels, context_dim=context_dim, **heads)
        else:
            self.norm2 = None
            self.attn2 = PromptProjection(channels, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, mult=ff_mult, activation_fn="geglu")

    def constant(self, context: Tensor) -> Tensor | None:
        """What attention to a context of one token (B, 1, D) adds, whatever x is: (B, 1, C). None for several
        tokens.
        """
        return self.attn2(context, context) if context.shape[1] == 1 else None

    def forward(self, x: Tensor, context: Tensor, frames: int = 1, constant: Tensor | None = None) -> Tensor:
        """x (B*F, N, C), context (B, L, D): the frames of a sample share one context, none is repeated.

        With n times as many contexts as samples, the samples are repeated for them, and so is the result.
        constant: that of the context, where it is known already.
        """
        x = x + self.attn1(self.norm1(x))
        x = self.prompted(repeated(x, context.shape[0] * frames), context, constant)
        return x + self.ff(self.norm3(x))

    def prompted(self, x: Tensor, context: Tensor, constant: Tensor | None) -> Tensor:
        whole = x.reshape(context.shape[0], -1, x.shape[-1])  # (B, F*N, C)
        heard = self.constant(context) if constant is None else constant
        if heard is None:
            heard = self.attn2(whole if self.norm2 is None else self.norm2(whole), context)
        return (whole + heard).view(x.shape)


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map, as a residual: (B*F, C, H, W) -> the same.

    LDM's form (arXiv 2112.10752): GroupNorm, 1x1 convolution in and out. The last one starts at zero.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        head_dim: int,
        context_dim: int,
        prompt: str = "attention",
        ff_mult: int = 4,
        num_groups: int = 32,
    ):
        super().__init__()
        self.norm = GroupNorm(num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, num_heads * head_dim)
        self.block = TransformerBlock(
            num_heads * head_dim,
            num_heads=num_heads,
            head_dim=head_dim,
            context_dim=context_dim,
            prompt=prompt,
            ff_mult=ff_mult,
        )
        self.proj_out = zeroed(nn.Linear(num_heads * head_dim, channels))

    def forward(self, h: Tensor, context: Tensor, frames: int = 1, constant: Tensor | None = None) -> Tensor:
        tokens = self.block(self.proj_in(to_tokens(self.norm(h))), context, frames, constant)  # (B*F, H*W, C)
        return repeated(h, tokens.shape[0]) + to_map(self.proj_out(tokens), h)


def to_tokens(h: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C)."""
    return h.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W) with the extent of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[-2:])
