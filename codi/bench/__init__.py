"""`codi bench`: generate for input-output subsets, read the results with the world's probes, write a report.

command.py  arguments to report, start to finish
runs.py     what is generated: a `Run`, its prompts, the store that makes it resumable
models.py   the model under test: outputs of a run, ceilings through its autoencoders, retrieval between its prompt towers
scores.py   agreement per cell and per task, with ceilings and floors
joint.py    agreement between outputs of one sample, in time and in attributes
targets.py  the other published targets
report.py   report.json as a page
plots.py    charts and the contact sheet
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from codi.types import InputError

_EXAMPLES = """examples:
  codi bench --out report/                                          the published table
  codi bench --out report/ --cells all --scenes 64                  all 225 input-output subsets
  codi bench --out report/ --joint                                  pairs, triples and all four outputs together
  codi bench --out report/ --cells "text->image,text+audio->video"
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See `{self.prog} --help`.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `codi bench`; imports nothing heavy."""
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the report goes; a run continues there")
    parser.add_argument("--model", metavar="NAME", help="folder or hub id (default: the model inside the package)")
    parser.add_argument("--cells", default="fast", metavar="CELLS", help="fast (default), all (225), or a list as below")
    parser.add_argument("--scenes", type=int, default=256, metavar="N", help="unseen scenes per cell (default 256)")
    parser.add_argument("--seed", type=int, default=2305, metavar="N", help="of the scenes and of the noise (default 2305)")
    parser.add_argument("--draws", type=int, metavar="N", help="seeds per scene for joint outputs (default 3 with --joint, else 1)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", metavar="X", help="prompt guidance, one number or video=4,audio=3 (default: the model's)")
    parser.add_argument("--sync-guidance", metavar="X", help="guidance towards the other outputs, written like --guidance")
    parser.add_argument("--joint", action="store_true", help="also pairs, triples and all four outputs: in time, in attributes")
    parser.add_argument("--held-out", action="store_true", help="also the shape-colour pairs never trained (always part of fast and all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="scenes made at once (default 16)")


def main(args: "argparse.Namespace | Sequence[str]") -> int:
    """Runs the benchmark from parsed arguments or from a command line. Prints the path of the report.

    Raises `InputError` for options that cannot be used.
    """
    if not isinstance(args, argparse.Namespace):
        parser = _Parser(prog="codi bench", description="Measures a model on unseen scenes and writes a report.", epilog=_EXAMPLES)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        add_arguments(parser)
        args = parser.parse_args(list(args))
    from codi.bench.command import run

    return run(args)
