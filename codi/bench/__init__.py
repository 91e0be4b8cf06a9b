"""`codi bench`: generate for input-output subsets, read the results with the world's probes, write a report.

    command.py  arguments to report, start to finish
    runs.py     what is generated: a `Run`, its prompts, the store that makes it resumable
    scores.py   agreement per cell and per task, with ceilings and floors
    joint.py    agreement between outputs of one sample, in time and in attributes
    report.py   report.json and report.md
    plots.py    charts and the contact sheet
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `codi bench`; imports nothing heavy."""
    parser.add_argument("--out", "-o", required=True, help="folder of the report; an interrupted run continues there")
    parser.add_argument("--model", default=None, help="model folder or hub id (default: the embedded model)")
    parser.add_argument(
        "--cells", default="fast", help='"fast" (the published table), "all" (225), or a list such as "text->image,text+audio->video"'
    )
    parser.add_argument("--scenes", type=int, default=256, help="unseen scenes per cell (default 256)")
    parser.add_argument("--seed", type=int, default=2305, help="seed of the scenes and of the noise")
    parser.add_argument("--draws", type=int, default=None, help="seeds per scene in the joint part (default 3 with --joint, else 1)")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", default=None, help='prompt guidance: one number, or "video=4,audio=3" (default: the model\'s)')
    parser.add_argument("--sync-guidance", default=None, help="guidance towards the other outputs, written like --guidance")
    parser.add_argument("--joint", action="store_true", help="the full joint report: pairs, triples and all four outputs together")
    parser.add_argument("--held-out", action="store_true", help="shape-colour pairs never shown in training (part of fast and all)")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    parser.add_argument("--batch-size", type=int, default=16, help="scenes generated at a time")


def main(args: argparse.Namespace) -> int:
    """Run the benchmark. Prints the path of the report; raises `InputError` for options that cannot be used."""
    from codi.bench.command import run

    return run(args)
