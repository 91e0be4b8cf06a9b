"""Do what `codi generate` was asked: make samples of several jobs in one call, and write files and records.

By the records a run can be resumed: a job that is finished is not made again.
"""

import argparse
import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi import __version__, continued, records
from codi.adapters.given import Given
from codi.failures import OUT_OF_MEMORY, Failures, is_of_memory
from codi.filters import Filter, Refused
from codi.jobs import Item, Job, Sample
from codi.modalities import kind_of
from codi.types import EMBEDDED, InputError, Modality, blame

FAILURES = "failures.jsonl"  # lists the jobs of a file that failed, in a run with a filter


class Session:
    """One run of `codi generate`: the folder that is written, the loaded pipeline, and the times taken.

    Without ids, files get the next free numbers. With ids, every job has a record (ID.json): before the first
    file is written it says whose the files are, then it lists those that are there with their sha256, and the
    job is finished when it lists all.

    Args:
        out: the folder that is written.
        args: the options of the command line, with defaults in place of what nobody named.
        started: when the command began, in seconds by `time.perf_counter`.
        failures: takes jobs that cannot be made; without it the first of them ends the run.
        filter: is asked of every sample before a file of it is written, a function or its name
            (`codi.filters`). A job of which it refuses a sample has failed, and nothing of it stays.
        sign: signs the files of a sample before anybody sees them (`codi.credentials.Signer`).
    """

    def __init__(
        self,
        out: Path,
        args: argparse.Namespace,
        started: float,
        failures: Failures | None = None,
        filter: Filter | Callable[[Any], Any] | str | None = None,
        sign: Callable[..., list[Path]] | None = None,
    ) -> None:
        self.out = out
        self.args = args
        self.started = started
        self.failures = Failures() if failures is None else failures
        self.filter = Filter.parse(filter)
        self.sign = sign
        self.adapters = Given.parse(args.lora, args.words, args.control_from)
        self.model: dict[str, Any] = {
            "name": args.model or EMBEDDED,
            "dtype": args.dtype,
            **self.adapters.describe(),
        }
        if args.scheduler:
            self.model["scheduler"] = args.scheduler
        self.timings = {"load": 0.0, "generate": 0.0, "save": 0.0}
        self.done: dict[Job, dict[int, dict[str, Any]]] = {}  # samples that are there, by their numbers
        self.made: list[Job] = []  # those of which this run made something
        self.resolved: dict[Job, dict[str, Any]] = {}
        self.continued: dict[Job, dict[str, Any]] = {}  # how jobs that go on were made of windows
        self.pipe: Any = None
        self.callback: Any = None  # is called after every step of the pipeline, with clean estimates
        self.rows: list[Sample] = []  # whose samples the rows of the running call are
        self.window = (0, 1)  # which window of how many the running call makes, of a job that goes on
        self._prompts: dict[Job, dict[str, Any]] = {}
        self._claimed: set[Job] = set()
        self._created: set[Job] = set()
        self._read = Files()  # what the run reads, and so does not write

    def protect(self, jobs: list[Job]) -> None:
        """Note all files that the run reads, so that none of them is overwritten by what any job makes.

        Raises `InputError` if the manifest of the run would overwrite one.
        """
        args = self.args
        for path in (args.jobs, args.again):
            if path:
                self._read.add(Path(path))
        for path, _ in self.adapters.loras:
            self._read.add(path)
        for path in self.adapters.words:
            self._read.add(path)
        folders = [*self.adapters.controls, *([Path(args.model)] if args.model else [])]
        for folder in folders:
            for path in folder.rglob("*") if folder.is_dir() else ():
                self._read.add(path)
        for job in jobs:
            for path in job.inputs:
                self._read.add(path)
        self._check_kept([self.out / "manifest.json"])

    def _check_kept(self, outputs: list[Path]) -> None:
        """Raise `InputError` if one of these files is read by the run, under whatever name."""
        for path in outputs:
            if (read := self._read.find(path)) is not None:
                raise InputError(
                    f"{read} would be overwritten by what is made ({path.name}): name another folder with "
                    "-o, or another id"
                )

    def check_outputs(self, job: Job) -> None:
        """Raise `InputError` for a job whose files would overwrite one that the run reads."""
        if job.id is None and not self.args.overwrite:
            return  # numbers that are free
        outputs = job.files(self.out)
        if job.id is not None:
            outputs.append(self.out / f"{job.id}.json")
        with blame(job.origin):
            self._check_kept(outputs)

    def resumed(self, jobs: list[Job]) -> list[Job]:
        """Find what is there of jobs with ids, and return all that have not failed.

        Samples that a record of the very same request lists are kept if their files are in the folder as it
        says; the others are to be made. A job fails whose files are there and belong to another request,
        unless they may be overwritten. A seed that is to be drawn is the one that was drawn already, or is
        drawn now.

        Args:
            jobs: the jobs, as they were asked for.

        Returns:
            The jobs with the seeds from which they were or are to be made.
        """
        found = []
        for job in jobs:
            with self.failures.of(job):
                kept, seed = self._kept(job)
                if job.id is not None and len(kept) < job.num_samples and not self.args.overwrite:
                    self._check_own(job)
                if not kept:
                    found.append(job.with_seed())
                    continue
                if job.drawn and seed is not None:
                    job = replace(job, seed=seed)
                found.append(job)
                self.done[job] = kept
        return found

    def pending(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs of which something is still to be made."""
        return [job for job in jobs if len(self.done.get(job, ())) < job.num_samples]

    def wanted(self, job: Job, k: int) -> bool:
        """Return whether sample `k` of a job is still to be made."""
        return k not in self.done.get(job, ()) and not self.failures.has(job)

    def _check_own(self, job: Job) -> None:
        """Raise `InputError` if what is there under the id of a job was made by another request."""
        record = self._stored(job)
        paths = [self.out / f"{job.id}.json", *job.files(self.out)]
        there = [path for path in paths if path.exists()]
        if there and (record is None or record.get("request") != self._digest(job)):
            raise InputError(
                f"{job.origin}{there[0]} is there already and was not made by this request: expected another "
                "id or -o, or --overwrite to replace what is there"
            )

    def load(self, device: str) -> None:
        """Load the model with its adapters and its scheduler onto a device."""
        import torch

        from codi.pipeline import CoDiPipeline, named_scheduler

        began = time.perf_counter()
        pipe = CoDiPipeline.from_pretrained(self.args.model, dtype=getattr(torch, self.args.dtype))
        self.adapters.apply(pipe)
        if self.args.scheduler:
            pipe.scheduler = named_scheduler(self.args.scheduler, pipe.scheduler)
        self.use(pipe.to(device), device)
        self.timings["load"] = time.perf_counter() - began

    def use(self, pipe: Any, device: str) -> None:
        """Make samples with a pipeline that is loaded already, on a device."""
        self.pipe = pipe
        self.pipe.set_progress_bar_config(disable=self.args.quiet, leave=False)
        self.model["device"] = device

    def check(self, jobs: list[Job]) -> list[tuple[Any, int]]:
        """Raise `InputError` for a job that the model cannot do, and return what `_resolve` gives of each."""
        from codi import io

        found = []
        for job in jobs:
            with self.failures.of(job), blame(job.origin):
                found.append(self._resolve(job))
                io.check_writers(job.outputs)
                self._check_sounds(job)
        return found

    def _resolve(self, job: Job) -> tuple[Any, int]:
        """Return the request of a job with all settings, and the number of windows of that length.

        The check is the same that the call makes, and raises `InputError` for what the model cannot do.
        """
        if job.continued is not None:
            return continued.resolve(self.pipe, job)
        asked = {name: value for name, value in job.settings.items() if name not in job.sizes}
        given = dict.fromkeys(item.modality for item in job.items)
        negatives = dict.fromkeys(item.modality for item in job.negatives)
        request = self.pipe.resolve(
            given=list(given),
            negatives=list(negatives),
            outputs=job.outputs,
            num_samples=job.num_samples,
            sync=_sync(job),
            sizes=job.sizes,
            **asked,
            **job.edit_arguments,
        )
        return request, 1

    def _check_sounds(self, job: Job) -> None:
        """Raise `InputError` for a recording that is silent in the part that the model takes."""
        specs = self.pipe.model.prompt_specs
        for item in (*job.items, *job.negatives, *job.region_items):
            if item.modality in specs:
                kind_of(item.modality).check_heard(item.value, specs[item.modality])

    def _partners(self, job: Job) -> list[Modality]:
        """Return the inputs of a job that stand in the loop as clean partners."""
        given = {item.modality: item for item in job.items}
        return self.pipe.find_partners(given, job.outputs, _sync(job))

    def run(self, batch: list[Sample | None]) -> list[Path]:
        """Make and write the samples of a batch, and record them for their jobs.

        Args:
            batch: for each row a job and the number of its sample, or None (`codi.jobs.batches`).

        Returns:
            The paths of the media that were written.
        """
        began = time.perf_counter()
        if batch[0] is not None and batch[0][0].continued is not None:
            return self._run_continued(batch[0][0])
        batch, prompts = self._encoded(batch)
        if not prompts:
            return []
        out, failed = None, None
        try:
            out = self._generate(batch, prompts)
        except (InputError, MemoryError, RuntimeError) as error:
            if not (self.failures.alone and (isinstance(error, InputError) or is_of_memory(error))):
                raise
            failed = str(error) if isinstance(error, InputError) else OUT_OF_MEMORY
        if failed is not None:  # after the error, which holds on to memory
            return self._run_apart(batch, list(prompts), failed)
        self.timings["generate"] += time.perf_counter() - began
        return self._save_all(batch, out, time.perf_counter() - began)

    def _run_continued(self, job: Job) -> list[Path]:
        """Make and write a job that goes on, window by window, and record it."""
        from codi import io

        began = time.perf_counter()
        self.rows = [(job, 0)]
        paths: list[Path] = []
        with self.failures.of(job), blame(job.origin):
            longer = continued.plan(self.pipe, job, **self._followed(self._after_window_step))
            self.window = (0, len(longer.steps))
            self._claim(job)
            named = {"name": job.names[0], "model": self.model}
            paths = longer.save(self.out, filter=self.filter, sign=self.sign, **named)
            record = longer.record()
            self.model = record["model"]
            self.resolved[job], self.continued[job] = record["resolved"], record["continued"]
            note = {
                "seed": job.seed,
                "files": [path.name for path in paths],
                "sha256": {path.name: io.sha256_of(path) for path in paths},
                "seconds": round(time.perf_counter() - began, 3),
            }
            self._note(job, 0, note)
        if not paths:
            self._unclaim(job)
        self.window = (0, 1)
        self.timings["generate"] += time.perf_counter() - began
        return paths

    def _followed(self, after_step: Any) -> dict[str, Any]:
        """Return the arguments of a call whose steps somebody follows; none where nobody does."""
        if self.callback is None:
            return {}
        return {"callback_on_step_end": after_step, "callback_on_step_end_tensor_inputs": ["clean_latents"]}

    def _after_window_step(self, pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        """Tell the callback of a step of a job that goes on, and count its windows."""
        changed: dict[str, Any] = self.callback(pipe, step, timestep, tensors)
        if step + 1 == pipe.num_timesteps:
            self.window = (self.window[0] + 1, self.window[1])
        return changed

    def _run_apart(self, batch: list[Sample | None], jobs: list[Job], failed: str) -> list[Path]:
        """Make the samples of a batch that failed again, those of each job by themselves.

        If it is of one job, that one has failed.
        """
        if len(jobs) == 1:
            with self.failures.of(jobs[0]):
                raise InputError(failed)
        paths = []
        for job in jobs if len(jobs) > 1 else ():
            paths += self.run([sample for sample in batch if sample is not None and sample[0] is job])
        return paths

    def _encoded(self, batch: list[Sample | None]) -> tuple[list[Sample | None], dict[Job, Any]]:
        """Return a batch with None in place of jobs that fail, and the encoded prompts of the others."""
        import torch

        prompts: dict[Job, Any] = {}
        for job in dict.fromkeys(sample[0] for sample in batch if sample is not None):
            if not self.failures.has(job):
                with self.failures.of(job), torch.no_grad():
                    prompts[job] = self._encode(job)
        return [sample if sample and sample[0] in prompts else None for sample in batch], prompts

    def _save_all(self, batch: list[Sample | None], out: Any, seconds: float) -> list[Path]:
        """Write the samples of a batch that took some seconds, record them, and return the paths."""
        from codi import io

        began = time.perf_counter()
        paths = []
        wanted = [(row, *sample) for row, sample in enumerate(batch) if sample is not None]
        for row, job, k, sample in self._let_pass(out, wanted):
            if self.failures.has(job):
                continue
            with self.failures.of(job):
                files = self._save(job, k, sample)
                note = {
                    "seed": out.seeds[row],
                    "batch": out.batch[row],
                    "files": [path.name for path in files],
                    "sha256": {path.name: io.sha256_of(path) for path in files},
                    "seconds": round(seconds / len(wanted), 3),
                }
                if sample.selection:
                    note["selection"] = sample.selection[0]
                if sample.filtered:
                    note["filter"] = sample.filtered[0]
                self._note(job, k, note)
                paths += files
            if self.failures.has(job):
                self._unclaim(job)
        self.timings["save"] += time.perf_counter() - began
        return paths

    def _let_pass(self, out: Any, wanted: list[tuple[int, Job, int]]) -> list[tuple[int, Job, int, Any]]:
        """Return the samples of a batch as the filter lets them pass, before any of them is written.

        Of a job of which one is refused, what was written before is removed.
        """
        found = []
        for row, job, k in wanted:
            if self.failures.has(job):
                continue
            with self.failures.of(job):
                try:
                    found.append((row, job, k, self._sample(out, row, job).filtered_by(self.filter)))
                except Refused:
                    self._withdraw(job)
                    raise
        return found

    def _withdraw(self, job: Job) -> None:
        """Remove what was written of a job."""
        for sample in self.done.pop(job, {}).values():
            for name in sample["files"]:
                (self.out / name).unlink(missing_ok=True)
        if job in self.made:
            self.made.remove(job)
        record = None if job.id is None else self._stored(job)
        if record is not None and record.get("request") == self._digest(job):
            (self.out / f"{job.id}.json").unlink(missing_ok=True)

    def _sample(self, out: Any, row: int, job: Job) -> Any:
        """Return one row of a pipeline's output as an output of its own.

        It has the clip and the prompts of its job, which the call did not see, and the job's settings.
        """
        from codi.outputs import as_fields

        own = {name: getattr(out, name)[row : row + 1] for name in ("seeds", "selection", "batch")}
        own |= as_fields({m: out.of(m)[row : row + 1] for m in out.made})
        asked = list(job.sync) if isinstance(job.sync, tuple) else job.sync
        resolved = out.settings | {"sync": asked}
        if "captions" in resolved:  # of all rows of the batch
            resolved["captions"] = [resolved["captions"][row]]
        self.resolved.setdefault(job, resolved)
        self.model = out.origin["model"] | self.model
        origin = {**out.origin, **self._described(job), "model": self.model}
        return type(out)(
            sampling_rate=out.sampling_rate,
            fps=out.fps,
            model=out.model,
            clip=job.clip,
            settings=self.resolved[job],
            origin=origin,
            **own,
        )

    def _save(self, job: Job, k: int, sample: Any) -> list[Path]:
        """Write one sample under its id, or under a number, and return the paths."""
        if job.id is None and not self.args.overwrite:
            return sample.save(self.out, sign=self.sign)
        if job.id is not None and job not in self._claimed:
            self._claim(job)
        paths = sample.save(self.out, names=[job.names[k]], overwrite=True, sign=self.sign)
        if job.id is None:
            self._remove_old(job.names[k], paths)
        return paths

    def _remove_old(self, name: str, paths: list[Path]) -> None:
        """Remove what a manifest of this folder lists under a number that was made anew.

        The files of a number belong together. A file that the run reads stays.
        """
        for listed in self._listed():
            path = self.out / listed
            if path.stem == name and path not in paths and self._read.find(path) is None:
                path.unlink(missing_ok=True)

    def _listed(self) -> set[str]:
        """Return the names of the files that the newest manifest of the folder lists."""
        try:
            samples = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))["samples"]
            names = {name for sample in samples for name in sample["files"]}
            return {name for name in names if Path(name).name == name}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def _claim(self, job: Job) -> None:
        """Write whose the files of a job are, before the first of them is written.

        A record of the same request stays: another process may be at work on the same jobs.
        """
        from codi import io

        self._claimed.add(job)
        path = self.out / f"{job.id}.json"
        record = self._stored(job)
        if record is not None and record.get("request") == self._digest(job):
            return
        claim = self._head(job) | self._record(job)
        if self.args.overwrite:
            io.save_json(path, claim)
        elif not io.create_json(path, claim):
            self._check_own(job)  # another process has come first
            return
        self._created.add(job)

    def _unclaim(self, job: Job) -> None:
        """Remove the record of a job that failed before anything of it was made."""
        if job in self._created and not self.done.get(job):
            (self.out / f"{job.id}.json").unlink(missing_ok=True)

    def _described(self, job: Job) -> dict[str, Any]:
        """Return the prompts of a job as records list them; files are read once."""
        if job not in self._prompts:
            self._prompts[job] = job.describe()
        return self._prompts[job]

    def _generate(self, batch: list[Sample | None], encoded: dict[Job, Any]) -> Any:
        """Make the samples of several jobs in one call of the pipeline.

        Prompts were encoded for each job, and each sample has its own seed. A row that nobody wants is filled
        with the prompts of another: it is there for the size of the batch, on which rounding depends.
        """
        import torch

        wanted = [sample for sample in batch if sample is not None]
        seeds = []
        job_of_row = []
        for sample in batch:
            job, k = sample or wanted[0]
            job_of_row.append(job)
            seeds.append(0 if sample is None else job.seeds[k])
        jobs = list(dict.fromkeys(job_of_row))
        rows = list(map(jobs.index, job_of_row))
        first = jobs[0]  # all are alike in outputs, settings and kinds of prompts: see `Job.group`
        prompts, away, clean = zip(*(encoded[job] for job in jobs))
        given = self.pipe.batched_prompts(prompts, away, rows, bool(first.negatives))
        partners = {}
        for modality in clean[0]:
            partners[modality] = torch.cat([latents[modality] for latents in clean])[rows]
        self.rows = [(job, 0 if sample is None else sample[1]) for job, sample in zip(job_of_row, batch)]
        # what is left out is the model's own
        settings = {name: value for name, value in first.settings.items() if value is not None}
        return self.pipe(
            partner_latents=partners,
            outputs=list(first.outputs),
            num_samples=len(batch),
            seed=seeds,
            **given,
            **settings,
            **first.edit_arguments,
            **self._followed(self.callback),
        )

    def _encode(self, job: Job) -> tuple[Any, Any, dict[Modality, Any]]:
        """Return a job's prompt and what guidance leads away from, (1, 1, D) each, and its clean partners."""
        with blame(job.origin):
            items = _prompts(job.items)
            negatives = _prompts(job.negatives)
            away = self.pipe.encode_prompt(negatives) if negatives else self.pipe.encode_null(items)
            return self.pipe.encode_prompt(items), away, self.pipe.encode_partners(items, self._partners(job))

    def _note(self, job: Job, k: int, sample: dict[str, Any]) -> None:
        """Add a sample to those that are done, and write the record of a job that has an id."""
        self.done.setdefault(job, {})[k] = sample
        if job not in self.made:
            self.made.append(job)
        if job.id is not None:
            from codi import io

            io.save_json(self.out / f"{job.id}.json", self._head(job) | self._record(job))

    def adopt(
        self,
        job: Job,
        k: int,
        sample: dict[str, Any],
        resolved: dict[str, Any],
        model: dict[str, Any],
        continued: dict[str, Any] | None = None,
    ) -> None:
        """Take over a sample that another process made, and record it.

        Args:
            job: the job.
            k: the number of the sample.
            sample: what a record says of it.
            resolved: the settings of the job as they were resolved.
            model: what a record says of the model.
            continued: how the job was made of windows, if it goes on.
        """
        self.model = model
        if continued is not None:
            self.continued[job] = continued
        self.resolved.setdefault(job, resolved)
        self._note(job, k, sample)

    def _head(self, job: Job) -> dict[str, Any]:
        """Return what the record of a job begins with."""
        return {"request": self._digest(job)} | records.head() | {"model": self.model}

    def _record(self, job: Job) -> dict[str, Any]:
        """Return what a record says of a job: prompts, outputs, settings, and the samples that are done."""
        done = self.done.get(job, {})
        samples = [done[k] for k in sorted(done)]
        settings = {"num_samples": job.num_samples, "seed": job.seed, "sync": job.sync} | job.settings
        settings |= job.edits
        found = self._described(job) | {
            "outputs": list(map(str, job.outputs)),
            "settings": settings,
            "seeds": [sample["seed"] for sample in samples],
            "samples": samples,
        }
        if job in self.resolved:
            found["resolved"] = self.resolved[job]
        if job in self.continued:
            found["continued"] = self.continued[job]
        return found

    def _stored(self, job: Job) -> dict[str, Any] | None:
        """Return the record of a job that is in the folder, or None if none can be read."""
        try:
            record = json.loads((self.out / f"{job.id}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _kept(self, job: Job) -> tuple[dict[int, dict[str, Any]], int | None]:
        """Return the samples of a job that need not be made again, by their numbers, and its seed.

        They stand in a record of the very same request, and their files are as it says.
        """
        if job.id is None:
            return {}, None
        record = self._stored(job)
        try:
            if record is None or record["request"] != self._digest(job):
                return {}, None
            kept = {}
            for sample in record["samples"]:
                k = _number_of(job, sample["files"])
                if k is not None and self._whole(job, sample):
                    kept[k] = sample
            seed = record["settings"]["seed"]
            return kept, seed if isinstance(seed, int) else None
        except (KeyError, TypeError, AttributeError):
            return {}, None

    def _whole(self, job: Job, sample: dict[str, Any]) -> bool:
        """Return whether the files of a recorded sample are as they were written; a note says which is not.

        Records of earlier versions have no sha256: there it is enough that a file is there.
        """
        from codi import io

        digests = sample.get("sha256", {})
        for name in sample["files"]:
            path = self.out / name
            if not path.is_file():
                state = "is gone"
            elif name in digests and io.sha256_of(path) != digests[name]:
                state = "was changed since"
            else:
                continue
            warnings.warn(f"{job.origin}{path} {state}: its sample is made again", stacklevel=2)
            return False
        return True

    def _digest(self, job: Job) -> str:
        """Return a digest that changes with anything that decides the result.

        That is prompts and adapters by content, settings, the model by name, precision, scheduler, and our
        version.
        """
        # a prompt file counts by its content, wherever it lies
        inputs = {name: list(map(_without_path, rows)) for name, rows in self._described(job).items()}
        settings = {name: value for name, value in job.settings.items() if name != "regions"}
        # a line that asks for a random seed is finished with whichever was drawn
        seed = "random" if job.drawn else job.seed
        asked = [
            inputs,
            job.outputs,
            job.num_samples,
            seed,
            job.sync,
            settings,
            self.model["name"],
            self.args.dtype,
            __version__,
        ]
        if job.edits:  # the media are among the inputs, by their content
            asked.append(job.sources.settings())
        if job.continued is not None:
            asked.append(replace(job.continued, files=()).line())
            asked.append(job.continued.resample_steps)
        if job.places:
            asked.append(list(job.places))
        if self.args.scheduler:
            asked.append(self.args.scheduler)
        for row in (*self.model.get("loras", []), *self.model.get("words", [])):
            asked.append([row["sha256"], row.get("scale")])
        asked += [str(folder) for folder in self.adapters.controls]
        if self.filter is not None:
            asked.append(self.filter.described())
        if self.sign is not None:
            asked.append("signed")
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def finish(self, jobs: list[Job]) -> None:
        """Write manifest.json, if anything was made.

        That of an earlier run becomes manifest-000.json, or the next number, unless `--overwrite` has
        replaced all that it lists.

        Args:
            jobs: all jobs of the run, also those that were finished before.
        """
        from codi import io

        self._list_failures()
        if not self.made:
            return
        timings = self.timings | {"total": time.perf_counter() - self.started}
        head = records.head() | {
            "model": self.model,
            "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
        }
        numbered = jobs[0].id is None
        there = {job.id for job, samples in self.done.items() if samples}
        listed = [f"{job.id}.json" for job in jobs if job.id in there]
        body = self._record(jobs[0]) if numbered else {"jobs": listed}
        replaced = self.args.overwrite and numbered and self._replaced()
        io.save_manifest(self.out, head | body, keep=not replaced)

    def _list_failures(self) -> None:
        """Write with a filter a line for each job of a file that failed, and whether it was refused."""
        from codi import io

        if not self.failures.alone or self.filter is None:
            return
        path = self.out / FAILURES
        if self.failures.rows:
            io.save_text(path, "".join(json.dumps(row) + "\n" for row in self.failures.rows))
        else:
            path.unlink(missing_ok=True)

    def _replaced(self) -> bool:
        """Return whether every file that the newest manifest lists was made anew by this run, or is gone."""
        made: set[str] = set()
        for samples in self.done.values():
            for sample in samples.values():
                made |= set(sample["files"])
        listed = self._listed()
        return bool(listed) and not any((self.out / name).is_file() for name in listed - made)


class Files:
    """A set of files in which one is found under any of its names: by links, and in other letters' case."""

    def __init__(self) -> None:
        self._paths: dict[Any, Path] = {}

    def add(self, path: Path) -> None:
        """Add a file."""
        for key in _keys(path):
            self._paths.setdefault(key, path)

    def find(self, path: Path) -> Path | None:
        """Return the name under which a file was added, or None if it was not."""
        found = (self._paths.get(key) for key in _keys(path))
        return next((name for name in found if name is not None), None)


def _keys(path: Path) -> Iterator[Any]:
    """Yield what two names of a file have in common: its place on the disk, and its path without case."""
    with suppress(OSError, ValueError):  # it need not be there
        status = path.stat()
        if status.st_ino and not stat.S_ISDIR(status.st_mode):
            yield status.st_dev, status.st_ino
    try:
        yield str(path.resolve()).casefold()
    except (OSError, ValueError, RuntimeError):  # such as links that lead in a circle
        yield os.path.abspath(path).casefold()


def _without_path(value: Any) -> Any:
    """Return a row of a record without the paths of files, also of those inside it."""
    if isinstance(value, dict):
        return {key: _without_path(item) for key, item in value.items() if key != "path"}
    return list(map(_without_path, value)) if isinstance(value, list) else value


def _number_of(job: Job, files: list[str]) -> int | None:
    """Return which sample of a job has files of these names; None if none has."""
    for k, name in enumerate(job.names):
        if files and all(file.startswith(f"{name}.") for file in files):
            return k
    return None


def _sync(job: Job) -> list[str] | bool | None:
    """Return what a job says of clean partners as the pipeline takes it."""
    if isinstance(job.sync, tuple):
        return list(job.sync)
    return None if job.sync else False


def _prompts(items: tuple[Item, ...]) -> dict[Modality, list[Any]]:
    """Return prompts by modality, as the pipeline takes them."""
    from codi.prompts import Prompt, collect

    prompts: dict[Modality, list[Any]] = {}
    for item in items:
        value = item.value if kind_of(item.modality).in_words else Path(item.value)
        prompts.setdefault(item.modality, []).append(Prompt(value, weight=item.weight))
    return collect(prompts)
