"""The parts that the loop drives: the accelerator, the optimizer, and the loss as a module.

Their state becomes plain tensors here, and tensors become their state again.
"""

import dataclasses
import importlib.util
import os
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from codi.types import InputError
from data.batch import Batch
from training.config import Config
from training.stages import Stage


class Objective(nn.Module):
    """The stage's loss as a module's forward, so that DDP, DeepSpeed and autocast see one ordinary call.

    Args:
        stage: gives the loss.
        module: what trains.
        autocast: a dtype for the forward pass, or None. It is for DeepSpeed, whose own bf16 would round
            weights and statistics too.
    """

    def __init__(self, stage: Stage, module: nn.Module, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.module = module
        self._loss = stage.loss
        self._autocast = autocast

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch and what the stage says beside it.

        Args:
            batch: samples on the device.
            generator: gives the random draws of the loss.

        Returns:
            The loss (a scalar) and {name: value} for the log.
        """
        with torch.autocast(generator.device.type, self._autocast) if self._autocast else nullcontext():
            return self._loss(self.module, batch, generator)


def wants_deepspeed() -> bool:
    """Return whether `accelerate launch` was told to use DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def on_cpu(config: Config) -> bool:
    """Return whether a run computes on the CPU.

    If the run cannot have the device or the precision that was asked for, this raises `InputError`.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mine = int(os.environ.get("LOCAL_RANK", 0))
    launched = os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    if config.device == "cuda" and (launched or not count):
        why = (
            "it was launched for the CPU (--cpu, or use_cpu)"
            if launched
            else "torch finds none here, see `codi doctor`"
        )
        raise InputError(
            f"config: device is cuda, which asks for a GPU, but {why}: set device=auto or device=cpu to "
            "train without one"
        )
    if launched or not count or config.device == "cpu":
        if config.precision == "fp16":
            raise InputError("config: precision is fp16, which needs a GPU: use bf16 or no on a CPU")
        if count and wants_deepspeed():
            raise InputError(
                "config: device is cpu, but DeepSpeed takes the GPUs that are here: launch with DDP, or hide "
                "them from it"
            )
        return True
    if mine >= count:
        raise InputError(
            f"process {mine} of this machine asks for a GPU of its own, and there are {count}: launch with "
            f"--num_processes {count}"
        )
    return False


def make_accelerator(config: Config) -> Accelerator:
    """Return the accelerator: device, processes and precision, as they were launched and configured.

    Where processes meet without a GPU, gloo has to be named, or DeepSpeed fails; and DDP has to be told that
    it is on the CPU, or every process would train by itself. A launch that is not supported raises
    `InputError`.
    """
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    cpu = on_cpu(config)
    meeting = cpu and "WORLD_SIZE" in os.environ
    if meeting:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if wants_deepspeed():
        _check_deepspeed(config)
    precision = "no" if wants_deepspeed() else config.precision  # with DeepSpeed `Objective` sees to it
    settings = {
        "gradient_accumulation_steps": config.accumulate,
        "mixed_precision": precision,
        "kwargs_handlers": handlers,
    }
    forced = cpu and (meeting or torch.cuda.is_available()) and not wants_deepspeed()
    accelerator = Accelerator(cpu=forced, **settings)
    kind = accelerator.distributed_type
    assert kind is not DistributedType.NO or accelerator.num_processes == 1, (
        f"{accelerator.num_processes} processes, each alone"
    )
    if wants_deepspeed() and kind is not DistributedType.DEEPSPEED:
        raise InputError(
            f"launched with DeepSpeed, but accelerate chose {kind.value}: launch without --cpu and "
            "ACCELERATE_USE_CPU"
        )
    if kind not in (DistributedType.NO, DistributedType.DEEPSPEED) and not kind.value.startswith("MULTI_"):
        raise InputError(
            f"launched under {kind.value}: expected one process, DDP, or DeepSpeed (configs/accelerate)"
        )
    return accelerator


def _check_deepspeed(config: Config) -> None:
    """Raise InputError if DeepSpeed is not installed or cannot do what is asked."""
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("launched with DeepSpeed, which is not installed: pip install 'deepspeed>=0.19.8'")
    if config.precision == "fp16":
        raise InputError("precision fp16 under DeepSpeed is not supported: use bf16, or launch with DDP")
    # For processes on a CPU DeepSpeed would spend minutes to compile an operation of its own; gloo is enough.
    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def describe(accelerator: Accelerator) -> dict[str, Any]:
    """Return how a run was launched, for its checkpoints; it has no say in what a resumed run does."""
    plugin = accelerator.state.deepspeed_plugin
    return {
        "distributed_type": accelerator.distributed_type.value,
        "zero_stage": plugin.zero_stage if plugin else None,
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }


def enable_checkpointing(module: nn.Module, stage: str) -> None:
    """Have activations computed again in the backward pass instead of kept.

    If no part of the module can do it, this raises `InputError`, which names `stage`.
    """
    able = [part for part in module.modules() if _can_checkpoint(part)]
    for part in able:
        if hasattr(part, "gradient_checkpointing_enable"):
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            part.enable_gradient_checkpointing()
    if not able:
        raise InputError(
            f"config: gradient_checkpointing is true, but nothing in stage {stage} can do it: leave it out"
        )


def _can_checkpoint(part: nn.Module) -> bool:
    """Return whether a part can compute its activations again in the backward pass.

    It can if it is a model of diffusers or of transformers that says so, with a layer inside that has the
    switch.
    """
    if hasattr(part, "gradient_checkpointing_enable"):
        supported = part.supports_gradient_checkpointing
    else:
        supported = getattr(part, "_supports_gradient_checkpointing", False)
    return supported and any(hasattr(m, "gradient_checkpointing") for m in part.modules())


def compile_parts(module: nn.Module, stage: str) -> None:
    """Have whatever of the module is called compiled, as whole as it is called.

    That happens at the first call, and what a compiled part calls becomes part of it. Single layers stay as
    they are; if there is nothing else, this raises `InputError`, which names `stage`.
    """
    parts = [part for part in module.modules() if any(True for _ in part.children())]
    for part in parts:
        part.compile()
    if not parts:
        raise InputError(
            f"config: compile is true, but nothing in stage {stage} is more than a single layer: leave it out"
        )


# A branch that starts at zero has gradients of about 1e-9 behind it: torch's 1e-8 would hold it there.
EPSILON = 1e-12


def make_optimizer(module: nn.Module, config: Config) -> torch.optim.AdamW:
    """Return AdamW for the trainable parameters; only matrices and kernels are decayed.

    It is fused, which on a CPU is several times faster than the loop over tensors.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert trainable, f"stage {config.stage} built a module without a trainable parameter"
    decayed = [p for p in trainable if p.ndim >= 2]
    others = [p for p in trainable if p.ndim < 2]
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append({"params": decayed, "weight_decay": config.weight_decay})
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=EPSILON, fused=True)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as {"parameter/slot": tensor}."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    tensors = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            tensors[f"{names[parameter]}/{slot}"] = value
    return tensors


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take back `optimizer_tensors`; rates and decays stay as the configuration has them now.

    Args:
        module: what trains, whose parameters the optimizer has.
        optimizer: takes the state.
        tensors: the state as {"parameter/slot": tensor}.

    Raises:
        InputError: if the state is that of another model.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, slot = name.rpartition("/")
        state.setdefault(parameter, {})[slot] = tensor
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrong = [names[p] for p in order if not _fits(state.get(names[p], {}), p)]
    wrong += sorted(state.keys() - {names[p] for p in order})
    slots = set().union(*state.values())
    wrong += [name for name, values in state.items() if values.keys() != slots]
    if wrong and state:
        raise InputError(
            f"the checkpoint's optimizer state is of another model (see {', '.join(wrong[:3])}): start anew "
            "with --restart"
        )
    # torch numbers parameters in the order of the groups; checkpoints name them
    numbered = {index: state[names[p]] for index, p in enumerate(order) if names[p] in state}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


class Whole:
    """The state of a run in which every process has all of it.

    `training.sharded.Sharded` is the other kind.

    Args:
        module: what trains.
        optimizer: its optimizer.
    """

    cut_weights = False

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module = module
        self.optimizer = optimizer

    def local(self, parameter: nn.Parameter) -> Tensor:
        """Return what this process has of a parameter: all of it."""
        return parameter.detach()

    def whole(self, pieces: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors from `local` ones: the same."""
        return pieces

    def cut(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `local` tensors from whole ones: the same."""
        return whole

    def weights(self) -> dict[str, Tensor]:
        """Return everything in the module, by name."""
        return self.module.state_dict()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as {"parameter/slot": tensor}."""
        return optimizer_tensors(self.module, self.optimizer)

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Take back `optimizer_tensors`; rates and decays stay as the configuration has them now."""
        load_optimizer(self.module, self.optimizer, tensors)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights strictly, names and shapes alike; weights that do not fit raise `InputError`."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(
            f"the checkpoint does not fit this model: {reason}: start anew with --restart"
        ) from None


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Batch):
        return dataclasses.replace(batch, named=to_device(batch.named, device))
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch


def seed_draws(generator: torch.Generator, own: int, shared: int) -> None:
    """Seed everything that a loss draws from.

    Args:
        generator: the generator that the loss is given; it lives on the device.
        own: its seed.
        shared: the seed of torch's global generators, from which dropout draws.
    """
    generator.manual_seed(own)
    # not torch.manual_seed: it keeps a traceback of every call for as long as CUDA is not initialised
    torch.default_generator.manual_seed(shared)
    if generator.device.type == "cuda":
        torch.cuda.manual_seed(shared)


def _fits(slots: dict[str, Tensor], parameter: Tensor) -> bool:
    return all(value.shape in (parameter.shape, torch.Size([])) for value in slots.values())
