"""Hand events of jobs to those who wait for them, in threads or in a loop of asyncio.

What happened to a job is on disk (`codi.serve.store`); how far it is and what it looks like by now is in
memory alone, and only the newest of each: whoever reads slowly misses what is out of date.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from codi.serve.store import Store
from codi.serve.values import FINAL, Event


@dataclass
class _Live:
    """What is known in memory of a job that is not finished, or that somebody listens to.

    Attributes:
        last: the newest number that is taken.
        reserved: up to where numbers are set aside on disk.
        latest: the newest progress, and the newest preview of each sample.
        listeners: what is called after every event.
        ended: whether nothing more will happen.
    """

    last: int = 0
    reserved: int = 0
    latest: dict[Any, Event] = field(default_factory=dict)
    listeners: list[Callable[[], Any]] = field(default_factory=list)
    ended: bool = False


class Feed:
    """The events of all jobs.

    Args:
        store: where those are that are kept.
        watched: is called with the id of a job and whether anybody listens to it, when that changes.
    """

    def __init__(self, store: Store, watched: Callable[[str, bool], Any]) -> None:
        self._store = store
        self._watched = watched
        self._lock = threading.RLock()
        self._live: dict[str, _Live] = {}
        self._closed = False

    def publish(
        self, id_: str, kind: str, data: dict[str, Any], save: Callable[[Event], bool] | None = None
    ) -> bool:
        """Give an event to all who listen to a job.

        Args:
            id_: the job.
            kind: as in `Event`.
            data: as in `Event`.
            save: writes the event to disk with what it changes, and returns whether it came in time. Without
                it, the event stays in memory until a newer one takes its place.

        Returns:
            Whether the event was published.
        """
        with self._lock:
            live = self._live.get(id_)
            if save is None and (live is None or live.ended):
                return False
            live = live or _Live()
            if live.last >= live.reserved:
                live.last, live.reserved = self._store.reserve(id_)
            event = Event(number=live.last + 1, kind=kind, data=data)
            if save is not None and not save(event):
                return False
            self._live[id_] = live
            live.last += 1
            if save is None:
                live.latest[kind, data.get("sample")] = event
            elif kind in FINAL:
                live.latest.clear()
            listeners = list(live.listeners)
            if kind in FINAL:
                self._end(id_)
        for listener in listeners:
            listener()
        return True

    def latest(self, id_: str, kind: str, sample: Any = None) -> dict[str, Any] | None:
        """Return the data of the newest progress or preview of a job, or None."""
        with self._lock:
            event = self._live[id_].latest.get((kind, sample)) if id_ in self._live else None
        return None if event is None else event.data

    def forget(self, id_: str) -> None:
        """Wake those who listen to a job that is gone."""
        with self._lock:
            live = self._live.get(id_)
            listeners = [] if live is None else list(live.listeners)
            self._end(id_)
        for listener in listeners:
            listener()

    def restart(self, id_: str) -> None:
        """Forget how far a job was."""
        with self._lock:
            if id_ in self._live:
                self._live[id_].latest.clear()

    def close(self) -> None:
        """Let all who wait go."""
        with self._lock:
            self._closed = True
            listeners = [each for live in self._live.values() for each in live.listeners]
        for listener in listeners:
            listener()

    def wait_empty(self, seconds: float = 2.0) -> None:
        """Wait until nobody waits any more who was let go, but no longer than some seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                if not any(live.listeners for live in self._live.values()):
                    return
            time.sleep(0.01)

    def is_watched(self, id_: str) -> bool:
        """Return whether anybody listens to a job."""
        with self._lock:
            return id_ in self._live and bool(self._live[id_].listeners)

    def since(self, id_: str, after: int) -> list[Event]:
        """Return the events of a job with numbers above `after`, in order."""
        with self._lock:
            found = {event.number: event for event in self._store.events(id_, after)}
            if id_ in self._live:
                found |= {e.number: e for e in self._live[id_].latest.values() if e.number > after}
        return [found[number] for number in sorted(found)]

    def follow(self, id_: str, after: int, timeout: float | None) -> Iterator[Event]:
        """Yield the events of a job as they come, up to its last one.

        Args:
            id_: the job.
            after: the number of the last event that is known already.
            timeout: seconds without an event after which this ends; None for none.

        Yields:
            Events.
        """
        wake = threading.Event()
        with self._listening(id_, wake.set):
            while not self._closed:
                wake.clear()
                for event in self.since(id_, after):
                    yield event
                    after = event.number
                if self._over(id_) or not wake.wait(timeout):
                    return

    async def afollow(self, id_: str, after: int, timeout: float | None) -> AsyncIterator[Event]:
        """Yield the events of a job as `follow` does, without blocking the loop that runs this."""
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()

        def call() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(wake.set)

        with self._listening(id_, call):
            while not self._closed:
                wake.clear()
                for event in self.since(id_, after):
                    yield event
                    after = event.number
                if self._over(id_):
                    return
                try:
                    await asyncio.wait_for(wake.wait(), timeout)
                except TimeoutError:
                    return

    def _over(self, id_: str) -> bool:
        """Return whether nothing more will happen to a job."""
        if self._closed:
            return True
        job = self._store.get(id_)
        return job is None or job["state"] in FINAL

    @contextmanager
    def _listening(self, id_: str, listener: Callable[[], Any]) -> Iterator[None]:
        """Call `listener` after every event of a job, inside this context."""
        with self._lock:
            live = self._live.setdefault(id_, _Live())
            live.listeners.append(listener)
            first = len(live.listeners) == 1
        if first:
            self._watched(id_, True)
        try:
            yield
        finally:
            with self._lock:
                live.listeners.remove(listener)
                last = not live.listeners
                if last and (live.ended or not live.last):
                    self._live.pop(id_, None)
            if last:
                self._watched(id_, False)

    def _end(self, id_: str) -> None:
        """Forget a job to which nothing more will happen, once nobody listens to it."""
        live = self._live.get(id_)
        if live is not None:
            live.ended = True
            if not live.listeners:
                del self._live[id_]
