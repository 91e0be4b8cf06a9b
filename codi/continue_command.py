"""Serve `codi continue FILE...`: a clip, a sound or both go on beyond the length of the model.

A clip that holds a sound goes on with it. Two files of a kind have the gap between them filled.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codi import provenance
from codi.modalities import kind_of, kinds
from codi.types import DTYPES, InputError, Modality
from codi.windows import DIRECTIONS

_EXAMPLES = """examples:
  codi continue clip.mp4 --seconds 8 -o out/                  the clip and its sound, in step
  codi continue take.wav --seconds 8 --direction backwards --text "a red ball bounces" -o out/
  codi continue clip.mp4 take.wav --seconds 8 --loop -o out/
  codi continue first.wav last.wav --seconds 6 -o out/        what lies between them
"""
Files = dict[Modality, str]


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi continue` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "continue",
        help="a clip, a sound or both in step, beyond the model's length",
        description="Continues clips and sounds, forwards, backwards, to each other or in a loop.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a clip, a recording, both; or two of a kind, for the gap"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--seconds", type=float, required=True, metavar="X", help="length of the result")
    parser.add_argument(
        "--direction", choices=DIRECTIONS, default="forwards", help="where it goes on (default forwards)"
    )
    parser.add_argument("--loop", action="store_true", help="its end leads to its beginning")
    parser.add_argument(
        "--overlap", type=float, metavar="X", help="seconds that windows share (default half a window)"
    )
    parser.add_argument("--window", type=float, metavar="X", help="seconds of a window (default the model's)")
    parser.add_argument("--to", metavar="KINDS", help="what of the files goes on: video,audio (default all)")
    parser.add_argument(
        "--text", action="append", default=[], metavar="WORDS", help="(default: what the file was made from)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first window (default 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="as in `codi generate`")
    parser.add_argument("--guidance", type=float, metavar="X", help="as in `codi generate`")
    parser.add_argument("--resample-steps", type=int, metavar="N", help="as in `codi generate`")
    parser.add_argument("--model", metavar="NAME", help="as in `codi generate`")
    parser.add_argument("--device", default="auto", metavar="NAME", help="as in `codi generate`")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="as in `codi generate`")
    provenance.add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def run(args: argparse.Namespace, show: Callable[[Path], None]) -> int:
    """Check what was asked, load the model, and write what goes on.

    Args:
        args: the options of `codi continue`.
        show: is told of every file that was written.

    Returns:
        The exit code.

    Raises:
        InputError: for files and lengths that cannot be used.
    """
    from codi.filters import Filter

    asked = {"filter": Filter.parse(args.filter), "sign": provenance.signer_of(args)}
    media, after = sorted_files(args.files, args.to)
    words = args.text or _words(args.files)
    import torch

    from codi import continuing
    from codi.pipeline import CoDiPipeline
    from codi.pretrained import pick_device

    with contextlib.redirect_stdout(sys.stderr):
        pipe = CoDiPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
        pipe = pipe.to(pick_device(args.device))
        pipe.set_progress_bar_config(disable=True)
        longer = continuing.extend(
            pipe,
            media,
            seconds=args.seconds,
            direction=args.direction,
            after=after or None,
            loop=args.loop,
            overlap=args.overlap,
            window=args.window,
            seed=args.seed,
            **_call(args, words),
        )
        paths = longer.save(args.out, None if args.quiet else _report, **asked)
    for path in paths:
        show(path)
    return 0


def sorted_files(paths: list[str], to: str | None = None) -> tuple[Files, Files]:
    """Return the files by what of them goes on, and those of the same kinds that come at the end.

    Args:
        paths: the files. One of a kind goes on, the second of a kind comes behind the gap.
        to: names of what goes on, with commas; None for all that the files hold.

    Returns:
        Files by modality, twice.

    Raises:
        InputError: for more than two files of a kind, and for names of what no file holds.
    """
    from codi import io

    found: tuple[Files, Files] = ({}, {})
    for path in paths:
        io.check_file(path)
        _place(found, io.probe(path), path)
    for path in paths:  # the sound of a clip counts where no file of its own was given
        for carried in map(Modality, kind_of(io.probe(path)).carries):
            if carried not in _own(paths) and carried in io.facts(path):
                _place(found, carried, path)
    media, after = found
    if to is not None:
        wanted = [Modality.parse(name.strip()) for name in to.split(",")]
        for modality in wanted:
            if modality not in media:
                raise InputError(f"--to names {modality}, and no file holds it: expected {', '.join(media)}")
        media, after = (_only(files, wanted) for files in found)
    if after and set(after) != set(media):
        raise InputError(
            f"the first files hold {', '.join(media)} and the last {', '.join(after)}: expected the same "
            "kinds on both sides of a gap"
        )
    return media, after


def _own(paths: list[str]) -> set[Modality]:
    """Return the kinds of files."""
    from codi import io

    return {io.probe(path) for path in paths}


def _place(found: tuple[Files, Files], modality: Modality, path: str) -> None:
    """Put a file into the first of two dicts that lacks its modality."""
    for files in found:
        if modality not in files:
            files[modality] = path
            return
    raise InputError(f"{path} is the third {modality}: expected one, or two with a gap between them")


def _only(files: Mapping[Modality, str], wanted: list[Modality]) -> Files:
    return {m: path for m, path in files.items() if m in wanted}


def _words(paths: list[str]) -> list[str]:
    """Return the sentences that the first file was made from that says it."""
    from codi.vary import words_of

    return next((words for words in map(words_of, paths) if words), [])


def _call(args: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Return what every call of the pipeline is given."""
    from codi.jobs import parse_item
    from codi.prompts import Prompt

    items = [parse_item(kind.modality, text) for kind in kinds() if kind.in_words for text in words]
    named = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "resample_steps": args.resample_steps,
    }
    given = {"text": [Prompt(item.value, item.weight) for item in items]} if items else {}
    return given | {name: value for name, value in named.items() if value is not None}


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
