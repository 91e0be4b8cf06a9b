"""The exponential moving average of what trains, in float32, with its decay warmed up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from codi.types import InputError


class Ema:
    """Averages the trainable parameters of a module; everything else is taken from the module as it is.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first values are soon forgotten.

    Args:
        module: what trains.
        decay: the share of the average that stays in one update, after the warm-up.
        local: returns what a process has of a parameter: all of it, or under ZeRO-3 a piece, which is
            averaged as well as the whole would be.
    """

    def __init__(
        self, module: nn.Module, decay: float, local: Callable[[nn.Parameter], Tensor] = torch.Tensor.detach
    ) -> None:
        self.decay = decay
        self.local = local
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self.average[name] = local(parameter).float().clone()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the module's parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = dict(module.named_parameters())
        targets = [self.local(current[name]).float() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), targets, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged weights inside the context, and its own weights back behind it."""
        parameters = {name: p for name, p in module.named_parameters() if name in self.average}
        kept = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            _copy(self.average, parameters)
            yield
        finally:
            _copy(kept, parameters)

    def load(self, average: dict[str, Tensor], updates: int) -> None:
        """Take back what a checkpoint holds.

        Args:
            average: the averaged parameters by name.
            updates: how many updates made them.

        Raises:
            InputError: if they are those of another model.
        """
        shapes = {name: tensor.shape for name, tensor in self.average.items()}
        wrong = [name for name in average.keys() | shapes if name not in average or name not in shapes]
        wrong = wrong or [name for name, tensor in average.items() if tensor.shape != shapes[name]]
        if wrong:
            raise InputError(
                f"the checkpoint's averaged weights are of another model (see {sorted(wrong)[0]}): start "
                "anew with --restart"
            )
        _copy(average, self.average)
        self.updates = updates


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
