"""Doing what `codi generate` was asked: samples of several jobs in one call of the pipeline, files, and records that make it resumable."""

import argparse
import hashlib
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from codi import __version__
from codi.adapters.given import Given
from codi.jobs import Item, Job, Sample, blame
from codi.types import Modality

LIBRARIES = ("torch", "torchaudio", "diffusers", "transformers", "av", "soundfile", "pillow")


class Session:
    """One run of `codi generate`: the folder that is written, the loaded pipeline, the clock.

    With ids, a record per job (ID.json) is written after its last file, and marks it as finished.
    """

    def __init__(self, out: Path, args: argparse.Namespace, started: float) -> None:
        self.out, self.args, self.started = out, args, started
        self.adapters = Given.parse(args.lora, args.words)
        self.model: dict[str, Any] = {"name": args.model or "codi-tiny", "dtype": args.dtype, **self.adapters.describe()}
        if args.scheduler:
            self.model["scheduler"] = args.scheduler
        self.timings = {"load": 0.0, "generate": 0.0, "save": 0.0}
        self.done: dict[Job, list[dict[str, Any]]] = {}
        self.pipe: Any = None

    def pending(self, jobs: list[Job]) -> list[Job]:
        """Those without a record of the very same request, with all its files, in the folder."""
        return [job for job in jobs if not self._finished(job)]

    def load(self, device: str) -> None:
        """Loads the model."""
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
        """Raises `InputError` for a job that the model cannot do."""
        for job in jobs:
            with blame(job.origin):
                given = [item.modality for item in (*job.items, *job.negatives)]
                steps, _, _ = self.pipe.settle(job.outputs, job.knobs, job.delay)
                asked = dict(candidates=job.candidates, sizes=job.size_arguments)
                self.pipe.check_inputs(given, job.outputs, job.samples, steps, **asked)
                self._check_candidates(job)
                self._check_sounds(job)

    def _check_candidates(self, job: Job) -> None:
        """Whether candidates can be told apart."""
        from codi import selection

        if job.candidates > 1:
            selection.available(self.pipe.model.towers, job.outputs, self._partners(job), prompted=True)

    def _check_sounds(self, job: Job) -> None:
        """A recording may be silent in the part that the model hears."""
        from codi import io, prompts

        spec = self.pipe.model.prompt_specs.get(Modality.AUDIO)
        for item in (*job.items, *job.negatives):
            if item.modality is Modality.AUDIO and spec is not None:
                io.check_prompt(item.value, item.modality, spec.duration + prompts.MARGIN)

    def _partners(self, job: Job) -> list[Modality]:
        return self.pipe.find_partners({item.modality: item for item in job.items}, job.outputs, None if job.sync else False)

    def run(self, batch: list[Sample]) -> list[Path]:
        """Makes and writes the samples of a batch, and the records of the jobs that it completes; returns the paths of the media."""
        began = time.perf_counter()
        out = self._generate(batch)
        made = time.perf_counter()
        paths = []
        for row, (job, k) in enumerate(batch):
            sample = _row(out, row, job.clip)
            files = sample.save(self.out, names=[job.names[k]])
            paths += files
            seconds = round((made - began) / len(batch), 3)
            note = {"seed": out.seeds[row], "files": [path.name for path in files], "seconds": seconds}
            self._note(job, note | ({"selection": sample.selection[0]} if sample.selection else {}))
        self.timings["generate"] += made - began
        self.timings["save"] += time.perf_counter() - made
        return paths

    def _generate(self, batch: list[Sample]) -> Any:
        """One call of the pipeline for samples of several jobs: prompts are encoded per job, seeds are its own."""
        import torch

        jobs = list(dict.fromkeys(job for job, _ in batch))
        rows = [jobs.index(job) for job, _ in batch]
        first = jobs[0]
        negative = "negative_prompt_embeds" if first.negatives else "null_prompt_embeds"
        with torch.no_grad():
            prompts, away, clean = zip(*map(self._encode, jobs))
        given = {"prompt_embeds": torch.cat(prompts)[rows], negative: torch.cat(away)[rows]}
        partners = {m: torch.cat([latents[m] for latents in clean])[rows] for m in clean[0]}
        seeds = [job.seed + k for job, k in batch]
        knobs = {name: value for name, value in first.knobs.items() if value is not None}  # the model's own stand for the rest
        return self.pipe(partner_latents=partners, outputs=list(first.outputs), num_samples=len(batch), seed=seeds, **given, **knobs)

    def _encode(self, job: Job) -> tuple[Any, Any, dict[Modality, Any]]:
        """A job's prompts and what guidance leads away from, (1, 1, D) each, and its clean partners."""
        with blame(job.origin):
            items, negatives = _prompts(job.items), _prompts(job.negatives)
            away = self.pipe.encode_prompt(negatives) if negatives else self.pipe.encode_null(items)
            return self.pipe.encode_prompt(items), away, self.pipe.encode_partners(items, self._partners(job))

    def _note(self, job: Job, sample: dict[str, Any]) -> None:
        samples = self.done.setdefault(job, [])
        samples.append(sample)
        if job.id is not None and len(samples) == job.samples:
            from codi import io

            io.save_json(self.out / f"{job.id}.json", {"request": self._digest(job)} | self._record(job))

    def _record(self, job: Job) -> dict[str, Any]:
        samples = self.done[job]
        return job.describe() | {
            "outputs": [str(m) for m in job.outputs],
            "settings": {"samples": job.samples, "seed": job.seed, "sync": job.sync} | job.knobs,
            "seeds": [sample["seed"] for sample in samples],
            "samples": samples,
        }

    def _finished(self, job: Job) -> bool:
        try:
            record = json.loads((self.out / f"{job.id}.json").read_text(encoding="utf-8"))
            files = [name for sample in record["samples"] for name in sample["files"]]
            return record["request"] == self._digest(job) and all((self.out / name).is_file() for name in files)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _digest(self, job: Job) -> str:
        """Changes with anything that decides the result: prompts and adapters by content, settings, the model by name, our version."""
        inputs = {
            name: [{key: value for key, value in row.items() if key != "path"} for row in rows] for name, rows in job.describe().items()
        }
        asked = [inputs, job.outputs, job.samples, job.seed, job.sync, job.knobs, self.model["name"], self.args.dtype, __version__]
        asked += [self.args.scheduler] if self.args.scheduler else []
        adapters = [[row["sha256"], row.get("scale")] for name in ("loras", "words") for row in self.model.get(name, [])]
        return hashlib.sha256(json.dumps([*asked, *adapters]).encode()).hexdigest()

    def finish(self, jobs: list[Job]) -> None:
        """Writes manifest.json."""
        from codi import io

        timings = self.timings | {"total": time.perf_counter() - self.started}
        head = {"codi": __version__, "model": self.model, "versions": versions()}
        head["timings"] = {name: round(seconds, 3) for name, seconds in timings.items()}
        body = {"jobs": [f"{job.id}.json" for job in jobs]} if self.args.jobs else self._record(jobs[0])
        io.save_json(self.out / "manifest.json", head | body)


def _row(out: Any, row: int, clip: Path | None) -> Any:
    """One sample of a pipeline's output, as an output of its own, with the clip of its job."""
    lists = {name: getattr(out, name)[row : row + 1] for name in ("texts", "images", "audios", "videos", "seeds", "selection")}
    return type(out)(sampling_rate=out.sampling_rate, fps=out.fps, model=out.model, clip=clip, **lists)


def _prompts(items: tuple[Item, ...]) -> dict[Modality, list[Any]]:
    from codi.prompts import Prompt, collect

    prompts: dict[Modality, list[Any]] = {}
    for item in items:
        value = item.value if item.modality is Modality.TEXT else Path(item.value)
        prompts.setdefault(item.modality, []).append(Prompt(value, weight=item.weight))
    return collect(prompts)


def versions() -> dict[str, str | None]:
    """Versions of what made the result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
