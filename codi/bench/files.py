"""Run `codi bench --files`: measures on one's own data, from arguments to report."""

import argparse
import sys
import time
from typing import Any

from tqdm import tqdm

from codi.bench import collection, file_measures, files_report, in_time
from codi.bench.extractors import Towers, parse_extractors
from codi.bench.features import Features
from codi.bench.lines import Line
from codi.io import check_folder
from codi.types import InputError

# Options of `codi bench` that say what a model makes, and what they are when nobody gives them.
GENERATING = {
    "cells": "fast",
    "scenes": None,
    "seeds": None,
    "steps": None,
    "guidance": None,
    "sync_guidance": None,
    "joint": None,
    "ablation": None,
    "held_out": False,
    "workers": 1,
}


def run(args: argparse.Namespace) -> int:
    """Measure files as the options ask.

    The path of the report is printed on stdout; progress, and a line for each row that is left out, on
    stderr.

    Args:
        args: parsed arguments of `codi bench`.

    Returns:
        The exit code: 0, or 2 where rows were left out.

    Raises:
        InputError: an option that cannot be used, or files of which none can be measured.
    """
    started = time.monotonic()
    _check_options(args)
    found = [collection.read(args.files, "--files")]
    if args.reference:
        found.append(collection.read(args.reference, "--reference"))
    folder = check_folder(args.out)
    extractors = parse_extractors(args.extractor or [], args.model, args.device, args.dtype)
    for extractor in extractors:
        extractor.check()
    bad: list[str] = []
    for line in (line for each in found for line in each.bad):
        _report(bad, line)
    lines = _measure(args, found, extractors, bad)
    if not lines:
        raise InputError(
            f"nothing in {args.files} can be measured: expected at least two rows with parts that one "
            "extractor reads, or with a sound and a clip, or a --reference"
        )
    notes = [files_report.TOWERS] if any(isinstance(one, Towers) for one in extractors) else []
    timed = any(line.section == "In time" for line in lines)
    if timed and not in_time.has_mir_eval():
        notes.append(in_time.NO_MIR_EVAL)
        print(f"codi: note: {in_time.NO_MIR_EVAL}", file=sys.stderr)
    head = _head(found, extractors, bad, notes)
    head["seconds"] = round(time.monotonic() - started, 1)
    print(files_report.write(folder, head, lines, found[0].items))
    if bad:
        print(f"codi: error: {len(bad)} rows or files left out; the others are measured", file=sys.stderr)
    return 2 if bad else 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that belong to the measuring of a model."""
    for name, default in GENERATING.items():
        if getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} beside --files: files are measured as they are")
    if args.batch < 1:
        raise InputError(f"--batch {args.batch}: expected at least 1")


def _report(bad: list[str], line: str) -> None:
    """Say once that a row or a file is left out."""
    if line not in bad:
        bad.append(line)
        tqdm.write(f"codi: error: {line}", file=sys.stderr)


def _measure(
    args: argparse.Namespace, found: list[collection.Collection], extractors: list[Any], bad: list[str]
) -> list[Line]:
    """Return all lines that the files allow."""
    folder = check_folder(args.out) / "features"
    items = found[0].items
    lines: list[Line] = []
    for extractor in extractors:
        features = Features(extractor, folder, found, args.batch, lambda line: _report(bad, line))
        lines += file_measures.measure_pairs(items, features)
        if len(found) > 1:
            lines += file_measures.measure_distances(items, found[1].items, features, args.seed)
    moments = in_time.Moments()
    kinds = {part.modality for item in items for part in item.parts.values()}
    if kinds.issuperset(moments.modalities):
        timed = Features(moments, folder, found[:1], args.batch, lambda line: _report(bad, line))
        lines += in_time.measure_in_time(items, timed)
    return lines


def _head(
    found: list[collection.Collection], extractors: list[Any], bad: list[str], notes: list[str]
) -> dict[str, Any]:
    """Return what a report says besides its numbers."""
    from codi.bench.command import command_line, versions

    read = {}
    for extractor in extractors:
        rates = {modality.value: extractor.rate(modality) for modality in extractor.modalities}
        read[extractor.name] = {"fingerprint": extractor.fingerprint, "reads": rates}
    return {
        "command": command_line(),
        "versions": versions(),
        "sources": files_report.collections_read(found),
        "extractors": read,
        "notes": notes,
        "bad": bad,
    }
