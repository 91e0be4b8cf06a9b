"""Whether a server holds out: more requests than its queue takes, while it is killed again and again.

    python benchmarks/serve_load.py                         # ten minutes, three kills
    python benchmarks/serve_load.py --seconds 90 --kills 1
    python benchmarks/serve_load.py --out report.json

A server is started on the model inside the package, on this machine alone. Ten times as many clients as its
queue holds ask for jobs all the time; a few of them watch events, too. What they ask for was made before by
`codi generate --batch 1`, and every result is compared with that. The server is killed outright at even
intervals, and started again on the same folder.

It fails (exit code 1) if any answer has another status than 200, 202 or 429, if a job that was taken is not
done at the end, if a result differs from its solo run by more than rounding does in a batch, if what a killed
server had started does not end by itself, or if the memory of a process that lived long enough grew by more
than 5 %.
"""

import argparse
import collections
import contextlib
import io
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

ALLOWED = (200, 202, 429)
TIMES = 10  # requests at once for each place of the queue
APART = 2  # levels of 255 by which rounding in a batch may move a pixel
GROWTH = 0.05
WARM = 30.0  # seconds of a process that do not count: libraries and caches come
LONG = 60.0  # seconds that a process has to live after that to be judged
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("star", "ball", "ring")
GONE = (OSError, HTTPException)


def distinct_jobs(steps: int) -> list[dict[str, Any]]:
    """The jobs that are asked for, a few of each kind."""
    found: list[dict[str, Any]] = []
    for k, colour in enumerate(COLOURS):
        for shape in SHAPES:
            to = "image,text" if shape == "ring" else "image"
            found.append({"text": f"a {colour} {shape}", "to": to, "seed": k, "num_inference_steps": steps})
    return found


def solo_runs(folder: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `codi generate` makes of each job alone, by output."""
    file, out = folder / "jobs.jsonl", folder / "solo"
    file.write_text("".join(json.dumps({"id": f"job{k}", **job}) + "\n" for k, job in enumerate(jobs)))
    command = [sys.executable, "-m", "codi.cli", "generate", "--jobs", str(file), "-o", str(out)]
    subprocess.run([*command, "--batch", "1", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    found = []
    for k, job in enumerate(jobs):
        made: dict[str, Any] = {"image": pixels((out / f"job{k}.png").read_bytes())}
        if "text" in job["to"]:
            made["text"] = (out / f"job{k}.txt").read_text()
        found.append(made)
    return found


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@dataclass
class Life:
    """One process from its start to its end, and what it held meanwhile: (seconds, MiB)."""

    name: str
    pid: int
    began: float
    held: list[tuple[float, float]] = field(default_factory=list)

    def look(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            held = int(status.split("VmRSS:")[1].split()[0]) / 1024
            self.held.append((time.monotonic() - self.began, held))

    def growth(self) -> tuple[float, float] | None:
        """MiB in the first and in the last third of its life, once it is warm; None for a short one."""
        warm = [held for seconds, held in self.held if seconds > WARM]
        if not warm or self.held[-1][0] < WARM + LONG:
            return None
        third = max(1, len(warm) // 3)
        return median(warm[:third]), median(warm[-third:])


class Server:
    """A server that is started, killed and started again on one folder and one port."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "codi.cli", "serve", "--no-page", "--port", str(self.port)]
        self.command = [*command, "--data", str(folder), *options]
        self.lives: list[Life] = []
        self.left: list[int] = []
        self.up = False
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("http://"), f"the server ended instead of starting: {line!r}"
        self.lives.append(Life("serve", self._process.pid, time.monotonic()))
        self.up = True

    def look(self) -> None:
        """Note what its processes hold."""
        if not self.up or self._process is None:
            return
        known = {life.pid for life in self.lives}
        for pid in children(self._process.pid):
            if pid not in known and (name := module_of(pid)):
                self.lives.append(Life(name, pid, time.monotonic()))
        for life in self.lives:
            life.look()

    def kill(self) -> None:
        """Kill the server; what it has started has to find out by itself, and is noted if it does not."""
        assert self._process is not None
        self.up = False
        started = children(self._process.pid)
        self._process.kill()
        self._process.wait()
        until = time.monotonic() + 30
        while any(map(is_alive, started)) and time.monotonic() < until:
            time.sleep(0.2)
        self.left += filter(is_alive, started)

    def stop(self) -> None:
        assert self._process is not None
        self.up = False
        self._process.terminate()
        self._process.wait(60)


def children(pid: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    found: list[int] = []
    for parent in (pid, *found):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, task.read_text().split())
    for child in list(found):
        found += children(child)
    return list(dict.fromkeys(found))


def module_of(pid: int) -> str | None:
    """The module of ours that a process runs; None for one that runs none of its own."""
    with contextlib.suppress(OSError, ValueError):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return words[words.index("-m") + 1].removeprefix("codi.")
    return None


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Load:
    """All clients of one run, and what they found."""

    def __init__(self, server: Server, jobs: list[dict[str, Any]], solo: list[dict[str, Any]]) -> None:
        self.server = server
        self.jobs, self.solo = jobs, solo
        self.statuses: collections.Counter[int] = collections.Counter()
        self.broken = 0
        self.taken: dict[str, int] = {}  # ids -> which job
        self.done: set[str] = set()
        self.wrong: list[str] = []
        self.apart: collections.Counter[int] = collections.Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body of an answer; 0 where the connection broke."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except GONE:
            with self._lock:
                self.broken += 1
            time.sleep(0.5)
            return 0, b""
        finally:
            connection.close()
        with self._lock:
            self.statuses[answer.status] += 1
            if answer.status not in ALLOWED:
                self.wrong.append(f"{method} {path}: {answer.status} {content[:200]!r}")
        return answer.status, content

    def client(self, number: int) -> None:
        """Ask for jobs until the time is over; what was taken is waited for and compared."""
        luck = random.Random(number)
        while not self.over.is_set():
            which = luck.randrange(len(self.jobs))
            status, content = self.ask("POST", "/v1/jobs", self.jobs[which])
            if status == 202:
                id_ = json.loads(content)["id"]
                with self._lock:
                    self.taken[id_] = which
                if number % 10 == 0:
                    self.ask("GET", f"/v1/jobs/{id_}/events")
                self.follow(id_, lambda: self.over.is_set())
            self.over.wait(luck.uniform(0.5, 2.0))

    def follow(self, id_: str, given_up: Any) -> None:
        """Wait for a job, and compare what was made."""
        while not given_up():
            status, content = self.ask("GET", f"/v1/jobs/{id_}")
            job = json.loads(content) if status == 200 else {}
            if job.get("ended") is not None:
                self.compare(id_, job)
                return
            time.sleep(1.0)

    def compare(self, id_: str, job: dict[str, Any]) -> None:
        if job["state"] != "done":
            self.wrong.append(f"{id_} is {job['state']}: {job['error']}")
            return
        solo = self.solo[self.taken[id_]]
        for file in job["files"]:
            status = 0
            while status == 0:
                status, content = self.ask("GET", file["url"])
            if file["modality"] == "text":
                if content.decode() != solo["text"]:
                    self.wrong.append(f"{id_}: the words {content!r} are not {solo['text']!r}")
                continue
            most = int(np.abs(pixels(content) - solo["image"]).max())
            with self._lock:
                self.apart[most] += 1
            if most > APART:
                self.wrong.append(f"{id_}: a pixel is {most} levels from the solo run")
        with self._lock:
            self.done.add(id_)

    def drain(self, seconds: float) -> list[str]:
        """Wait for all that was taken, and return the ids of what was lost."""
        until = time.monotonic() + seconds
        for id_ in sorted(set(self.taken) - self.done):
            self.follow(id_, lambda: time.monotonic() > until)
        return sorted(set(self.taken) - self.done)


def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = distinct_jobs(args.steps)
        solo = solo_runs(folder, jobs)
        server = Server(folder / "data", ["--max-queue", str(args.max_queue)])
        server.start()
        load = Load(server, jobs, solo)
        clients = []
        for number in range(args.max_queue * TIMES):
            clients.append(threading.Thread(target=load.client, args=(number,), daemon=True))
        began = time.monotonic()
        for client in clients:
            client.start()
        kills = [began + args.seconds * (k + 1) / (args.kills + 1) for k in range(args.kills)]
        while time.monotonic() < began + args.seconds:
            server.look()
            if kills and time.monotonic() > kills[0]:
                kills.pop(0)
                server.kill()
                print(f"killed after {time.monotonic() - began:.0f} s", file=sys.stderr)
                server.start()
            time.sleep(1.0)
        load.over.set()
        for client in clients:
            client.join(120)
        lost = load.drain(args.drain)
        server.look()
        server.stop()
    return report(args, load, server, lost)


def report(args: argparse.Namespace, load: Load, server: Server, lost: list[str]) -> dict[str, Any]:
    load.wrong += [f"process {pid} outlived its server by 30 s" for pid in server.left]
    memory = []
    for life in server.lives:
        found = {"process": life.name, "seconds": round(life.held[-1][0]) if life.held else 0}
        found["held"] = [round(held) for _, held in life.held[:: max(1, len(life.held) // 12)]]
        if (grown := life.growth()) is not None:
            found |= {"early": round(grown[0], 1), "late": round(grown[1], 1)}
            if grown[1] > grown[0] * (1 + GROWTH):
                load.wrong.append(f"{life.name} grew from {grown[0]:.0f} to {grown[1]:.0f} MiB")
        memory.append(found)
    return {
        "seconds": args.seconds,
        "kills": args.kills,
        "clients": args.max_queue * TIMES,
        "statuses": dict(sorted(load.statuses.items())),
        "broken connections": load.broken,
        "jobs taken": len(load.taken),
        "jobs done and compared": len(load.done),
        "jobs lost": lost,
        "largest difference of a picture, in levels of 255": dict(sorted(load.apart.items())),
        "memory": memory,
        "wrong": load.wrong[:50],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="More requests than a server takes, while it is killed.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--max-queue", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--drain", type=float, default=300.0, help="seconds for what is left at the end")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = run(args)
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if found["wrong"] or found["jobs lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
