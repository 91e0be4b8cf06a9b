"""Generate what is missing, with one process or several.

Scenes and a model go in; readings are written to disk.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from codi.bench.models import Model
from codi.bench.runs import AUTOENCODER, MODEL, TRUTH, Readings, Run, batches, render, truth_sampler
from codi.bench.store import Store, code_digest
from codi.types import Modality
from codi.world import Scene, sample_scenes

Plan = Iterable[tuple[Run, int]]  # runs, each with a number of scenes


class Bench:
    """Hold the scenes, what is already on disk, and the model for what is not.

    Args:
        folder: where readings are kept.
        model: the model under test.
        num_scenes: the number of scenes for callers that name none.
        seed: the seed of the scenes and of the noise.
        batch_size: the number of scenes that are generated at once.
        settings: what else decides the outcome, see `Store`.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        *,
        num_scenes: int,
        seed: int,
        batch_size: int,
        settings: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.model = model
        self.num_scenes = num_scenes
        self.seed = seed
        self.batch_size = batch_size
        self.settings = settings
        deciding = settings | {"seed": seed, "weights": model.fingerprint, "code": code_digest()}
        self.store = Store(folder, deciding)
        self.made: dict[Run, Readings] = {}
        self.samplers = {MODEL: model.sample, TRUTH: truth_sampler, AUTOENCODER: self._round_trip}

    @property
    def true(self) -> Run:
        """The scenes themselves, in every modality of the model that the world reads."""
        return Run(inputs=(), outputs=self.model.modalities, source=TRUTH)

    @property
    def through_autoencoders(self) -> Run:
        """The same, encoded and decoded by the model's autoencoders."""
        return replace(self.true, source=AUTOENCODER)

    def scenes(self, held_out: bool = False, count: int | None = None) -> list[Scene]:
        """Return unseen scenes.

        Their seed is far from those of training, and `start` and `x` are continuous, so that no scene of
        training comes again.

        Args:
            held_out: whether the scenes have the shape-colour pairs that training never showed.
            count: the number of scenes; None is that of the benchmark.

        Returns:
            The scenes. The first ones are the same whatever their number.
        """
        return sample_scenes(count or self.num_scenes, self.seed, held_out=held_out)

    def readings(
        self, run: Run, count: int | None = None, advance: Callable[[int], Any] = lambda samples: None
    ) -> Readings:
        """Return the readings of a run for the first scenes, and generate those that are missing.

        What is generated is saved batch by batch, so that an interrupted run goes on where it stopped.

        Args:
            run: what to make of every scene.
            count: the number of scenes; None is that of the benchmark.
            advance: a function that is called after each batch with the number of its samples.

        Returns:
            The readings of every output, `count` of each.
        """
        count = count or self.num_scenes
        found = self._found(run)
        have = len(found[run.outputs[0]])
        if have < count:
            scenes = self.scenes(run.held_out, count)
            sampler = self.samplers[run.source]
            for made, media in batches(run, scenes, self.seed, sampler, self.batch_size, first=have):
                if not found[run.outputs[0]]:
                    self.store.show(run, media)
                for m in run.outputs:
                    found[m] += made[m]
                self.store.save(run, found)
                advance(len(made[run.outputs[0]]))
        return {m: rows[:count] for m, rows in found.items()}

    def readings_of_all(self, runs: Iterable[Run], count: int) -> list[Readings]:
        """Return the readings of several runs for the first `count` scenes."""
        return [self.readings(run, count) for run in runs]

    def missing(self, run: Run, count: int) -> int:
        """Return for how many of the first `count` scenes a run has still to be made."""
        return max(0, count - len(self._found(run)[run.outputs[0]]))

    def truth(self, count: int | None = None, delay: float = 0.0) -> Readings:
        """Return what the probes read from ground truth itself.

        Args:
            count: the number of scenes; None is that of the benchmark.
            delay: the seconds by which the sounds come late. With any other than 0, only sounds are read.

        Returns:
            The readings of every modality, or of sounds only.
        """
        run = replace(self.true, outputs=(Modality.AUDIO,), delay=delay) if delay else self.true
        return self.readings(run, count)

    def ceiling(self, count: int | None = None, held_out: bool = False) -> Readings:
        """Return what the probes read from ground truth of every modality after the autoencoders.

        Args:
            count: the number of scenes; None is that of the benchmark.
            held_out: whether the scenes have the shape-colour pairs that training never showed.

        Returns:
            The readings of every modality.
        """
        return self.readings(replace(self.through_autoencoders, held_out=held_out), count)

    def _found(self, run: Run) -> Readings:
        """Return the readings of a run so far, from memory or from disk."""
        if run not in self.made:
            self.made[run] = self.store.load(run)
        return self.made[run]

    def _round_trip(self, run: Run, scenes: list[Scene], seeds: list[int]) -> dict[Modality, Any]:
        """Return ground truth of the scenes through the autoencoders, as a sampler of runs."""
        return {m: self.model.round_trip(m, render(m, scenes)) for m in run.outputs}


def plan_of(runs: Iterable[Run], count: int) -> Plan:
    """Return runs that are all made for the same number of scenes as a plan."""
    return [(run, count) for run in runs]


def merged(plan: Plan) -> dict[Run, int]:
    """Return every run once, for the largest number of scenes that any part wants.

    The order is that in which the runs were first named.
    """
    wanted: dict[Run, int] = {}
    for run, count in plan:
        wanted[run] = max(count, wanted.get(run, 0))
    return wanted


def make(bench: Bench, plan: Plan, workers: int = 1) -> None:
    """Generate what is missing, with a progress bar on stderr.

    The unit of the bar is what a sample costs (`Run.cost`). After an interruption the next call goes on.

    Args:
        bench: the benchmark that generates and keeps the readings.
        plan: the runs, each with a number of scenes.
        workers: the number of processes that share the runs.
    """
    todo = {}
    total = 0
    for run, count in merged(plan).items():
        missing = bench.missing(run, count)
        if missing:
            todo[run] = count
            total += run.cost * missing
    # A log file gets a line every half minute, not two each second.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    shape = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
    with tqdm(
        total=total,
        desc=f"{len(todo)} runs",
        bar_format=shape,
        file=sys.stderr,
        mininterval=interval,
        disable=not todo,
    ) as bar:
        if workers > 1 and len(todo) > 1:
            _make_apart(bench, todo, workers, bar)
        else:
            for run, count in todo.items():

                def advance(samples: int, cost: int = run.cost) -> None:
                    bar.update(samples * cost)

                bar.set_postfix_str(run.name, refresh=False)
                bench.readings(run, count, advance=advance)


def _make_apart(bench: Bench, todo: dict[Run, int], workers: int, bar: tqdm) -> None:
    """Generate runs in several processes that share nothing but the folder.

    Each run belongs to one process.
    """
    # Forked workers would inherit torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    others = multiprocessing.active_children()
    recipe = dict(
        folder=bench.folder,
        num_scenes=bench.num_scenes,
        seed=bench.seed,
        batch_size=bench.batch_size,
        settings=bench.settings,
    )
    with ProcessPoolExecutor(workers, context, _start, (bench.model.options, recipe, queue, workers)) as pool:
        try:
            pending = {pool.submit(_work, run, count) for run, count in todo.items()}
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    bar.update(queue.get())
                for future in done:
                    future.result()
        except BaseException:  # workers can be ended at once: files are written whole or not at all
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.terminate()
            raise
    for run in todo:
        bench.made.pop(run, None)  # the workers' readings are on disk, and this copy is older


_WORKER: dict[str, Any] = {}  # the worker's own benchmark, and the queue to which it reports progress


def _start(model: dict[str, Any], recipe: dict[str, Any], queue: Any, workers: int) -> None:
    """Open the benchmark in a new worker, which takes its share of the machine's threads."""
    import torch

    _end_with_parent()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _WORKER.update(bench=Bench(model=Model(**model), **recipe), queue=queue)


def _work(run: Run, count: int) -> None:
    """Generate one run in a worker and report its progress to the parent."""

    def advance(samples: int) -> None:
        _WORKER["queue"].put(samples * run.cost)

    _WORKER["bench"].readings(run, count, advance=advance)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however that happens.

    A worker whose parent was killed would otherwise wait for ever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
