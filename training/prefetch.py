"""Batches fetched ahead in one background thread.

What comes, and in which order, does not depend on timing.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Prefetch:
    """Iterates over (indices, fetch(indices)) for each list of indices in `plan`, inside a context.

    An exception in `fetch` or in `plan` is raised where the batch is taken.

    Args:
        fetch: makes a batch from a list of indices; called in the background thread.
        plan: the lists of indices.
        depth: how many batches may lie ready.
    """

    def __init__(self, fetch: Callable[[list[int]], Any], plan: Iterator[list[int]], depth: int = 2) -> None:
        self._fetch = fetch
        self._plan = plan
        self._ready: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> tuple[list[int], Any]:
        indices, batch, error = self._ready.get()
        if error is not None:
            raise error
        return indices, batch

    def _work(self) -> None:
        """Fetch batches in the background thread until the plan or the context ends."""
        try:
            for indices in self._plan:
                if self._stop.is_set():
                    return
                self._ready.put((indices, self._fetch(indices), None))
            self._ready.put((None, None, StopIteration()))
        except BaseException as error:  # it is handed over, and raised in the thread that trains
            self._ready.put((None, None, error))

    def _drain(self) -> None:
        try:
            while True:
                self._ready.get_nowait()
        except queue.Empty:
            pass
