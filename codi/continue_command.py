"""Serve `codi continue FILE...`: a clip, a sound or both go on beyond the length of the model.

A clip that holds a sound goes on with it. Two files of a kind have the gap between them filled.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codi import provenance
from codi.continued import Continued, prompts_of, sorted_files, words_of
from codi.types import DTYPES, Modality
from codi.windows import DIRECTIONS

_EXAMPLES = """examples:
  codi continue clip.mp4 --seconds 8 -o out/                  the clip and its sound, in step
  codi continue take.wav --seconds 8 --direction backwards --text "a red ball bounces" -o out/
  codi continue clip.mp4 take.wav --seconds 8 --loop -o out/
  codi continue first.wav last.wav --seconds 6 -o out/        what lies between them
"""


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
    wanted = [Modality.parse(name.strip()) for name in args.to.split(",")] if args.to is not None else []
    media, after = sorted_files(args.files, wanted, "--to")
    call = _call(args)
    continued = Continued(
        files=tuple(args.files),
        seconds=args.seconds,
        direction=args.direction,
        loop=args.loop,
        overlap=args.overlap,
        window=args.window,
    )
    import torch

    from codi.pipeline import CoDiPipeline
    from codi.pretrained import pick_device

    with contextlib.redirect_stdout(sys.stderr):
        pipe = CoDiPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
        pipe = pipe.to(pick_device(args.device))
        pipe.set_progress_bar_config(disable=True)
        longer = continued.extend(pipe, media, after, seed=args.seed, **call)
        paths = longer.save(args.out, None if args.quiet else _report, **asked)
    for path in paths:
        show(path)
    return 0


def _call(args: argparse.Namespace) -> dict[str, Any]:
    """Return what every call of the pipeline is given; without words those that the files were made from."""
    from codi.jobs import split_weight

    words = [split_weight(text) for text in args.text] or words_of(args.files)
    named = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "resample_steps": args.resample_steps,
    }
    return prompts_of(words) | {name: value for name, value in named.items() if value is not None}


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
