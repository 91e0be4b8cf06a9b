"""Attention of the denoisers: heads over a sequence, and the transformer over positions with its prompt.

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
        """Return the attention of x (B, N, C) to a context (B, L, D), projected to (B, N, C)."""
        by_head = (attn.num_heads, -1)
        q = attn.to_q(x).unflatten(-1, by_head)
        k = attn.to_k(context).unflatten(-1, by_head)
        v = attn.to_v(context).unflatten(-1, by_head)
        y = dispatch_attention_fn(
            q, k, v, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return attn.to_out(y.flatten(2))  # (B, N, C)


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention of (B, N, C) to itself, or to a context (B, L, D).

    A context of one token gives the same whatever the query is (the softmax over one key is 1). The result is
    then that token projected, (B, 1, C), and no query or key is computed.

    Args:
        channels: C, the number of channels.
        num_heads: number of heads.
        head_dim: width of a head.
        context_dim: D; None: x attends to itself.
        out_bias: whether the output layer has a bias.
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
        self.num_heads = num_heads
        self.use_bias = False
        self.is_cross_attention = context_dim is not None
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.Linear(inner, channels, bias=out_bias)
        self.set_processor(AttentionProcessor())

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the attention of x to the context, without the residual.

        Args:
            x: the queries (B, N, C).
            context: (B, L, D); None: x itself.
            mask: added to the logits, or False where nothing may be attended to.

        Returns:
            (B, N, C), or (B, 1, C) for a context of one token.
        """
        if context is None:
            return self.processor(self, x, x, mask)
        if context.shape[1] == 1:
            return self.identity(context)  # (B, 1, C)
        return self.processor(self, x, context, mask)

    def identity(self, context: Tensor) -> Tensor:
        """Return (B, L, C): what attention gives if each token of a context (B, L, D) gets itself alone."""
        return self.to_out(self.to_v(context))


class PromptProjection(nn.Module):
    """Stands in for cross-attention to a single token, without the parameters that cannot act.

    Args:
        channels: C, the number of channels.
        context_dim: D, the width of the context.
    """

    def __init__(self, channels: int, context_dim: int):
        super().__init__()
        self.to_out = nn.Linear(context_dim, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the context (B, 1, D) projected to (B, 1, C); x is not used."""
        assert context.shape[1] == 1, f"prompt='projection' takes one context token, got {context.shape[1]}"
        return self.to_out(context)


class TransformerBlock(nn.Module):
    """Self-attention over the positions of a frame, attention to the prompt, and a gated feed-forward.

    All three are residual.

    Args:
        channels: C, the number of channels.
        num_heads: heads of both attentions.
        head_dim: width of a head.
        context_dim: D, width of the prompt tokens.
        prompt: "attention": to any number of prompt tokens; else a `PromptProjection` of one.
        ff_mult: inner width of the feed-forward in multiples of C.
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
        """Return what attention to a context of one token (B, 1, D) adds, whatever x is, as (B, 1, C).

        With several tokens it depends on x, and None is returned.
        """
        return self.attn2(context, context) if context.shape[1] == 1 else None

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        frames: int = 1,
        constant: Tensor | None = None,
        perturbed: bool = False,
    ) -> Tensor:
        """Run the block on every frame.

        The frames of a sample share one context, which is not repeated for them. With n times as many
        contexts as samples, the samples are repeated, and the result has one sample for each context.

        Args:
            x: positions (B*F, N, C).
            context: prompt tokens (B, L, D).
            frames: F, the number of frames of a sample.
            constant: what `constant` gives for this context, where it is known already.
            perturbed: whether self-attention is the identity: each position attends to itself alone.

        Returns:
            (B*F, N, C), where B counts the contexts.
        """
        x = x + (self.attn1.identity(self.norm1(x)) if perturbed else self.attn1(self.norm1(x)))
        x = self.prompted(repeated(x, context.shape[0] * frames), context, constant)
        return x + self.ff(self.norm3(x))

    def prompted(self, x: Tensor, context: Tensor, constant: Tensor | None) -> Tensor:
        """Return x (B*F, N, C) with attention to the prompt added; arguments are as in `forward`."""
        whole = x.reshape(context.shape[0], -1, x.shape[-1])  # (B, F*N, C)
        attended = self.constant(context) if constant is None else constant
        if attended is None:
            attended = self.attn2(whole if self.norm2 is None else self.norm2(whole), context)
        return (whole + attended).view(x.shape)


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map, as a residual: (B*F, C, H, W) -> the same.

    It has LDM's form (arXiv 2112.10752): GroupNorm, then 1x1 convolutions in and out. The last one starts at
    zero.

    Args:
        channels: C, the number of channels.
        num_heads: heads of the attention.
        head_dim: width of a head.
        context_dim: D, width of the prompt tokens.
        prompt: as in `TransformerBlock`.
        ff_mult: as in `TransformerBlock`.
        num_groups: groups of the GroupNorm.
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

    def forward(
        self,
        h: Tensor,
        context: Tensor,
        frames: int = 1,
        constant: Tensor | None = None,
        perturbed: bool = False,
    ) -> Tensor:
        """Return the map h (B*F, C, H, W) with the block's result added; see `TransformerBlock.forward`."""
        tokens = self.proj_in(to_tokens(self.norm(h)))  # (B*F, H*W, C)
        tokens = self.block(tokens, context, frames, constant, perturbed)
        return repeated(h, tokens.shape[0]) + to_map(self.proj_out(tokens), h)


def to_tokens(h: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into tokens (B, H*W, C)."""
    return h.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Turn tokens (B, H*W, C) into a map (B, C, H, W) with the extent of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[-2:])
