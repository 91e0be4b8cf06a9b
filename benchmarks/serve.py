"""What a warm server is worth: seconds to a picture and to its first preview, jobs per second, memory.

    python benchmarks/serve.py                          # 256 mixed jobs; takes minutes
    python benchmarks/serve.py --jobs 32 --rounds 3
    python benchmarks/serve.py --jobs 32 --out report.json

A server is started on the model inside the package and spoken to over HTTP. Beside seconds of the clock
stand seconds of the processor, of all processes together: on a machine that has other things to do, those
tell more.
"One by one" is a job after the other through the same warm server, each waited for; "command line" is
`codi generate` from cold. Memory is that of the server and of the process that makes, once a quarter of the
jobs is done and at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from codi.server_client import Client, Full

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("star", "ball", "ring", "box")
KINDS = ("image", "text", "audio", "image", "text", "image,text", "video", "video,audio")  # of mixed jobs
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server.

    Attributes:
        client: speaks with it.
        pid: its process.
    """

    client: Client
    pid: int

    def processes(self) -> list[int]:
        """The server and all that it has started."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found

    def processor(self) -> float:
        """Seconds of the processor that all of them have used, and those that ended as well."""
        total = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
        return total / TICKS

    def memory(self) -> list[float]:
        """MiB that the server and the process that makes hold."""
        found = []
        for pid in self.processes()[:2]:
            status = Path(f"/proc/{pid}/status").read_text()
            found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        return found


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "codi.cli", "serve", "--no-page", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield Server(Client(address), process.pid)
    finally:
        process.terminate()
        process.wait(30)


def line(k: int, to: str, steps: int | None) -> dict[str, Any]:
    text = f"a {COLOURS[k % len(COLOURS)]} {SHAPES[k // len(COLOURS) % len(SHAPES)]}"
    return {"text": text, "to": to, "seed": k} | ({} if steps is None else {"steps": steps})


def submitted(client: Client, job: dict[str, Any]) -> str:
    """Put a job into the queue, as often as it takes, and return its id."""
    while True:
        try:
            return str(client.submit(job, {})["id"])
        except Full as full:
            time.sleep(min(1.0, full.seconds))


def wait(client: Client, id_: str) -> tuple[float | None, float]:
    """Return when the first preview of a job came, and when its end."""
    preview = None
    for kind, _ in client.events(id_, None):
        if kind == "preview" and preview is None:
            preview = time.perf_counter()
        assert kind not in ("failed", "cancelled"), kind
    return preview, time.perf_counter()


def latency(server: Server, rounds: int, steps: int | None) -> dict[str, Any]:
    """Time single pictures on a warm server."""
    rows = []
    for k in range(rounds):
        began, used = time.perf_counter(), server.processor()
        preview, end = wait(server.client, submitted(server.client, line(1000 + k, "image", steps)))
        first = None if preview is None else preview - began
        rows.append({"seconds": end - began, "processor": server.processor() - used, "preview": first})
    return summary(rows)


def from_cold(rounds: int, steps: int | None) -> dict[str, Any]:
    """Time single pictures on the command line."""
    rows = []
    for k in range(rounds):
        job = line(1000 + k, "image", steps)
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "codi.cli", "generate", "--quiet", "-o", out]
            command += ["--text", job["text"], "--to", "image", "--seed", str(job["seed"])]
            command += [] if steps is None else ["--steps", str(steps)]
            began, used = time.perf_counter(), of_children()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows.append({"seconds": time.perf_counter() - began, "processor": of_children() - used})
    return summary(rows)


def of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": len(rows)}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            found |= {name: round(min(values), 3), f"{name}_median": round(median(values), 3)}
    return found


def throughput(server: Server, count: int, one_by_one: int, steps: int | None) -> dict[str, Any]:
    """Time mixed jobs that wait together, and some of them one by one."""
    client = server.client
    jobs = [line(k, KINDS[k % len(KINDS)], steps) for k in range(count)]
    began, used = time.perf_counter(), server.processor()
    for job in jobs[:one_by_one]:
        wait(client, submitted(client, job))
    alone = {"jobs": one_by_one, **since(server, began, used)}
    began, used = time.perf_counter(), server.processor()
    ids = []
    memory = []
    for k, job in enumerate(jobs):
        ids.append(submitted(client, job))
        if k == count // 4:
            memory.append(server.memory())
    for id_ in ids:
        while client.job(id_)["state"] in ("queued", "running"):
            time.sleep(0.05)
    together = {"jobs": count, **since(server, began, used)}
    memory.append(server.memory())
    for row in (alone, together):
        row["seconds_per_job"] = round(row["seconds"] / row["jobs"], 3)
        row["processor_per_job"] = round(row["processor"] / row["jobs"], 3)
    assert all(client.job(id_)["state"] == "done" for id_ in ids)
    return {"one_by_one": alone, "together": together, "memory_mib": memory}


def since(server: Server, began: float, used: float) -> dict[str, float]:
    seconds, processor = time.perf_counter() - began, server.processor() - used
    return {"seconds": round(seconds, 2), "processor": round(processor, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=256, metavar="N", help="mixed jobs (default 256)")
    parser.add_argument("--one-by-one", type=int, metavar="N", help="of them one by one (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="single pictures (default 5)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    parser.add_argument("--out", metavar="FILE", help="where the report goes, as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as server:
        wait(server.client, submitted(server.client, line(0, "image", args.steps)))  # once, to be warm
        report: dict[str, Any] = {"load": os.getloadavg()[0], "cores": len(os.sched_getaffinity(0))}
        report["server"] = latency(server, args.rounds, args.steps)
        report["command_line"] = from_cold(args.rounds, args.steps)
        alone = args.jobs if args.one_by_one is None else min(args.one_by_one, args.jobs)
        report |= throughput(server, args.jobs, alone, args.steps)
    show(report)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def show(report: dict[str, Any]) -> None:
    print(f"{report['cores']} cores, load {report['load']:.1f}; best of each (median)")
    for name, title in (("server", "warm server"), ("command_line", "command line")):
        row = report[name]
        said = f"{row['seconds']:.2f} s ({row['seconds_median']:.2f}), processor {row['processor']:.2f} s"
        if "preview" in row:
            said += f", first preview {row['preview']:.2f} s ({row['preview_median']:.2f})"
        print(f"text -> image, {title}: {said}")
    for name, title in (("one_by_one", "one by one"), ("together", "together")):
        row = report[name]
        print(
            f"{row['jobs']} mixed jobs, {title}: {row['seconds']:.1f} s, {row['seconds_per_job']:.2f} each; "
            f"processor {row['processor_per_job']:.2f} s each"
        )
    first, last = (" and ".join(f"{mib:.0f}" for mib in row) for row in report["memory_mib"])
    print(f"memory of server and maker, MiB: {first}, then {last}")


if __name__ == "__main__":
    sys.exit(main())
