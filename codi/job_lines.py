"""Help commands that make many things with `codi generate --jobs`: lines of jobs, and what came of them."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Generate = Callable[[argparse.Namespace, Callable[[Path], None]], int]  # runs `codi generate`


def split_values(text: str) -> list[str]:
    """Return what stands between bars, or else between commas that stand in no bracket and no quotes."""
    if "|" in text:
        return text.split("|")
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += (letter in "[{") - (letter in "]}") if not quoted else 0
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def value_of(text: str) -> Any:
    """Return a value as JSON says it, or else as the words that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def whole_names(value: Any, folder: str | Path = "") -> Any:
    """Return a line, or a part of one, in which the names of files that are there are whole.

    Args:
        value: the value, with names in it at any depth, with or without a weight behind them. Words stay, as
            do the id of a line and what is made.
        folder: where relative names start.

    Returns:
        The value.
    """
    if isinstance(value, dict):
        kept = _no_names()
        return {key: inner if key in kept else whole_names(inner, folder) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole_names(inner, folder) for inner in value]
    if not isinstance(value, (str, Path)):
        return value
    name, sign, weight = str(value).rpartition("::")
    for path, rest in ((str(value), ""), (name, sign + weight)):
        if path and "\0" not in path and os.path.isfile(os.path.join(folder, path)):
            return os.path.abspath(os.path.join(folder, path)) + rest
    return value


def _no_names() -> set[str]:
    """Return the keys under which no names of files stand."""
    from codi.modalities import kinds

    words = [kind.name for kind in kinds() if kind.in_words]
    return {"id", "to", *words, *(f"negative_{name}" for name in words)}


def options_for(args: argparse.Namespace, lines: Path, folder: Path) -> argparse.Namespace:
    """Return the options of `codi generate` that make the jobs of a file.

    Args:
        args: options of a command that has those of `codi generate`, and under `unasked` what `codi generate`
            has where nobody names any.
        lines: the file of jobs.
        folder: where their files go.

    Returns:
        The options: those that somebody named, but for prompts and edits, which are in the lines. Unless the
        batch was named, jobs are made one by one, each to the bit what it is alone.
    """
    from codi import edits, jobs

    asked = argparse.Namespace(**vars(args.unasked))
    in_lines = {*jobs.prompt_keys(), "region", *edits.OPTIONS}
    for name in vars(args).keys() & vars(asked).keys() - in_lines:
        setattr(asked, name, getattr(args, name))
    asked.jobs, asked.out = str(lines), str(folder)
    asked.owns_process = args.owns_process
    asked.quiet = True  # of the steps of a job; jobs are counted instead
    asked.batch = args.batch or 1
    return asked


def make(
    args: argparse.Namespace,
    lines: Sequence[dict[str, Any]],
    path: Path,
    what: str,
    generate: Generate,
    **named: Any,
) -> int:
    """Write lines of jobs, make those that are missing beside them, and return the exit code.

    Args:
        args: options of a command that has those of `codi generate`.
        lines: the lines, each with an id.
        path: the file that they are written to; what is made lies in its folder.
        what: what they are called while their progress is shown.
        generate: runs `codi generate`.
        **named: options that count in place of those of the command.

    Returns:
        The exit code of `codi generate`.
    """
    from codi import io

    folder = io.check_folder(path.parent)
    io.save_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    asked = options_for(args, path, folder)
    for name, value in named.items():
        setattr(asked, name, value)
    names = [str(line["id"]) for line in lines]
    done = 0 if args.overwrite else sum(bool(files_of(folder, name)) for name in names)
    return generate(asked, progress(names, what, args.quiet, done))


def progress(names: Sequence[str], what: str, quiet: bool, done: int = 0) -> Callable[[Path], None]:
    """Return what is told of every file that is made, and shows on stderr how many jobs are done.

    Args:
        names: the ids of the jobs.
        what: what they are called.
        quiet: whether nothing is shown.
        done: how many of them were there before.

    Returns:
        The function, which takes the path of a file.
    """
    from tqdm import tqdm

    if quiet or done >= len(names):
        return lambda path: None
    bar = tqdm(total=len(names), initial=done, desc=what, file=sys.stderr)
    known, seen = set(names), set[str]()

    def count(path: Path) -> None:
        name = path.name
        while name and name not in known:  # an id may hold dots, and several samples have numbers
            name = name[: max(name.rfind("."), name.rfind("-"), 0)]
        if name and name not in seen:
            seen.add(name)
            bar.update()
        if bar.n == bar.total:
            bar.close()

    return count


def files_of(folder: Path, name: str, sample: int = 0) -> list[Path]:
    """Return the files of a job that was made, in the order in which they are shown.

    Args:
        folder: the folder of the run.
        name: the id of the job.
        sample: which of its samples.

    Returns:
        The paths: pictures, clips and sounds, then texts. None are left out but credentials beside a file.
    """
    from codi import io
    from codi.modalities import kind_of

    record = folder / f"{name}.json"
    if not record.is_file():
        return []
    samples = json.loads(record.read_text(encoding="utf-8"))["samples"]
    if sample >= len(samples):
        return []
    paths = [folder / each for each in samples[sample]["files"] if not each.endswith(".c2pa")]
    found = {path: kind_of(io.probe(path)) for path in paths if path.is_file()}
    return sorted(found, key=lambda path: (*_place(found[path]), path.name))


def _place(kind: Any) -> tuple[bool, bool, bool]:
    """Return where media of a kind stand: pictures, then clips, then sounds, then texts."""
    return kind.in_words, not kind.spatial, kind.rate_field is not None
