"""Keep the queue of jobs on disk, in one SQLite file: whatever was promised is there after a crash.

Every change is one transaction, and is on the disk before it is answered. A server is the only one that
writes a store; a lock that the system takes back with the process sees to that.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from codi.serve.values import CANCELLED, DONE, FAILED, FINAL, QUEUED, RUNNING, Event
from codi.types import InputError

FORM = 1  # of the tables
TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    line TEXT NOT NULL,
    batch_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    rows INTEGER NOT NULL,
    notes TEXT NOT NULL,
    inputs TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    deaths INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    files TEXT,
    record TEXT,
    bytes INTEGER NOT NULL DEFAULT 0,
    last_event INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, number);
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (
    owner TEXT PRIMARY KEY,
    turn INTEGER NOT NULL
) WITHOUT ROWID;
"""
# Queued jobs in the order in which they are made: the owners take turns, and each owner's jobs come in the
# order in which they were asked for.
IN_TURN = """
WITH waiting AS (
    SELECT jobs.*, coalesce(turns.turn, 0) AS turn,
        row_number() OVER (PARTITION BY jobs.owner ORDER BY number) AS round
    FROM jobs LEFT JOIN turns ON turns.owner = jobs.owner
    WHERE state = 'queued'
)
SELECT {columns} FROM waiting {where} ORDER BY round, turn, number LIMIT ?
"""
TAKE_TURN = """
INSERT OR REPLACE INTO turns
SELECT owner, 1 + (SELECT coalesce(max(turn), 0) FROM turns) FROM jobs WHERE id = ?
"""
NUMBERS = 1000  # of events that are set aside at once, so that those in memory need not be written
ALL = -1  # rows of a query, without a limit
JSON_COLUMNS = ("request", "line", "notes", "inputs", "files", "record")


class Store:
    """The jobs of one server, safe to use from several threads.

    Args:
        folder: where queue.sqlite lies; it is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._guard = _locked(folder)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            folder / "queue.sqlite", check_same_thread=False, isolation_level=None, timeout=30
        )
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        form = self._db.execute("PRAGMA user_version").fetchone()[0]
        if form not in (0, FORM):
            self.close()
            raise InputError(f"the queue in {folder} is of another version of codi: expected another --data")
        self._db.executescript(TABLES)
        self._db.execute(f"PRAGMA user_version = {FORM}")

    def close(self) -> None:
        """Close the file, and let another server have it."""
        with self._lock:
            self._db.close()
            self._guard.close()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Make all changes inside, or none."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self._lock, closing(self._db.execute(query, values)) as cursor:
            return [_read(row) for row in cursor.fetchall()]

    # Jobs

    def add(self, row: dict[str, Any], event: Event) -> None:
        """Add a queued job, and its first event."""
        values = {"state": QUEUED, "created": time.time(), "last_event": NUMBERS, **row}
        written = {k: json.dumps(v) if k in JSON_COLUMNS else v for k, v in values.items()}
        names = ", ".join(written)
        marks = ", ".join("?" * len(written))
        with self._changing() as db:
            db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(written.values()))
            _note(db, row["id"], event)

    def get(self, id_: str) -> dict[str, Any] | None:
        """Return a job, or None."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", id_)
        return rows[0] if rows else None

    def listed(self, owner: str, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Return the newest jobs of an owner, of those before a number if there is one."""
        upto = 2**62 if before is None else before
        query = "SELECT * FROM jobs WHERE owner = ? AND number < ? ORDER BY number DESC LIMIT ?"
        return self._rows(query, owner, upto, limit)

    def in_state(self, *states: str) -> list[dict[str, Any]]:
        """Return all jobs in some states, oldest first."""
        marks = ", ".join("?" * len(states))
        return self._rows(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number", *states)

    def count(self, state: str) -> int:
        """Return how many jobs are in a state."""
        return int(self._rows("SELECT count(*) AS n FROM jobs WHERE state = ?", state)[0]["n"])

    def position(self, id_: str) -> int | None:
        """Return the place of a job in the queue, 1 for the next one; None for one that is not queued."""
        ids = [row["id"] for row in self._rows(IN_TURN.format(columns="id", where=""), ALL)]
        return ids.index(id_) + 1 if id_ in ids else None

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        return {row["id"] for row in self._rows("SELECT id FROM jobs")}

    def next_job(self) -> dict[str, Any] | None:
        """Return the queued job whose turn it is."""
        rows = self._rows(IN_TURN.format(columns="*", where=""), 1)
        return rows[0] if rows else None

    def alike(self, job: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return queued jobs that may be made in one batch with a job, that one first."""
        query = IN_TURN.format(columns="*", where="WHERE batch_key = ? AND deaths = 0")
        others = self._rows(query, job["batch_key"], limit)
        return [job, *(row for row in others if row["id"] != job["id"])]

    def start(self, id_: str, event: Event) -> bool:
        """Mark a queued job as running, and return whether it was queued; it was the turn of its owner."""
        with self._changing() as db:
            moved = _moved(db, id_, (QUEUED,), RUNNING, event, {"started": time.time()})
            if moved:
                db.execute(TAKE_TURN, (id_,))
        return moved

    def requeue(self, id_: str, event: Event, died: bool) -> bool:
        """Put a running job back into its place in the queue; return whether it was running."""
        with self._changing() as db:
            moved = _moved(db, id_, (RUNNING,), QUEUED, event, {"started": None})
            if moved:  # its owner has the turn still
                db.execute("DELETE FROM turns WHERE owner = (SELECT owner FROM jobs WHERE id = ?)", (id_,))
            if moved and died:
                db.execute("UPDATE jobs SET deaths = deaths + 1 WHERE id = ?", (id_,))
        return moved

    def finish(self, id_: str, files: list[dict[str, Any]], record: Any, event: Event) -> bool:
        """Mark a job as done, and return whether it was still to be made."""
        found = {"files": json.dumps(files), "record": json.dumps(record), "ended": time.time()}
        with self._changing() as db:
            moved = _moved(db, id_, (QUEUED, RUNNING), DONE, event, found)
            if moved:
                size = sum(file["bytes"] for file in files)
                db.execute("UPDATE jobs SET bytes = bytes + ? WHERE id = ?", (size, id_))
        return moved

    def fail(self, id_: str, error: str, event: Event) -> bool:
        """Mark a job as failed, and return whether it was still to be made."""
        return self._move(id_, (QUEUED, RUNNING), FAILED, event, ended=time.time(), error=error)

    def cancel(self, id_: str, event: Event) -> bool:
        """Mark a job as cancelled, and return whether it was still to be made."""
        return self._move(id_, (QUEUED, RUNNING), CANCELLED, event, ended=time.time())

    def _move(self, id_: str, before: Sequence[str], state: str, event: Event, **values: Any) -> bool:
        with self._changing() as db:
            return _moved(db, id_, before, state, event, values)

    def remove(self, id_: str) -> None:
        """Remove a job and its events."""
        with self._changing() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (id_,))
            db.execute("DELETE FROM events WHERE job = ?", (id_,))

    def beyond(self, jobs: int, size: int) -> list[str]:
        """Return the ids of the oldest finished jobs that are more than so many, or than so many bytes."""
        marks = ", ".join("?" * len(FINAL))
        query = f"SELECT id, bytes FROM jobs WHERE state IN ({marks}) ORDER BY ended DESC, number DESC"
        found = []
        total = 0
        for k, row in enumerate(self._rows(query, *FINAL)):
            total += row["bytes"]
            if k >= jobs or (total > size and k > 0):
                found.append(row["id"])
        return found

    # Events

    def events(self, id_: str, after: int = 0) -> list[Event]:
        """Return the events of a job that are on disk, with numbers above `after`."""
        query = "SELECT number, kind, data FROM events WHERE job = ? AND number > ? ORDER BY number"
        found = []
        for row in self._rows(query, id_, after):
            found.append(Event(number=row["number"], kind=row["kind"], data=json.loads(row["data"])))
        return found

    def reserve(self, id_: str) -> tuple[int, int]:
        """Set numbers of events aside, and return the last one that is taken and the last of the new ones."""
        with self._changing() as db:
            row = db.execute("SELECT last_event FROM jobs WHERE id = ?", (id_,)).fetchone()
            last = 0 if row is None else int(row[0])
            db.execute("UPDATE jobs SET last_event = ? WHERE id = ?", (last + NUMBERS, id_))
        return last, last + NUMBERS


def _locked(folder: Path) -> sqlite3.Connection:
    """Return a connection that keeps other servers away from a folder for as long as it is open."""
    guard = sqlite3.connect(folder / "lock.sqlite", timeout=0, check_same_thread=False, isolation_level=None)
    try:
        guard.execute("PRAGMA locking_mode = EXCLUSIVE")
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        guard.close()
        raise InputError(
            f"another server is at work on {folder}: stop that one, or name another folder with --data"
        ) from None
    return guard


def _moved(
    db: sqlite3.Connection, id_: str, before: Sequence[str], state: str, event: Event, values: dict[str, Any]
) -> bool:
    """Move a job from one of some states to another with its event, and return whether it was there."""
    names = ", ".join(["state = ?", *(f"{name} = ?" for name in values)])
    marks = ", ".join("?" * len(before))
    query = f"UPDATE jobs SET {names} WHERE id = ? AND state IN ({marks})"
    changed = db.execute(query, (state, *values.values(), id_, *before)).rowcount > 0
    if changed:
        _note(db, id_, event)
    return changed


def _note(db: sqlite3.Connection, id_: str, event: Event) -> None:
    """Write an event of a job."""
    row = (id_, event.number, event.kind, json.dumps(event.data))
    db.execute("INSERT INTO events (job, number, kind, data) VALUES (?, ?, ?, ?)", row)


def _read(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row with what is JSON in it as values."""
    found = dict(row)
    for name in JSON_COLUMNS:
        if found.get(name) is not None:
            found[name] = json.loads(found[name])
    return found
