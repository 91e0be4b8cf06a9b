"""Layers and small functions that networks of several rooms are built of: zero-initialised ends of residual
branches, plain transformers, batches that are repeated for several prompts.

Letters: B batch, L tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def repeated(x: Tensor, rows: int) -> Tensor:
    """(B, ...) -> (rows, ...): the whole batch again and again."""
    assert rows % len(x) == 0 and rows >= len(x), f"{len(x)} samples for {rows} contexts: expected a multiple"
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def for_first(change: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """x (B, ...) with its first `rows` changed and the others as they are."""
    return change(x) if rows == len(x) else torch.cat([change(x[:rows]), x[rows:]])


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all parameters zero, for the end of a residual branch."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def transformer(dim: int, num_heads: int, num_layers: int, ff_mult: int = 2) -> nn.Module:
    """Layers over tokens (B, L, dim), each normalised at its entry; none leaves them as they are."""
    if num_layers == 0:
        return nn.Identity()
    layer = nn.TransformerEncoderLayer(
        dim, num_heads, ff_mult * dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


def root_mean_square(x: Tensor) -> Tensor:
    """Of each sample: (B, ...) -> (B,)."""
    return x.float().square().flatten(1).mean(1).sqrt().to(x.dtype)
