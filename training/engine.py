"""What the loop drives: accelerator, optimizer, the loss as a module; and how their state becomes plain tensors and back."""

import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from codi.types import InputError
from training.config import Config
from training.stages import Stage


class Objective(nn.Module):
    """The stage's loss as a module's forward, so that DDP, DeepSpeed and autocast see one ordinary call."""

    def __init__(self, stage: Stage, module: nn.Module) -> None:
        super().__init__()
        self.module, self._loss = module, stage.loss

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        return self._loss(self.module, batch, generator)


def make_accelerator(config: Config) -> Accelerator:
    """Device, processes and precision. gloo has to be named where processes meet without a GPU, or DeepSpeed fails; nowhere else."""
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if not torch.cuda.is_available() and "WORLD_SIZE" in os.environ:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    accelerator = Accelerator(gradient_accumulation_steps=config.accumulate, mixed_precision=config.precision, kwargs_handlers=handlers)
    kind = accelerator.distributed_type
    if kind is not DistributedType.NO and not kind.value.startswith("MULTI_"):
        raise InputError(f"launched under {kind.value}: checkpoints of sharded optimizers are not written yet: launch one process or DDP")
    return accelerator


def make_optimizer(module: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW, fused (on a CPU several times faster than the loop over tensors); only matrices and kernels are decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert trainable, f"stage {config.stage} built a module without a trainable parameter"
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as {"parameter/slot": tensor}."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {f"{names[p]}/{slot}": value for p, slots in optimizer.state.items() for slot, value in slots.items()}


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes back `optimizer_tensors`; rates and decays stay as the configuration has them now.

    Raises `InputError` when the state is that of another model.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, slot = name.rpartition("/")
        state.setdefault(parameter, {})[slot] = tensor
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrong = [names[p] for p in order if not _fits(state.get(names[p], {}), p)] + sorted(state.keys() - {names[p] for p in order})
    if wrong and state:
        raise InputError(f"the checkpoint's optimizer state is of another model (see {', '.join(wrong[:3])}): start anew with --restart")
    numbered = {index: state[names[p]] for index, p in enumerate(order) if names[p] in state}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Strictly, tensors and shapes alike."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"the checkpoint does not fit this model: {reason}: start anew with --restart") from None


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch


def _fits(slots: dict[str, Tensor], parameter: Tensor) -> bool:
    return all(value.shape in (parameter.shape, torch.Size([])) for value in slots.values())
