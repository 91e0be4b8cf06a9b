"""Decode untrusted media in processes that may die, and keep account of bad samples.

A worker gets one `Job` at a time and answers with plain bytes, never with a pickle: whatever a hostile file
turns a worker into stays in that process. A worker that dies, or takes too long, is started again, and its
sample is tried once more, so that a kill from outside changes nothing; a sample that ends two workers is bad.
So is one that a decoder refuses. A mistake in this code base is neither: it stops the run.
"""

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codi.fork_server import Worker
from codi.modalities import Content
from codi.types import InputError, Modality
from data.decode import Job, Media
from data.worker import BadSample, bad_sample, decode_here

TRIES = 2  # of a sample that ends its worker
MAX_HEADER = 1 << 16
LIBRARIES = ("torchaudio", "decord")  # they resample sounds and decode clips


class DecodingError(RuntimeError):
    """A mistake in this code base, met while decoding; the message holds the worker's traceback."""


class Decoder:
    """Runs jobs in processes of their own, and takes the next candidate where a sample is bad.

    Two threads may not use it at once. Workers start with the first job and end with `close` or with this
    process.

    Args:
        workers: how many processes decode. With 0 this process decodes itself, which is for files that one
            made oneself.
        timeout: seconds that one sample may take.
        max_bad_in_a_row: how many bad samples without a good one between them stop the run.
        bad_list: a file to which JSON lines (id, path, reason) are appended, each sample once.
        memory: bytes that a worker may take beyond what it has at its start.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        timeout: float = 60.0,
        max_bad_in_a_row: int = 100,
        bad_list: str | Path | None = None,
        memory: int = 8 << 30,
    ) -> None:
        assert workers >= 0 and timeout > 0 and max_bad_in_a_row > 0, (workers, timeout, max_bad_in_a_row)
        self.timeout = timeout
        self.max_bad_in_a_row = max_bad_in_a_row
        self.memory = memory
        self.bad_list = Path(bad_list) if bad_list is not None else None
        self.known: set[tuple[int, int]] = set()
        self.sources = 0  # how many sources share this decoder, each of which numbers its rows
        self.restarts = 0
        self._in_a_row = 0
        self._listed: set[tuple[str, str]] | None = None
        self._workers = [_Worker(self.memory) for _ in range(workers)]
        self._idle = list(self._workers)
        self._inline = workers == 0
        self._lock = threading.Lock()

    @property
    def bad(self) -> int:
        """The number of bad samples met so far."""
        return len(self.known)

    def first_valid(self, candidates: Sequence[Iterator[Job | BadSample]]) -> list[tuple[Job, Media]]:
        """Return the first good sample of each sequence of candidates, as (job, media).

        Args:
            candidates: for each place of a batch, the jobs that may stand there, in order; a row of which no
                job can be made is a `BadSample`.

        Returns:
            One (job, media) for each sequence, in order.

        Raises:
            InputError: after too many bad samples in a row, or where a sequence has no candidate left.
        """
        valid: list[Any] = [None] * len(candidates)
        waiting = list(range(len(candidates)))
        while waiting:
            tries = [self._candidate(candidates[place]) for place in waiting]
            jobs = [item for item in tries if isinstance(item, Job)]
            results = iter(self.decode(jobs))
            for place, item in zip(waiting, tries):
                outcome = next(results) if isinstance(item, Job) else item
                if isinstance(outcome, BadSample):
                    self._note(outcome)
                else:
                    self._in_a_row = 0
                    valid[place] = (item, outcome)
            waiting = [place for place in waiting if valid[place] is None]
        return valid

    def decode(self, jobs: Sequence[Job]) -> list[Media | BadSample]:
        """Return what became of each job, in order: its media, or a `BadSample`."""
        with self._lock:
            if self._inline:
                return list(map(decode_here, jobs))
            return self._decode_there(jobs)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _candidate(self, candidates: Iterator[Job | BadSample]) -> Job | BadSample:
        """Return the next candidate, or raise InputError where none is left."""
        found = next(candidates, None)
        if found is None:
            raise InputError(
                f"no good sample is left ({self.bad} are bad{self._where()}): check the files that the data "
                "set names"
            )
        return found

    def _note(self, bad: BadSample) -> None:
        """Count and list a bad sample, or raise InputError if it is one too many in a row."""
        if bad.key in self.known:  # two places of one batch came to the same sample
            return
        self.known.add(bad.key)
        self._list(bad)
        self._in_a_row += 1
        if self._in_a_row >= self.max_bad_in_a_row:
            raise InputError(
                f"{self._in_a_row} bad samples in a row, the last one {bad.id}: {bad.reason}. Something is "
                f"wrong with the data set as a whole{self._where()}"
            )

    def _where(self) -> str:
        return f"; see {self.bad_list}" if self.bad_list is not None else ""

    def _list(self, bad: BadSample) -> None:
        """Append a bad sample to the list, unless the list names it already."""
        if self.bad_list is None:
            return
        if self._listed is None:
            self._listed = set(_read_list(self.bad_list))
        if (bad.id, bad.path) not in self._listed:
            self._listed.add((bad.id, bad.path))
            self.bad_list.parent.mkdir(parents=True, exist_ok=True)
            entry = {"id": bad.id, "path": bad.path, "reason": bad.reason}
            line = json.dumps(entry, ensure_ascii=False) + "\n"
            # one write: processes that share the list do not cut each other's lines
            with self.bad_list.open("ab") as stream:
                stream.write(line.encode(errors="replace"))

    def _decode_there(self, jobs: Sequence[Job]) -> list[Media | BadSample]:
        """Return what became of each job, decoded in the workers, in the order of `jobs`."""
        results: list[Any] = [None] * len(jobs)
        queue = deque((place, 1) for place in range(len(jobs)))
        busy: dict[Connection, tuple[_Worker, int, int, float]] = {}
        try:
            while queue or busy:
                while queue and self._idle:
                    place, attempt = queue.popleft()
                    worker = self._idle.pop()
                    busy[worker.send(jobs[place])] = (worker, place, attempt, time.monotonic() + self.timeout)
                for connection in self._ready(busy):
                    worker, place, attempt, deadline = busy.pop(connection)
                    self._idle.append(worker)
                    answer = worker.receive(jobs[place], deadline)
                    if isinstance(answer, str):
                        self.restarts += 1
                        if attempt < TRIES:
                            queue.appendleft((place, attempt + 1))
                            continue
                        answer = bad_sample(jobs[place], answer)
                    results[place] = answer
        finally:
            # after an error nobody waits for workers that are still busy: they are ended
            for worker, *_ in busy.values():
                worker.stop()
                self._idle.append(worker)
        return results

    @staticmethod
    def _ready(busy: dict[Connection, Any]) -> list[Connection]:
        """Return the connections that have an answer, or whose time is up."""
        left = min(deadline for *_, deadline in busy.values()) - time.monotonic()
        ready = wait(list(busy), timeout=max(0.0, left))
        if not ready:
            for connection, (*_, deadline) in busy.items():
                if deadline <= time.monotonic():
                    ready.append(connection)
        return ready


class _Worker(Worker):
    """One decoding process."""

    def __init__(self, memory: int) -> None:
        super().__init__("data.worker:serve", memory, LIBRARIES)
        self.job: Job | None = None  # what it was given last

    def send(self, job: Job) -> Connection:
        """Hand a job over and return the connection on which its answer will come."""
        self.job = job
        try:
            return super().send(job)
        except OSError as error:
            raise DecodingError(
                f"no decoding process can be started ({error}): try workers: 0 to see why"
            ) from error

    def receive(self, job: Job, deadline: float) -> Media | BadSample | str:
        """Return the answer that is there, or as a string what the worker died of."""
        if not self.connection.poll() and time.monotonic() >= deadline:
            self.stop()
            return "it took longer than the time allowed to decode"
        try:
            header = json.loads(self.connection.recv_bytes(MAX_HEADER))
            if "fatal" in header:
                raise DecodingError(f"a mistake in our own code at sample {job.id}:\n{header['fatal']}")
            if "bad" in header:
                return bad_sample(job, header["bad"])
            return self._media(job, header["arrays"], header["content"])
        except (EOFError, OSError, ValueError, KeyError):
            code = self.bury()
        if code < 0:
            return f"decoding it kills the process ({signal.Signals(-code).name})"
        return f"decoding it ends the process (exit code {code})"

    def _media(self, job: Job, names: list[str], content: dict[str, Any]) -> Media:
        """Return tensors of the shapes that the job asks for; nothing else is taken from a worker."""
        if not isinstance(content, dict):
            raise ValueError(content)
        media = Media()
        for modality in map(Modality, names):
            shape = job.sizes[modality].shape
            kind = np.dtype(job.kinds[modality].dtype)
            size = int(np.prod(shape)) * kind.itemsize
            raw = bytearray(self.connection.recv_bytes(size))
            if len(raw) != size:
                raise ValueError(len(raw))
            media[modality] = torch.from_numpy(np.frombuffer(raw, dtype=kind).reshape(shape))
            if modality.value in content:
                media.content[modality] = _content(content[modality.value], shape)
        return media


def _content(axes: Any, shape: tuple[int, ...]) -> Content:
    """Return from where to where each axis is content, or raise ValueError where that cannot be."""
    try:
        found = tuple((int(first), int(stop)) for first, stop in axes)
    except TypeError as error:
        raise ValueError(axes) from error
    if len(found) != len(shape) or not all(0 <= a < b <= n for (a, b), n in zip(found, shape)):
        raise ValueError(axes)
    return found


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the (id, path) that are listed already, so that a resumed run does not list them again."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            yield values["id"], values["path"]
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash cut short
