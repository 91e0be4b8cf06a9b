"""`python -m data.prepare NAME --metadata FILE... --media FOLDER --out manifest.jsonl`: see `data.prepare`.

What is in `COMMANDS` has options of its own: `python -m data.prepare emoji --help`. Missing media are
counted, and listed beside the manifest in OUT.missing.jsonl. Exit codes: 0 done, 2 if something given cannot
be used.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codi.modalities import load_plugins_aloud
from codi.types import InputError

# Commands with options of their own: each module has `add_arguments(parser)` and `run(options)`, which
# returns lines for people.
COMMANDS = {
    "folder": "data.prepare.folder",
    "duplicates": "data.prepare.duplicates",
    "split": "data.prepare.split",
    "emoji": "data.prepare.emoji.command",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which loads nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="data.prepare",
        description="Downloaded files of a public data set -> a manifest.",
        epilog=f"With options of their own: {', '.join(COMMANDS)} (data.prepare NAME --help).",
    )
    names = ("laion", "audiocaps", "audioset", "freesound", "bbc", "webvid", "hdvila", "acav")
    parser.add_argument("name", choices=names, help="the data set")
    parser.add_argument(
        "--metadata", nargs="+", required=True, type=Path, metavar="FILE", help="its tables, as published"
    )
    parser.add_argument(
        "--media",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the files downloaded, searched with all folders below",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl", help="the manifest to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that is there")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="audioset: class_labels_indices.csv, for captions"
    )
    parser.add_argument("--no-sha256", action="store_true", help="do not read every file for its digest")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write the manifest and return the exit code."""
    load_plugins_aloud()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        print(_command(given) if given[:1] and given[0] in COMMANDS else _of_a_set(given))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _command(given: list[str]) -> str:
    """Run a command that has options of its own, and return its lines for people."""
    module = importlib.import_module(COMMANDS[given[0]])
    parser = argparse.ArgumentParser(
        prog=f"data.prepare {given[0]}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(given[1:]))


def _of_a_set(given: list[str]) -> str:
    """Make the manifest of a data set, and return a line for people."""
    options = make_parser().parse_args(given)
    written, missing = prepare(options)
    listed = f", listed in {listing(options.out)}" if missing else ""
    return f"{options.out}: {written} rows; {missing} without their file{listed}"


def prepare(options: argparse.Namespace) -> tuple[int, int]:
    """Write the manifest and the list of missing media, and return (rows written, media missing).

    What the options name that cannot be used raises `InputError`, and so does a media folder in which none of
    the files is found.
    """
    from tqdm import tqdm

    from data.manifest import write_manifest
    from data.prepare.find import MediaFolder, to_row
    from data.prepare.outputs import check_new, write_lines
    from data.prepare.sets import SETS

    media = MediaFolder(options.media)
    if not len(media):
        raise InputError(
            f"{options.media} holds no media file: expected png, jpg, webp, wav, flac, mp3, ogg, mp4, webm "
            "or gif below it"
        )
    missing: list[dict[str, Any]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for item in tqdm(SETS[options.name](options.metadata, options.labels), unit=" rows", disable=None):
            row = to_row(item, media, options.out, not options.no_sha256)
            if row is None:
                missing.append({"id": item.id, "names": [*item.names, *item.whole]})
            else:
                yield row

    check_new([options.out], options.overwrite)
    checked = _at_least_one(rows(), options)
    written = write_manifest(options.out, checked)
    write_lines(listing(options.out), missing)
    return written, len(missing)


def listing(manifest: Path) -> Path:
    """Return the path of the file that lists missing media."""
    return manifest.with_suffix(".missing.jsonl")


def _at_least_one(rows: Iterator[dict[str, Any]], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows, or raise InputError where there is none."""
    row = next(rows, None)
    if row is None:
        raise InputError(
            f"none of the files that {options.metadata[0]} speaks of is below {options.media}: is it the "
            "right folder?"
        )
    yield row
    yield from rows


if __name__ == "__main__":
    sys.exit(main())
