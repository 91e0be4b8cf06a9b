"""Make the jobs of a file on the machines of a Ray cluster: one loaded pipeline for each worker.

The process that was called reads the lines, finds what is finished, and puts samples together, just as it
does alone. So every batch is what it would have been, on whose size rounding depends, and results are equal.
Workers make batches and write media, and this process writes the records: a job whose samples are made in
several places has one record. The machines must see the same files under the same names.

A worker that dies is started anew, and its batch is made again by whoever is free. What was finished is in
the records, so that the same command goes on after anything else.
"""

import argparse
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from codi import jobs, provenance, wording
from codi.failures import Failures
from codi.jobs import Job, Sample
from codi.session import Session
from codi.types import InputError, WriteError

TRIES = 3  # of a batch whose worker dies
NOT_SENT = ("run", "command", "owns_process")  # of the command line's options, that of this process alone


def check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that make no sense together, and without Ray.

    Args:
        args: the options of `codi generate`.
    """
    named = {"--workers": args.workers, "--gpus-per-worker": args.gpus_per_worker}
    if not args.ray:
        if given := [name for name, value in named.items() if value is not None]:
            raise InputError(f"{given[0]} says how many machines share the work: expected --ray beside it")
        return
    if not args.jobs:
        raise InputError("--ray spreads the lines of a file over machines: expected --jobs FILE beside it")
    if args.overwrite:
        raise InputError("--overwrite beside --ray: remove what is to be made anew, or name another -o")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}: expected at least 1")
    if args.gpus_per_worker is not None and not 0 <= args.gpus_per_worker:
        raise InputError(f"--gpus-per-worker is {args.gpus_per_worker:g}: expected 0 or more")
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise InputError("--ray needs Ray Data, which is not installed: pip install 'codi[ray]'") from None


def run(
    session: Session, todo: Sequence[Job], failures: Failures, print_path: Callable[[Path], None]
) -> None:
    """Make all samples that are wanted, and record them.

    Args:
        session: the run; no model is loaded here.
        todo: all jobs of the run that have not failed.
        failures: takes the jobs that workers cannot make.
        print_path: is called with the path of each file that was written.

    Raises:
        InputError: for a cluster that cannot hold a worker, a model that cannot be loaded, and jobs that
            could not be made because their workers died.
    """
    import ray

    batches = list(jobs.batches(failures.left(list(todo)), session.args.batch, session.wanted))
    if not batches:
        return
    by_id = {job.id: job for job in todo}
    missing = sum(sample is not None for batch in batches for sample in batch)
    bar = _bar(missing, session.args.quiet)
    _start(ray)
    with bar:
        for made in _made(ray, batches, session.args):
            if made["refused"]:
                raise InputError(made["refused"])
            for row in made["failed"]:
                failures.add(by_id[row["id"]], row["error"], row["refused"])
            for name, k, note in made["notes"]:
                windows = made["continued"].get(name)
                session.adopt(by_id[name], k, note, made["resolved"][name], made["model"], windows)
            for path in made["paths"]:
                print_path(path)
            missing -= made["samples"]
            bar.update(made["samples"])
    if missing:
        raise InputError(
            f"{missing} samples were not made: their workers died {TRIES} times, for want of memory perhaps "
            "(a smaller --batch, fewer --workers); the same command makes what is left"
        )


def _start(ray: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine."""
    import logging

    ray.init(ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts samples
    context.max_errored_blocks = -1  # a batch that cannot be made costs no other


def _bar(total: int, quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="sample", disable=quiet, leave=False)


def _made(ray: Any, batches: Sequence[list[Sample | None]], args: argparse.Namespace) -> Iterator[Any]:
    """Yield what workers made of batches, as it comes."""
    gpus, workers = _shares(ray.cluster_resources(), args)
    options = {name: value for name, value in vars(args).items() if name not in NOT_SENT}
    rows = [{"batch": pickle.dumps(batch)} for batch in batches]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=(options, os.getcwd()),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_gpus=gpus or None,
        max_task_retries=TRIES - 1,
    )
    for row in made.iter_rows():
        yield pickle.loads(row["made"])


def _shares(resources: dict[str, float], args: argparse.Namespace) -> tuple[float, int]:
    """Return the GPUs of a worker, and how many workers there are.

    Raises `InputError` if no worker could ever start, since Ray would wait for it without end.
    """
    there = resources.get("GPU", 0)
    gpus = args.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if there >= 1 and args.device in (None, "auto", "cuda") else 0.0
    if gpus > there:
        raise InputError(
            f"--gpus-per-worker is {gpus:g}, and this Ray cluster has {there:g} GPUs in all: expected no more"
        )
    most = int(there / gpus) if gpus else int(resources.get("CPU", 0))
    if most < 1:
        raise InputError("this Ray cluster has no CPU to lend: expected one for each worker")
    if args.workers is not None and args.workers > most:
        raise InputError(f"--workers is {args.workers}: this Ray cluster can hold {most} at once")
    return gpus, args.workers or most


class Worker:
    """One worker of a cluster: a loaded pipeline that makes batches.

    What cannot be done is returned in words, since Ray would wrap an error in errors of its own.

    Args:
        options: those of the command line.
        place: the folder in which the command runs, where names of files start.
    """

    def __init__(self, options: dict[str, Any], place: str) -> None:
        self.refused = ""
        args = argparse.Namespace(**options)
        args.quiet = True
        try:
            os.chdir(place)
            self.session = _Notes(
                Path(args.out),
                args,
                time.perf_counter(),
                Failures(alone=True),
                filter=args.filter,
                sign=provenance.signer_of(args),
            )
            self._load(args)
        except FileNotFoundError as error:
            host = os.uname().nodename
            self.refused = (
                f"{host} has no {error.filename}: the machines of a cluster must see the same files"
            )
        except InputError as error:
            self.refused = str(error)

    def _load(self, args: argparse.Namespace) -> None:
        from codi.pretrained import pick_device

        self.session.load(pick_device(args.device))

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        """Make one batch.

        Args:
            row: {"batch": the pickled batch of `codi.jobs.batches`}.

        Returns:
            {"made": what became of it, pickled}.
        """
        batch = pickle.loads(row["batch"])
        return {"made": pickle.dumps(self._make(batch))}

    def _make(self, batch: list[Sample | None]) -> dict[str, Any]:
        """Return the paths, notes and failures of a batch."""
        samples = [sample for sample in batch if sample is not None]
        found: dict[str, Any] = {"refused": self.refused, "samples": len(samples), "paths": [], "notes": []}
        found |= {"failed": [], "resolved": {}, "continued": {}, "model": {}}
        if self.refused:
            return found
        session = self.session
        session.notes.clear()
        session.failures.rows.clear()
        asked = list(dict.fromkeys(job for job, _ in samples))
        try:
            session.check(asked)
            wording.check_loaded(asked, session.pipe.text_tower, session.args.strict, session.failures.of)
            found["paths"] = session.run(batch)
        except (InputError, WriteError) as error:  # one that keeps everything from being made
            found["refused"] = str(error)
        found["notes"] = [(job.id, k, note) for job, k, note in session.notes]
        found["resolved"] = {job.id: session.resolved[job] for job, _, _ in session.notes}
        found["continued"] = {job.id: session.continued.get(job) for job, _, _ in session.notes}
        found["model"] = session.model
        found["failed"] = list(session.failures.rows)
        return found


class _Notes(Session):
    """A session that keeps its notes for the process that writes the records."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.notes: list[tuple[Job, int, dict[str, Any]]] = []

    def _note(self, job: Job, k: int, sample: dict[str, Any]) -> None:
        self.notes.append((job, k, sample))
