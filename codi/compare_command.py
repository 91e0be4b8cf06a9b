"""Serve `codi compare A B`: two models or two settings side by side, with measures, previews and players.

Both make the same prompts with the same seeds: those of a file of jobs, or captions of unseen scenes of the
checkable world. A run that was interrupted goes on, and one with more scenes makes only those.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi import job_lines, renamed
from codi.job_lines import Generate, files_of, options_for, split_values, value_of, whole_names
from codi.types import EMBEDDED, InputError, Modality

SCENES, SCENES_SEED = 16, 2305
ON_SHEET, ON_PAGE = 6, 60  # pairs that are drawn, and that have players
OPTIONS = ("model", "scheduler", "dtype")  # settings that are options of the command, not keys of a line
_EXAMPLES = """examples:
  codi compare steps=5 steps=20 --to video,audio -o steps/                 two settings, on the world's scenes
  codi compare my-model/ codi-tiny --to image --scenes 64 -o models/       two models
  codi compare "guider=cfg,guidance=3" "guider=apg,guidance=6" --jobs jobs.jsonl -o guiders/
"""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared.

    Attributes:
        label: "A" or "B".
        name: as it was typed.
        line: settings for the lines of jobs.
        options: options of the command.
    """

    label: str
    name: str
    line: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return both names."""
        return f"{self.label}: {self.name}"


def add_command(commands: Any, add_options: Callable[[Any], None]) -> argparse.ArgumentParser:
    """Add `codi compare` to the subcommands, without importing anything heavy, and return its parser.

    Args:
        commands: the subcommands.
        add_options: adds the options of `codi generate` that say what is made and how.

    Returns:
        The parser.
    """
    parser = commands.add_parser(
        "compare",
        help="two models or settings side by side: measures, previews, players",
        description="Makes the same prompts and seeds with A and B, measures both, and writes a report. "
        "A and B are models (folder, hub id, codi-tiny) or settings: name=value, with commas between them; "
        "names are keys of a line of jobs, or model, scheduler, dtype. Other options are those of `codi "
        "generate`, for both.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("a", metavar="A", help="a model, or settings")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument(
        "--jobs", metavar="FILE", help="the prompts and seeds, as `codi generate --jobs` has them"
    )
    parser.add_argument(
        "--scenes",
        type=int,
        metavar="N",
        help=f"without --jobs: captions of so many unseen scenes of the world (default {SCENES})",
    )
    parser.add_argument("--overwrite", action="store_true", help="make what is there of other requests anew")
    add_options(parser)
    return parser


def run(args: argparse.Namespace, generate: Generate, show: Callable[[Path], None]) -> int:
    """Make what is missing of both sides, measure, and write the report.

    Args:
        args: the options of `codi compare`.
        generate: runs `codi generate` with such options, and is given what takes the path of every file.
        show: prints a path.

    Returns:
        The exit code.

    Raises:
        InputError: for sides and jobs that cannot be used, and for what `codi generate` refuses.
    """
    sides = parse_side("A", args.a), parse_side("B", args.b)
    if sides[0].name == sides[1].name:
        raise InputError(f"A and B are both {sides[0].name}: expected two that differ")
    _check_options(args)
    from codi import io

    out = io.check_folder(args.out)
    lines = _lines(args)
    code = 0
    for side in sides:
        path = out / side.label.lower() / "jobs.jsonl"
        asked = [{**line, **side.line} for line in lines]
        code = job_lines.make(args, asked, path, side.label, generate, **side.options) or code
    pairs = list(_pairs(out, lines))
    if not pairs:
        raise InputError(f"nothing was made on both sides: {out} says what failed")
    for path in _report(out, sides, pairs):
        show(path)
    return code


# What is asked ---------------------------------------------------------


def parse_side(label: str, text: str) -> Side:
    """Return one side: a model, or settings such as `guidance=3,steps=20`.

    Args:
        label: "A" or "B".
        text: as it was typed.

    Returns:
        The side.

    Raises:
        InputError: for a setting that no job has.
    """
    from codi.jobs import job_keys

    name = text.partition("=")[0].strip().replace("-", "_")
    if "=" not in text or not name.isidentifier() or Path(text).exists():
        if not text.strip():
            raise InputError(f"{label} is empty: expected a model, or settings such as guidance=3")
        return Side(label=label, name=text, options={"model": None if text == EMBEDDED else text})
    line: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in split_values(text):
        called, sign, value = part.partition("=")
        called = called.strip().replace("-", "_")
        name = renamed.SHORT.get(called, called)
        if not sign or not value.strip():
            raise InputError(f"{label} is {text[:80]!r}: expected settings such as guidance=3,steps=20")
        if name in OPTIONS:
            options[name] = None if value.strip() == EMBEDDED else value.strip()
        elif name in job_keys() and name not in ("id", "seed", "num_samples", "to"):
            line |= whole_names({name: value_of(value.strip())})
        else:
            known = ", ".join((*OPTIONS, *(key for key in job_keys() if key not in ("id", "seed", "to"))))
            raise InputError(f"{label} sets {called[:60]}: expected some of {known}")
    return Side(label=label, name=text, line=line, options=options)


def _check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that say the prompts or the number of samples a second time."""
    from codi import jobs

    given = [key for key in (*jobs.prompt_keys(), "region") if getattr(args, key)]
    given += list(jobs.typed_edits(args))
    if given:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise InputError(f"{named} beside compare: prompts belong into the lines of --jobs FILE")
    if args.jobs and args.scenes is not None:
        raise InputError("--jobs beside --scenes: expected one of them")
    if args.scenes is not None and not 2 <= args.scenes <= 100_000:
        raise InputError(f"--scenes {args.scenes}: expected 2 to 100000")
    if args.num_samples not in (None, 1):
        raise InputError(
            "--samples beside compare: expected more --scenes, or num_samples in lines of --jobs"
        )


def _lines(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the lines of jobs that both sides make."""
    if args.jobs is None:
        return list(_of_scenes(args))
    from codi import jobs
    from codi.failures import Failures

    whole = options_for(args, Path(args.jobs), Path(args.out))
    jobs.from_file(whole, Failures())  # a line that cannot be used ends it here
    folder = Path(args.jobs).parent
    rows = [json.loads(line) for line in Path(args.jobs).read_text("utf-8-sig").splitlines() if line.strip()]
    named = [{renamed.SHORT.get(key, key): value for key, value in row.items()} for row in rows]
    return [{**whole_names(row, folder), "id": str(row["id"])} for row in named]


def _of_scenes(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each of some unseen scenes, whose prompt is the caption of all that is in it."""
    import numpy as np

    from codi.world import caption, sample_scene

    if not args.to:
        raise InputError(
            "nothing to make: expected --to with text, image, audio or video, e.g. --to video,audio"
        )
    seed = SCENES_SEED if args.seed is None else args.seed
    if not isinstance(seed, int):
        raise InputError("--seed random beside compare: both sides need the same; expected a whole number")
    rng = np.random.default_rng(seed)
    for k in range(SCENES if args.scenes is None else args.scenes):
        yield {"id": f"scene-{seed}-{k:04d}", "text": caption(sample_scene(rng)), "seed": seed + k}


def _pairs(out: Path, lines: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Yield every sample that was made on both sides."""
    from codi import io
    from codi.bench.pairs import Pair, facts_of

    for line in lines:
        records = [out / side / f"{line['id']}.json" for side in ("a", "b")]
        if not all(record.is_file() for record in records):
            continue
        found = [json.loads(record.read_text(encoding="utf-8"))["samples"] for record in records]
        for k, samples in enumerate(zip(*found)):
            files = [files_of(record.parent, str(line["id"]), k) for record in records]
            first, second = ({io.probe(path): path for path in paths} for paths in files)
            yield Pair(
                name=str(line["id"]) if len(found[0]) == 1 else f"{line['id']}-{k:03d}",
                prompt=_prompt(line),
                facts=facts_of(" ".join(_words(line.get("text")))),
                seed=samples[0]["seed"],
                first=first,
                second=second,
                seconds=(samples[0]["seconds"], samples[1]["seconds"]),
            )


def _words(value: Any) -> list[str]:
    """Return the values of the prompts of one kind in a line."""
    rows = value if isinstance(value, list) else [] if value is None else [value]
    return [str(row["value"] if isinstance(row, dict) else row) for row in rows]


def _prompt(line: dict[str, Any]) -> str:
    """Return what a line is made from, in a few words."""
    said = []
    for modality in Modality:
        for value in _words(line.get(modality.value)):
            said.append(Path(value).name if Path(value).is_absolute() else value)
    return ", ".join(said) or str(line["id"])


# The report ------------------------------------------------------------


def _report(out: Path, sides: tuple[Side, Side], pairs: Sequence[Any]) -> list[Path]:
    """Write figures, sheet, page and table, and return the paths of what is read first."""
    from codi import __version__, io
    from codi.bench.command import finite
    from codi.bench.pairs import distances_of, measure
    from codi.sheets import page
    from codi.sheets.sheet import draw

    measures = measure(pairs)
    head = {"command": shlex.join(["codi", *sys.argv[1:]]), "codi": __version__, "pairs": len(pairs)}
    rows = []
    for pair in pairs:
        files = [{m.value: str(path.relative_to(out)) for m, path in side.items()} for side in pair.sides]
        row = {"id": pair.name, "prompt": pair.prompt, "seed": pair.seed, "a": files[0], "b": files[1]}
        rows.append({**row, "distances": distances_of(pair)})
    told = {side.label.lower(): side.name for side in sides}
    figures = {**head, **told, "measures": [line.as_json() for line in measures], "rows": rows}
    io.save_json(out / "compare.json", finite(figures))
    title = f"{sides[0].title}  |  {sides[1].title}"
    io.save_image(out / "compare.png", draw(_sheet(title, sides, pairs[:ON_SHEET])))
    io.save_text(out / "compare.md", _markdown(title, head, measures))
    table = _figures(measures)
    body = [
        page.paragraph(f"{len(pairs)} pairs, each of one prompt and one seed. {HOW}", soft=True),
        page.figures_table("measure", ("A", "B", "B less A, or between them"), *zip(*table)),
        page.heading(f"{'All' if len(pairs) <= ON_PAGE else 'The first'} {min(ON_PAGE, len(pairs))} pairs"),
        page.sheet_table(_sheet(title, sides, pairs[:ON_PAGE]), out),
    ]
    io.save_text(out / "compare.html", page.page(title, body))
    return [out / "compare.md", out / "compare.html"]


HOW = (
    "Brackets hold 95 % bootstrap intervals over pairs; that of a difference is over the same prompts on both"
    " sides, and a difference whose interval holds 0 may be chance. Files are measured as they were written."
)


def _sheet(title: str, sides: tuple[Side, Side], pairs: Sequence[Any]) -> Any:
    """Return the pairs as a sheet, one row each."""
    from codi.sheets.sheet import Sheet

    rows = [f"{pair.prompt} (seed {pair.seed})" for pair in pairs]
    cells = [[list(dict.fromkeys(side.values())) for side in pair.sides] for pair in pairs]
    columns = [side.title for side in sides]
    return Sheet(title=title, corner=("prompt", "side"), columns=columns, rows=rows, cells=cells)


def _figures(measures: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Return the name and the figures of every measure, as texts."""
    found = []
    for line in measures:
        name = f"{line.name}{f', {line.unit}' if line.unit else ''}"
        cells = [_shown(interval, line.unit) for interval in (line.first, line.second)]
        sign = "+" if line.first is not None else ""
        found.append((name, [*cells, _shown(line.difference, line.unit, sign)]))
    return found


def _shown(interval: Any, unit: str, sign: str = "") -> str:
    """Return a figure with its interval."""
    if interval is None or interval.value != interval.value:
        return "-"
    factor, digits = (100, 1) if unit == "%" else (1, 1 if unit == "dB" else 3)
    value, low, high = (factor * number for number in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _markdown(title: str, head: dict[str, Any], measures: Sequence[Any]) -> str:
    """Return the report in Markdown."""
    from codi.bench.markup import table

    rows = [[name.replace("|", "/"), *cells] for name, cells in _figures(measures)]
    first, second = title.replace("|", "/"), table("measure | A | B | B less A, or between them", rows)
    command, about = head["command"], f"{head['pairs']} pairs, each of one prompt and one seed. {HOW}"
    players = "![The first pairs](compare.png)\n\n[All with players](compare.html)"
    return f"# {first}\n\n```\n{command}\n```\n\n{about}\n\n{second}\n\n{players}\n"
