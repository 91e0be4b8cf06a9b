"""Thousands of jobs on a Ray cluster of this machine, one of whose workers is killed on the way.

    python benchmarks/cluster.py --jobs 2000 --workers 2 --steps 2

Runs `codi generate --jobs ... --ray`, kills a worker with SIGKILL when a third of the jobs are there, and
looks at what came out: every job has its files and its record, and those of some jobs, drawn at random, are
compared with what one process makes. Prints samples per second and what it found.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codi.world import caption, sample_scenes

OUTPUTS = ("image", "audio", "text", "image,text")


def write_jobs(path: Path, count: int) -> list[dict]:
    """Write job lines of scenes of the world, and return them."""
    rows = []
    for k, scene in enumerate(sample_scenes(count, 7)):
        rows.append({"id": f"job{k:06d}", "text": caption(scene), "to": OUTPUTS[k % len(OUTPUTS)], "seed": k})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def command(jobs: Path, out: Path, args: argparse.Namespace) -> list[str]:
    """Return the command that makes jobs."""
    asked = ["generate", "--jobs", str(jobs), "-o", str(out), "--steps", str(args.steps), "--quiet"]
    return [sys.executable, "-m", "codi.cli", *asked, "--batch", str(args.batch)]


def workers() -> list[int]:
    """Return the processes of Ray's workers that make samples."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and b"MapWorker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def run_killed(asked: list[str], out: Path, count: int) -> float:
    """Run a command, kill one of its workers when a third of the jobs are there, and return the seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL)
    killed = False
    while process.poll() is None:
        time.sleep(0.5)
        if (
            not killed
            and out.is_dir()
            and len(list(out.glob("*.json"))) >= count / 3
            and (found := workers())
        ):
            os.kill(found[0], signal.SIGKILL)
            killed = True
    print(f"exit code {process.returncode}, a worker was killed: {killed}", flush=True)
    return time.perf_counter() - began


def compare(rows: list[dict], out: Path, args: argparse.Namespace, folder: Path) -> None:
    """Print what is missing, and how many of some jobs equal what one process makes of the whole file."""
    records = [json.loads((out / f"{row['id']}.json").read_text()) for row in rows]
    print(f"{sum(len(record['samples']) == 1 for record in records)} of {len(rows)} jobs have their record")
    # the same file, since batches are made of all jobs: the others are there already and are not made again
    alone = folder / "alone"
    alone.mkdir()
    chosen = {row["id"] for row in random.Random(0).sample(rows, min(args.compared, len(rows)))}
    for path in out.iterdir():
        if path.stem not in chosen and path.name != "manifest.json" and not path.name.startswith("."):
            shutil.copy(path, alone / path.name)
    # rounding depends on the number of threads, and Ray gives each worker one
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    asked = command(folder / "jobs.jsonl", alone, args)
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL, env=one_thread)
    files = [path for path in out.iterdir() if path.stem in chosen and path.suffix != ".json"]
    equal = sum(path.read_bytes() == (alone / path.name).read_bytes() for path in files)
    print(f"{equal} of {len(files)} files of {len(chosen)} jobs equal those of one process, to the byte")


def main() -> int:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compared", type=int, default=50, help="jobs compared with runs of one process")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_jobs(folder / "jobs.jsonl", args.jobs)
        asked = command(folder / "jobs.jsonl", folder / "out", args)
        seconds = run_killed([*asked, "--ray", "--workers", str(args.workers)], folder / "out", len(rows))
        print(f"{len(rows)} jobs in {seconds:.0f} s, {len(rows) / seconds:.1f} a second with the start")
        compare(rows, folder / "out", args, folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
