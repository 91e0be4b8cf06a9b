"""One process that decodes: what it does from its start to its end, and what comes of a job.

`codi.fork_server` starts such processes, and `data.workers` hands them jobs. A worker answers with plain
bytes, never with a pickle: whatever a hostile file turns it into stays in its process.
"""

import json
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from codi.fork_server import limit_memory, received
from codi.types import InputError
from data.decode import Job, Media, decode


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used.

    Attributes:
        key: (number of the source, number of the row).
        id: the name of the sample.
        path: its files.
        reason: why it cannot be used.
    """

    key: tuple[int, int]
    id: str
    path: str
    reason: str


def bad_sample(job: Job, reason: str) -> BadSample:
    """Return the bad sample that a job has turned out to be."""
    return BadSample(job.key, job.id, job.path, reason)


def decode_here(job: Job) -> Media | BadSample:
    """Return what became of a job, decoded in this process; a mistake in this code base raises as it is."""
    try:
        return decode(job)
    except InputError as error:
        return bad_sample(job, str(error))
    except MemoryError:
        return bad_sample(job, "it needs more memory than is there")


def serve(connection: Connection, memory: int) -> None:
    """Run a worker: take jobs and send answers until the other end of the connection is gone.

    Args:
        connection: gives jobs and takes answers: a JSON header, then the bytes of each array.
        memory: bytes that this process may take beyond what it has now.
    """
    torch.set_num_threads(1)
    limit_memory(memory)
    while True:
        try:
            job = received(connection)
        except (EOFError, OSError):
            return
        try:
            result = decode_here(job)
        except BaseException:
            connection.send_bytes(json.dumps({"fatal": traceback.format_exc()[-8000:]}).encode())
            continue
        if isinstance(result, BadSample):
            connection.send_bytes(json.dumps({"bad": result.reason[:2000]}).encode())
            continue
        content = {str(modality): axes for modality, axes in result.content.items()}
        connection.send_bytes(json.dumps({"arrays": list(map(str, result)), "content": content}).encode())
        for modality, value in result.items():
            connection.send_bytes(value.numpy().astype(job.kinds[modality].dtype, copy=False).tobytes())
