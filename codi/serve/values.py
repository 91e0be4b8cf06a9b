"""What a job and its events look like to those who ask for them, and what can go wrong."""

from dataclasses import dataclass, field
from typing import Any

from codi.types import InputError

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STARTED = "started"  # the event with which a job is running
FINAL = (DONE, FAILED, CANCELLED)  # states that a job never leaves, and the last events of a job


class NoSuchJob(LookupError):
    """Says that somebody has no job of this id, whether or not somebody else has."""


class NoSuchFile(NoSuchJob):
    """Says that a job has no file of this name."""


class QueueFull(RuntimeError):
    """Says that no job is taken now.

    Args:
        message: one line for the one who asked.
        retry_after: seconds after which there should be room again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitError(InputError):
    """Says that a job asks for more than this server makes."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One job, as its owner sees it.

    Attributes:
        id: by which it is asked for, and by which its files are named.
        owner: whose it is.
        state: "queued", "running", "done", "failed" or "cancelled".
        model: the name of the model that makes it.
        request: what was asked, as it was sent.
        created: when it came, in seconds since 1970.
        started: when it was begun; None before.
        ended: when it was done, failed or was cancelled; None before.
        position: its place in the queue, 1 for the next one; None unless it is queued.
        progress: the part that is made, from 0 to 1.
        files: the results, each with "name", "modality", "sample", "type" (MIME), "bytes" and "sha256".
        record: how they were made, as `codi generate` writes it; None before.
        error: one line on why it failed; None unless it did.
        notes: lines that a person should know, such as words that the model cannot read.
        inputs: the names of the uploaded files.
    """

    id: str
    owner: str
    state: str
    model: str
    request: dict[str, Any]
    created: float
    started: float | None = None
    ended: float | None = None
    position: int | None = None
    progress: float = 0.0
    files: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to a job.

    Attributes:
        number: rises from event to event of a job; some numbers are never used.
        kind: a state, "started" for the running one, or "progress" or "preview".
        data: what happened, as JSON has it.
    """

    number: int
    kind: str
    data: dict[str, Any]
