"""Hand queued jobs to the process that makes them, and note what it says of them.

Jobs that fit together are made at once.
"""

import threading
import time
from typing import Any

from codi.serve.feed import Feed
from codi.serve.link import Link
from codi.serve.pace import Pace
from codi.serve.store import Store
from codi.serve.uploads import Files
from codi.serve.values import DONE, FAILED, FINAL, QUEUED, RUNNING, STARTED, Event

MOST_DEATHS = 2  # of the process, until the job that it was at has failed
SENT = ("id", "line", "model", "kind")  # what the process needs to know of a job


class Dispatcher:
    """The process that makes, and the thread that gives it work.

    Args:
        store: the queue.
        feed: takes what happens to jobs.
        files: those of jobs.
        settings: the models by their names, "device", "dtype", and as "batch" the most samples of a batch.
        step_timeout: seconds without a finished step after which the process is ended.

    Attributes:
        link: leads to the process.
        pace: how long jobs take.
    """

    def __init__(
        self, store: Store, feed: Feed, files: Files, settings: dict[str, Any], step_timeout: float
    ) -> None:
        self.pace = Pace()
        self._store = store
        self._feed = feed
        self._files = files
        self._batch = settings["batch"]
        self._models = settings["models"]
        told = {"inputs": str(files.inputs), "results": f"../{files.results.name}"}
        self.link = Link({**settings, **told}, self._handle, self._died)
        self._turn = threading.Condition()
        self._busy = False  # the process has a batch
        self._step_timeout = step_timeout
        self._heard = 0.0  # when the process last said anything of its batch, or got it
        self._hangs = False  # it was ended because it said nothing
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="codi-serve", daemon=True)

    def start(self) -> None:
        """Go on where a server stopped, or was killed."""
        self._put_back(RUNNING)
        for job in self._store.in_state(QUEUED):
            if job["model"] not in self._models:
                error = f"the model {job['model']} is not here any more: expected {', '.join(self._models)}"
                self._ended(FAILED, job["id"], {"error": error})
        self.sweep()
        self.link.start()
        self._thread.start()

    def stop(self) -> None:
        """End the process and the thread; what is being made goes back into the queue."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        self.link.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._put_back(RUNNING)

    def wake(self) -> None:
        """Look whether there is anything to do."""
        with self._turn:
            self._turn.notify_all()

    def watch(self, id_: str, watched: bool) -> None:
        """Tell the process whether previews of a job are wanted."""
        self.link.send("watch", id_, watched)

    def remove(self, id_: str) -> None:
        """Remove a job that is finished, with all its files."""
        self._store.remove(id_)
        self._feed.forget(id_)
        self._files.remove(id_)

    def sweep(self) -> None:
        """Remove the oldest finished jobs, if there are too many or too large ones."""
        limits = self._files.limits
        for id_ in self._store.beyond(limits.keep_jobs, limits.keep_bytes):
            self.remove(id_)

    # Giving work

    def _run(self) -> None:
        """Give the process a batch whenever it has none, and end it where a batch hangs."""
        while True:
            with self._turn:
                free = self._turn.wait_for(self._can_go_on, self._patience())
                if self._stopping:
                    return
                if not free:
                    self._end_if_it_hangs()
                    continue
                batch = self._next_batch()
                self._busy, self._heard = bool(batch), time.monotonic()
            if batch and not self.link.send("make", batch):  # it has just ended, and not by these jobs
                for job in batch:
                    self._requeue(job["id"], died=False)
                self._free()

    def _can_go_on(self) -> bool:
        free = self.link.ready and not self._busy and self._store.count(QUEUED) > 0
        return self._stopping or free

    def _patience(self) -> float | None:
        """Return the seconds after which the batch that is being made hangs; None where there is none."""
        return max(0.01, self._heard + self._step_timeout - time.monotonic()) if self._busy else None

    def _end_if_it_hangs(self) -> None:
        """End the process where it has said nothing of its batch for too long."""
        if self._busy and time.monotonic() - self._heard >= self._step_timeout:
            self._hangs, self._heard = True, time.monotonic()
            self.link.kill()

    def _next_batch(self) -> list[dict[str, Any]]:
        """Mark the next jobs as running that are made together, and return what is told of them."""
        first = self._store.next_job()
        if first is None:
            return []
        alike, rows = [first], 1
        if not first["deaths"]:  # a job at which the process died is made alone: only it can be to blame
            rows = self.pace.rows(first["kind"], self._batch)
            alike = self._store.alike(first, rows)
        batch: list[dict[str, Any]] = []
        taken = 0
        for job in alike:
            if batch and taken + job["rows"] > rows:
                break
            if self._begin(job["id"]):
                taken += job["rows"]
                watched = self._feed.is_watched(job["id"])
                batch.append({**{name: job[name] for name in SENT}, "watched": watched})
        return batch

    def _begin(self, id_: str) -> bool:
        """Mark a queued job as running, and return whether it still was queued."""
        return self._feed.publish(id_, STARTED, {}, lambda event: self._store.start(id_, event))

    # What the process says

    def _handle(self, message: tuple[Any, ...]) -> None:
        """Take a message of the process."""
        kind, *rest = message
        self._heard = time.monotonic()
        if kind in ("progress", "preview"):
            self._feed.publish(rest[0], kind, rest[1])
        elif kind in FINAL:
            self._ended(kind, rest[0], rest[1])
        elif kind in ("idle", "ready"):
            if kind == "idle":
                self.pace.took(**rest[0])
            self._free()

    def _ended(self, kind: str, id_: str, found: dict[str, Any]) -> None:
        """Note that a job is done, has failed or was cancelled."""

        def save(event: Event) -> bool:
            if kind == DONE:
                return self._store.finish(id_, found["files"], found["record"], event)
            if kind == FAILED:
                return self._store.fail(id_, found["error"], event)
            return self._store.cancel(id_, event)

        data = {"error": found["error"]} if kind == FAILED else {}
        in_time = self._feed.publish(id_, kind, data, save)
        if kind != DONE or not in_time:  # somebody has cancelled or deleted it meanwhile
            self._files.remove_results(id_)
        self.sweep()

    def _died(self) -> None:
        """Put what the process was at back into the queue; what ended it twice, or hung alone, has failed."""
        running = self._store.in_state(RUNNING)
        hung_alone = self._hangs and len(running) == 1
        error = (
            f"the process that made it ended {MOST_DEATHS} times, as it does for want of memory: ask for "
            "less, or for something else"
        )
        if self._hangs:
            error = (
                f"a step of it took more than {self._step_timeout:g} s, the most that this server waits for: "
                "ask for less, or for something else"
            )
        for job in running:
            if job["deaths"] + 1 < MOST_DEATHS and not hung_alone:
                self._requeue(job["id"], died=True)
            else:
                self._ended(FAILED, job["id"], {"error": error})
        self._hangs = False
        self._free()

    def _free(self) -> None:
        """Note that the process has nothing to do."""
        with self._turn:
            self._busy = False
            self._turn.notify_all()

    def _put_back(self, state: str) -> None:
        """Put all jobs in a state back into the queue, through no fault of theirs."""
        for job in self._store.in_state(state):
            self._requeue(job["id"], died=False)

    def _requeue(self, id_: str, died: bool) -> None:
        self._feed.restart(id_)
        self._feed.publish(id_, QUEUED, {}, lambda event: self._store.requeue(id_, event, died))
