"""Measurements on held-out samples while a run trains, early stopping, and the best model so far.

The samples are those that `data: {validation: ...}` names. Every measurement sees the same ones with the same
noise at the same noise levels, so that two numbers of a run differ by the model alone. What trains does not
change by it: held-out samples have a source of their own, and every micro-batch is seeded anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from data.order import draw_seed
from training.config import VALIDATION, Config
from training.engine import seed_draws, to_device
from training.log import HELD_OUT, Meter
from training.stages import Stage
from training.stages.rows import held_out


class Validation:
    """The measurements of one run on held-out samples, and the best model so far.

    Args:
        config: the run.

    Attributes:
        best: the least held-out loss so far; None before the first measurement.
        best_samples: how many samples the run had seen then.
        since: how many measurements in a row have not lowered it.
        weights: the weights of that model as it would be exported, on the CPU; empty without `keep_best`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.best: float | None = None
        self.best_samples = 0
        self.since = 0
        self.weights: dict[str, Tensor] = {}
        self.data: dict[str, Any] = {}
        self.batches: list[Any] = []
        self.counts: list[int] = []

    @property
    def exhausted(self) -> bool:
        """Return whether the patience of the run has come to its end."""
        return 0 < self.config.patience <= self.since

    def load(self, stage: Stage, size: int, say: Callable[[str], None] = lambda message: None) -> None:
        """Read the held-out samples into memory.

        Args:
            stage: the stage of the run, its module built.
            size: the number of samples in a batch; the last batch may be smaller.
            say: gets a line for people that says how many rows there are.
        """
        self.data, samples = held_out(self.config.data)
        self.batches = []
        there = stage.with_data(self.data)
        if rows := there.rows_of_data():
            say(f"held out: {rows}")
        with there.data() as source:
            count = min(samples, len(source))
            for start in range(0, count, size):
                self.batches.append(source.fetch(list(range(start, min(start + size, count)))))
        self.counts = [min(size, count - start) for start in range(0, count, size)]

    @torch.no_grad()
    def measure(self, stage: Stage, module: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return the held-out loss and what the stage measures beside it.

        Args:
            stage: the stage of the run.
            module: what it built, as it would be exported.
            device: where the module and the stage's frozen parts are.

        Returns:
            Numbers by name, all of which begin with "validation/".
        """
        held_out_stage = stage.with_data(self.data)
        held_out_stage.progress = 1.0  # so that every measurement is of what the end of the run learns
        generator = torch.Generator(device)
        meter = Meter()
        sums: dict[str, list[tuple[float, int]]] = {}
        for number, (batch, count) in enumerate(zip(self.batches, self.counts, strict=True)):
            # streams 0 and 1 are those of the micro-batches that train
            seeds = [draw_seed(self.config.seed, 0, number, stream) for stream in (2, 3)]
            seed_draws(generator, *seeds)
            loss, extras = held_out_stage.loss(module, to_device(batch, device), generator)
            bins = {"bins": extras.pop("bins")} if "bins" in extras else {}
            meter.add(loss, bins)
            for name, value in {"loss": loss, **extras}.items():
                sums.setdefault(name, []).append((float(value), count))
        found = meter.means()
        for name, values in sums.items():
            found[name] = math.fsum(value * count for value, count in values) / sum(n for _, n in values)
        found |= stage.scores(module, self.batches)
        return {f"{HELD_OUT}{name}": value for name, value in found.items()}

    def note(self, values: Mapping[str, Any], samples: int, module: nn.Module) -> dict[str, Any]:
        """Take note of a measurement.

        Args:
            values: what `measure` returned.
            samples: how many samples the run has seen.
            module: what was measured. Its weights are copied if it is the best and `keep_best` is on.

        Returns:
            The least held-out loss so far, and at how many samples it was, for the log.
        """
        loss = values[f"{HELD_OUT}loss"]
        if math.isfinite(loss) and (self.best is None or loss < self.best):
            self.best, self.best_samples, self.since = loss, samples, 0
            if self.config.keep_best:
                self.weights = {name: x.detach().cpu().clone() for name, x in module.state_dict().items()}
        else:
            self.since += 1
        return {f"{HELD_OUT}best_loss": self.best, f"{HELD_OUT}best_samples": self.best_samples}

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give the module the best weights inside the context, and its own back behind it.

        Where none are kept the module stays as it is.
        """
        if not self.weights:
            yield
            return
        own = {name: x.detach().clone() for name, x in module.state_dict().items()}
        try:
            module.load_state_dict(self.weights)
            yield
        finally:
            module.load_state_dict(own)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the best weights, as plain JSON."""
        return {"best": self.best, "best_samples": self.best_samples, "since": self.since}

    def restore(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Take back what a checkpoint holds of these held-out samples; a loss on others is not comparable.

        Args:
            state: the state of the checkpoint.
            weights: the best weights in it.
        """
        found = state.get(VALIDATION)
        before = (state["config"].get("data") or {}).get(VALIDATION)
        if found and before == self.config.data.get(VALIDATION):
            self.best, self.best_samples, self.since = found["best"], found["best_samples"], found["since"]
            self.weights = weights if self.config.keep_best else {}
