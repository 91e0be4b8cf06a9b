"""The plan of a run, from its configuration alone: `python -m training.main --config ... --dry-run`.

Nothing is read but configurations, nothing is written, and models are built without memory (on torch's meta
device).

Parts that an earlier stage makes are built from the model folder if they are there, otherwise from the
configuration beside this one that makes them. Activations and operations are those of one forward pass over
tensors without numbers: what autograd would keep, and what matrix products, convolutions and attention would
cost.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi.types import InputError
from training.config import VALIDATION, Config, load_config, strict
from training.dry_run import dry_run
from training.engine import enable_checkpointing
from training.folder import destination
from training.stages import Stage, find_stage, open_stage
from training.stages.building import build_module
from training.stages.common import loading_by
from training.stages.rows import held_out

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class HardwareSpec:
    """The hardware that a plan is for.

    Attributes:
        processes: how many processes share the run, one per device.
        zero: stage of DeepSpeed ZeRO, 0 for DDP or a single process.
        samples_per_second: as measured, over all processes; None where it is not known.
        tflops: 10^12 operations a second that one device sustains; None where it is not known.
    """

    processes: int = 1
    zero: int = 0
    samples_per_second: float | None = None
    tflops: float | None = None

    def __post_init__(self) -> None:
        fine = self.processes >= 1 and self.zero in (0, 2, 3)
        for speed in (self.samples_per_second, self.tflops):
            fine = fine and (speed is None or 0 < speed < math.inf)
        if not fine:
            raise InputError(f"{self}: expected one process or more, ZeRO stage 0, 2 or 3, and rates above 0")


class MetaLoader:
    """Stands in for `load_part`: gives finished parts without memory.

    A part comes from the model folder if it is there, otherwise from the configuration in `folder` that makes
    it.

    Attributes:
        parts: the parts that the run itself has asked for, by folder; those that were needed when these were
            trained are in `others`.
        asking: the configuration of the run that is being built.

    Args:
        folder: where the configurations are.
        others: gives the parts that other runs need; None for one that is made when it is needed.
    """

    asking: Config | None = None

    def __init__(self, folder: Path, others: "MetaLoader | None" = None) -> None:
        self.folder = folder
        self.parts = {}
        self.others = others

    def elsewhere(self) -> "MetaLoader":
        """Return the loader for runs other than this one; all of them share it."""
        self.others = MetaLoader(self.folder)
        self.others.others = self.others
        return self.others

    @cached_property
    def configs(self) -> tuple[list[Config], list[str]]:
        """Return the configurations in the folder, and the names of files that are none by themselves.

        The latter are, for example, those that others extend.
        """
        configs = []
        unread = []
        for path in sorted(self.folder.glob("*.yaml")):
            try:
                configs.append(load_config(path))
            except InputError:
                unread.append(path.name)
        return configs, unread

    def __call__(self, cls: type, place: Path, why: str) -> nn.Module:
        """Return the part in a folder, frozen and without memory.

        Args:
            cls: the class of the part.
            place: the folder that the part is in, or will be in.
            why: what to do where it is missing, for the message.

        Returns:
            The same part in every call with the same folder.

        Raises:
            InputError: if the part is missing and no configuration makes it.
        """
        if place not in self.parts:
            part = (
                self._finished(cls, place) if (place / "config.json").is_file() else self._planned(place, why)
            )
            self.parts[place] = part.eval().requires_grad_(False)
        return self.parts[place]

    def _finished(self, cls: type, place: Path) -> nn.Module:
        """Return a part that exists in the model folder, built from its configuration there."""
        from training.stages.common import class_of

        return on_meta(lambda: class_of(cls, place).from_config(cls.load_config(place)))

    def _planned(self, place: Path, why: str) -> nn.Module:
        """Return a part that does not exist yet, built as the configuration that makes it says."""
        configs, unread = self.configs
        makers = [config for config in configs if makes(config, place)]
        if not makers:
            others = f" (not read: {', '.join(unread)})" if unread else ""
            raise InputError(
                f"{place} is missing, and no configuration in {self.folder} makes it{others}: {why}"
            )
        maker = max(makers, key=lambda config: likeness(config, self.asking))
        stage, module = build(maker, self.others or self.elsewhere())
        return stage.part_of(module, place.name)


def makes(config: Config, place: Path) -> bool:
    """Return whether a run makes the part in this folder anew.

    Its configuration then says how the part is built.
    """
    anew = bool(config.part) and not config.options.get("continue_from")
    return anew and config.model == place.parent and place.name in find_stage(config.stage).builds(config)


def likeness(config: Config, other: Config) -> int:
    """Return how many options two runs share.

    Of several configurations that make a part, the one most like the run that needs it is meant, such as the
    one of the same pair.
    """
    return sum(other.options.get(name) == value for name, value in config.options.items())


def writes(config: Config) -> list[Path]:
    """Return the folders that a run exports to."""
    return [destination(config) / name for name in find_stage(config.stage).produces(config)]


def build(config: Config, parts: MetaLoader) -> tuple[Stage, nn.Module]:
    """Return the stage and the module of a run, without memory.

    Words of the data are not read.

    Args:
        config: the run.
        parts: gives finished parts.

    Returns:
        The stage, and what it trains.
    """
    before = parts.asking
    parts.asking = config
    with loading_by(parts):
        with torch.device("cpu"):  # schedulers need numbers, even while another part is built without
            stage = open_stage(config)
        module = on_meta(lambda: build_module(stage, config.part))
    parts.asking = before
    if config.gradient_checkpointing:
        enable_checkpointing(module, config.stage)
    return stage, module


def on_meta(make: Any) -> nn.Module:
    """Return what `make` makes, without memory; a part that needs numbers while it is built gets them."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        return make()


def plan(config: Config, folder: Path, hardware: HardwareSpec) -> str:
    """Return the plan of a run as text.

    Args:
        config: the run.
        folder: where the configurations are that make the parts it needs.
        hardware: what the run is for.

    Returns:
        Lines of a name and a text each.

    Raises:
        InputError: for whatever is wrong with the configuration.
    """
    if config.data:
        check_data(config)
    if config.batch_size % (hardware.processes * config.accumulate):
        raise InputError(
            f"config: batch_size {config.batch_size} cannot be split over {hardware.processes} processes x "
            f"accumulate {config.accumulate}"
        )
    parts = MetaLoader(folder)
    stage, module = build(config, parts)
    micro = config.batch_size // (hardware.processes * config.accumulate)
    cost = measure(lambda: dry_run(stage, module, micro), module)
    frozen = beside(module, parts)
    compute = "not known for this stage"
    if cost:
        gflop = cost.flops / micro / 1e9
        compute = f"{gflop:,.1f} GFLOP forward per sample, without encoders of what is not cached"
    written = ", ".join(map(str, writes(config)))
    size = checkpoint_bytes(config, module) / GIB
    copied = "" if destination(config) == config.model else f", beside a copy of {config.model}"
    steps = math.ceil(config.samples / config.batch_size)
    lines = {
        "run": f"{config.stage}, {config.samples:,} samples in {steps:,} steps of {config.batch_size}"
        f" = {hardware.processes} processes x {config.accumulate} x {micro}",
        "parameters": (
            f"{_count(module):,} in what trains, {_count(module, True):,} of them trainable; {frozen:,} "
            "frozen beside it"
        ),
        "memory": memory(config, hardware, module, frozen, cost),
        "compute": compute,
        "time": duration(config, hardware, cost, micro),
        "reads": ", ".join(map(str, [*stage.reads(config), *parts.parts])),
        "writes": (
            f"{config.output}/ (two checkpoints of {size:.1f} GiB, log, previews) and {written}{copied}"
        ),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


def beside(module: nn.Module, parts: MetaLoader) -> int:
    """Return the number of parameters of finished parts that are not in what trains."""
    counted = {id(p) for p in module.parameters()}
    total = 0
    for part in parts.parts.values():
        for parameter in part.parameters():
            if id(parameter) not in counted:
                counted.add(id(parameter))
                total += parameter.numel()
    return total


def check_data(config: Config) -> None:
    """Raise InputError for whatever is wrong with the section `data`, as strictly as when it is opened."""
    from data.sources import Options, read_geometry

    if "media" in config.data:
        raise InputError("data: media is for the stage to say: leave it out")
    sections = [{name: value for name, value in config.data.items() if name != VALIDATION}]
    if VALIDATION in config.data:
        sections.append(held_out(config.data)[0])
    for section in sections:
        read_geometry(strict(Options, {**section, "media": []}, where="data").geometry)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of the forward pass of one micro-batch.

    Attributes:
        kept: bytes that autograd keeps, in float32.
        flops: floating-point operations.
    """

    kept: int
    flops: int


def measure(run: Any, module: nn.Module) -> Cost | None:
    """Return the cost of `run`, or None if it does not know the stage.

    Args:
        run: does the forward pass, and returns whether it knew how.
        module: what trains; its weights are not counted.

    Returns:
        The cost.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with keeping(module) as kept, FlopCounterMode(display=False) as counter:
        known = run()
    return Cost(kept=sum(kept.values()), flops=counter.get_total_flops()) if known else None


@contextmanager
def keeping(module: nn.Module) -> Iterator[Mapping[Any, int]]:
    """Collect the storages that autograd keeps for the backward pass, weights aside.

    Args:
        module: what trains.

    Yields:
        {storage: bytes}, filled while the context lasts.
    """
    weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    kept: dict[Any, int] = {}
    alive = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in kept:
            alive.append(storage)  # if it were freed, another storage could get its address
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def memory(config: Config, hardware: HardwareSpec, module: nn.Module, frozen: int, cost: Cost | None) -> str:
    """Return as text the GiB that a process needs, by what they are for.

    Args:
        config: the run.
        hardware: what the run is for.
        module: what trains.
        frozen: parameters beside it.
        cost: of one micro-batch, None where it is not known.

    Returns:
        One line.
    """
    trained = _count(module, True)
    # ZeRO-2 cuts gradients and the optimizer's state over the processes, ZeRO-3 weights and their average too
    cut_state = hardware.processes if hardware.zero >= 2 else 1
    cut_weights = hardware.processes if hardware.zero >= 3 else 1
    weights = 4 * _count(module) / cut_weights
    if hardware.zero == 2:
        weights += 4 * trained / hardware.processes
    activations: float = 0
    if cost:
        activations = cost.kept * (0.5 if config.precision != "no" else 1)
    used = {
        "weights": weights,
        "frozen": 4 * frozen,
        "gradients": 4 * trained / cut_state,
        "AdamW": 8 * trained / cut_state,
        "average": 4 * trained / cut_weights if config.ema else 0,
        "activations": activations,
    }
    note = "" if cost else " + activations, which are not known for this stage"
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in used.items() if size)
    return f"{sum(used.values()) / GIB:.1f} GiB per process{note} ({listed})"


def duration(config: Config, hardware: HardwareSpec, cost: Cost | None, micro: int) -> str:
    """Return as text how long the run takes, as far as something is known about speed.

    Args:
        config: the run.
        hardware: what the run is for.
        cost: of one micro-batch, None where it is not known.
        micro: samples of one micro-batch.

    Returns:
        One line.
    """
    if hardware.samples_per_second:
        return (
            f"{_days(config.samples / hardware.samples_per_second)} at {hardware.samples_per_second:g} "
            "samples/s, as given"
        )
    if hardware.tflops is None or cost is None:
        return "not known: give --samples-per-second as a short run's log has it, or --tflops"
    passes = 4 if config.gradient_checkpointing else 3  # a backward pass costs two forward passes
    seconds = config.samples * cost.flops / micro * passes / (hardware.processes * hardware.tflops * 1e12)
    return (
        f"at least {_days(seconds)} if each of {hardware.processes} devices sustains {hardware.tflops:g} "
        "TFLOP/s, as given"
    )


def checkpoint_bytes(config: Config, module: nn.Module) -> int:
    """Return the size of one checkpoint in bytes."""
    return 4 * _count(module) + (12 if config.ema else 8) * _count(module, True)


def _count(module: nn.Module, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def _days(seconds: float) -> str:
    if seconds > 2 * 86400:
        return f"{seconds / 86400:,.1f} days"
    if seconds > 2 * 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:,.1f} min"
