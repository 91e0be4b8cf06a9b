"""How fast the stages train: samples per second, the loader alone, compute against wall time, memory; and one
step against diffusers.

    python -m benchmarks.training --out training.json                 # every stage of configs/world, then the
    comparison python -m benchmarks.training --stages denoise_image,joint_audio --seconds 60 python -m
    benchmarks.training --quick                             # a few steps of each: does it run at all

Every row is a process of its own, on a copy of the embedded model, with the configuration as it stands (batch
size, precision). Compute against wall time: in turn, some steps take fresh batches and some one that is in
memory already; the ratio of their times is what would be left if loading cost nothing. The comparison trains
the geometry of denoise_image on the same latents and captions, three ways: our loop; our UNet in the loop
that diffusers' text-to-image example has; diffusers' UNet of the same widths in that loop.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# run as a file, whose name would hide the package `training`
if sys.path[:1] == [str(Path(__file__).parent)]:
    sys.path[0] = str(ROOT)

CONFIGS = ROOT / "configs" / "world"
COMPARED = "denoise_image"
LOOPS = {
    "ours": "codi's UNet, codi's loop",
    "example": "codi's UNet, example loop",
    "diffusers": "diffusers' UNet, example loop",
}
LOADED = 0.95  # of wall time is compute where a loader of cached latents keeps up
# steps with batches of one kind in a row, and how many of them still see what was fetched before
BLOCK, SKIPPED = 8, 3
LEAST = 3 * BLOCK + 1  # steps: one block to warm up, one of each kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement: of the stage `name` in the folder `model`, or of COMPARED in one of LOOPS."""

    name: str
    model: str
    scenes: int
    seconds: float
    batch: int | None = None
    quick: bool = False

    @property
    def config(self) -> Any:
        """The stage's configuration, without anything that happens between steps."""
        from training.config import load_config

        path = CONFIGS / f"{COMPARED if self.name in LOOPS else self.name}.yaml"
        batch = self.batch or load_config(path).batch_size
        off = [f"batch_size={batch}", *(f"{kind}_every=0" for kind in ("log", "preview", "checkpoint"))]
        cached = [
            f"options.{key}={self.scenes}"
            for key in ("scenes", "picture_scenes")
            if key in load_config(path).options
        ]
        return load_config(
            path,
            overrides=[
                f"model={self.model}",
                f"output={self.model}-runs/{self.name}",
                "samples=1000000000",
                *off,
                *cached,
            ],
        )


# A stage in our loop ---------------------------------------------------


class Enough(Exception):
    """Ends a run from inside."""


class Alternating:
    """A source of which, block by block, batches are fresh, or always the same one."""

    bad = 0

    def __init__(self, inner: Any) -> None:
        self.inner, self.infinite, self.kept = inner, inner.infinite, None
        self.numbers = itertools.count()

    def __len__(self) -> int:
        return len(self.inner)

    def close(self) -> None:
        self.inner.close()

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        number = next(self.numbers)
        held = number // BLOCK % 2 == 1
        if self.kept is None or not held:
            self.kept = self.inner.fetch(indices)
        return {"batch": self.kept, "number": number}


def timed_stage(name: str, job: Job) -> type:
    """A class of stages like `name`, that notes when each step begins and ends the run when there are enough
    of them.
    """
    from training.stages import find_stage

    class Timed(find_stage(name)):
        last: Any = None

        def __init__(self, config: Any) -> None:
            super().__init__(dataclasses.replace(config, stage=name))
            self.times: list[tuple[float, int]] = []
            self.size = config.batch_size // config.accumulate
            type(self).last = self

        def build(self) -> Any:
            self.module = super().build()
            return self.module

        def data(self) -> Alternating:
            self.source = Alternating(super().data())
            return self.source

        def untimed(self, module: Any, batch: Any, generator: Any) -> Any:
            return super().loss(module, batch, generator)

        def loss(self, module: Any, batch: dict[str, Any], generator: Any) -> Any:
            wait_for_device()
            self.times.append((time.perf_counter(), batch["number"]))
            if enough([moment for moment, _ in self.times], job):
                raise Enough
            return self.untimed(module, batch["batch"], generator)

    return Timed


def measure_stage(job: Job) -> dict[str, Any]:
    """Trains a while; what came of it."""
    from training.loop import train
    from training.stages import STAGES

    config = job.config
    globals()["Timed"] = timed_stage(config.stage, job)
    STAGES["timed"] = f"{__name__}:Timed"
    with contextlib.suppress(Enough):
        train(dataclasses.replace(config, stage="timed"), restart=True)
    memory, stage = peak_memory(), globals()["Timed"].last
    fresh, held = intervals(stage.times)
    loader = stage.size / seconds_of(
        lambda: stage.source.inner.fetch(list(range(stage.size))), 3 if job.quick else 20
    )
    return {
        "stage": job.name,
        "batch": config.batch_size,
        "steps": len(stage.times),
        "samples_per_s": stage.size / fresh,
        "loader_samples_per_s": loader,
        "compute_share": min(1.0, held / fresh),
        "cached": "scenes" in config.options,
        "memory_mb": memory,
    }


def intervals(times: list[tuple[float, int]]) -> tuple[float, float]:
    """Median seconds of a step with fresh batches, and with the one in memory; the first block is for warming
    up.
    """
    found: dict[int, list[float]] = {0: [], 1: []}
    for (start, number), (end, following) in itertools.pairwise(times):
        inside = number // BLOCK == following // BLOCK and number % BLOCK >= SKIPPED
        if inside and number >= BLOCK:
            found[number // BLOCK % 2].append(end - start)
    assert found[0] and found[1], f"{len(times)} steps are too few: expected at least {LEAST}"
    return tuple(statistics.median(values) for values in found.values())


# The comparison --------------------------------------------------------


def measure_example(job: Job) -> dict[str, Any]:
    """A UNet in the loop of diffusers' example."""
    from benchmarks.example_loop import Run

    times: list[float] = []

    def keep_on() -> bool:
        wait_for_device()
        times.append(time.perf_counter())
        return not enough(times, job)

    run = Run(job.config, job.scenes, own=job.name == "example")
    run.train(keep_on)
    return {
        "parameters": run.used(),
        "samples_per_s": job.config.batch_size / mean_seconds(times),
        "memory_mb": peak_memory(),
    }


def measure_ours(job: Job) -> dict[str, Any]:
    """The same in our loop: the stage as it is, its batches fresh."""
    import torch

    row, stage = measure_stage(job), globals()["Timed"].last
    batch = stage.source.inner.fetch(list(range(stage.size)))
    stage.to(torch.device("cpu"))
    stage.untimed(stage.module.cpu(), batch, torch.Generator().manual_seed(0))[0].backward()
    used = sum(p.numel() for p in stage.module.parameters() if p.grad is not None)
    return {"parameters": used, "samples_per_s": row["samples_per_s"], "memory_mb": row["memory_mb"]}


# Clocks and memory -----------------------------------------------------


def wait_for_device() -> None:
    """Until what was sent to a GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def enough(times: list[float], job: Job) -> bool:
    """Whether a run that took steps at these moments may end."""
    return len(times) >= LEAST and (job.quick or times[-1] - times[0] > job.seconds)


def mean_seconds(times: list[float]) -> float:
    """Of a step, the first few left out."""
    return (times[-1] - times[SKIPPED]) / (len(times) - 1 - SKIPPED)


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """Mean seconds of a call."""
    times = [time.perf_counter()]
    for _ in range(SKIPPED + repeats):
        run()
        times.append(time.perf_counter())
    return mean_seconds(times)


def peak_memory() -> int:
    """MiB of the GPU, else of this process since it began."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


# All rows --------------------------------------------------------------


def prepare(job: Job) -> dict[str, Any]:
    """Fills the latent cache that a stage needs, so that its row does not count the encoders' memory."""
    from training.stages import open_stage

    open_stage(job.config).data()
    return {}


MEASURES = {
    "prepare": prepare,
    "stage": measure_stage,
    "ours": measure_ours,
    "example": measure_example,
    "diffusers": measure_example,
}


def isolated(kind: str, job: Job) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--measure",
        kind,
        json.dumps(dataclasses.asdict(job)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    if done.returncode:
        raise SystemExit(f"measuring {job.name} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def copy_model(folder: Path) -> Path:
    """The embedded model where stages may write beside it."""
    from codi.pretrained import resolve

    return Path(shutil.copytree(resolve(), folder / "tiny"))


def machine() -> dict[str, Any]:
    import diffusers
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    return {
        "device": device,
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        **versions,
    }


def measure_stages(
    names: list[str], settings: dict[str, Any], run: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    print(
        f"{'stage':20} {'batch':>6} {'samples/s':>10} {'loader alone':>13} {'compute/wall':>13} "
        f"{'peak MiB':>9}"
    )
    rows = []
    for name in names:
        job = Job(name=name, **settings)
        run("prepare", job)
        rows.append(row := run("stage", job))
        share = f"{100 * row['compute_share']:.0f} %"
        figures = (
            f"{row['samples_per_s']:>10.1f} {row['loader_samples_per_s']:>13.0f} {share:>13} "
            f"{row['memory_mb']:>9}"
        )
        print(f"{row['stage']:20} {row['batch']:>6} {figures}{verdict(row)}", flush=True)
    return rows


def verdict(row: dict[str, Any]) -> str:
    """Whether the loader of cached latents keeps up; nothing where samples are made as they are asked for."""
    if not row["cached"]:
        return ""
    return f"  cached: {'>=' if row['compute_share'] >= LOADED else 'below'} {100 * LOADED:.0f} %"


def compare(
    rounds: int, settings: dict[str, Any], run: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every loop in each round, its fastest round kept: what else the machine does only slows."""
    run("prepare", Job(name=COMPARED, **settings))
    found: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for _ in range(rounds):
        for loop in LOOPS:
            found[loop].append(run(loop, Job(name=loop, **settings)))
    kept = {loop: max(rows, key=lambda row: row["samples_per_s"]) for loop, rows in found.items()}
    print(f"\n{COMPARED}, one optimizer step{'':12} {'parameters':>11} {'samples/s':>10} {'peak MiB':>9}")
    for loop, row in kept.items():
        print(
            f"{LOOPS[loop]:45} {row['parameters']:>11,} {row['samples_per_s']:>10.1f} {row['memory_mb']:>9}"
        )
    ratio = kept["ours"]["samples_per_s"] / kept["example"]["samples_per_s"]
    print(f"codi's loop against the example loop, the same UNet: {ratio:.2f} times as fast")
    return [
        {"loop": LOOPS[loop], **row, "rounds": [r["samples_per_s"] for r in found[loop]]}
        for loop, row in kept.items()
    ]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser.add_argument(
        "--stages",
        default=",".join(stages),
        help="names of configurations, separated by commas (default: all)",
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="of training for each row (default 40)")
    parser.add_argument("--scenes", type=int, default=512, help="size of latent caches (default 512)")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison, 0 for none (default 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps of each with few samples, in this process: the figures mean nothing",
    )
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.stages = [name for name in options.stages.split(",") if name]
    if unknown := [name for name in options.stages if name not in stages]:
        parser.error(f"unknown stage {unknown[0]}: expected some of {', '.join(stages)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.measure:
        kind, job = options.measure
        print(json.dumps(MEASURES[kind](Job(**json.loads(job)))))
        return 0
    run = (lambda kind, job: MEASURES[kind](job)) if options.quick else isolated
    about = machine()
    with tempfile.TemporaryDirectory(prefix="codi-benchmark-") as folder:
        settings = {
            "model": str(copy_model(Path(folder))),
            "scenes": options.scenes,
            "seconds": options.seconds,
            "quick": options.quick,
        }
        settings["batch"] = 4 if options.quick else None
        rows = measure_stages(options.stages, settings, run)
        loops = compare(options.rounds, settings, run) if options.rounds else []
    if options.out:
        report = {
            "command": sys.argv,
            "machine": about,
            "settings": settings | {"model": "codi-tiny"},
            "stages": rows,
            "comparison": loops,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
