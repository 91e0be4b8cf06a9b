"""Run `codi bench` from arguments to report: plan the runs, make those that are missing, score, write."""

import argparse
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from codi.bench import players, plots, scores
from codi.bench.ablation import VariantRuns, parse_variants
from codi.bench.choosing import Selection
from codi.bench.make import Bench, Plan, make, plan_of
from codi.bench.models import Model
from codi.bench.prompting import Prompting
from codi.bench.report import ablation_page, markdown, steps_page
from codi.bench.runs import Run, facts_read
from codi.bench.scores import TASKS, chosen_cells
from codi.bench.steps import COMPARED, REFERENCE, Distances, compare, parse_steps
from codi.bench.targets import targets
from codi.bench.timing import BOTH, CURVE, InTime, Partners
from codi.bench.together import Four, Open
from codi.border import parse_scale
from codi.io import check_folder, save_json, save_text
from codi.metrics.agreement import agreement
from codi.types import InputError, Modality
from codi.world import VISIBLE, caption

SCENES = 256  # default number of scenes of every part
SCENES_OF_ALL = 32  # default number of scenes of each of the 225 cells
SHEET = (
    "text->text+image+audio+video",
    "text->audio+video",
    "image->audio",
    "audio->image",
    "video->text",
    "video->audio",
    "audio->video",
)


class Section(Protocol):
    """Describe a part of the report: what has to be generated for it, and how it is scored."""

    def plan(self) -> Plan:
        """Return the runs that this part needs, each with a number of scenes."""
        ...

    def score(self, bench: Bench) -> Any:
        """Return what the report says of this part, a value for JSON."""
        ...


def run(args: argparse.Namespace) -> int:
    """Run the benchmark as the options ask.

    The path of the report is printed on stdout, progress on stderr.

    Args:
        args: parsed arguments of `codi bench`.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an option that cannot be used.
    """
    started = time.monotonic()
    check_numbers(args)
    cells = chosen_cells(args.cells)
    variants = parse_variants(args.ablation or [])
    counts = parse_steps(args.steps)
    if variants and len(counts) > 1:
        raise InputError(
            f"--steps {args.steps} and --ablation: expected several steps or several models, not both"
        )
    scales = {
        "guidance": parse_scale(args.guidance, "--guidance"),
        "sync_guidance": parse_scale(args.sync_guidance, "--sync-guidance"),
    }
    folder = check_folder(args.out)
    head = {"command": command_line(), "versions": versions()}
    steps = counts[0] if counts else None
    if variants:
        benches = {}
        for variant in variants:
            benches[variant.name] = open_bench(folder, variant.folder, args, scales, steps)
        page = compare_variants(folder, benches, args, head, started)
    elif len(counts) > 1:
        page = measure_steps(folder, counts, cells, args, scales, head, started)
    else:
        bench = open_bench(folder, args.model, args, scales, steps)
        page = measure_model(folder, bench, cells, args, head, started)
    print(page)
    return 0


def open_bench(
    folder: Path, source: str | None, args: argparse.Namespace, scales: dict[str, Any], steps: int | None
) -> Bench:
    """Open the benchmark of one model at one number of steps.

    Args:
        folder: where the benchmark keeps its readings.
        source: a folder or hub id of the model; None is the model inside the package.
        args: parsed arguments of `codi bench`.
        scales: the guidance scales by option, as numbers or by output.
        steps: the number of steps; None is the model's own.

    Returns:
        The benchmark. Its model is loaded when a run first needs it.

    Raises:
        InputError: a model that is not there, or more steps than its schedule has timesteps.
    """
    model = Model(source, device=args.device, dtype=args.dtype, steps=steps, **scales)
    if steps is not None and steps > model.num_timesteps:
        most = model.num_timesteps
        raise InputError(
            f"--steps {steps}: this model's schedule has {most} timesteps: expected at most {most} steps"
        )
    count = args.scenes or (SCENES_OF_ALL if args.cells == "all" else SCENES)
    settings = {"steps": steps, "dtype": args.dtype, **scales}
    return Bench(folder, model, num_scenes=count, seed=args.seed, batch_size=args.batch, settings=settings)


def check_numbers(args: argparse.Namespace) -> None:
    """Raise `InputError` for a count that is too small."""
    for name, least in (("scenes", 2), ("batch", 1), ("seeds", 1), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: expected at least {least}")


def command_line() -> str:
    """Return the command as it was typed, for the head of the report."""
    if sys.argv[1:2] != ["bench"]:
        return "codi bench"
    return shlex.join(["codi", "bench", *sys.argv[2:]])


def measure_model(
    folder: Path,
    bench: Bench,
    cells: list[Run],
    args: argparse.Namespace,
    head: dict[str, Any],
    started: float,
) -> Path:
    """Measure one model and write its report.

    Args:
        folder: where the report goes.
        bench: the benchmark of the model.
        cells: the cells to measure.
        args: parsed arguments of `codi bench`.
        head: the command and the versions, as the report shows them.
        started: the time at which the command began, in seconds of `time.monotonic`.

    Returns:
        The path of the report's page.
    """
    seeds = draws(args)
    parts = sections(args.joint, cells, args.scenes or SCENES, seeds)
    report = head | measure(bench, cells, parts, held_out=asks_held_out(args), workers=args.workers)
    numbers = {"scenes": bench.num_scenes, "seed": args.seed, "seeds": seeds}
    report["counts"] = {}
    if report["cells"] or report["tasks"]:
        report["counts"]["cells and tasks"] = f"{bench.num_scenes}"
    for name, part in parts.items():
        report["counts"][name] = f"{part.count} x {getattr(part, 'draws', 1)}"
    report["model"] = bench.model.name
    report["settings"] = {**bench.model.defaults, **chosen_settings(bench), **numbers}
    report["targets"] = targets(report)
    report["seconds"] = round(time.monotonic() - started, 1)
    write(folder, report, draw_plots(folder, bench, report))
    return folder / "report.md"


def chosen_settings(bench: Bench) -> dict[str, Any]:
    """Return the settings of a benchmark that its options chose."""
    return {name: value for name, value in bench.settings.items() if value is not None}


def draws(args: argparse.Namespace) -> int:
    """Return the number of independent sets of seeds."""
    return args.seeds or (3 if args.joint else 1)


def asks_held_out(args: argparse.Namespace) -> bool:
    """Return whether shape-colour pairs that were never trained are measured too."""
    return args.held_out or args.cells in ("fast", "all")


def sections(joint: str | None, cells: list[Run], count: int, seeds: int) -> dict[str, Section]:
    """Return the parts of the report that `--joint` asks for, by name.

    Without `--joint`, time alone is measured, and only if text to audio and video is among the cells. The
    fast part spends all sets of seeds on time, where the targets are sharpest.

    Args:
        joint: "fast", "full", or None for no joint generation.
        cells: the cells that are measured.
        count: the number of scenes of each part.
        seeds: the number of independent sets of seeds.

    Returns:
        The parts in the order in which they are scored.
    """
    full = joint == "full"
    once = seeds if full else 1
    parts: dict[str, Section] = {}
    if joint or BOTH in cells:
        parts["onsets"] = InTime(count=count, draws=seeds, four=once if joint else 0)
    if joint:
        parts["partners"] = Partners(count=count, draws=seeds)
        parts["four"] = Four(count=count, draws=once)
        parts["open"] = Open(count=count, draws=once, every=full)
    if full:
        parts |= {"selection": Selection(count=count), "prompting": Prompting(count=count)}
    return parts


def measure(
    bench: Bench, cells: list[Run], parts: dict[str, Section], *, held_out: bool, workers: int = 1
) -> dict[str, Any]:
    """Make what is missing and compute every number of the report of one model.

    Args:
        bench: the benchmark of the model.
        cells: the cells to measure.
        parts: the parts of the report on joint generation, by name.
        held_out: whether tasks on shape-colour pairs that were never trained are measured.
        workers: the number of processes that share the work.

    Returns:
        The numbers by part of the report.
    """
    tasks = chosen_tasks(cells, held_out)
    make(bench, whole_plan(bench, cells, tasks, parts), workers)
    ceiling = bench.ceiling()
    scenes = bench.scenes()
    lines = [scores.score_cell(cell, bench.readings(cell), ceiling, scenes) for cell in cells]
    report: dict[str, Any] = {"cells": lines, "summary": scores.summarise(lines), "tasks": []}
    for task in tasks:
        report["tasks"] += task_lines(bench, task)
    report["ceiling"] = ceiling_table(bench)
    report["retrieval"] = None
    if cells:
        report["retrieval"] = bench.store.remember(
            f"retrieval-{len(scenes)}", lambda: bench.model.retrieval(scenes)
        )
    for name, part in parts.items():
        report[name] = part.score(bench)
    return report


def chosen_tasks(cells: list[Run], held_out: bool) -> list[scores.Task]:
    """Return the tasks of the published table that are measured: those of the cells, and held-out ones."""
    tasks = []
    for task in TASKS:
        wanted = held_out if task.held_out else task.run in cells
        if wanted:
            tasks.append(task)
    return tasks


def whole_plan(
    bench: Bench, cells: list[Run], tasks: list[scores.Task], parts: dict[str, Section]
) -> list[tuple[Run, int]]:
    """Return everything that the report of one model needs, each run with a number of scenes."""
    plan: list[tuple[Run, int]] = []
    for part in parts.values():
        plan += part.plan()
    plan += plan_of([task.run for task in tasks], bench.num_scenes)
    plan += plan_of(cells, bench.num_scenes)
    # Ground truth and its round trip are compared with every run, so they cover the longest one.
    most = max([bench.num_scenes, *(count for _, count in plan)])
    plan += plan_of([bench.true, bench.through_autoencoders], most)
    return plan


def task_lines(bench: Bench, task: scores.Task) -> list[dict[str, Any]]:
    """Return the report's lines on one task, beside the ceiling of the same scenes."""
    ceiling = bench.ceiling(held_out=task.held_out)
    scenes = bench.scenes(task.held_out)
    return scores.score_task(task, bench.readings(task.run), ceiling, scenes)


def ceiling_table(bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Return the shares of attributes read correctly from ground truth, before and after the autoencoders."""
    facts = scores.facts_of(bench.scenes())
    truth = bench.truth()
    ceiling = bench.ceiling()
    result: dict[str, dict[str, dict[str, float]]] = {}
    for m in Modality:
        before = agreement(facts_read(truth[m]), facts, VISIBLE[m])
        after = agreement(facts_read(ceiling[m]), facts, VISIBLE[m])
        result[m.value] = {}
        for attribute in VISIBLE[m]:
            result[m.value][attribute] = {
                "truth": float(before[attribute].mean()),
                "ceiling": float(after[attribute].mean()),
            }
    return result


def draw_plots(folder: Path, bench: Bench, report: dict[str, Any]) -> list[str]:
    """Draw the pictures of a report into its folder and return their file names."""
    scenes = bench.scenes()
    samples = []
    for i, item in enumerate(shown_runs(bench)):
        media = bench.store.shown(item)
        index = i % len(media[item.outputs[0]])
        samples.append((item, scenes[index], media, index))
    names = []
    if samples:
        players.write(folder, _every(samples, scenes))
        names.append(plots.contact_sheet(samples, folder / "contact_sheet.png"))
    if report["cells"]:
        names.append(plots.cell_map(report["cells"], folder / "cells.png"))
    if report.get("onsets"):
        media = bench.store.shown(BOTH)
        captions = [caption(scene) for scene in scenes]
        names.append(plots.strips(media, captions, folder / "onset_strips.png"))
        names.append(plots.onset_curves(report["onsets"], CURVE, folder / "onset_tolerance.png"))
        names.append(plots.offset_histogram(report["onsets"], folder / "onset_offsets.png"))
    return names


def _every(samples: list[Any], scenes: list[Any]) -> list[Any]:
    """Return all samples that are kept of the runs of a contact sheet, which shows one of each."""
    every = []
    for run, _, media, _ in samples:
        every += [(run, scenes[k], media, k) for k in range(len(media[run.outputs[0]]))]
    return every


def shown_runs(bench: Bench) -> list[Run]:
    """Return the runs of the contact sheet: those of `SHEET`, or the first few if none was made."""
    plain = [run for run in bench.made if run.inputs and run.plain]
    by_name = {run.name: run for run in plain}
    picked = [by_name[name] for name in SHEET if name in by_name]
    return picked or plain[:5]


def compare_variants(
    folder: Path, benches: dict[str, Bench], args: argparse.Namespace, head: dict[str, Any], started: float
) -> Path:
    """Measure several models and write the table of the ablation.

    Args:
        folder: where the table goes.
        benches: the benchmark of each model, by the name of the variant.
        args: parsed arguments of `codi bench`.
        head: the command and the versions, as the table shows them.
        started: the time at which the command began, in seconds of `time.monotonic`.

    Returns:
        The path of the table's page.
    """
    work = VariantRuns(count=args.scenes or SCENES, draws=args.seeds or 1)
    lines: dict[str, Any] = {}
    for number, (name, bench) in enumerate(benches.items()):
        print(f"{name}: {bench.model.folder}", file=sys.stderr, flush=True)
        plan = list(work.plan())
        if number == 0:
            # Floors and ceilings are shared, since joint adapters change neither: the first model makes them.
            plan += work.floor_plan()
        make(bench, plan, args.workers)
        lines[name] = work.score(bench)
    first = next(iter(benches.values()))
    report = head | {
        "variants": lines,
        "controls": work.controls(first),
        "seconds": round(time.monotonic() - started, 1),
    }
    numbers = {"scenes": work.count, "seed": args.seed, "seeds": work.draws}
    report["settings"] = {**first.model.defaults, **chosen_settings(first), **numbers}
    save_json(folder / "ablation.json", finite(report))
    return save_text(folder / "ablation.md", ablation_page(report))


def measure_steps(
    folder: Path,
    counts: list[int],
    cells: list[Run],
    args: argparse.Namespace,
    scales: dict[str, Any],
    head: dict[str, Any],
    started: float,
) -> Path:
    """Measure one model at several numbers of steps, write the table and print it on stderr.

    Args:
        folder: where the table goes.
        counts: the numbers of steps.
        cells: the cells to measure.
        args: parsed arguments of `codi bench`.
        scales: the guidance scales by option, as numbers or by output.
        head: the command and the versions, as the table shows them.
        started: the time at which the command began, in seconds of `time.monotonic`.

    Returns:
        The path of the table's page.
    """
    benches = {steps: open_bench(folder, args.model, args, scales, steps) for steps in counts}
    first = benches[counts[0]]
    reference = open_bench(folder, args.model, args, scales, min(REFERENCE, first.model.num_timesteps))
    made = set(Modality) if args.joint else set().union(*(cell.outputs for cell in cells))
    far = Distances(
        reference=reference,
        outputs=[m for m in Modality if m in made],
        count=min(COMPARED, first.num_scenes),
        steps=reference.model.steps,
    )
    parts = sections(args.joint, cells, args.scenes or SCENES, draws(args))
    reports: dict[int, dict[str, Any]] = {}
    for steps, bench in benches.items():
        print(f"{steps} steps", file=sys.stderr, flush=True)
        measured = measure(bench, cells, parts, held_out=asks_held_out(args), workers=args.workers)
        reports[steps] = measured | {"distances": far.score(bench)}
    numbers = {"scenes": first.num_scenes, "seed": args.seed, "seeds": draws(args)}
    numbers["scenes for distances"] = far.count
    settings = {**first.model.defaults, **chosen_settings(first), **numbers}
    # The number of steps is a column of the table, and so no setting that all of it shares.
    settings.pop("num_inference_steps", None)
    settings.pop("steps", None)
    result = head | {
        "model": first.model.name,
        "settings": settings,
        "steps": counts,
        "rows": compare(reports),
        "reports": reports,
        "seconds": round(time.monotonic() - started, 1),
    }
    save_json(folder / "steps.json", finite(result))
    page = steps_page(result)
    print(page, file=sys.stderr)
    return save_text(folder / "steps.md", page)


def write(folder: Path, report: dict[str, Any], pictures: list[str]) -> None:
    """Write the report as JSON and as a page with its pictures."""
    save_json(folder / "report.json", finite(report))
    save_text(folder / "report.md", markdown(report, pictures))


def finite(value: Any) -> Any:
    """Return a value with None in place of numbers that are not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def versions() -> dict[str, str]:
    """Return the versions of codi and of the libraries that decide the numbers."""
    from codi import __version__

    found = {"codi": __version__}
    for name in ("torch", "diffusers", "transformers", "numpy"):
        found[name] = version(name)
    return found
