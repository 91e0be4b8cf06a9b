"""Layers and small functions of which networks in several packages are built.

They are zero-initialised ends of residual branches, plain transformers, and batches that are repeated for
several prompts.

Letters: B batch, L tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def repeated(x: Tensor, rows: int) -> Tensor:
    """Repeat a whole batch (B, ...) until it has `rows` samples, a multiple of B: (rows, ...)."""
    assert rows % len(x) == 0 and rows >= len(x), f"{len(x)} samples for {rows} contexts: expected a multiple"
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def for_first(change: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """Apply `change` to the first `rows` samples of x (B, ...), and return the others as they are."""
    return change(x) if rows == len(x) else torch.cat([change(x[:rows]), x[rows:]])


def zeroed(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to zero, and return it as the end of a residual branch."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def transformer(dim: int, num_heads: int, num_layers: int, ff_mult: int = 2) -> nn.Module:
    """Return a transformer over tokens (B, L, dim), whose layers are normalised at their entry.

    Args:
        dim: the width of the tokens.
        num_heads: the number of attention heads.
        num_layers: the number of layers; with 0 tokens are left as they are.
        ff_mult: the width of the feed-forward layers in multiples of `dim`.

    Returns:
        The module, for tokens (B, L, dim) -> (B, L, dim).
    """
    if num_layers == 0:
        return nn.Identity()
    layer = nn.TransformerEncoderLayer(
        dim, num_heads, ff_mult * dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each sample: (B, ...) -> (B,)."""
    # In float32, because squares leave the range of float16.
    return x.float().square().flatten(1).mean(1).sqrt().to(x.dtype)
