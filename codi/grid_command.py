"""Serve `codi grid`: seeds against one setting, or two, on one sheet and a page with players.

Every cell is a job of `codi generate --jobs`, so that it equals that job made alone, a grid that was
interrupted goes on, and one that gets more seeds or values makes only those.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from codi import job_lines, renamed
from codi.job_lines import Generate, files_of, split_values, value_of, whole_names
from codi.types import InputError

MOST_CELLS = 10_000
_EXAMPLES = """examples:
  codi grid --text "a red star" --to image --seeds 0-3 --vary guidance=1,3,7 -o grid.png
  codi grid --to video,audio --vary "text=a red star|a blue ball" --vary steps=5,20 -o grid.png
  codi grid --image photo.jpg --to audio --seeds 0,5,7 --vary guider=cfg,apg,cfg++ -o grid.png
"""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One setting and the values that it takes.

    Attributes:
        name: the key of a job's line.
        called: the name as it was typed.
        values: the values, as a line has them.
        labels: the values as they were typed.
    """

    name: str
    called: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One job of a grid.

    Attributes:
        id: the name of its files.
        row: the line of the grid that it stands in.
        column: its column.
        line: the job.
    """

    id: str
    row: int
    column: int
    line: dict[str, Any]


def add_command(commands: Any, add_options: Callable[[Any], None]) -> argparse.ArgumentParser:
    """Add `codi grid` to the subcommands, without importing anything heavy, and return its parser.

    Args:
        commands: the subcommands.
        add_options: adds the options of `codi generate` that say what is made and how.

    Returns:
        The parser.
    """
    parser = commands.add_parser(
        "grid",
        help="seeds against a setting on one sheet, with a page of players",
        description="Makes the same with several seeds and several values of a setting, or of two, and shows "
        "all of it on one sheet. Other options are those of `codi generate`.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FILE.png",
        help="the sheet; the page and the cells lie beside it",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=A,B,...",
        help="a setting of a line of jobs and its values; with | between them where they hold commas; "
        "once or twice",
    )
    parser.add_argument(
        "--seeds", default="0-3", metavar="N-N", help="the seeds: 0-3, or 0,5,7 (default 0-3)"
    )
    parser.add_argument("--overwrite", action="store_true", help="make cells of another request anew")
    add_options(parser)
    return parser


def run(args: argparse.Namespace, generate: Generate, show: Callable[[Path], None]) -> int:
    """Make the cells that are missing, and draw the sheet.

    Args:
        args: the options of `codi grid`.
        generate: runs `codi generate` with such options, and is given what takes the path of every file.
        show: prints a path.

    Returns:
        The exit code.

    Raises:
        InputError: for seeds and settings that cannot be used, and for what `codi generate` refuses.
    """
    sheet = Path(args.out)
    if sheet.suffix.lower() != ".png":
        raise InputError(f"-o {args.out}: expected the name of the sheet, such as grid.png")
    if args.seed is not None or args.num_samples is not None:
        raise InputError("--seed and --samples beside a grid: every cell is one sample; expected --seeds 0-3")
    axes = [parse_axis(text) for text in args.vary]
    _check_axes(axes)
    seeds = parse_seeds(args.seeds)
    cells = list(plan(axes, seeds, _common(args)))
    folder = sheet.with_suffix("").with_name(f"{sheet.stem}-cells")
    code = job_lines.make(args, [cell.line for cell in cells], folder / "cells.jsonl", "cells", generate)
    made = {cell.id: files_of(folder, cell.id) for cell in cells}
    if any(made.values()):
        for path in write(sheet, axes, seeds, cells, made, _title(args)):
            show(path)
    return code


# What is made ----------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0-3`, `0,5,7` or both, each once."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise InputError(f"--seeds {text[:80]!r}: expected whole numbers such as 0-3, or 0,5,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < MOST_CELLS:
            raise InputError(
                f"--seeds {part.strip()}: expected at most {MOST_CELLS}, from the first to the last"
            )
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def parse_axis(text: str) -> Axis:
    """Return a setting with its values, such as `guidance=1,3,7`."""
    called, sign, rest = text.partition("=")
    called = called.strip().replace("-", "_")
    name = renamed.SHORT.get(called, called)
    if not sign or not called:
        raise InputError(f"--vary {text[:80]!r}: expected a setting and its values, such as guidance=1,3,7")
    labels = [part.strip() for part in split_values(rest)]
    if len(labels) < 1 or not all(labels):
        raise InputError(f"--vary {text[:80]!r} has an empty value: expected values such as {called}=1,3,7")
    values = tuple(map(value_of, labels))
    if len(set(map(json.dumps, values))) < len(values):
        raise InputError(f"--vary {text[:80]!r} has a value twice: expected each once")
    return Axis(name=name, called=called, values=values, labels=tuple(labels))


def _check_axes(axes: Sequence[Axis]) -> None:
    """Raise `InputError` for settings that no grid can have."""
    from codi.jobs import job_keys

    if not 1 <= len(axes) <= 2:
        raise InputError(
            f"--vary was given {len(axes)} times: expected once or twice, such as --vary steps=5,20"
        )
    for axis in axes:
        own = {"seed": "--seeds 0-3", "num_samples": "--seeds 0-3", "id": "another setting"}
        if axis.name in own:
            raise InputError(f"--vary {axis.called}: a grid has it for itself; expected {own[axis.name]}")
        if axis.name not in job_keys():
            known = ", ".join(key for key in job_keys() if key not in own)
            raise InputError(f"--vary {axis.called[:60]}: no setting of a job; expected one of {known}")
    if len(axes) == 2 and axes[0].name == axes[1].name:
        raise InputError(f"--vary {axes[0].called} twice: expected two settings")


def plan(axes: Sequence[Axis], seeds: Sequence[int], common: dict[str, Any]) -> Iterator[Cell]:
    """Yield the cells of a grid, row by row.

    Args:
        axes: the setting of the columns, and that of the rows if there are two.
        seeds: the seeds, a row each, or with two settings a row each for every value of the second.
        common: what all lines have.

    Yields:
        The cells.

    Raises:
        InputError: for more cells than a grid may have.
    """
    across, down = axes[0], axes[1] if len(axes) > 1 else None
    rows = list(product(range(len(down.values)) if down else [None], seeds))
    if len(rows) * len(across.values) > MOST_CELLS:
        raise InputError(f"{len(rows) * len(across.values)} cells: expected at most {MOST_CELLS}")
    for row, (k, seed) in enumerate(rows):
        for column, value in enumerate(across.values):
            varied = {across.name: value}
            if down is not None and k is not None:
                varied[down.name] = down.values[k]
            name = _id(seed, varied)
            line = {"id": name, **common, **whole_names(varied), "seed": seed}
            yield Cell(id=name, row=row, column=column, line=line)


def _id(seed: int, varied: dict[str, Any]) -> str:
    """Return the name of a cell, which says its values and stays if the grid grows."""
    said = "-".join(f"{key}-{value}" for key, value in varied.items())
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", said).strip("-.")[:60].rstrip("-.")
    digest = hashlib.sha256(json.dumps(varied, sort_keys=True).encode()).hexdigest()[:6]
    return f"seed-{seed}-{plain}-{digest}"


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says that belongs into the lines of jobs, with whole names of files."""
    from codi import jobs
    from codi.modalities import kind_of

    line: dict[str, Any] = {}
    for key, modality in jobs.prompt_keys().items():
        items = [jobs.parse_item(modality, text) for text in getattr(args, key)]
        if items:
            in_words = kind_of(modality).in_words
            line[key] = [
                {"value": item.value if in_words else os.path.abspath(item.value), "weight": item.weight}
                for item in items
            ]
    if args.region:
        line["regions"] = [whole_names(jobs.parse_region(text)) for text in args.region]
    line |= whole_names(jobs.typed_edits(args))
    return line


# What is shown ---------------------------------------------------------


def write(
    sheet: Path,
    axes: Sequence[Axis],
    seeds: Sequence[int],
    cells: Sequence[Cell],
    made: dict[str, list[Path]],
    title: str,
) -> list[Path]:
    """Write the sheet and the page, and return their paths.

    Args:
        sheet: the path of the sheet; the page has the same name.
        axes: the settings.
        seeds: the seeds.
        cells: the cells.
        made: the files of every cell.
        title: stands above both.

    Returns:
        The paths.
    """
    from codi import io
    from codi.sheets import page
    from codi.sheets.sheet import Sheet, draw

    across, down = axes[0], axes[1] if len(axes) > 1 else None
    rows = [f"seed {seed}" for seed in seeds]
    if down is not None:
        rows = [f"{label}, seed {seed}" for label in down.labels for seed in seeds]
    table: list[list[list[Path]]] = [[[] for _ in across.values] for _ in rows]
    for cell in cells:
        table[cell.row][cell.column] = made[cell.id]
    corner = (f"{down.called}, seed" if down else "seed", across.called)
    shown = Sheet(title=title, corner=corner, columns=across.labels, rows=rows, cells=table)
    io.save_image(sheet, draw(shown))
    html = sheet.with_suffix(".html")
    count = sum(map(bool, made.values()))
    said = (
        f"{count} of {len(cells)} cells. Each lies in {sheet.stem}-cells with its record, and equals its job "
        "made alone."
    )
    io.save_text(
        html, page.page(title, [page.paragraph(said, soft=True), page.sheet_table(shown, html.parent)])
    )
    return [sheet, html]


def _title(args: argparse.Namespace) -> str:
    """Return what all cells have in common: the prompts and what is made."""
    from codi import jobs

    prompts = []
    for key, modality in jobs.prompt_keys().items():
        for text in getattr(args, key):
            value = jobs.parse_item(modality, text).value
            said = Path(value).name if os.path.isfile(value) else value
            prompts.append(f"{'not ' if key.startswith('negative_') else ''}\u201c{said}\u201d")
    outputs = (args.to or "what the lines say").replace(",", ", ")
    return f"{', '.join(prompts) or 'grid'}  \u2192  {outputs}"
