"""`codi bench` from arguments to report: plan the runs, make those that are missing, score, write."""

import argparse
import shlex
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from codi.bench import joint, plots, scores
from codi.bench.models import Model
from codi.bench.report import markdown
from codi.bench.runs import Readings, Run, Sampler, Store, generate, join, render, truth_sampler
from codi.bench.scores import TASKS, chosen_cells
from codi.bench.targets import targets
from codi.diffusion.settings import parse_scale
from codi.io import check_folder, save_json, save_text
from codi.metrics.agreement import agreement
from codi.types import InputError, Modality
from codi.world import VISIBLE, Scene, sample_scenes

SHEET = (
    "text->text+image+audio+video", "text->audio+video", "image->audio", "audio->image", "video->text", "video->audio", "audio->video",
)  # fmt: skip


class Bench:
    """The scenes, what is already on disk, and the model for what is not."""

    def __init__(self, folder: Path, model: Model, *, num_scenes: int, seed: int, batch_size: int, settings: dict[str, Any]) -> None:
        self.model, self.num_scenes, self.seed, self.batch_size = model, num_scenes, seed, batch_size
        self.settings = {"scenes": num_scenes, "seed": seed, **settings}
        self.store = Store(folder, self.settings | {"weights": model.fingerprint})
        self.made: dict[Run, Readings] = {}

    def scenes(self, held_out: bool = False) -> list[Scene]:
        """Unseen scenes: their seed is far from those of training, and `start` and `x` are continuous."""
        return sample_scenes(self.num_scenes, self.seed, held_out=held_out)

    def readings(self, run: Run) -> Readings:
        """Readings of a run, generated if they are not there yet."""
        return self._get(run, self.model.sample)

    def ceiling(self, held_out: bool = False) -> Readings:
        """Ground truth of every modality through the autoencoders."""
        return self._get(Run(inputs=(), outputs=tuple(Modality), held_out=held_out), self._round_trip)

    def truth(self, held_out: bool = False) -> Readings:
        """What the probes read from ground truth itself."""
        run = Run(inputs=(), outputs=tuple(Modality), held_out=held_out, draw=1)
        return self._get(run, truth_sampler)

    def _round_trip(self, run: Run, scenes: list[Scene], seeds: list[int]) -> dict[Modality, Any]:
        return {m: self.model.round_trip(m, render(m, scenes)) for m in run.outputs}

    def _get(self, run: Run, sampler: Sampler) -> Readings:
        if run not in self.made:
            found = self.store.load(run)
            if found is None:
                found, shown = generate(run, self.scenes(run.held_out), self.seed, sampler, self.batch_size)
                self.store.save(run, found, shown)
            self.made[run] = found
        return self.made[run]


def run(args: argparse.Namespace) -> int:
    """The command. Prints the path of the report on stdout, progress on stderr."""
    started = time.monotonic()
    check_numbers(args)
    cells = chosen_cells(args.cells)
    folder = check_folder(args.out)
    scales = {"guidance": parse_scale(args.guidance, "--guidance"), "sync_guidance": parse_scale(args.sync_guidance, "--sync-guidance")}
    model = Model(args.model, device=args.device, steps=args.steps, **scales)
    settings = {"steps": args.steps, **scales}
    bench = Bench(folder, model, num_scenes=args.scenes, seed=args.seed, batch_size=args.batch, settings=settings)
    draws = args.draws or (3 if args.joint else 1)
    command = shlex.join(["codi", "bench", *sys.argv[2:]]) if sys.argv[1:2] == ["bench"] else "codi bench"
    report = measure(bench, cells, held_out=args.held_out or args.cells in ("fast", "all"), full_joint=args.joint, draws=draws)
    settled = {**model.defaults, **{name: value for name, value in bench.settings.items() if value is not None}, "draws": draws}
    report |= {"model": model.name, "command": command, "settings": settled, "versions": versions()}
    report["targets"] = targets(report)
    report["seconds"] = round(time.monotonic() - started, 1)
    write(folder, report, draw_plots(folder, bench, report))
    print(folder / "report.md")
    return 0


def check_numbers(args: argparse.Namespace) -> None:
    """Raises `InputError` for a count that cannot be."""
    for name, least in (("scenes", 2), ("batch", 1), ("steps", 1), ("draws", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: expected at least {least}")


def measure(bench: Bench, cells: list[Run], *, held_out: bool, full_joint: bool, draws: int) -> dict[str, Any]:
    """Every number of the report."""
    wanted = set(cells) | {Run(inputs=(), outputs=tuple(Modality))}
    tasks = [task for task in TASKS if (held_out if task.held_out else task.run in wanted)]
    both = Run(inputs=(Modality.TEXT,), outputs=(Modality.AUDIO, Modality.VIDEO))
    in_time = full_joint or both in wanted
    plan = [*cells, *(t.run for t in tasks if t.held_out)]
    if in_time:
        plan += [r for runs in joint.onset_runs(draws).values() for r in runs]
    if full_joint:
        groups = [*joint.partner_runs(draws).values(), *joint.open_runs(draws).values()]
        plan += [r for runs in groups for r in runs] + [Run(inputs=(Modality.TEXT,), outputs=tuple(Modality))]
    make(bench, plan)
    ceiling, scenes = bench.ceiling(), bench.scenes()
    lines = [scores.score_cell(cell, bench.readings(cell), ceiling, scenes) for cell in cells]
    report: dict[str, Any] = {"cells": lines, "summary": scores.summarise(lines)}
    report["tasks"] = [line for task in tasks for line in task_lines(bench, task)]
    report["ceiling"] = ceiling_table(bench)
    report["retrieval"] = bench.store.remember("retrieval", lambda: bench.model.retrieval(scenes))
    report["onsets"] = onset_section(bench, draws) if in_time else None
    if full_joint:
        report |= joint_sections(bench, draws)
    return report


def make(bench: Bench, plan: Iterable[Run]) -> None:
    """Generates what is missing, with a line on stderr for each run."""
    plan = list(dict.fromkeys(plan))
    for i, item in enumerate(plan, 1):
        began = time.monotonic()
        bench.readings(item)
        print(f"[{i}/{len(plan)}] {item.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def task_lines(bench: Bench, task: scores.Task) -> list[dict[str, Any]]:
    return scores.score_task(task, bench.readings(task.run), bench.ceiling(task.held_out), bench.scenes(task.held_out))


def ceiling_table(bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Share of attributes read rightly from ground truth, before and after the autoencoders."""
    facts = scores.facts_of(bench.scenes())
    measured = {"truth": bench.truth(), "ceiling": bench.ceiling()}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for m in Modality:
        parts = {key: agreement([r.facts for r in of[m]], facts, VISIBLE[m]) for key, of in measured.items()}
        result[m.value] = {a: {key: float(hits[a].mean()) for key, hits in parts.items()} for a in VISIBLE[m]}
    return result


def onset_section(bench: Bench, draws: int) -> dict[str, Any]:
    made = {name: [bench.readings(r) for r in runs] for name, runs in joint.onset_runs(draws).items()}
    return joint.onset_table(made["joint"], made["video"], made["audio"], bench.truth(), bench.ceiling())


def joint_sections(bench: Bench, draws: int) -> dict[str, Any]:
    """What --joint adds."""
    truth, ceiling = bench.truth(), bench.ceiling()
    partners = {name: [bench.readings(r) for r in runs] for name, runs in joint.partner_runs(draws).items()}
    made = {outputs: [bench.readings(r) for r in runs] for outputs, runs in joint.open_runs(draws).items()}
    alone = {m: made[(m,)] for m in Modality}
    separate = (joint.onsets(alone[Modality.AUDIO], Modality.AUDIO), joint.onsets(alone[Modality.VIDEO], Modality.VIDEO))
    pairs = {join(o): joint.pair_of(made[o]) for o in joint.open_sets() if Modality.AUDIO in o and Modality.VIDEO in o}
    everything = Run(inputs=(Modality.TEXT,), outputs=tuple(Modality))
    return {
        "partners": joint.partner_table(partners, truth, ceiling),
        "open": [joint.open_line(made[o], alone, o, truth, ceiling) for o in joint.open_sets()],
        "open_onsets": {name: joint.onset_line(pair, bench.num_scenes) for name, pair in {**pairs, "independent": separate}.items()},
        "four": joint.shared_line(bench.readings(everything), everything.outputs),
    }


def draw_plots(folder: Path, bench: Bench, report: dict[str, Any]) -> list[str]:
    """Writes the pictures; gives their names."""
    scenes = bench.scenes()
    shown = [r for r in bench.made if r.inputs and not r.held_out and r.facts is None and r.draw == 0]
    picked = [r for name in SHEET for r in shown if r.name == name] or shown[:5]
    samples = []
    for i, item in enumerate(picked):
        media = bench.store.shown(item)
        index = i % len(media[item.outputs[0]])
        samples.append((item, scenes[index], media, index))
    names = [plots.contact_sheet(samples, folder / "contact_sheet.png")] if samples else []
    names += [plots.cell_map(report["cells"], folder / "cells.png")] if report["cells"] else []
    if report["onsets"]:
        names.append(plots.onset_curves(report["onsets"], joint.CURVE, folder / "onset_tolerance.png"))
        names.append(plots.offset_histogram(report["onsets"], folder / "onset_offsets.png"))
    return names


def write(folder: Path, report: dict[str, Any], pictures: list[str]) -> None:
    save_json(folder / "report.json", finite(report))
    save_text(folder / "report.md", markdown(report, pictures))


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def versions() -> dict[str, str]:
    from codi import __version__

    return {"codi": __version__} | {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
