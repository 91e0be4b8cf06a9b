"""One forward pass of what a stage trains, over tensors without numbers, in the shapes of a micro-batch: for
`training.plan`. What the pass is the stage says (`training.stages.Stage.dummy_batch`, `dry_pass`).
"""

import torch
from torch import Tensor, nn

from training.stages import Stage


def dry_run(stage: Stage, module: nn.Module, count: int) -> bool:
    """Runs the pass on `count` samples; returns False for a stage that does not say what it is."""
    batch = stage.dummy_batch(module, count)
    if batch is None:
        return False
    module.train()
    stage.dry_pass(module, batch)
    return True


def empty(*shape: int) -> Tensor:
    """Returns a float tensor without numbers."""
    return torch.empty(shape, device="meta")


def whole_numbers(*shape: int) -> Tensor:
    """Returns a tensor of timesteps or token ids without values."""
    return torch.empty(shape, dtype=torch.long, device="meta")
