"""One forward pass of what a stage trains, over tensors without numbers, in the shapes of a micro-batch.

`training.plan` measures it. The stage says what the pass is (`training.stages.Stage.dummy_batch` and
`dry_pass`).
"""

import torch
from torch import Tensor, nn

from training.stages import Stage


def dry_run(stage: Stage, module: nn.Module, count: int) -> bool:
    """Run the pass on `count` samples; return False for a stage that does not say what it is."""
    batch = stage.dummy_batch(module, count)
    if batch is None:
        return False
    module.train()
    stage.dry_pass(module, batch)
    return True


def empty(*shape: int) -> Tensor:
    """Return a float tensor without numbers."""
    return torch.empty(shape, device="meta")


def whole_numbers(*shape: int) -> Tensor:
    """Return a tensor of timesteps or token ids without values."""
    return torch.empty(shape, dtype=torch.long, device="meta")
