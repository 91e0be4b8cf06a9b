"""What a command costs from cold: seconds of each phase, and the dearest imports.

    python benchmarks/start_up.py                         # text -> image
    python benchmarks/start_up.py --to video,audio --rounds 5
    python benchmarks/start_up.py --python               # the same in Python, where nothing is left out

Every round is a new process. Phases are of the quickest round; imports are timed by Python itself in one
more, which that makes slower.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

PROMPT = "a green star bounces quickly in the snow"
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")  # microseconds of a module by itself, its name

IN_PYTHON = """
import json, sys, time
started = time.perf_counter()
from codi import CoDiPipeline
pipe_class, imported = CoDiPipeline, time.perf_counter()
pipe = pipe_class.from_pretrained()
loaded = time.perf_counter()
out = pipe(text={prompt!r}, outputs={outputs!r}, seed=0)
generated = time.perf_counter()
out.save("out")
ended = time.perf_counter()
timings = dict(load=loaded - imported, generate=generated - loaded)
timings |= dict(save=ended - generated, total=ended - started)
json.dump(dict(timings=timings), open("out/manifest.json", "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", default="image", metavar="KINDS", help="what to make (default image)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="processes that are timed (default 3)"
    )
    parser.add_argument("--python", action="store_true", help="from Python in place of the command")
    parser.add_argument(
        "--top", type=int, default=12, metavar="N", help="imports that are listed (default 12)"
    )
    args = parser.parse_args()
    rounds = [measure(args) for _ in range(args.rounds)]
    quickest, phases = min(rounds)
    print(
        f"{'command' if not args.python else 'Python'}, text -> {args.to}: {quickest:.2f} s, the quickest of "
        f"{args.rounds}"
    )
    for name, seconds in phases.items():
        print(f"  {name:10} {seconds:6.2f} s {100 * seconds / quickest:5.0f} %")
    seconds, modules = imports(args)
    whole = sum(seconds.values())
    print(f"imports: {modules} modules, {whole:.2f} s while they are timed")
    for name, value in seconds.most_common(args.top):
        print(f"  {name:28} {value:6.2f} s {100 * value / whole:5.0f} %")


def command(args: argparse.Namespace) -> list[str]:
    """The arguments of Python."""
    if args.python:
        return ["-c", IN_PYTHON.format(prompt=PROMPT, outputs=args.to.split(","))]
    return ["-m", "codi.cli", "generate", "--text", PROMPT, "--to", args.to, "--quiet", "-o", "out"]


def run(arguments: list[str], folder: str) -> str:
    """Runs Python in a folder; returns what it wrote on stderr."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


def measure(args: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Seconds of a process from start to end, and of its phases."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run(command(args), folder)
        seconds = time.perf_counter() - began
        made = json.loads(next(Path(folder, "out").glob("manifest*.json")).read_text())["timings"]
    phases = {"loading": made["load"], "generating": made["generate"], "saving": made["save"]}
    return seconds, {"imports": seconds - sum(phases.values()), **phases}


def imports(args: argparse.Namespace) -> tuple[Counter[str], int]:
    """Seconds by library, those of the largest by their parts; and how many modules there are."""
    with tempfile.TemporaryDirectory() as folder:
        found = LINE.findall(run(["-X", "importtime", *command(args)], folder))
    seconds: Counter[str] = Counter()
    for microseconds, module in found:
        library, *parts = module.split(".")
        large = library in ("torch", "diffusers", "transformers") and parts
        seconds[f"{library}.{parts[0]}" if large else library] += int(microseconds) / 1e6
    return seconds, len(found)


if __name__ == "__main__":
    main()
