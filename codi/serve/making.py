"""Check and make jobs with loaded pipelines, as `codi generate` does, and say how far they are meanwhile.

A batch of jobs is one run of `codi.session.Session`, whose records say what is finished: what a killed
server has made already is found by them and not made again.
"""

import argparse
import gc
import hashlib
import json
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi import fork_server, jobs, provenance, wording
from codi.compose.folder import composed_folder
from codi.failures import Failures
from codi.filters import Filter
from codi.jobs import Job
from codi.modalities import kind_of
from codi.serve.masks import write_mask
from codi.serve.reports import Cancelled, Report, Server, log, plain
from codi.session import Session
from codi.start_up import lean_imports
from codi.types import InputError, Modality


class Maker:
    """The loaded pipelines, and what is done with them.

    Args:
        settings: "models" by their names, each a folder, a hub id or None; "device", "dtype", "results" (the
            folder of what is made, from where this process works), "batch", and the "filter", "certificate"
            and "key" of `codi generate`, each None for none.
        server: takes reports.
    """

    def __init__(self, settings: Mapping[str, Any], server: Server) -> None:
        warnings.simplefilter("ignore")  # they are for people at a terminal
        fork_server.start()  # reads uploads; it starts while libraries are imported here
        _import_pipeline(settings["models"].values())
        from codi.pretrained import pick_device, resolve

        self._server = server
        self._results = Path(settings["results"])
        self._dtype = settings["dtype"]
        self._batch = settings["batch"]
        self._sources: dict[str, str | None] = dict(settings["models"])
        self._device = pick_device(settings["device"])
        self._filter = _filter(settings["filter"])
        signed = {name: settings[name] for name in ("certificate", "key")}
        signer = argparse.Namespace(sign=signed["certificate"] is not None, **signed)
        self._sign = provenance.signer_of(signer)
        self._pipes: dict[str, Any] = {}
        for name in self._sources:
            session = self._session(name)
            session.load(self._device)
            self._pipes[name] = session.pipe
        # Where the vocabularies are: towers are not asked, which may be at work in another thread.
        self._folders = {n: None if s is None else str(resolve(s)) for n, s in self._sources.items()}
        gc.collect()
        gc.freeze()  # from now on garbage collection passes over what was loaded

    def _session(self, model: str, failures: Failures | None = None) -> Session:
        """Return a run of a model, which is loaded if it was."""
        args = jobs.unnamed(model=self._sources[model], dtype=self._dtype, device=self._device)
        jobs.fill(args)
        before = {"filter": self._filter, "sign": self._sign}
        session = Session(self._results, args, time.perf_counter(), failures, **before)
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
            Its "batch_key", "kind", "rows", "steps", "seconds", "pixels", "notes", and "windows" where it
            goes on beyond the length of the model; or the "error" alone.
        """
        try:
            return self._checked(sent)
        except InputError as error:
            return {"error": plain(str(error), sent["id"])}
        except (MemoryError, RuntimeError, OSError) as error:
            log(error)
            return {"error": f"it cannot be checked ({type(error).__name__}): ask for less, or try again"}

    def _checked(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `check` does, or raise `InputError`."""
        session = self._session(sent["model"])
        job = self._job(sent)
        folder = Path(sent["id"])
        if outside := [path for path in job.inputs if path.parent != folder]:
            raise InputError(f"{outside[0].name} is no file of this request: expected the name of an upload")
        lost = wording.check([job], self._folders[sent["model"]])
        job.check()
        [(request, windows)] = session.check([job])
        return {
            "batch_key": hashlib.sha256(f"{sent['model']} {job.group}".encode()).hexdigest(),
            "kind": " ".join([sent["model"], *sorted(map(str, job.outputs)), *_how(job)]),
            "rows": job.num_samples * job.candidates,
            "notes": list(dict.fromkeys(line for each in lost for line in wording.notes(*each))),
            **_size(request),
            **({} if job.continued is None else {"windows": windows, "seconds": job.continued.seconds}),
        }

    def mask(self, painted: Mapping[str, Any]) -> dict[str, Any]:
        """Make a mask of what was painted, read in the sandbox.

        Args:
            painted: the arguments of `codi.serve.masks.write_mask`, by their names.

        Returns:
            Under "painted" whether anything was; or the "error" alone.
        """
        try:
            return {"painted": write_mask(**painted)}
        except (InputError, MemoryError, RuntimeError, OSError) as error:
            log(error)
            return {"error": "what was painted cannot be read: expected the layers of a picture's editor"}

    # Making

    def make(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make the jobs of a batch, and report each when it is done, failed or cancelled.

        Args:
            batch: jobs of one model that may be made together.

        Returns:
            The "kind" of the batch, the "rows" and "jobs" that were made, and the "seconds" that it took.
        """
        began = time.perf_counter()
        run = Report(self._server, batch, previews=self._filter is None)
        try:
            self._made(batch, run)
        except Cancelled:
            pass
        except Exception as error:
            log(error)
            if len(batch) > 1:  # whichever of them it was: by themselves the others are made
                for sent in batch:
                    if sent["id"] not in run.told:
                        self.make([sent])
                        run.told.add(sent["id"])
            run.fail_rest(f"a mistake in codi itself ({type(error).__name__}); the server's log has more")
        run.cancel_rest()
        took = {"rows": run.rows, "jobs": run.jobs, "seconds": time.perf_counter() - began}
        return {"kind": batch[0]["kind"], **took}

    def _made(self, batch: Sequence[Mapping[str, Any]], run: Report) -> None:
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


def _filter(name: str | None) -> Filter | None:
    """Return the filter of a name; records and messages do not say in which folder it lies."""
    found = Filter.parse(name)
    return None if found is None else replace(found, name=Path(found.name).name)


def _how(job: Job) -> list[str]:
    """Return what tells jobs apart that take another time than others of the same outputs."""
    return [] if job.continued is None else [f"for {job.continued.seconds:g} s"]


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
    if request.upscale is not None:
        pixels *= request.upscale.factor**2
        most = max(most, request.upscale.num_inference_steps)
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
