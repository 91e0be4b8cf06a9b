"""The one training loop.

Progress is counted in samples seen; what a step does is a function of (configuration, samples seen) alone.

A step takes `batch_size` samples, cut into world size x `accumulate` chunks; process r takes chunk
m * world size + r as its micro-batch m. Order of samples, noise and dropout depend on (seed, samples seen,
chunk), so that a resumed run, or one process with twice the accumulation in place of two processes, sees the
same.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from codi.types import InputError
from data.order import draw_seed, sample_indices
from training import checkpoint, folder, signals
from training.config import VALIDATION, Config, compare
from training.ema import Ema
from training.engine import (
    Objective,
    Whole,
    compile_parts,
    describe,
    enable_checkpointing,
    load_weights,
    make_accelerator,
    make_optimizer,
    seed_draws,
    to_device,
    wants_deepspeed,
)
from training.log import Log, Meter
from training.prefetch import Prefetch
from training.schedule import learning_rate
from training.stages import Source, Stage, find_stage, open_stage
from training.stages.building import build_module
from training.validation import Validation

INTERRUPTED = 130  # exit code, as a shell gives it after SIGINT


class TrainingError(RuntimeError):
    """A number is not finite, so that the run cannot go on; the message names the step and the samples."""


def train(config: Config, *, restart: bool = False) -> int:
    """Run a stage to its end, from where it stopped, and return the exit code.

    Args:
        config: the run.
        restart: whether to remove its checkpoints, log and previews first.

    Returns:
        0 when the run is complete, `INTERRUPTED` after a signal (and a checkpoint).

    Raises:
        InputError: if something that was given cannot be used.
        TrainingError: if a loss or a gradient is not finite.
    """
    accelerator = make_accelerator(config)
    try:
        with folder.locked(config.output, accelerator.is_main_process):
            if restart and accelerator.is_main_process:
                folder.clear(config.output)
            accelerator.wait_for_everyone()
            with closing(Trainer(config, accelerator)) as trainer:
                return trainer.run()
    finally:
        accelerator.end_training()


class Trainer:
    """One run: everything that exists once per process while it trains.

    Args:
        config: the run.
        accelerator: device and processes, as `training.engine.make_accelerator` makes it.
    """

    def __init__(self, config: Config, accelerator: Any) -> None:
        self.config = config
        self.accelerator = accelerator
        self.device = accelerator.device
        self.main = accelerator.is_main_process
        self.world = accelerator.num_processes
        self.rank = accelerator.process_index
        self.chunks = self.world * config.accumulate
        self._check_split()
        self.samples = self.step = 0
        self.elapsed = 0.0
        self.validation = Validation(config)
        found = self._find_checkpoint()
        self.stage = open_stage(config)
        torch.manual_seed(config.seed)
        self.module = build_module(self.stage, config.part)
        self.stage.to(self.device)
        if found is not None:
            load_weights(self.module, found.weights)
        self._prepare(found)
        self.source: Source | None = None
        self.generator = torch.Generator(self.device)

    def _prepare(self, found: checkpoint.Snapshot | None) -> None:
        """Set up the optimizer, the processes and the averaged weights, and restore a checkpoint."""
        config = self.config
        accelerator = self.accelerator
        if config.gradient_checkpointing:
            enable_checkpointing(self.module, config.stage)
        optimizer = make_optimizer(self.module, config)
        if config.compile:
            compile_parts(self.module, config.stage)
        sharded = wants_deepspeed()
        if sharded:
            from training.sharded import Sharded, configure

            configure(accelerator, config)
        autocast = torch.bfloat16 if sharded and config.precision == "bf16" else None
        objective = Objective(self.stage, self.module, autocast)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        if sharded:
            self.held = Sharded(self.module, self.optimizer.optimizer)
        else:
            self.held = Whole(self.module, optimizer)
        self.ema = Ema(self.module, config.ema, self.held.local) if config.ema else None
        if found is not None:
            self._restore(found)

    def close(self) -> None:
        """Let go of what would keep the process from ending."""
        if wants_deepspeed():
            from training.sharded import destroy

            engine = self.objective
            self.objective = self.optimizer = self.held = None
            destroy(engine)

    # Running

    @property
    def finished(self) -> bool:
        """Return whether all samples are seen, all minutes used, or all patience."""
        config = self.config
        late = config.max_minutes is not None and self.elapsed >= 60 * config.max_minutes
        return self.samples >= config.samples or late or self.validation.exhausted

    def run(self) -> int:
        """Train to the end, write what belongs to it, and return the exit code; nothing is done twice."""
        if self.finished:
            return self._already_complete()
        config = self.config
        if rows := self.stage.rows_of_data():
            self._say(f"data: {rows}")
        if self.samples:
            self._say(f"resuming {config.output} at {self.samples} samples")
        self.log = Log(
            config.output / "log.jsonl",
            total=config.samples,
            samples=self.samples,
            main=self.main,
            title=config.stage,
            tensorboard=config.tensorboard,
        )
        try:
            self.source = self.stage.data()
            if config.validate_every and self.main:
                self.validation.load(self.stage, config.batch_size // self.chunks, self._say)
            interrupted = self._train(self.source)
            self._save()
        finally:
            self.log.close()
            if self.source is not None:
                self.source.close()
            self.source = None
        if interrupted:
            self._say(
                f"interrupted at {self.samples} samples, checkpoint written; the same command goes on from "
                "here"
            )
            return INTERRUPTED
        self._say_best()
        self._preview(best=True)
        self._export()
        return 0

    def _train(self, source: Source) -> bool:
        """Take steps until the run is finished; return True if a signal came first."""
        config = self.config
        meter = Meter()
        start = time.monotonic() - self.elapsed
        self.module.train()
        with Prefetch(source.fetch, self._plan(source)) as batches, signals.collected() as received:
            while True:
                norm = self._step(batches, meter)
                self.elapsed = time.monotonic() - start
                self.log.advance(config.batch_size)
                measured = self._due(config.validate_every)
                if measured:
                    self._validate()
                # all processes stop at the same step: clocks and signals of one decide for all
                stop, interrupted = self._agree(self.finished, bool(received))
                if config.validate_every and stop and not measured:
                    self._validate()
                if self._due(config.log_every) or (config.log_every and (stop or interrupted)):
                    self._write_log(meter, norm)
                    meter = Meter()
                if stop or interrupted:
                    return not stop
                if self._due(config.checkpoint_every):
                    self._save()
                if self._due(config.preview_every):
                    self._preview()

    def _step(self, batches: Prefetch, meter: Meter) -> Tensor | None:
        """Take one optimizer step and return the gradient's norm, or None if it was not measured."""
        config = self.config
        norm = None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.samples + config.batch_size)
        self.stage.progress = self.samples / config.samples
        for micro in range(config.accumulate):
            indices, batch = next(batches)
            self._seed(micro * self.world + self.rank)
            with self.accelerator.accumulate(self.objective):
                loss, extras = self.objective(to_device(batch, self.device), self.generator)
                names = batch.get("ids", indices)
                # before `backward`, in which DeepSpeed takes its step
                self._check("loss", loss, names, extras)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self._gradient_norm(names)
                self.optimizer.step()
                self.optimizer.zero_grad()
            meter.add(loss, extras)
        if self.ema:
            self.ema.update(self.module)
        self.samples += config.batch_size
        self.step += 1
        return norm

    def _gradient_norm(self, names: list[Any]) -> Tensor | None:
        """Clip the gradient, and return its norm where measuring it is free or a log line is due."""
        if self.config.clip_grad_norm or wants_deepspeed():
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_grad_norm)
            norm = norm if isinstance(norm, Tensor) else torch.tensor(norm)
        elif self._due(self.config.log_every, ahead=self.config.batch_size):
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        else:
            return None
        if self.accelerator.scaler is None:  # with one, an overflow is skipped and the scale lowered
            self._check("gradient norm", norm, names)
        return norm

    def _seed(self, chunk: int) -> None:
        """Seed all randomness of one micro-batch: the stage's generator, and the global one for dropout."""
        seeds = [draw_seed(self.config.seed, self.samples, chunk, stream) for stream in (0, 1)]
        seed_draws(self.generator, *seeds)

    def _plan(self, source: Source) -> Iterator[list[int]]:
        """Yield the indices of every micro-batch of this process from here on."""
        size = self.config.batch_size // self.chunks
        position = self.samples
        infinite = source.infinite
        length = len(source)
        if not infinite and length == 0:
            raise InputError(f"stage {self.config.stage}: the data is empty")
        while True:
            for micro in range(self.config.accumulate):
                start = position + (micro * self.world + self.rank) * size
                yield sample_indices(self.config.seed, start, size, length, infinite)
            position += self.config.batch_size

    # State

    def _find_checkpoint(self) -> checkpoint.Snapshot | None:
        """Return the newest complete checkpoint, or None; raise InputError if it is of another run."""
        path = checkpoint.find(self.config.output / "checkpoints", self._say)
        if path is None:
            return None
        snapshot = checkpoint.read(path)
        options = find_stage(self.config.stage).identity
        another, changed = compare(snapshot.state["config"], self.config.as_json(), options)
        if another:
            raise InputError(
                f"{path} belongs to another run ({'; '.join(another)}): choose another `output`, or start "
                "anew with --restart"
            )
        if changed:
            self._say(f"other settings than before: {'; '.join(changed)}")
        return snapshot

    def _restore(self, snapshot: checkpoint.Snapshot) -> None:
        """Take back what a checkpoint holds of counts, optimizer, scaler and averaged weights."""
        state = snapshot.state
        self.samples = state["samples"]
        self.step = snapshot.step
        self.elapsed = state["elapsed"]
        self.held.load_optimizer(snapshot.optimizer)
        if self.accelerator.scaler is not None and state["scaler"]:
            try:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            except (KeyError, RuntimeError):
                raise InputError(
                    "the checkpoint's loss scale is not one of this torch: start anew with --restart"
                ) from None
        if self.ema and snapshot.ema:
            self.ema.load(self.held.cut(snapshot.ema), state["ema_updates"])
        # the best weights are for the export, which is the main process's work
        self.validation.restore(state, snapshot.best if self.main else {})

    def _save(self) -> None:
        """Write a checkpoint from the main process.

        Where the state is cut over processes, all of them take part.
        """
        weights = self.held.weights()
        optimizer = self.held.optimizer_tensors()
        average = self.held.whole(self.ema.average) if self.ema else {}
        if self.main:
            scaler = self.accelerator.scaler
            state = {
                "samples": self.samples,
                "elapsed": self.elapsed,
                "config": self.config.as_json(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "ema_updates": self.ema.updates if self.ema else 0,
                "launch": describe(self.accelerator),
                VALIDATION: self.validation.state(),
            }
            snapshot = checkpoint.Snapshot(
                step=self.step,
                weights=weights,
                optimizer=optimizer,
                ema=average,
                best=self.validation.weights,
                state=state,
            )
            checkpoint.write(self.config.output / "checkpoints", snapshot)
        self.accelerator.wait_for_everyone()

    # Output

    def _write_log(self, meter: Meter, norm: Tensor | None) -> None:
        """Write a line of the log: the means of all processes, and how far the run is."""
        means = [meter.means()] if self.world == 1 else gather_object([meter.means()])
        values = {
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "minutes": round(self.elapsed / 60, 3),
        }
        if norm is not None:
            values["grad_norm"] = float(norm)
        if bad := self.source.bad:
            values["bad_samples"] = bad  # those of the main process; bad.jsonl lists all
        self.log.write(self.samples, {**Meter.average(means), **values})

    def _validate(self) -> None:
        """Measure the model as it would be exported now on held-out samples, and take note of its loss."""
        with self._as_exported() as (stage, module):
            if self.main:
                values = self.validation.measure(stage, module, self.device)
                values |= self.validation.note(values, self.samples, module)
                self.log.note(self.samples, {"step": self.step, **values})
        self.accelerator.wait_for_everyone()

    def _say_best(self) -> None:
        """Say why the run ends early, if it does, and which model is exported, if it is not the last."""
        found = self.validation
        if found.exhausted and self.samples < self.config.samples:
            self._say(
                f"stopped early at {self.samples} samples: {found.since} measurements in a row have not "
                f"lowered the held-out loss ({found.best} at {found.best_samples})"
            )
        if found.weights and found.best_samples != self.samples:
            self._say(f"exporting the best model, that of {found.best_samples} samples")

    def _preview(self, best: bool = False) -> None:
        """Write the stage's preview of the model as it is now, or of the best one if that is kept."""
        with self._as_exported() as (stage, module):
            if self.main:
                target = self.config.output / "previews" / f"{self.samples:010d}"
                target.mkdir(parents=True, exist_ok=True)
                with self.validation.applied(module) if best else nullcontext():
                    stage.preview(module, target)
        self.accelerator.wait_for_everyone()

    def _export(self) -> None:
        """Export the model as it is now, or the best one if that is kept, and note that it was exported."""
        with self._as_exported() as (stage, module):
            if self.main:
                with self.validation.applied(module):
                    folder.export_once(self.config, self.samples, lambda target: stage.export(module, target))
        self.accelerator.wait_for_everyone()

    def _already_complete(self) -> int:
        """Export again if a file of the export is missing, and return the exit code."""
        (missing,) = self._agree(folder.export_missing(self.config, self.samples))
        self._say(
            f"{self.config.output} is complete at {self.samples} "
            f"samples{'; exporting again, a file is missing' if missing else ''}"
        )
        if missing:
            self._export()
        return 0

    @contextmanager
    def _as_exported(self) -> Iterator[tuple[Stage, nn.Module]]:
        """Yield stage and module as they will be used: averaged weights, evaluation mode, no gradients."""
        stage, module = self._whole_copy() if self.held.cut_weights else (self.stage, self.module)
        averaged = self.ema.applied(module) if self.ema and not self.held.cut_weights else nullcontext()
        modes = {child: child.training for child in module.modules()}
        module.eval()
        try:
            with torch.no_grad(), averaged:
                yield stage, module
        finally:
            for child, mode in modes.items():
                child.training = mode

    def _whole_copy(self) -> tuple[Stage, nn.Module]:
        """Return stage and module a second time, whole, in the main process.

        This is for runs in which every process has only a piece of each weight. The other processes get an
        empty module.
        """
        weights = self.held.weights() | (self.held.whole(self.ema.average) if self.ema else {})
        if not self.main:
            return self.stage, nn.Module()
        stage = open_stage(self.config)
        module = stage.build()
        load_weights(module, weights)
        stage.to(self.device)
        return stage, module.to(self.device)

    # Small decisions

    def _due(self, every: int, ahead: int = 0) -> bool:
        """Return whether the last step crossed a multiple of `every` samples.

        With `ahead` samples it answers for the step under way.
        """
        after = self.samples + ahead
        return bool(every) and after // every > (after - self.config.batch_size) // every

    def _agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return each flag, true in all processes as soon as it is true in one."""
        if self.world == 1:
            return flags
        mine = torch.tensor(list(map(float, flags)), device=self.device)
        votes = self.accelerator.reduce(mine, reduction="sum")
        return tuple(bool(vote > 0) for vote in votes)

    def _check(
        self, what: str, value: Tensor, names: list[Any], extras: dict[str, Any] | None = None
    ) -> None:
        """Raise TrainingError before a step is taken with a number that is not finite.

        `names` are the samples' ids or indices.
        """
        number = value.item()
        if math.isfinite(number):
            return
        bad = []
        if extras and "bins" in extras:
            _, losses = extras["bins"]
            bad = [name for name, loss in zip(names, losses.tolist()) if not math.isfinite(loss)]
        bad = bad or names
        raise TrainingError(
            f"{what} is {number} in step {self.step + 1}, after {self.samples} samples, at samples {bad}: "
            "look at these samples, or lower the rate; the last checkpoint is untouched"
        )

    def _check_split(self) -> None:
        """Raise InputError unless the batch can be cut evenly over processes and micro-batches."""
        if self.config.batch_size % self.chunks:
            raise InputError(
                f"config: batch_size {self.config.batch_size} cannot be split over {self.world} processes x "
                f"accumulate {self.config.accumulate}: choose a multiple of {self.chunks}"
            )

    def _say(self, message: str) -> None:
        if self.main:
            print(message, file=sys.stderr, flush=True)
