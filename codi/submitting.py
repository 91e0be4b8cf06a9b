"""Send jobs to a server, wait for them, and write what it made as `codi generate` would have.

Jobs of a file are sent until the server is full, and further ones as soon as it has room. What was sent is
noted in OUT/submitted.jsonl: the same command again asks for nothing that is there already or being made.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi import job_files, jobs
from codi.failures import Failures
from codi.server_client import Client, Full, Missing
from codi.types import InputError, WriteError

NOTES = "submitted.jsonl"
AT_ONCE = 64  # jobs that are on the server at the same time


def run(
    args: argparse.Namespace,
    server: str,
    token: str | None,
    failures: Failures,
    show: Callable[[Path], None],
) -> None:
    """Send all jobs, wait for them, and write what was made.

    Args:
        args: the options of the command.
        server: where the server is.
        token: what it asks for, if it asks for one.
        failures: takes jobs that cannot be made.
        show: is called with every file that is there now.

    Raises:
        InputError: if the server is not there, and for a job that cannot be made and is the only one.
    """
    if args.strict:
        raise InputError(
            "--strict beside submit: the server reads the words; expected it with `codi generate`"
        )
    client = Client(server, token)
    todo = _jobs(args, failures)
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write into {out}: {error.strerror}") from None
    submission = _Submission(client, out, args, failures, show)
    try:
        submission.run(todo)
    except KeyboardInterrupt:
        submission.give_up()
        raise
    finally:
        submission.finish()


def _jobs(args: argparse.Namespace, failures: Failures) -> list[jobs.Job]:
    """Return what is asked for: the lines of a file, or the one request of the options."""
    if args.jobs is None:
        failures.total = 1
        return [jobs.from_arguments(args)]
    if not Path(args.jobs).is_file():
        raise InputError(f"no such file: {args.jobs}. Expected a file with one job per line.")
    return jobs.from_lines(args, failures)


@dataclass(eq=False)
class _Task:
    """One job on its way.

    Attributes:
        job: what is asked for.
        line: it as it is sent.
        files: what is uploaded, by the names in the line.
        digest: changes with anything of these.
        id: the server's name for it, once it has one.
    """

    job: jobs.Job
    line: dict[str, Any]
    files: dict[str, Path]
    digest: str
    id: str | None = None


def _task(job: jobs.Job, model: str | None) -> _Task:
    """Return a job with names of parts in place of names of files.

    Raises `InputError` for a file that is not there.
    """
    names: dict[str, str] = {}

    def part(name: str) -> str:
        if name not in names:
            plain = re.sub(r"[^A-Za-z0-9._-]", "_", Path(name).name).lstrip("._-")[-80:] or "file"
            taken = plain.lower() in {other.lower() for other in names.values()}
            names[name] = f"{len(names)}-{plain}" if taken else plain
        return names[name]

    line = job_files.with_files(job_files.line_of(job), part)
    files = {}
    for name, called in names.items():
        if not Path(name).is_file():
            raise InputError(f"{job.origin}no such file: {name}")
        files[called] = Path(name)
    if model is not None:
        line["model"] = model
    contents = {name: _sha256(path) for name, path in files.items()}
    asked = json.dumps([line, contents], sort_keys=True, default=str)
    return _Task(job, line, files, hashlib.sha256(asked.encode()).hexdigest())


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


@dataclass
class _Submission:
    """All jobs of one command: sent, waited for, and written."""

    client: Client
    out: Path
    args: argparse.Namespace
    failures: Failures
    show: Callable[[Path], None]
    made: list[tuple[jobs.Job, dict[str, Any]]] = field(default_factory=list)
    _sent: "deque[_Task]" = field(default_factory=deque)
    _total: int = 0
    _ended: int = 0

    def run(self, todo: list[jobs.Job]) -> None:
        """Send all jobs and write what is made of them, the first ones first."""
        waiting: deque[_Task] = deque()
        for job in todo:
            with self.failures.of(job):
                waiting.append(_task(job, self.args.model))
        known = self._known()
        self._total = len(waiting)
        not_before = 0.0
        while waiting or self._sent:
            while waiting and len(self._sent) < AT_ONCE and time.monotonic() >= not_before:
                task = waiting[0]
                try:
                    with self.failures.of(task.job):
                        self._begin(task, known)
                except Full as full:
                    not_before = time.monotonic() + full.seconds
                    break
                waiting.popleft()
            if self._sent:
                again = not_before - time.monotonic() if waiting else None
                self._follow(self._sent[0], None if again is None else max(0.1, again))
            elif waiting:
                self._say(f"the server is full, again in {max(0.0, not_before - time.monotonic()):.0f} s")
                time.sleep(max(0.0, not_before - time.monotonic()))

    def _begin(self, task: _Task, known: Mapping[str, dict[str, Any]]) -> None:
        """Send a job, unless it is here or on the server already."""
        job = task.job
        note = known.get(job.id, {}) if job.id is not None and not self.args.overwrite else {}
        same = note.get("digest") == task.digest
        if same and note.get("state") == "done" and (record := self._whole(job)):
            self.made.append((job, record))
            self._count(f"{job.id} is here already")
            return
        if job.id is not None and not self.args.overwrite and not same:
            self._check_free(job)
        if same and note.get("server") == self.client.url:
            with suppress(Missing):
                task.id = self.client.job(note["job"])["id"]
        if task.id is None:
            task.id = self.client.submit(task.line, task.files)["id"]
            self._note(task, "sent")
        self._sent.append(task)

    def _follow(self, task: _Task, seconds: float | None) -> None:
        """Wait for a job, for some seconds if there is something else to do, and write what was made."""
        assert task.id is not None
        with suppress(Missing):  # which is said below
            for kind, data in self.client.events(task.id, seconds):
                if kind == "progress":
                    self._say(f"{_called(task)}: {_steps(data)}")
                elif kind in ("queued", "started"):
                    self._say(f"{_called(task)} is {kind}")
        with self.failures.of(task.job):
            try:
                found = self.client.job(task.id)
            except Missing:
                self._sent.popleft()
                raise InputError(f"{task.job.origin}it was removed from the server: ask again") from None
            if found["ended"] is None:
                return
            self._sent.popleft()
            if found["state"] != "done":
                raise InputError(f"{task.job.origin}{found['error'] or 'it was ' + found['state']}")
            self._write(task, found)
            self._count(f"{_called(task)} is done")

    def _write(self, task: _Task, found: dict[str, Any]) -> None:
        """Write the files of a job under the names that `codi generate` gives them, then its record."""
        stems = list(task.job.names) if task.job.id is not None else _free_numbers(self.out, task.job)
        names: dict[str, str] = {}
        for file in found["files"]:
            if file.get("sample") is not None:
                names[file["name"]] = stems[file["sample"]] + Path(file["name"]).suffix
        for file in found["files"]:
            if file["name"] in names:
                hidden = self.out / f".codi-{os.getpid()}-{names[file['name']]}"
                if self.client.download(file["url"], hidden) != file["sha256"]:
                    hidden.unlink(missing_ok=True)
                    raise InputError(f"{task.job.origin}{file['name']} came damaged: ask again")
                _place(hidden, self.out / names[file["name"]])
                self.show(self.out / names[file["name"]])
        record = _renamed(found["record"], names, {part: str(path) for part, path in task.files.items()})
        if task.job.id is not None:
            _save(self.out / f"{task.job.id}.json", record)
            self._note(task, "done")
        self.made.append((task.job, record))

    def give_up(self) -> None:
        """Cancel what nobody could ask for again."""
        for task in self._sent:
            if task.job.id is None and task.id is not None:
                with suppress(InputError, Full):
                    self.client.cancel(task.id)

    def finish(self) -> None:
        """Write manifest.json, if anything was made; an earlier one gets a number."""
        self._say("", end=True)
        if not self.made:
            return
        job, record = self.made[0]
        if job.id is None:
            manifest = {key: value for key, value in record.items() if key != "request"}
        else:
            keys = ("record", "codi", "versions", "model")
            manifest = {key: record[key] for key in keys if key in record}
            manifest["jobs"] = [f"{job.id}.json" for job, _ in self.made]
        path = self.out / "manifest.json"
        if path.exists():
            number = 0
            while (older := self.out / f"manifest-{number:03d}.json").exists():
                number += 1
            _place(path, older)
        _save(path, manifest)

    # What is here already

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the newest note of each job by its id."""
        found = {}
        with suppress(OSError):
            for line in (self.out / NOTES).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # half a line, of a run that was killed
                    note = json.loads(line)
                    found[note["id"]] = note
        return found

    def _note(self, task: _Task, state: str) -> None:
        """Note what became of a job that has an id."""
        if task.job.id is None:
            return
        note = {"id": task.job.id, "state": state, "job": task.id}
        note |= {"server": self.client.url, "digest": task.digest}
        try:
            with open(self.out / NOTES, "a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
        except OSError as error:
            raise WriteError(f"cannot write {self.out / NOTES}: {error.strerror}") from None

    def _whole(self, job: jobs.Job) -> dict[str, Any] | None:
        """Return the record of a job if all its files are here as it says."""
        try:
            record = json.loads((self.out / f"{job.id}.json").read_text(encoding="utf-8"))
            for sample in record["samples"]:
                for name in sample["files"]:
                    if _sha256(self.out / name) != sample["sha256"][name]:
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if len(record["samples"]) == job.num_samples else None

    def _check_free(self, job: jobs.Job) -> None:
        """Raise `InputError` if there are files of something else under the names of a job."""
        for path in (self.out / f"{job.id}.json", *job.files(self.out)):
            if path.exists():
                raise InputError(
                    f"{job.origin}{path} is there and belongs to another request: expected another id or "
                    "folder, or --overwrite"
                )

    # Progress

    def _count(self, text: str) -> None:
        self._ended += 1
        self._say(text)

    def _say(self, text: str, end: bool = False) -> None:
        """Show how far everything is, on one line of a terminal."""
        if self.args.quiet or not sys.stderr.isatty():
            return
        line = f"{self._ended} of {self._total} done" + (f", {text}" if text else "")
        print(f"\r\x1b[K{line[:100]}", end="\n" if end else "", file=sys.stderr, flush=True)


def _called(task: _Task) -> str:
    return task.job.id or "the job"


def _steps(data: Mapping[str, Any]) -> str:
    """Return how far each output is, such as "image 3/50"."""
    outputs = data.get("outputs") or {}
    return ", ".join(f"{name} {step}/{steps}" for name, (step, steps) in outputs.items())


def _free_numbers(out: Path, job: jobs.Job) -> list[str]:
    """Return the stems of new samples, which go on after the highest number in a folder."""
    taken = [int(found[1]) for path in out.iterdir() if (found := re.match(r"\.?(\d{3,})[.-]", path.name))]
    first = max(taken, default=-1) + 1
    return [f"{first + k:03d}" for k in range(job.num_samples)]


def _renamed(record: Any, names: Mapping[str, str], files: Mapping[str, str]) -> Any:
    """Return a record with the names that files have here."""
    if isinstance(record, list):
        return [_renamed(each, names, files) for each in record]
    if not isinstance(record, dict):
        return names.get(record, record) if isinstance(record, str) else record
    found = {names.get(key, key): _renamed(value, names, files) for key, value in record.items()}
    if isinstance(found.get("path"), str):
        found["path"] = files.get(found["path"], found["path"])
    return found


def _place(path: Path, target: Path) -> None:
    """Give a file its name, or raise what ends the run."""
    try:
        os.replace(path, target)
    except OSError as error:
        raise WriteError(f"cannot write {target}: {error.strerror}") from None


def _save(path: Path, value: Any) -> None:
    """Write JSON so that nobody sees half of it."""
    hidden = path.with_name(f".codi-{os.getpid()}-{path.name}")
    try:
        hidden.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(hidden, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}") from None
