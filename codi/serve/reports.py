"""Report of a batch while it is made: how far it is, what its outputs seem to become, which jobs are done."""

import base64
import json
import mimetypes
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from codi.jobs import Job
from codi.modalities import kind_of
from codi.types import InputError, Modality

PROGRESS_SECONDS = 0.1  # between two reports of how far a batch is
PREVIEW_SECONDS = 0.5  # between two previews of a batch
PREVIEW_SHARE = 0.2  # of the time that previews may take at most
CANCELLED = "cancelled"


class Cancelled(Exception):
    """Ends a batch of which no job is wanted any more."""


class Server(Protocol):
    """What a maker needs of the process that it works in."""

    def send(self, *message: Any) -> None:
        """Send a message to the server."""

    def is_cancelled(self, id_: str) -> bool:
        """Return whether a job is wanted no more."""

    def is_watched(self, id_: str) -> bool:
        """Return whether anybody looks at a job."""


class Report:
    """One batch while it is made: what was reported of its jobs."""

    def __init__(self, server: Server, batch: Sequence[Mapping[str, Any]], previews: bool) -> None:
        self.session: Any = None
        self.told: set[str] = set()  # jobs of which the end was reported
        self.rows = 0  # samples that were made
        self.jobs = 0  # jobs that were done
        self._server = server
        self._previews = previews  # not with a filter, which has yet to see what is made
        self._ids = [sent["id"] for sent in batch]
        self._reported = 0.0
        self._shown: set[Modality] = set()  # outputs that a preview had
        self._next_preview = 0.0

    def begin(self) -> None:
        """Let the first step of another part of the batch be reported at once."""
        self._reported = self._next_preview = 0.0
        self._shown = set()

    def tell(self, todo: Sequence[Job]) -> None:
        """Report the jobs that are complete, and those that have failed."""
        for job in todo:
            id_ = str(job.id)
            if id_ in self.told:
                continue
            if (message := self.session.failures.message(job)) is not None:
                self.fail(id_, message)
            elif len(self.session.done.get(job, ())) == job.num_samples:
                self.told.add(id_)
                self.jobs += 1
                self._server.send("done", id_, _result(self.session.out, job))

    def fail(self, id_: str, message: str) -> None:
        """Report that a job has failed, or was cancelled."""
        self.told.add(id_)
        if self._server.is_cancelled(id_):
            self._server.send("cancelled", id_, {})
        else:
            self._server.send("failed", id_, {"error": plain(message, id_)})

    def fail_rest(self, message: str) -> None:
        """Report that all jobs of which nothing was reported have failed."""
        for id_ in self._ids:
            if id_ not in self.told:
                self.fail(id_, message)

    def cancel_rest(self) -> None:
        """Report that all jobs of which nothing was reported were cancelled."""
        for id_ in self._ids:
            if id_ not in self.told:
                self.told.add(id_)
                self._server.send("cancelled", id_, {})

    def after_step(self, pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        """Report how far the batch is, after a step of a pipeline; end it if nobody wants it any more."""
        wanted: dict[str, list[int]] = {}
        for row, (job, _) in enumerate(self.session.rows):
            if self._server.is_cancelled(str(job.id)):
                with self.session.failures.of(job):
                    raise InputError(CANCELLED)
            elif not self.session.failures.has(job):
                wanted.setdefault(str(job.id), []).append(row)
        if not wanted:
            raise Cancelled
        now = time.perf_counter()
        last = step + 1 == pipe.num_timesteps
        if last or now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self._progress(pipe, step, wanted)
        started = set(tensors["clean_latents"])
        if self._previews and not last and (now >= self._next_preview or started - self._shown):
            if self._preview(pipe, tensors["clean_latents"], wanted):
                self._shown = started
                took = time.perf_counter() - now
                self._next_preview = now + max(PREVIEW_SECONDS, took / PREVIEW_SHARE)
        return {}

    def _progress(self, pipe: Any, step: int, wanted: Mapping[str, list[int]]) -> None:
        """Report how many steps were taken of each output."""
        window, windows = self.session.window
        steps = windows * pipe.num_timesteps
        taken = window * pipe.num_timesteps + step + 1
        found = {"step": taken, "steps": steps}
        for id_, rows in wanted.items():
            job = self.session.rows[rows[0]][0]
            outputs = {}
            for modality in job.outputs:
                if modality in pipe.own_steps:
                    own, most = pipe.own_steps[modality]
                    outputs[modality.value] = [window * most + own, windows * most]
            before = len(self.session.done.get(job, ()))
            whole = (before + len(rows) * taken / steps) / job.num_samples
            self._server.send("progress", id_, {**found, "outputs": outputs, "progress": min(1.0, whole)})

    def _preview(self, pipe: Any, latents: Mapping[Modality, Any], wanted: Mapping[str, list[int]]) -> bool:
        """Report what the samples of each job that somebody looks at seem to become, each by a candidate.

        Returns whether there was anything to report.
        """
        watched = [(id_, row) for id_ in wanted if self._server.is_watched(id_) for row in wanted[id_]]
        if not watched or not latents:
            return False
        first = self.session.rows[0][0]
        rows = [row * first.candidates for _, row in watched]
        shown = {m: z[rows] for m, z in latents.items() if m in first.outputs}
        try:
            media = pipe.decode_preview(shown)
        except InputError:  # estimates need not be finite
            return False
        for k, (id_, row) in enumerate(watched):
            outputs = {}
            for modality, raw in media.items():
                if (found := kind_of(modality).preview(raw[k], pipe.call_specs[modality])) is not None:
                    mime, content = found
                    outputs[modality.value] = {"type": mime, "data": base64.b64encode(content).decode()}
            self._server.send("preview", id_, {"sample": self.session.rows[row][1], "outputs": outputs})
        return True


def _result(out: Path, job: Job) -> dict[str, Any]:
    """Return the files of a job that is done, and its record."""
    text = (out / f"{job.id}.json").read_text(encoding="utf-8")
    record = json.loads(text.replace(f"{job.id}/", ""))
    files = []
    for k, sample in enumerate(record["samples"]):
        for name in sample["files"]:
            files.append(
                {
                    "name": name,
                    "modality": _modality(job, Path(name).suffix),
                    "sample": k,
                    "type": mimetypes.guess_type(name)[0] or "application/octet-stream",
                    "bytes": (out / name).stat().st_size,
                    "sha256": sample["sha256"][name],
                }
            )
    return {"files": files, "record": record}


def _modality(job: Job, suffix: str) -> str:
    """Return which output of a job is in files of a suffix."""
    for modality in job.outputs:
        if kind_of(modality).suffix == suffix:
            return modality.value
    for modality in job.outputs:
        if suffix in kind_of(modality).more_suffixes:
            return modality.value
    return job.outputs[0].value


def plain(message: str, id_: str) -> str:
    """Return a message in one line that names files as the request does, and no folder."""
    line = " ".join(message.split()).removeprefix(f"{id_}: ")
    for folder in (f"{id_}/", os.getcwd() + "/", f"{Path.cwd().parent}/"):
        line = line.replace(folder, "")
    return line


def log(error: BaseException) -> None:
    """Write a mistake of our own to the log."""
    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
