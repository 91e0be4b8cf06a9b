"""Helpers of tests of networks: ends that start at zero are drawn, gradients say what depends on what."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def wake(module: nn.Module, skip: Sequence[str] = (), std: float = 0.05) -> nn.Module:
    """Draws every parameter that is all zeros, but for those whose names hold one of `skip`."""
    for name, parameter in module.named_parameters():
        if not any(part in name for part in skip) and not parameter.any():
            nn.init.normal_(parameter, std=std)
    return module


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a shape, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """Compares results that differ by rounding alone."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def depends_on(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> list[int]:
    """The places along one axis of x on which the result depends, by the gradient of a mixture of it."""
    x = x.detach().clone().requires_grad_()
    y = function(x)
    (y * drawn(*y.shape, seed=9)).sum().backward()
    size = x.grad.abs().movedim(axis, 0).flatten(1).amax(1)
    return [place for place, value in enumerate(size.tolist()) if value > 0]
