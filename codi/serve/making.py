"""Check and make jobs with loaded pipelines, as `codi generate` does, and say how far they are meanwhile.

A batch of jobs is one run of `codi.session.Session`, whose records say what is finished: what a killed
server has made already is found by them and not made again.
"""

import base64
import gc
import hashlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from codi import fork_server, jobs, wording
from codi.compose.folder import composed_folder
from codi.failures import Failures
from codi.jobs import Job
from codi.modalities import kind_of
from codi.session import Session
from codi.start_up import lean_imports
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


class Maker:
    """The loaded pipelines, and what is done with them.

    Args:
        settings: "models" by their names, each a folder, a hub id or None; "device", "dtype", "results" (the
            folder of what is made, from where this process works) and "batch".
        server: takes reports.
    """

    def __init__(self, settings: Mapping[str, Any], server: Server) -> None:
        warnings.simplefilter("ignore")  # they are for people at a terminal
        fork_server.start()  # reads uploads; it starts while libraries are imported here
        _import_pipeline(settings["models"].values())
        from codi.pretrained import pick_device

        self._server = server
        self._results = Path(settings["results"])
        self._dtype = settings["dtype"]
        self._batch = settings["batch"]
        self._sources: dict[str, str | None] = dict(settings["models"])
        self._device = pick_device(settings["device"])
        self._pipes: dict[str, Any] = {}
        for name in self._sources:
            session = self._session(name)
            session.load(self._device)
            self._pipes[name] = session.pipe
        gc.collect()
        gc.freeze()  # from now on garbage collection passes over what was loaded

    def _session(self, model: str, failures: Failures | None = None) -> Session:
        """Return a run of a model, which is loaded if it was."""
        args = jobs.unnamed(model=self._sources[model], dtype=self._dtype, device=self._device)
        jobs.fill(args)
        session = Session(self._results, args, time.perf_counter(), failures)
        session.model["name"] = model  # never the folder that it lies in
        if model in self._pipes:
            session.use(self._pipes[model], self._device)
        return session

    def _job(self, sent: Mapping[str, Any]) -> Job:
        """Return a job of the server as `codi generate` has it; its files lie in the folder of its id."""
        line = json.dumps({**sent["line"], "id": sent["id"]})
        return jobs.from_line(line, sent["id"], f"{sent['id']}: ")

    # Checking

    def described(self) -> list[dict[str, Any]]:
        """Return what can be asked of each model, in the order in which they were named."""
        return [{"name": name, **_described(pipe)} for name, pipe in self._pipes.items()]

    def check(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return how large a job is and with which others it can be made, or the "error" in it.

        Its files are decoded, in the sandbox.

        Args:
            sent: the "id", "line" and "model" of the job.

        Returns:
            Its "batch_key", "kind", "rows", "steps", "seconds", "pixels" and "notes"; or the "error" alone.
        """
        try:
            return self._checked(sent)
        except InputError as error:
            return {"error": _plain(str(error), sent["id"])}
        except (MemoryError, RuntimeError, OSError) as error:
            _report(error)
            return {"error": f"it cannot be checked ({type(error).__name__}): ask for less, or try again"}

    def _checked(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `check` does, or raise `InputError`."""
        session = self._session(sent["model"])
        job = self._job(sent)
        folder = Path(sent["id"])
        if outside := [path for path in job.inputs if path.parent != folder]:
            raise InputError(f"{outside[0].name} is no file of this request: expected the name of an upload")
        lost = wording.check([job], self._sources[sent["model"]])
        job.check()
        session.check([job])
        wording.check_loaded([job], session.pipe.text_tower)
        request = session.resolve(job)
        return {
            "batch_key": hashlib.sha256(f"{sent['model']} {job.group}".encode()).hexdigest(),
            "kind": " ".join([sent["model"], *sorted(map(str, job.outputs))]),
            "rows": job.num_samples * job.candidates,
            "notes": list(dict.fromkeys(line for each in lost for line in wording.notes(*each))),
            **_size(request),
        }

    # Making

    def make(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make the jobs of a batch, and report each when it is done, failed or cancelled.

        Args:
            batch: jobs of one model that may be made together.

        Returns:
            The "kind" of the batch, the "rows" and "jobs" that were made, and the "seconds" that it took.
        """
        began = time.perf_counter()
        run = _Run(self._server, batch)
        try:
            self._made(batch, run)
        except Cancelled:
            pass
        except Exception as error:
            _report(error)
            if len(batch) > 1:  # whichever of them it was: by themselves the others are made
                for sent in batch:
                    if sent["id"] not in run.told:
                        self.make([sent])
                        run.told.add(sent["id"])
            run.fail_rest(f"a mistake in codi itself ({type(error).__name__}); the server's log has more")
        run.cancel_rest()
        took = {"rows": run.rows, "jobs": run.jobs, "seconds": time.perf_counter() - began}
        return {"kind": batch[0]["kind"], **took}

    def _made(self, batch: Sequence[Mapping[str, Any]], run: "_Run") -> None:
        """Make the jobs of a batch in one session."""
        failures = Failures(alone=True)
        session = self._session(batch[0]["model"], failures)
        session.callback = run.after_step
        run.session = session
        todo = []
        for sent in batch:
            with failures.of(f"{sent['id']}: "):
                todo.append(self._job(sent))
        todo = session.resumed(todo)
        pending = session.pending(todo)
        for job in pending:
            with failures.of(job):
                session.check_outputs(job)
        session.check(failures.left(pending))
        # alone, a job is made in batches as large as those of `codi generate`
        most = self._batch if len(batch) > 1 else jobs.DEFAULTS["batch"]
        run.tell(todo)
        for rows in jobs.batches(failures.left(todo), most, session.wanted):
            run.begin()
            session.run(rows)
            run.rows += sum(row is not None for row in rows)
            run.tell(todo)
        run.tell(todo)
        for sent in batch:
            if sent["id"] not in run.told:
                message = failures.message(f"{sent['id']}: ") or "nothing was made of it"
                run.fail(sent["id"], message)


def _import_pipeline(sources: Iterable[str | None]) -> None:
    """Import what generates and nothing else, since this process does nothing but that."""
    if any(source is not None and composed_folder(source) for source in sources):
        import codi.compose.pipeline  # published models need more of diffusers and transformers
        import codi.pipeline
    else:
        with lean_imports():
            import codi.pipeline  # noqa: F401


class _Run:
    """One batch while it is made: what was reported of its jobs."""

    def __init__(self, server: Server, batch: Sequence[Mapping[str, Any]]) -> None:
        self.session: Any = None
        self.told: set[str] = set()  # jobs of which the end was reported
        self.rows = 0  # samples that were made
        self.jobs = 0  # jobs that were done
        self._server = server
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
            self._server.send("failed", id_, {"error": _plain(message, id_)})

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
        if not last and (now >= self._next_preview or started - self._shown):
            if self._preview(pipe, tensors["clean_latents"], wanted):
                self._shown = started
                took = time.perf_counter() - now
                self._next_preview = now + max(PREVIEW_SECONDS, took / PREVIEW_SHARE)
        return {}

    def _progress(self, pipe: Any, step: int, wanted: Mapping[str, list[int]]) -> None:
        """Report how many steps were taken of each output."""
        found = {"step": step + 1, "steps": pipe.num_timesteps}
        for id_, rows in wanted.items():
            job = self.session.rows[rows[0]][0]
            outputs = {m.value: list(pipe.own_steps[m]) for m in job.outputs if m in pipe.own_steps}
            before = len(self.session.done.get(job, ()))
            whole = (before + len(rows) * (step + 1) / pipe.num_timesteps) / job.num_samples
            self._server.send("progress", id_, {**found, "outputs": outputs, "progress": min(1.0, whole)})

    def _preview(self, pipe: Any, latents: Mapping[Modality, Any], wanted: Mapping[str, list[int]]) -> bool:
        """Report what the first sample of each job that somebody looks at seems to become.

        Returns whether there was anything to report.
        """
        watched = [id_ for id_ in wanted if self._server.is_watched(id_)]
        if not watched or not latents:
            return False
        first = self.session.rows[0][0]
        rows = [wanted[id_][0] * first.candidates for id_ in watched]
        shown = {m: z[rows] for m, z in latents.items() if m in first.outputs}
        try:
            media = pipe.decode_preview(shown)
        except InputError:  # estimates need not be finite
            return False
        for k, id_ in enumerate(watched):
            outputs = {}
            for modality, raw in media.items():
                if (found := kind_of(modality).preview(raw[k], pipe.call_specs[modality])) is not None:
                    mime, content = found
                    outputs[modality.value] = {"type": mime, "data": base64.b64encode(content).decode()}
            sample = self.session.rows[wanted[id_][0]][1]
            self._server.send("preview", id_, {"sample": sample, "outputs": outputs})
        return True


def _result(out: Path, job: Job) -> dict[str, Any]:
    """Return the files of a job that is done, and its record."""
    import mimetypes

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


def _size(request: Any) -> dict[str, Any]:
    """Return the most steps, seconds and pixels of any output of a request."""
    steps = request.num_inference_steps
    seconds, pixels = 0.0, 0
    for modality in request.outputs:
        spec = request.specs.get(modality)
        if spec is None:
            continue
        seconds = max(seconds, spec.duration or 0.0)
        if kind_of(modality).spatial:
            pixels = max(pixels, spec.raw_shape[-1] * spec.raw_shape[-2])
    most = max(steps.values()) if isinstance(steps, Mapping) else steps
    return {"steps": int(most), "seconds": seconds, "pixels": pixels}


def _described(pipe: Any) -> dict[str, Any]:
    """Return what can be asked of a model: prompts, outputs, its own settings and sizes, its words."""
    makes = getattr(pipe, "makes", None)
    takes = getattr(pipe, "takes", None)
    if makes is None:
        model = pipe.model
        makes = [m for m in Modality if m in model.denoisers and m in model.autoencoders]
        takes = [m for m in Modality if m in model.towers]
    found: dict[str, Any] = {"outputs": [m.value for m in makes], "prompts": [m.value for m in takes or ()]}
    found["defaults"], found["sizes"] = {}, {}
    for modality in makes:
        request = pipe.resolve(given=list(takes or ())[:1], outputs=[modality])
        own = request.settings()
        found["defaults"][modality.value] = {
            name: own[name]
            for name in ("num_inference_steps", "guidance_scale", "sync_guidance_scale")
            if name in own
        }
        spec = request.specs.get(modality)
        found["sizes"][modality.value] = {} if spec is None else kind_of(modality).sizes_of(spec)
    vocabulary = getattr(pipe.text_tower, "vocabulary", None)
    found["words"] = None if vocabulary is None else wording.by_kind(vocabulary)
    found["controls"] = [[m.value, kind] for m, kind in getattr(pipe, "controls", ())]
    return found


def _plain(message: str, id_: str) -> str:
    """Return a message in one line that names files as the request does, and no folder."""
    import os

    line = " ".join(message.split()).removeprefix(f"{id_}: ")
    for folder in (f"{id_}/", os.getcwd() + "/", f"{Path.cwd().parent}/"):
        line = line.replace(folder, "")
    return line


def _report(error: BaseException) -> None:
    """Write a mistake of our own to the log."""
    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
