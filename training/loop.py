"""The one training loop. Progress is counted in samples seen; what a step does is a function of (configuration, samples seen) alone.

A step takes `batch_size` samples, cut into world size x `accumulate` chunks; process r takes chunk m * world + r as its micro-batch m.
Order of samples, noise and dropout depend on (seed, samples seen, chunk), so a resumed run, or one process with twice the accumulation
in place of two processes, sees the same.
"""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn

from codi.types import InputError
from training import checkpoint
from training.config import Config
from training.ema import Ema
from training.export import export_missing, export_once
from training.log import Log, Meter
from training.order import draw_seed, sample_indices
from training.prefetch import Prefetch
from training.schedule import learning_rate
from training.stages import Source, Stage, find_stage

INTERRUPTED = 130


class TrainingError(RuntimeError):
    """The run cannot go on: a number that is not finite. The message names the step and the samples."""


class Objective(nn.Module):
    """The stage's loss as a module's forward, so that DDP, DeepSpeed and autocast see one ordinary call."""

    def __init__(self, stage: Stage, module: nn.Module) -> None:
        super().__init__()
        self.module, self._loss = module, stage.loss

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        return self._loss(self.module, batch, generator)


class Trainer:
    """One run: everything that exists once per process while it trains."""

    def __init__(self, config: Config, *, restart: bool = False) -> None:
        self.config = config
        self.accelerator = make_accelerator(config)
        self.main = self.accelerator.is_main_process
        if restart:
            if self.main:
                clear(config.output)
            self.accelerator.wait_for_everyone()
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self._check_split()
        self.stage = find_stage(config.stage)(config)
        torch.manual_seed(config.seed)
        self.module = self.stage.build()
        self.stage.to(self.accelerator.device)
        self.samples = self.step = 0
        self.elapsed = 0.0
        found = self._find_checkpoint()
        if found is not None:
            load_weights(self.module, found.weights)
        optimizer = make_optimizer(self.module, config)
        if config.compile:
            for child in self.module.children():
                child.compile()
        self.objective, self.optimizer = self.accelerator.prepare(Objective(self.stage, self.module), optimizer)
        self.ema = Ema(self.module, config.ema) if config.ema else None
        if found is not None:
            self._restore(found)
        self.generator = torch.Generator(self.accelerator.device)

    # -- running

    @property
    def finished(self) -> bool:
        """All samples seen, or all minutes used."""
        return self.samples >= self.config.samples or self._out_of_time()

    def run(self) -> int:
        """Trains to the end, writes what belongs to it; returns the exit code. Does nothing twice."""
        if self.finished:
            return self._already_complete()
        self.log = Log(self.config.output / "log.jsonl", total=self.config.samples, samples=self.samples, main=self.main, title=self.config.stage)
        try:
            if self.samples:
                self.log.say(f"resuming at {self.samples} samples")
            interrupted = self._train(self.stage.data())
            self._save()
            if interrupted:
                self.log.say(f"interrupted at {self.samples} samples; the same command goes on from here")
                return INTERRUPTED
            self._preview()
            self._export()
        finally:
            self.log.close()
        return 0

    def _train(self, source: Source) -> bool:
        """Steps until finished; True if a signal came first."""
        config, meter = self.config, Meter()
        start, earlier = time.monotonic(), self.elapsed
        self.module.train()
        with Prefetch(source.fetch, self._plan(source)) as batches, signals() as received:
            while True:
                norm = self._step(batches, meter)
                self.elapsed = earlier + time.monotonic() - start
                self.log.advance(config.batch_size)
                stop, interrupted = self._agree(self.finished, bool(received))
                if self._due(config.log_every) or ((stop or interrupted) and config.log_every):
                    self._write_log(meter, norm)
                    meter = Meter()
                if stop or interrupted:
                    return interrupted
                if self._due(config.checkpoint_every):
                    self._save()
                if self._due(config.preview_every):
                    self._preview()

    def _step(self, batches: Prefetch, meter: Meter) -> Tensor | None:
        """One optimizer step; returns the gradient's norm if it was measured."""
        config, norm = self.config, None
        rate = learning_rate(config, self.samples + config.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for micro in range(config.accumulate):
            indices, batch = next(batches)
            self._seed(micro * self.world + self.rank)
            with self.accelerator.accumulate(self.objective):
                loss, extras = self.objective(to_device(batch, self.accelerator.device), self.generator)
                self.accelerator.backward(loss)
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainingError(self._complaint("loss", value, indices, extras))
                if self.accelerator.sync_gradients:
                    norm = self._gradient_norm(indices)
                self.optimizer.step()
                self.optimizer.zero_grad()
            meter.add(value, extras)
        if self.ema:
            self.ema.update(self.module)
        self.samples += config.batch_size
        self.step += 1
        return norm

    def _gradient_norm(self, indices: list[int]) -> Tensor | None:
        """Clips, and measures where that is free or a log line is due."""
        if self.config.clip_grad_norm:
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_grad_norm)
        elif self._due(self.config.log_every, ahead=self.config.batch_size):
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        else:
            return None
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(norm.item()):
            raise TrainingError(self._complaint("gradient norm", norm.item(), indices, {}))
        return norm

    def _seed(self, chunk: int) -> None:
        """All randomness of one micro-batch: the generator given to the stage, and the global one for dropout."""
        self.generator.manual_seed(draw_seed(self.config.seed, self.samples, chunk))
        torch.manual_seed(draw_seed(self.config.seed, self.samples, chunk, stream=1))

    def _plan(self, source: Source) -> Iterator[list[int]]:
        """Indices of every micro-batch of this process from here on."""
        size = self.config.batch_size // (self.config.accumulate * self.world)
        infinite, position = getattr(source, "infinite", False), self.samples
        if not infinite and len(source) == 0:
            raise InputError(f"stage {self.config.stage}: the data is empty")
        while True:
            for micro in range(self.config.accumulate):
                start = position + (micro * self.world + self.rank) * size
                yield sample_indices(self.config.seed, start, size, len(source), infinite)
            position += self.config.batch_size

    # -- state

    def _find_checkpoint(self) -> checkpoint.Snapshot | None:
        path = checkpoint.find(self.config.output / "checkpoints", self._say)
        if path is None:
            return None
        snapshot = checkpoint.read(path)
        before, now = snapshot.state["config"], self.config.as_json()
        changed = [name for name in ("stage", "part", "seed") if before[name] != now[name]]
        if changed:
            raise InputError(
                f"{path} belongs to another run: {', '.join(f'{n} was {before[n]!r}' for n in changed)}: "
                "choose another `output`, or start anew with --restart"
            )
        return snapshot

    def _restore(self, snapshot: checkpoint.Snapshot) -> None:
        state = snapshot.state
        self.samples, self.step, self.elapsed = state["samples"], snapshot.step, state["elapsed"]
        self.optimizer.load_state_dict(checkpoint.unflatten_optimizer(snapshot.optimizer, state["optimizer"]))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema and snapshot.ema:
            self.ema.load(snapshot.ema, state["ema_updates"])

    def _save(self) -> None:
        if self.main:
            tensors, rest = checkpoint.flatten_optimizer(self.optimizer.state_dict())
            scaler = self.accelerator.scaler
            state = {
                "samples": self.samples,
                "elapsed": self.elapsed,
                "config": self.config.as_json(),
                "optimizer": rest,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "ema_updates": self.ema.updates if self.ema else 0,
            }
            ema = self.ema.average if self.ema else {}
            snapshot = checkpoint.Snapshot(step=self.step, weights=self.module.state_dict(), optimizer=tensors, state=state, ema=ema)
            checkpoint.write(self.config.output / "checkpoints", snapshot)
        self.accelerator.wait_for_everyone()

    # -- output

    def _write_log(self, meter: Meter, norm: Tensor | None) -> None:
        meters = gather_object([meter]) if self.world > 1 else [meter]
        values = {"step": self.step, "lr": self.optimizer.param_groups[0]["lr"], "minutes": round(self.elapsed / 60, 3)}
        if norm is not None:
            values["grad_norm"] = float(norm)
        self.log.write(self.samples, {**Meter().merge(meters).means(), **values})

    def _preview(self) -> None:
        folder = self.config.output / "previews" / f"{self.samples:010d}"
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            with self._as_exported():
                self.stage.preview(self.module, folder)
        self.accelerator.wait_for_everyone()

    def _export(self) -> None:
        if self.main:
            with self._as_exported():
                export_once(self.config, self.samples, lambda folder: self.stage.export(self.module, folder))
        self.accelerator.wait_for_everyone()

    def _already_complete(self) -> int:
        missing = export_missing(self.config, self.samples)
        self._say(f"{self.config.output} is complete at {self.samples} samples" + ("; exporting again" if missing else ""))
        if missing:
            self._export()
        return 0

    @contextmanager
    def _as_exported(self) -> Iterator[None]:
        """Inside, the module is as it will be used: averaged weights, evaluation mode, no gradients."""
        modes = {child: child.training for child in self.module.modules()}
        self.module.eval()
        try:
            with torch.no_grad():
                if self.ema is None:
                    yield
                else:
                    with self.ema.applied(self.module):
                        yield
        finally:
            for child, mode in modes.items():
                child.training = mode

    # -- small decisions

    def _due(self, every: int, ahead: int = 0) -> bool:
        """True when the last step (or with `ahead`, the one under way) crossed a multiple of `every` samples."""
        after = self.samples + ahead
        return bool(every) and after // every > (after - self.config.batch_size) // every

    def _out_of_time(self) -> bool:
        return self.config.max_minutes is not None and self.elapsed >= 60 * self.config.max_minutes

    def _agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true everywhere as soon as it is true in one process."""
        if self.world == 1:
            return flags
        votes = self.accelerator.reduce(torch.tensor([float(f) for f in flags], device=self.accelerator.device), reduction="sum")
        return tuple(bool(v > 0) for v in votes)

    def _say(self, message: str) -> None:
        if self.main:
            print(message, file=sys.stderr, flush=True)

    def _check_split(self) -> None:
        parts = self.world * self.config.accumulate
        if self.config.batch_size % parts:
            raise InputError(
                f"config: batch_size {self.config.batch_size} cannot be split over {self.world} processes x accumulate "
                f"{self.config.accumulate}: choose a multiple of {parts}"
            )

    def _complaint(self, what: str, value: float, indices: list[int], extras: dict[str, Any]) -> str:
        bad = indices
        if "bins" in extras:
            bad = [i for i, loss in zip(indices, extras["bins"][1].tolist()) if not math.isfinite(loss)] or indices
        return f"{what} is {value} in step {self.step + 1} ({self.samples} samples before it), samples {bad}: the last checkpoint is untouched"


def make_accelerator(config: Config) -> Accelerator:
    """Device, processes and precision. gloo has to be named where processes meet without a GPU, or DeepSpeed fails; nowhere else."""
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if not torch.cuda.is_available() and "WORLD_SIZE" in os.environ:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    return Accelerator(gradient_accumulation_steps=config.accumulate, mixed_precision=config.precision, kwargs_handlers=handlers)


def make_optimizer(module: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW, fused (on two cores several times faster than the loop over tensors); only matrices and kernels are decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert trainable, f"stage {config.stage} built a module without a trainable parameter"
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Strictly, tensors and shapes alike."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"the checkpoint does not fit this model: {' '.join(str(error).split())[:400]}: start anew with --restart") from None


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def clear(output: Path) -> None:
    """Forgets a run: its checkpoints, log and previews; nothing else in the folder."""
    for name in ("checkpoints", "previews"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("log.jsonl", "exported.json"):
        (output / name).unlink(missing_ok=True)
