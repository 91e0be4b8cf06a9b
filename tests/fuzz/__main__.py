"""Try the commands and readers with what nobody should send them.

    make fuzz                                  2,000 job lines, 20,000 media files, 500 folders, 200 kills
    make fuzz ARGS="--share 0.01"              a hundredth of it
    make fuzz ARGS="--media 1 --first 123"     one case again; what is left out is not tried

A table says what came of it. The exit code is 1 if there was a crash, a hang or a traceback; the cases that
were so are written into build/fuzz.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"jobs": 2000, "media": 20_000, "folders": 500, "kills": 200}
HEAD = "| part | cases | results | refusals | crashes | hangs | tracebacks | most memory (MB) | seconds |"


def main() -> int:
    """Try all that was asked for, print the table and return the exit code."""
    args = arguments()
    asked = {part: getattr(args, part) for part in SIZES}
    if all(size is None for size in asked.values()):
        asked = {part: max(1, round(size * args.share)) for part, size in SIZES.items()}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from tests.fuzz import kills, trial

    torch.set_num_threads(1)
    args.keep.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix="codi-fuzz-") as place:
        for part, size in asked.items():
            if not size:
                continue
            folder = Path(place) / part
            folder.mkdir()
            began = time.perf_counter()
            if part == "kills":
                found[part] = kills.summary(kills.killed(folder, args.seed, size), report)
            else:
                found[part] = tried(part, folder, size, args)
            found[part].seconds = time.perf_counter() - began
    print(HEAD, "|---" * HEAD.count(" |") + "|", sep="\n")
    for part, summary in found.items():
        cells = [part, summary.cases, *(summary.counts[kind] for kind in trial.KINDS)]
        print("|", " | ".join(map(str, [*cells, summary.memory >> 20, round(summary.seconds)])), "|")
    return int(any(summary.counts[kind] for summary in found.values() for kind in trial.BAD))


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.splitlines()[0])
    for part, size in SIZES.items():
        parser.add_argument(f"--{part}", type=int, metavar="N", help=f"how many {part} (all of it: {size})")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="of all parts (default 1)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other cases (default 0)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="X", help="for one case (default 10)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MB", help="for one case (default 2048)")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where bad cases are written")
    return parser.parse_args()


def tried(part: str, folder: Path, size: int, args: argparse.Namespace):
    """Return the summary of one part."""
    from tests.fuzz import folders, lines, media, trial

    per_file = min(size, lines.PER_FILE) if part == "jobs" else 1
    seconds = args.seconds * per_file
    if part == "jobs":
        case, show = lines.case_of(folder, args.seed, per_file)
    else:
        case, show = {"media": media, "folders": folders}[part].case_of(folder, args.seed)
    total, numbers = trial.Summary(), range(args.first, args.first + size // per_file)
    for outcome in trial.tried(case, numbers, seconds, args.memory << 20):
        total.add(outcome)
        if outcome.bad:
            report(part, outcome, show(outcome.number, args.keep))
    if part == "jobs":
        total.cases = sum(total.counts.values())
    return total


def report(part: str, outcome, what: str) -> None:
    """Print one line on a case that is to be mended."""
    kinds = ", ".join(sorted(outcome.counts))
    print(f"{part} {outcome.number} ({what}): {kinds}: {outcome.reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
