"""Making what is missing: scenes and model in, readings on disk out, by one process or by several."""

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

Plan = Iterable[tuple[Run, int]]  # what to make, for how many scenes
EVERYTHING = tuple(Modality)
TRUE = Run(inputs=(), outputs=EVERYTHING, source=TRUTH)
ROUND_TRIP = Run(inputs=(), outputs=EVERYTHING, source=AUTOENCODER)


class Bench:
    """The scenes, what is already on disk, and the model for what is not.

    num_scenes  for whoever does not say how many it wants
    settings    what else decides the outcome, see `Store`
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
        self.folder, self.model, self.num_scenes, self.seed, self.batch_size = (
            folder,
            model,
            num_scenes,
            seed,
            batch_size,
        )
        self.settings = settings
        self.store = Store(
            folder, settings | {"seed": seed, "weights": model.fingerprint, "code": code_digest()}
        )
        self.made: dict[Run, Readings] = {}
        self.samplers = {MODEL: model.sample, TRUTH: truth_sampler, AUTOENCODER: self._round_trip}

    def scenes(self, held_out: bool = False, count: int | None = None) -> list[Scene]:
        """Unseen scenes: their seed is far from those of training, and `start` and `x` are continuous."""
        return sample_scenes(count or self.num_scenes, self.seed, held_out=held_out)

    def readings(
        self, run: Run, count: int | None = None, advance: Callable[[int], Any] = lambda samples: None
    ) -> Readings:
        """Readings of a run for the first `count` scenes; those that are not there yet are generated and
        saved batch by batch.
        """
        count = count or self.num_scenes
        found = self._found(run)
        have = len(found[run.outputs[0]])
        if have < count:
            scenes = self.scenes(run.held_out, count)
            for made, media in batches(
                run, scenes, self.seed, self.samplers[run.source], self.batch_size, first=have
            ):
                if not found[run.outputs[0]]:
                    self.store.show(run, media)
                for m in run.outputs:
                    found[m] += made[m]
                self.store.save(run, found)
                advance(len(made[run.outputs[0]]))
        return {m: rows[:count] for m, rows in found.items()}

    def missing(self, run: Run, count: int) -> int:
        """How many scenes of a run are still to do."""
        return max(0, count - len(self._found(run)[run.outputs[0]]))

    def truth(self, count: int | None = None, delay: float = 0.0) -> Readings:
        """What the probes read from ground truth itself; with a delay, from its sounds alone."""
        return self.readings(replace(TRUE, outputs=(Modality.AUDIO,), delay=delay) if delay else TRUE, count)

    def ceiling(self, count: int | None = None, held_out: bool = False) -> Readings:
        """Ground truth of every modality through the autoencoders."""
        return self.readings(replace(ROUND_TRIP, held_out=held_out), count)

    def _found(self, run: Run) -> Readings:
        if run not in self.made:
            self.made[run] = self.store.load(run)
        return self.made[run]

    def _round_trip(self, run: Run, scenes: list[Scene], seeds: list[int]) -> dict[Modality, Any]:
        return {m: self.model.round_trip(m, render(m, scenes)) for m in run.outputs}


def merged(plan: Plan) -> dict[Run, int]:
    """Every run once, for as many scenes as the greediest wants, in the order in which they were
    first named.
    """
    wanted: dict[Run, int] = {}
    for run, count in plan:
        wanted[run] = max(count, wanted.get(run, 0))
    return wanted


def make(bench: Bench, plan: Plan, workers: int = 1) -> None:
    """Generates what is missing, with a bar on stderr whose unit is what a sample costs. Interrupted, the
    next call goes on.
    """
    todo = {run: count for run, count in merged(plan).items() if bench.missing(run, count)}
    total = sum(run.cost * bench.missing(run, count) for run, count in todo.items())
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
                bar.set_postfix_str(run.name, refresh=False)
                bench.readings(run, count, advance=lambda samples, run=run: bar.update(samples * run.cost))


def _make_apart(bench: Bench, todo: dict[Run, int], workers: int, bar: tqdm) -> None:
    """Runs in several processes that share nothing but the folder; each run belongs to one of them."""
    context = multiprocessing.get_context("spawn")
    queue, others = context.SimpleQueue(), multiprocessing.active_children()
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
        except BaseException:  # nobody waits for what is under way: files are written whole or not at all
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.terminate()
            raise
    for run in todo:
        bench.made.pop(run, None)  # on disk now


_WORKER: dict[str, Any] = {}  # of this process: its benchmark and where it reports


def _start(model: dict[str, Any], recipe: dict[str, Any], queue: Any, workers: int) -> None:
    import torch

    _end_with_parent()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _WORKER.update(bench=Bench(model=Model(**model), **recipe), queue=queue)


def _work(run: Run, count: int) -> None:
    _WORKER["bench"].readings(run, count, advance=lambda samples: _WORKER["queue"].put(samples * run.cost))


def _end_with_parent() -> None:
    """This process ends with the one that started it, however that ended: a worker whose parent was killed
    would wait for ever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
