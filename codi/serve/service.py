"""The queue of jobs and whoever makes them: all that HTTP and page talk to.

service = Service(Path("data"))
service.start()
job = service.submit({"text": "a red ball", "to": "image"}, owner="me")
for event in service.events(job.id, "me"):
    ...
service.stop()
"""

import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codi import __version__
from codi.serve.dispatch import Dispatcher
from codi.serve.feed import Feed
from codi.serve.limits import Limits
from codi.serve.store import Store
from codi.serve.uploads import LENGTH, Files
from codi.serve.values import (
    CANCELLED,
    DONE,
    FINAL,
    QUEUED,
    RUNNING,
    Event,
    JobView,
    LimitError,
    NoSuchFile,
    NoSuchJob,
    QueueFull,
)
from codi.types import EMBEDDED, InputError

__all__ = ["Event", "JobView", "LimitError", "Limits", "NoSuchFile", "NoSuchJob", "QueueFull", "Service"]

Jobs = list[JobView]  # inside the class below, `list` is a method
Rows = list[dict[str, Any]]


class Service:
    """The queue of jobs and whoever makes them, safe to use from several threads.

    Attributes:
        data: the folder of the queue and of all files.
        limits: what is taken, made and kept at most.

    Args:
        data: the folder of the queue and of all files; no two services work on one.
        models: the models that can be asked for, folders or hub ids; the first is taken where a job names
            none.
        limits: what is taken, made and kept at most.
        device: where the models are, such as "cpu" or "cuda"; "auto" for the best that there is.
        dtype: in which precision they compute.
        filter: is asked of every sample before it is written (`codi.filters`), module:function or
            file.py:function. With one there are no previews.
        sign: the files of a certificate chain and of its key, with which every result is signed
            (`codi.credentials`); None for neither.

    Raises:
        InputError: if another service works on the folder.
    """

    def __init__(
        self,
        data: Path,
        models: Sequence[str] = (EMBEDDED,),
        limits: Limits | None = None,
        device: str = "auto",
        dtype: str = "float32",
        filter: str | None = None,  # noqa: A002  (as everywhere in codi)
        sign: tuple[Path, Path] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._names = _named(models)
        self.data = Path(data).resolve()
        self._store = Store(self.data)
        self._files = Files(self.data, self.limits)
        self._feed = Feed(self._store, lambda id_, watched: self._dispatcher.watch(id_, watched))
        settings = {"models": self._names, "device": device, "dtype": dtype, "batch": self.limits.batch}
        certificate, key = sign or (None, None)
        settings |= {"filter": _placed(filter), "certificate": certificate, "key": key}
        timeout = self.limits.step_timeout
        self._dispatcher = Dispatcher(self._store, self._feed, self._files, settings, timeout)
        self._taking = threading.Lock()
        self._coming = 0  # jobs that are being taken
        self._stopped = False

    # Running

    def start(self) -> None:
        """Begin, or go on with what the queue holds."""
        self._files.tidy(self._store.ids())
        self._dispatcher.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the models are loaded, and return whether they are.

        Args:
            timeout: seconds; None for as long as it takes.

        Returns:
            Whether jobs are made.

        Raises:
            InputError: for a model that cannot be loaded, or a device that is not there.
        """
        return self._dispatcher.link.wait_ready(timeout)

    def release(self) -> None:
        """Let all go who wait for events, because the end is near."""
        self._feed.close()

    def stop(self) -> None:
        """End within seconds; what is being made goes back into the queue."""
        if self._stopped:
            return
        self._stopped = True
        self._feed.close()
        self._dispatcher.stop()
        self._feed.wait_empty()
        self._store.close()

    # Jobs

    def submit(
        self,
        request: Mapping[str, Any],
        owner: str,
        files: Mapping[str, Path] | None = None,
        model: str | None = None,
    ) -> JobView:
        """Take a job into the queue.

        Args:
            request: a line of a file of jobs, in which names of files are those of uploads, or
                "job:ID/NAME" for a file of an earlier job of the same owner. An id in it is not used.
            owner: whose it is.
            files: uploads by their names, which are moved away from where they are.
            model: the name of a model; None for the first.

        Returns:
            The job.

        Raises:
            InputError: for what cannot be made, in one line for the one who asked.
            QueueFull: if too many jobs wait already.
            TimeoutError: if it cannot be checked now.
        """
        files = files or {}
        found = self.limits.check_request(request, len(files))
        name = self._model(model)
        with self._place():
            id_ = secrets.token_hex(LENGTH // 2)
            try:
                line = self._files.take(id_, found, files, lambda job, file: self._earlier(job, file, owner))
                line.pop("id", None)
                answer = self._dispatcher.link.check({"id": id_, "line": line, "model": name})
                self.limits.check_size(answer)
                row = {name_: answer[name_] for name_ in ("batch_key", "kind", "rows", "notes")}
                row |= {"id": id_, "owner": owner, "model": name, "request": found, "line": line}
                row |= {"inputs": self._files.uploads(id_), "bytes": self._files.size(id_)}
                self._feed.publish(id_, QUEUED, {}, lambda event: self._add(row, event))
            except BaseException:
                self._files.remove(id_)
                raise
        self._dispatcher.wake()
        return self.get(id_, owner)

    def _add(self, row: dict[str, Any], event: Event) -> bool:
        self._store.add(row, event)
        return True

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold a place in the queue while a job is being taken; raise `QueueFull` where there is none."""
        with self._taking:
            waiting = self._store.count(QUEUED) + self._coming
            if waiting >= self.limits.max_queue:
                after = self._dispatcher.pace.retry_after()
                raise QueueFull(f"{waiting} jobs wait already: try again in {after:g} s", after)
            self._coming += 1
        try:
            yield
        finally:
            with self._taking:
                self._coming -= 1

    def _model(self, model: str | None) -> str:
        """Return the name of a model that was asked for, or of the first one."""
        if model is None:
            return next(iter(self._names))
        if model not in self._names:
            raise InputError(f"there is no model {str(model)[:80]!r} here: expected {', '.join(self._names)}")
        return model

    def _earlier(self, id_: str, name: str, owner: str) -> Path:
        """Return the path of a file of an earlier job, for a new one."""
        try:
            return self.file(id_, name, owner)
        except NoSuchJob:
            raise InputError(
                f"there is no file job:{id_[:40]}/{name[:120]}: expected job:ID/NAME of an own job "
                "that is done"
            ) from None

    def get(self, id: str, owner: str) -> JobView:  # noqa: A002  (the name of the interface)
        """Return a job of an owner; `NoSuchJob` is raised for any other id."""
        return self._view(self._own(id, owner))

    def list(self, owner: str, limit: int = 50, before: str | None = None) -> Jobs:
        """Return jobs of an owner, the newest first.

        Args:
            owner: whose they are.
            limit: how many at most.
            before: the id of a job, for those that came before it.

        Returns:
            The jobs.
        """
        number = None if before is None else self._own(before, owner)["number"]
        return [self._view(row) for row in self._store.listed(owner, max(0, limit), number)]

    def cancel(self, id: str, owner: str) -> JobView:  # noqa: A002
        """Cancel a job that is not finished; one that is being made ends within a step."""
        self._cancel(self._own(id, owner))
        return self.get(id, owner)

    def _cancel(self, row: dict[str, Any]) -> None:
        id_ = row["id"]
        if self._feed.publish(id_, CANCELLED, {}, lambda event: self._store.cancel(id_, event)):
            self._dispatcher.link.send("cancel", id_)

    def delete(self, id: str, owner: str) -> None:  # noqa: A002
        """Cancel a job, and remove it with all its files."""
        row = self._own(id, owner)
        if row["state"] not in FINAL:
            self._cancel(row)
        self._dispatcher.remove(id)

    def events(
        self,
        id: str,
        owner: str,
        after: int = 0,
        timeout: float | None = None,  # noqa: A002
    ) -> Iterator[Event]:
        """Yield what happens to a job, from event `after` on, and end with its last event.

        Args:
            id: the job.
            owner: whose it is.
            after: the number of the last event that is known already.
            timeout: seconds without an event after which this ends; None for none.

        Returns:
            An iterator, which blocks while it waits. Only the newest progress and preview are kept: whoever
            reads slowly misses others.
        """
        self._own(id, owner)
        return self._feed.follow(id, after, timeout)

    def aevents(
        self,
        id: str,
        owner: str,
        after: int = 0,
        timeout: float | None = None,  # noqa: A002
    ) -> AsyncIterator[Event]:
        """Yield what happens to a job as `events` does, for a loop of asyncio."""
        self._own(id, owner)
        return self._feed.afollow(id, after, timeout)

    def file(self, id: str, name: str, owner: str) -> Path:  # noqa: A002
        """Return the path of a file of a job: a result, its record ID.json, or an upload.

        Args:
            id: the job.
            name: the name of the file.
            owner: whose the job is.

        Returns:
            The path.

        Raises:
            NoSuchFile: if the job has no file of this name.
            NoSuchJob: if the owner has no such job.
        """
        row = self._own(id, owner)
        made = [file["name"] for file in row["files"] or ()]
        path = None
        if row["state"] == DONE and name in (*made, f"{id}.json"):
            path = self._files.results / name
        elif name in row["inputs"]:
            path = self._files.inputs / id / name
        if path is None or not path.is_file():
            raise NoSuchFile(name)
        return path

    def mask(self, layers: Sequence[str | Path], out: Path, stays: bool) -> bool:
        """Write what was painted over a picture as a mask, bright where the picture is kept.

        Args:
            layers: pictures of an editor, which are read in the sandbox, transparent where nothing was
                painted.
            out: the file to write.
            stays: whether the painted part is what is kept; otherwise it is what is made anew.

        Returns:
            Whether anything was painted; if not, nothing is written.

        Raises:
            InputError: for layers that cannot be read.
            TimeoutError: if they cannot be read now.
        """
        paths = [str(Path(layer).resolve()) for layer in layers]
        return self._dispatcher.link.mask({"layers": paths, "out": Path(out).resolve(), "stays": stays})

    def models(self) -> Rows:
        """Return the models, and what can be asked of each once it is loaded.

        Each has its "name", and once it is "ready" the "prompts" that it takes, its "outputs", "defaults" and
        "sizes" by output, its "words" by kind if its vocabulary is closed, and its "controls".
        """
        loaded = {model["name"]: model for model in self._dispatcher.link.models}
        return [{"name": name, "ready": name in loaded, **loaded.get(name, {})} for name in self._names]

    def health(self) -> dict[str, Any]:
        """Return how the service is: whether it is "ready", what waits, what is made, and how fast."""
        link = self._dispatcher.link
        return {
            "ready": link.ready,
            "error": link.unusable,
            "version": __version__,
            "models": [*self._names],
            "queued": self._store.count(QUEUED),
            "running": self._store.count(RUNNING),
            "max_queue": self.limits.max_queue,
            "seconds_per_job": self._dispatcher.pace.seconds_per_job,
            "starts": link.starts,
        }

    def _own(self, id_: str, owner: str) -> dict[str, Any]:
        """Return the row of a job of an owner, or raise `NoSuchJob`."""
        row = self._store.get(id_) if isinstance(id_, str) else None
        if row is None or row["owner"] != owner:
            raise NoSuchJob(f"no job {str(id_)[:40]!r}")
        return row

    def _view(self, row: dict[str, Any]) -> JobView:
        """Return a job as its owner sees it."""
        names = ("id", "owner", "state", "model", "request", "created", "started", "ended", "record", "error")
        state, progress, position = row["state"], 0.0, None
        if state == QUEUED:
            position = self._store.position(row["id"])
        elif state == RUNNING:
            progress = (self._feed.latest(row["id"], "progress") or {}).get("progress", 0.0)
        elif state == DONE:
            progress = 1.0
        return JobView(
            **{name: row[name] for name in names},
            position=position,
            progress=progress,
            files=row["files"] or [],
            notes=row["notes"],
            inputs=row["inputs"],
        )


def _placed(filter_: str | None) -> str | None:
    """Return the name of a filter, with the folder of its file, for a process that works elsewhere."""
    file, sign, function = (filter_ or "").rpartition(":")
    return str(Path(file).resolve()) + sign + function if file.endswith(".py") else filter_


def _named(models: Sequence[str]) -> dict[str, str | None]:
    """Return where models are, by names for those who ask, which are no folders of this machine."""
    found: dict[str, str | None] = {}
    for model in models or (EMBEDDED,):
        is_folder = Path(model).expanduser().is_dir()
        source = str(Path(model).expanduser().resolve()) if is_folder else model
        name = Path(source).name if is_folder else model
        if name in found:
            raise InputError(f"two models are called {name}: expected another name for one of the folders")
        found[name] = None if model == EMBEDDED else source
    return found
