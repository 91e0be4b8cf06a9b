"""Do what `codi generate` was asked: make samples of several jobs in one call, and write files and records.

By the records a run can be resumed: a job that is finished is not made again.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from codi import __version__, records
from codi.adapters.given import Given
from codi.jobs import Item, Job, Sample
from codi.modalities import kind_of
from codi.types import EMBEDDED, InputError, Modality, blame


class Session:
    """One run of `codi generate`: the folder that is written, the loaded pipeline, and the times taken.

    Without ids, files get the next free numbers. With ids, every job has a record (ID.json): before the first
    file is written it says whose the files are, then it lists those that are there, and the job is finished
    when it lists all.

    Args:
        out: the folder that is written.
        args: the options of the command line, with defaults in place of what nobody named.
        started: when the command began, in seconds by `time.perf_counter`.
    """

    def __init__(self, out: Path, args: argparse.Namespace, started: float) -> None:
        self.out = out
        self.args = args
        self.started = started
        self.adapters = Given.parse(args.lora, args.words)
        self.model: dict[str, Any] = {
            "name": args.model or EMBEDDED,
            "dtype": args.dtype,
            **self.adapters.describe(),
        }
        if args.scheduler:
            self.model["scheduler"] = args.scheduler
        self.timings = {"load": 0.0, "generate": 0.0, "save": 0.0}
        self.done: dict[Job, list[dict[str, Any]]] = {}
        self.resolved: dict[Job, dict[str, Any]] = {}
        self.pipe: Any = None
        self._prompts: dict[Job, dict[str, Any]] = {}

    def pending(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs that are to be made: those without a finished record of the very same request.

        A record is finished if all its files are in the folder. Raises `InputError` for a job whose files are
        there and belong to another request, unless they may be overwritten.
        """
        todo = [job for job in jobs if not self._finished(job)]
        if not self.args.overwrite:
            for job in todo:
                self._check_own(job)
        return [job.with_seed() for job in todo]

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
        self.pipe = pipe.to(device)
        self.pipe.set_progress_bar_config(disable=self.args.quiet, leave=False)
        self.model["device"] = device
        self.timings["load"] = time.perf_counter() - began

    def check(self, jobs: list[Job]) -> None:
        """Raise `InputError` for a job that the model cannot do."""
        from codi import io

        for job in jobs:
            with blame(job.origin):
                self._resolve(job)
                io.check_writers(job.outputs)
                self._check_sounds(job)

    def _resolve(self, job: Job) -> None:
        """Raise `InputError` for a job that the model cannot do, by the same check that the call makes."""
        asked = {name: value for name, value in job.settings.items() if name not in job.sizes}
        self.pipe.resolve(
            given=list(dict.fromkeys(item.modality for item in job.items)),
            negatives=list(dict.fromkeys(item.modality for item in job.negatives)),
            outputs=job.outputs,
            num_samples=job.num_samples,
            sync=_sync(job),
            sizes=job.sizes,
            **asked,
        )

    def _check_sounds(self, job: Job) -> None:
        """Raise `InputError` for a recording that is silent in the part that the model takes."""
        specs = self.pipe.model.prompt_specs
        for item in (*job.items, *job.negatives):
            if item.modality in specs:
                kind_of(item.modality).check_heard(item.value, specs[item.modality])

    def _partners(self, job: Job) -> list[Modality]:
        """Return the inputs of a job that stand in the loop as clean partners."""
        return self.pipe.find_partners({item.modality: item for item in job.items}, job.outputs, _sync(job))

    def run(self, batch: list[Sample | None]) -> list[Path]:
        """Make and write the samples of a batch, and record them for their jobs.

        Args:
            batch: for each row a job and the number of its sample, or None (`codi.jobs.batches`).

        Returns:
            The paths of the media that were written.
        """
        began = time.perf_counter()
        out = self._generate(batch)
        made = time.perf_counter()
        paths = []
        wanted = [(row, *sample) for row, sample in enumerate(batch) if sample is not None]
        seconds = round((made - began) / len(wanted), 3)
        for row, job, k in wanted:
            sample = self._sample(out, row, job)
            files = self._save(job, k, sample)
            paths += files
            note = {
                "seed": out.seeds[row],
                "batch": out.batch[row],
                "files": [path.name for path in files],
                "seconds": seconds,
            }
            if sample.selection:
                note["selection"] = sample.selection[0]
            self._note(job, note)
        self.timings["generate"] += made - began
        self.timings["save"] += time.perf_counter() - made
        return paths

    def _sample(self, out: Any, row: int, job: Job) -> Any:
        """Return one row of a pipeline's output as an output of its own.

        It has the clip and the prompts of its job, which the call did not see, and the job's settings.
        """
        from codi.outputs import as_fields

        own = {name: getattr(out, name)[row : row + 1] for name in ("seeds", "selection", "batch")}
        own |= as_fields({m: out.of(m)[row : row + 1] for m in out.made})
        asked = list(job.sync) if isinstance(job.sync, tuple) else job.sync
        self.resolved.setdefault(job, out.settings | {"sync": asked})
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
            return sample.save(self.out)
        if job.id is not None and job not in self.done:
            self._claim(job)
        paths = sample.save(self.out, names=[job.names[k]], overwrite=True)
        if job.id is None:
            self._remove_old(job, job.names[k], paths)
        return paths

    def _remove_old(self, job: Job, name: str, paths: list[Path]) -> None:
        """Remove what a manifest of this folder lists under a number that was made anew.

        The files of a number belong together. A file that is a prompt of the job stays.
        """
        inputs = set()
        for item in (*job.items, *job.negatives):
            if not kind_of(item.modality).in_words:
                inputs.add(Path(item.value).resolve())
        for listed in self._listed():
            path = self.out / listed
            if path.stem == name and path not in paths and path.resolve() not in inputs:
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
        """Write whose the files of a job are, before the first of them is written."""
        from codi import io

        claim = {"request": self._digest(job), **self._record(job)}
        if self.args.overwrite or not io.create_json(self.out / f"{job.id}.json", claim):
            if not self.args.overwrite:
                self._check_own(job)  # another process may have come first
            io.save_json(self.out / f"{job.id}.json", claim)

    def _described(self, job: Job) -> dict[str, Any]:
        """Return the prompts of a job as records list them; files are read once."""
        if job not in self._prompts:
            self._prompts[job] = job.describe()
        return self._prompts[job]

    def _generate(self, batch: list[Sample | None]) -> Any:
        """Make the samples of several jobs in one call of the pipeline.

        Prompts are encoded for each job, and each sample has its own seed. A row that nobody wants is filled
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
        negative = "negative_prompt_embeds" if first.negatives else "null_prompt_embeds"
        with torch.no_grad():
            prompts, away, clean = zip(*map(self._encode, jobs))
        given = {"prompt_embeds": torch.cat(prompts)[rows], negative: torch.cat(away)[rows]}
        partners = {}
        for modality in clean[0]:
            partners[modality] = torch.cat([latents[modality] for latents in clean])[rows]
        # what is left out is the model's own
        settings = {name: value for name, value in first.settings.items() if value is not None}
        return self.pipe(
            partner_latents=partners,
            outputs=list(first.outputs),
            num_samples=len(batch),
            seed=seeds,
            **given,
            **settings,
        )

    def _encode(self, job: Job) -> tuple[Any, Any, dict[Modality, Any]]:
        """Return a job's prompt and what guidance leads away from, (1, 1, D) each, and its clean partners."""
        with blame(job.origin):
            items = _prompts(job.items)
            negatives = _prompts(job.negatives)
            away = self.pipe.encode_prompt(negatives) if negatives else self.pipe.encode_null(items)
            return self.pipe.encode_prompt(items), away, self.pipe.encode_partners(items, self._partners(job))

    def _note(self, job: Job, sample: dict[str, Any]) -> None:
        """Add a sample to those that are done, and write the record of a job that has an id."""
        samples = self.done.setdefault(job, [])
        samples.append(sample)
        if job.id is not None:
            from codi import io

            head = {"request": self._digest(job)} | records.head() | {"model": self.model}
            io.save_json(self.out / f"{job.id}.json", head | self._record(job))

    def _record(self, job: Job) -> dict[str, Any]:
        """Return what a record says of a job: prompts, outputs, settings, and the samples that are done."""
        samples = self.done.get(job, [])
        settings = {"num_samples": job.num_samples, "seed": job.seed, "sync": job.sync} | job.settings
        found = self._described(job) | {
            "outputs": list(map(str, job.outputs)),
            "settings": settings,
            "seeds": [sample["seed"] for sample in samples],
            "samples": samples,
        }
        if job in self.resolved:
            found["resolved"] = self.resolved[job]
        return found

    def _stored(self, job: Job) -> dict[str, Any] | None:
        """Return the record of a job that is in the folder, or None if none can be read."""
        try:
            record = json.loads((self.out / f"{job.id}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _finished(self, job: Job) -> bool:
        """Return whether the folder has a record of the very same request, with all its samples and files."""
        record = self._stored(job)
        try:
            files: list[str] = []
            for sample in record["samples"]:
                files += sample["files"]
            if len(record["samples"]) != job.num_samples:
                return False
            whole = all((self.out / name).is_file() for name in files)
            return whole and record["request"] == self._digest(job)
        except (KeyError, TypeError):
            return False

    def _digest(self, job: Job) -> str:
        """Return a digest that changes with anything that decides the result.

        That is prompts and adapters by content, settings, the model by name, precision, scheduler, and our
        version.
        """
        # a prompt file counts by its content, wherever it lies
        inputs: dict[str, list[dict[str, Any]]] = {}
        for name, rows in self._described(job).items():
            inputs[name] = []
            for row in rows:
                inputs[name].append({key: value for key, value in row.items() if key != "path"})
        # a line that asks for a random seed is finished with whichever was drawn
        seed = "random" if job.drawn else job.seed
        asked = [
            inputs,
            job.outputs,
            job.num_samples,
            seed,
            job.sync,
            job.settings,
            self.model["name"],
            self.args.dtype,
            __version__,
        ]
        if job.places:
            asked.append(list(job.places))
        if self.args.scheduler:
            asked.append(self.args.scheduler)
        for row in (*self.model.get("loras", []), *self.model.get("words", [])):
            asked.append([row["sha256"], row.get("scale")])
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def finish(self, jobs: list[Job]) -> None:
        """Write manifest.json, if anything was made.

        That of an earlier run becomes manifest-000.json, or the next number, unless `--overwrite` has
        replaced all that it lists.

        Args:
            jobs: all jobs of the run, also those that were finished before.
        """
        from codi import io

        if not self.done:
            return
        timings = self.timings | {"total": time.perf_counter() - self.started}
        head = records.head() | {
            "model": self.model,
            "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
        }
        numbered = jobs[0].id is None
        body = self._record(jobs[0]) if numbered else {"jobs": [f"{job.id}.json" for job in jobs]}
        replaced = self.args.overwrite and numbered and self._replaced()
        io.save_manifest(self.out, head | body, keep=not replaced)

    def _replaced(self) -> bool:
        """Return whether every file that the newest manifest lists was made anew by this run, or is gone."""
        made: set[str] = set()
        for samples in self.done.values():
            for sample in samples:
                made |= set(sample["files"])
        listed = self._listed()
        return bool(listed) and not any((self.out / name).is_file() for name in listed - made)


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
