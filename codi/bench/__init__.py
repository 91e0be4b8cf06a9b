"""Run `codi bench`, which measures a model and writes a report.

It generates for input-output subsets and reads the results with the world's probes.

command.py    from arguments to report, start to finish
runs.py       what is generated: a `Run`, its prompts, its scenes and seeds
make.py       making what is missing, in one process or several
store.py      keeping it on disk, so that a benchmark can be resumed
models.py     the model under test: outputs of a run, ceilings through its autoencoders, retrieval between its
              prompt towers
scores.py     agreement for each cell and each task, with ceilings and floors
timing.py     video and sound: in time together, a sound for a clip, a clip for a sound
together.py   pairs, triples and all four outputs on what the prompt left open
prompting.py  prompts that disagree, that agree, that complete each other, and their order
choosing.py   one candidate against several
ablation.py   several models in one table
steps.py      one model at several numbers of steps in one table
targets.py    the other published targets
report.py     report.json as a page; report_joint.py and markup.py help
plots.py      charts, strips and the contact sheet
players.py    the samples of the contact sheet as files, with a page that plays them
pairs.py      two models or settings on the same prompts (`codi compare`)

files.py          `codi bench --files`: measures on one's own files, start to finish
collection.py     what is measured: rows of a manifest, or a generated folder; parts.py reads them
extractors.py     what turns media into features, by extracting.py; clip_clap.py two of them
features.py       features, computed once
file_measures.py  retrieval, agreement, distances; in_time.py sounds and clips in time
files_report.py   the page; lines.py a line of it
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from codi.types import DTYPES, InputError

_EXAMPLES = """examples:
  codi bench --out report/                                          the published table
  codi bench --out report/ --cells all --workers 2                  all 225 input-output subsets
  codi bench --out report/ --cells none --joint fast    in time, clean partners, all four outputs together
  codi bench --out report/ --cells none --joint         the same, every pair and triple, selection, prompts
  codi bench --out report/ --cells "text->image,text+audio->video"
  codi bench --out steps/ --steps 4,6,10,20 --joint fast --scenes 64   what fewer steps cost, in one table
  codi bench --out files/ --files manifest.jsonl --extractor image,text=clip:FOLDER --reference real.jsonl
  codi bench --out ablation/ --ablation runs/ablation/released runs/ablation/rotary="rotary seconds"
"""


class _Parser(argparse.ArgumentParser):
    """Parse the options of `codi bench`, and raise `InputError` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See `{self.prog} --help`.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `codi bench` to a parser.

    This imports nothing heavy, so that help and mistakes in the options cost no time.

    Args:
        parser: the parser that gets the options.
    """
    _add_scope(parser)
    _add_files(parser)
    _add_sampling(parser)
    _add_parts(parser)
    _add_machine(parser)


def _add_scope(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is measured, on which cells and on how many scenes."""
    parser.add_argument(
        "-o", "--out", required=True, metavar="FOLDER", help="where the report goes; a run continues there"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="folder or hub id (default: the model inside the package)"
    )
    parser.add_argument(
        "--cells", default="fast", metavar="CELLS", help="fast (default), all (225), none, or a list as below"
    )
    parser.add_argument(
        "--scenes",
        type=int,
        metavar="N",
        help="unseen scenes (default 256; 32 for each of all cells); more later go on",
    )
    parser.add_argument(
        "--seed", type=int, default=2305, metavar="N", help="of the scenes and of the noise (default 2305)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="sets of seeds for joint outputs (default 3 with --joint, else 1)",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that measure files in place of a model (docs/measuring.md)."""
    parser.add_argument(
        "--files",
        metavar="WHAT",
        help="measure files in place of a model: a manifest of rows (jsonl, parquet), or a generated folder",
    )
    parser.add_argument(
        "--reference", metavar="WHAT", help="with --files: others of their kind, for distances"
    )
    parser.add_argument(
        "--extractor",
        action="append",
        metavar="KINDS=WHAT",
        help="with --files, repeatable: image,text=clip:FOLDER_OR_ID, audio,text=clap:FOLDER_OR_ID, or any "
        "function, image=file.py:function (default: the prompt towers of --model)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how samples are drawn."""
    steps = "denoising steps (default: the model's); several are compared in one table"
    parser.add_argument("--steps", metavar="N[,N...]", help=steps)
    parser.add_argument(
        "--guidance",
        metavar="X",
        help="prompt guidance, one number or video=4,audio=3 (default: the model's)",
    )
    parser.add_argument(
        "--sync-guidance", metavar="X", help="guidance towards the other outputs, written like --guidance"
    )


def _add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured beside the cells."""
    parser.add_argument(
        "--joint",
        nargs="?",
        const="full",
        choices=("fast", "full"),
        help="also joint generation: all, or the fast part",
    )
    parser.add_argument(
        "--ablation",
        "--ladder",  # the name of this option in earlier versions
        dest="ablation",
        nargs="+",
        metavar="DIR[=NAME]",
        help="compare these models in time, nothing else (1 set of seeds)",
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="also the shape-colour pairs never trained (always part of fast and all)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on what, how precisely and how broadly the model runs."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the networks (default float32)"
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="scenes made at once (default 32)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the work (default 1)"
    )


def main(args: "argparse.Namespace | Sequence[str]") -> int:
    """Run the benchmark and print the path of the report.

    Args:
        args: parsed arguments, or the words of a command line that follow `codi bench`.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an option that cannot be used.
    """
    if not isinstance(args, argparse.Namespace):
        parser = _Parser(
            prog="codi bench",
            description="Measures a model on unseen scenes and writes a report.",
            epilog=_EXAMPLES,
        )
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        add_arguments(parser)
        args = parser.parse_args(list(args))
    if args.files:
        from codi.bench import files

        return files.run(args)
    for name in ("reference", "extractor"):
        if getattr(args, name):
            raise InputError(f"--{name} without --files: expected --files and what is to be measured")
    from codi.bench.command import run

    return run(args)
