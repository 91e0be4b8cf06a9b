"""Gather what DeepSpeed has cut over processes into whole tensors by name, and cut them again.

A checkpoint thus does not know how it was trained. ZeRO-2 keeps weights whole and cuts the optimizer's state;
ZeRO-3 cuts both (arXiv 1910.02054). DeepSpeed's own checkpoints are pickles, one per process, for one number
of processes; here whole tensors are gathered instead, one parameter at a time, into the memory of the main
process. "Flat" is the one-dimensional float32 tensor of many parameters of which a process owns a piece, and
which AdamW sees.
"""

import gc
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from codi.types import InputError
from training.config import Config

SLOTS = ("exp_avg", "exp_avg_sq")  # of AdamW, besides the count of steps


def configure(accelerator: Any, config: Config) -> None:
    """Tell DeepSpeed what it has to know before `prepare`.

    Args:
        accelerator: was launched with DeepSpeed; its settings are changed in place.
        config: the run.

    Raises:
        InputError: if the launch asks for what is not supported.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage not in (2, 3):
        raise InputError(
            f"launched with ZeRO stage {plugin.zero_stage}: expected 2 or 3, see configs/accelerate; below 2 "
            "use DDP"
        )
    zero = plugin.deepspeed_config["zero_optimization"]
    moved = []
    for name in ("offload_optimizer", "offload_param"):
        if (zero.get(name) or {}).get("device", "none") != "none":
            moved.append(name)
    if moved:
        raise InputError(
            f"launched with {' and '.join(moved)}: offloading is not supported: take it out of the launch "
            "configuration"
        )
    micro = config.batch_size // (accelerator.num_processes * config.accumulate)
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.clip_grad_norm,
    }


class Sharded:
    """Weights and optimizer state of a module under ZeRO.

    Every method is called by all processes together.

    Args:
        module: what trains.
        optimizer: the optimizer of DeepSpeed, which wraps AdamW.
    """

    def __init__(self, module: nn.Module, optimizer: Any) -> None:
        self.module = module
        self.zero = optimizer
        self.adam = optimizer.optimizer
        self.cut_weights = hasattr(optimizer, "fp32_partitioned_groups_flat")  # ZeRO-3
        self.flats = (
            optimizer.fp32_partitioned_groups_flat
            if self.cut_weights
            else optimizer.single_partition_of_fp32_groups
        )

    # Weights

    def local(self, parameter: nn.Parameter) -> Tensor:
        """Return what this process has of a parameter."""
        return parameter.ds_tensor.detach() if self.cut_weights else parameter.detach()

    def whole(self, pieces: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors, on the CPU, from every process's `local` ones by parameter name."""
        if not self.cut_weights:
            return pieces
        parameters = dict(self.module.named_parameters())
        return {name: self._join(piece, parameters[name]) for name, piece in pieces.items()}

    def cut(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's piece of each whole tensor, with zeros behind the end of the last piece.

        This is the inverse of `whole`.
        """
        if not self.cut_weights:
            return whole
        pieces = {}
        parameters = dict(self.module.named_parameters())
        for name, tensor in whole.items():
            pieces[name] = torch.zeros(parameters[name].ds_tensor.shape)
            _fill(pieces[name], tensor.flatten())
        return pieces

    def weights(self) -> dict[str, Tensor]:
        """Return the module's state as if it had never been cut."""
        state = self.module.state_dict()
        if not self.cut_weights:
            return state
        whole = self.whole({name: p.ds_tensor.detach() for name, p in self.module.named_parameters()})
        # a tied parameter is gathered once, and stands under each of its names
        names = {id(p): name for name, p in self.module.named_parameters()}
        tied = dict(self.module.named_parameters(remove_duplicate=False))
        found = {}
        for name, tensor in state.items():
            found[name] = whole[names[id(tied[name])]] if name in tied else tensor
        return found

    # Optimizer

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as {"parameter/slot": tensor}.

        It is what `training.engine.optimizer_tensors` gives in one process.
        """
        if not self.adam.state:
            return {}
        steps = self.adam.state[self.flats[0]]["step"]
        tensors = {}
        for name, parameter in self._trained():
            tensors |= {f"{name}/{slot}": self._gather_slot(parameter, slot) for slot in SLOTS}
            tensors[f"{name}/step"] = steps.detach().cpu().clone()
        return tensors

    @torch.no_grad()
    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Take back `optimizer_tensors`, cut anew; a parameter that never had a gradient starts from zero."""
        steps = next((tensor for name, tensor in tensors.items() if name.endswith("/step")), None)
        if steps is None:
            return
        for flat in self.flats:
            step = steps.clone().to(flat.device)
            slots = {slot: torch.zeros_like(flat, requires_grad=False) for slot in SLOTS}
            self.adam.state[flat] = {"step": step} | slots
        for name, parameter in self._trained():
            for slot in SLOTS:
                if f"{name}/{slot}" in tensors:
                    self._scatter_slot(parameter, slot, tensors[f"{name}/{slot}"].flatten())

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def _gather_slot(self, parameter: nn.Parameter, slot: str) -> Tensor:
        """Return one slot of a parameter's optimizer state, whole, on the CPU."""
        if self.cut_weights:
            return self._join(self._piece_3(parameter, slot), parameter)
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        if parameter._hp_mapping is not None:
            place, piece = self._piece_2(parameter, slot)
            whole[place] = piece
        dist.all_reduce(whole)  # each value comes from one process, the others add zero
        return whole.view(parameter.shape).cpu()

    def _scatter_slot(self, parameter: nn.Parameter, slot: str, values: Tensor) -> None:
        if self.cut_weights:
            _fill(self._piece_3(parameter, slot), values)
        elif parameter._hp_mapping is not None:
            place, piece = self._piece_2(parameter, slot)
            piece.copy_(values[place])

    def _piece_2(self, parameter: nn.Parameter, slot: str) -> tuple[slice, Tensor]:
        """Return which values of a flattened parameter this process has under ZeRO-2, and the values."""
        mapping = parameter._hp_mapping
        low = mapping.lp_fragment_address
        high = mapping.hp_fragment_address
        flat = self.adam.state[self.flats[mapping.param_group_index]][slot]
        return slice(low.start, low.start + low.numel), flat.narrow(0, high.start, high.numel)

    def _piece_3(self, parameter: nn.Parameter, slot: str) -> Tensor:
        """Return this process's values under ZeRO-3, padded at the end of the last process."""
        group, offset, count = self.zero.grad_position[self.zero.get_param_id(parameter)]
        return self.adam.state[self.flats[group]][slot].narrow(0, offset, count)

    def _join(self, piece: Tensor, parameter: nn.Parameter) -> Tensor:
        pieces = [torch.empty_like(piece) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, piece.contiguous())
        return torch.cat(pieces)[: parameter.ds_numel].view(parameter.ds_shape).cpu()


def _fill(piece: Tensor, values: Tensor) -> None:
    """Copy this process's share of flat values into its piece."""
    first = piece.numel() * dist.get_rank()
    mine = values[first : first + piece.numel()]
    piece[: mine.numel()] = mine.to(piece.device)


def destroy(engine: Any) -> None:
    """End DeepSpeed's engine, of which the caller must hold nothing else.

    With an engine alive at its end, a process may abort.
    """
    engine.destroy()
    del engine
    gc.collect()
