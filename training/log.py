"""The reports of a run while it trains.

A run shows a progress bar on stderr, writes a JSON line per interval into `log.jsonl`, and the same as
TensorBoard events if asked for.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codi.types import InputError

NUM_BINS = 10
HELD_OUT = "validation/"  # what the names of numbers on held-out samples begin with
# tqdm would turn a rate below 1 into seconds per sample; this keeps samples per second
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Meter:
    """Collects means over an interval, and the loss by noise level; they are computed only when asked for.

    The noise levels are in [0, 1], which is cut into `NUM_BINS` equal bins.
    """

    def __init__(self) -> None:
        self.scalars: dict[str, list[Any]] = {}
        self.bins: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: Tensor, extras: dict[str, Any]) -> None:
        """Add one micro-batch: its loss, and whatever the stage returned beside it.

        Args:
            loss: the mean loss, a scalar.
            extras: scalars by name; under "bins" (noise levels in [0, 1], losses), each (B,) for B samples.
        """
        for name, value in {"loss": loss, **extras}.items():
            if name == "bins":
                self.bins.append((value[0].detach(), value[1].detach()))
            else:
                self.scalars.setdefault(name, []).append(
                    value.detach() if isinstance(value, Tensor) else value
                )

    def means(self) -> dict[str, Any]:
        """Return the means of everything that was added.

        Returns:
            {"loss", other scalars by name, "loss_by_bin" if the stage gave bins}; "loss_by_bin" is a list
            with the mean of each bin, or None for a bin without samples.
        """
        means: dict[str, Any] = {}
        for name, values in self.scalars.items():
            means[name] = math.fsum(map(float, values)) / len(values)
        if self.bins:
            levels, losses = zip(*self.bins)
            level = torch.cat(levels).double().cpu()
            loss = torch.cat(losses).double().cpu()
            place = (level * NUM_BINS).long().clamp(0, NUM_BINS - 1)
            empty = torch.zeros(NUM_BINS).double()
            sums = empty.index_add(0, place, loss).tolist()
            counts = empty.index_add(0, place, torch.ones_like(loss)).tolist()
            means["loss_by_bin"] = [total / n if n else None for total, n in zip(sums, counts)]
        return means

    @staticmethod
    def average(means: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the means of several processes as one; what only some have is averaged over those."""
        if len(means) == 1:
            return means[0]
        merged: dict[str, Any] = {}
        names: dict[str, None] = {}
        for one in means:
            names |= dict.fromkeys(one)
        for name in names:
            values = [one[name] for one in means if name in one]
            if name == "loss_by_bin":
                merged[name] = [_mean(column) for column in zip(*values)]
            else:
                merged[name] = _mean(values)
        return merged


class Log:
    """Writes `log.jsonl`, shows the progress bar and, if asked to, writes TensorBoard events beside the log.

    Only the main process writes. Lines of an existing log that come after `samples` are dropped.

    Args:
        path: the log file; TensorBoard events go into the folder `tensorboard` beside it.
        total: how many samples the run will see.
        samples: how many it has seen already.
        main: whether this is the main process.
        title: what stands before the bar.
        tensorboard: whether to write TensorBoard events too.
    """

    def __init__(
        self, path: Path, *, total: int, samples: int, main: bool, title: str, tensorboard: bool = False
    ) -> None:
        self.path = path
        self.main = main
        self.events = open_events(path.parent / "tensorboard", samples) if tensorboard and main else None
        self.clock = time.perf_counter()
        self.since = samples
        if main:
            path.parent.mkdir(parents=True, exist_ok=True)
            forget_after(path, samples)
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(
            total=total,
            initial=samples,
            desc=title,
            unit=" samples",
            bar_format=BAR,
            file=sys.stderr,
            disable=not main,
            mininterval=interval,
            maxinterval=2 * interval,
            dynamic_ncols=True,
        )

    def advance(self, count: int) -> None:
        """Move the progress bar on by `count` samples."""
        self.bar.update(count)

    def write(self, samples: int, values: dict[str, Any]) -> None:
        """Write one line, with the speed since the last one and the peak of memory added.

        Args:
            samples: how many samples the run has seen.
            values: numbers by name; a number that is not finite is written as null.
        """
        now = time.perf_counter()
        speed = (samples - self.since) / max(now - self.clock, 1e-9)
        self.clock = now
        self.since = samples
        if not self.main:
            return
        line = {"samples": samples, **values, "samples_per_s": round(speed, 2), "memory_mb": memory_peak()}
        self._append(line)
        self.bar.set_postfix_str(f"loss {values['loss']:.4g}" if "loss" in values else "", refresh=False)

    def note(self, samples: int, values: dict[str, Any]) -> None:
        """Write a line of its own for numbers that are not of the training samples, such as held-out ones.

        Args:
            samples: how many samples the run has seen.
            values: numbers by name; a number that is not finite is written as null.
        """
        if self.main:
            self._append({"samples": samples, **values})

    def say(self, message: str) -> None:
        """Print one line for a person, on stderr, above the bar."""
        if self.main:
            tqdm.write(message, file=sys.stderr)

    def _append(self, line: dict[str, Any]) -> None:
        """Add a line to the log, and its numbers to the TensorBoard events."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({k: _finite(v) for k, v in line.items()}) + "\n")
        if self.events is not None:
            for name, value in numbers(line):
                self.events.add_scalar(name, value, line["samples"])
            self.events.flush()

    def close(self) -> None:
        """Close the progress bar and the TensorBoard events."""
        self.bar.close()
        if self.events is not None:
            self.events.close()


def open_events(folder: Path, samples: int) -> Any:
    """Return a writer of TensorBoard events.

    If the run went back to an earlier checkpoint, events after `samples` are hidden. Where TensorBoard is not
    installed, this raises `InputError`.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "config: tensorboard is true, but TensorBoard is not installed: pip install 'tensorboard>=2.21'"
        ) from None
    return SummaryWriter(str(folder), purge_step=samples + 1 if samples else None)


def is_held_out(line: dict[str, Any]) -> bool:
    """Return whether a line of a log is of held-out samples."""
    return f"{HELD_OUT}loss" in line


def numbers(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of the finite numbers of a log line; entries of a list are numbered."""
    for name, value in line.items():
        entries = [(name, value)]
        if isinstance(value, list):
            entries = [(f"{name}/{place}", entry) for place, entry in enumerate(value)]
        for label, entry in entries:
            if isinstance(entry, (int, float)) and math.isfinite(entry) and label != "samples":
                yield label, float(entry)


def forget_after(path: Path, samples: int) -> None:
    """Drop the lines of a log that come after `samples`, because the run goes back to there.

    A line that was cut short by a kill is dropped too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["samples"] <= samples:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def memory_peak() -> int:
    """Return the peak of memory in MiB, of the device if there is one and otherwise of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (10 if sys.platform != "darwin" else 20)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None
