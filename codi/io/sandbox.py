"""Read prompts in a process of their own, which damaged and hostile files may kill without harm.

A file that a person hands over may be anything. A worker of the fork server (`codi.fork_server`) reads it,
which may take only so much memory and so many seconds of a processor, and dies alone. It answers with a
header in JSON and the plain bytes of arrays, never with a pickle: whatever a hostile file turns it into stays
in its process.

Functions that read a file are wrapped by `sandboxed`. Called in a worker, or where no process can be forked
(Windows), they run where they are called. So they do inside `here`, for files that one made oneself.
"""

import functools
import json
import math
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from codi.fork_server import Worker, available, limit_memory, received
from codi.io.gates import MAX_DECODED, check_file
from codi.types import InputError

MEMORY = 1 << 30  # bytes that reading one file may take beyond its result
CPU_SECONDS = 6.0  # of a processor, for one file
PATIENCE = 120.0  # seconds of the clock, on a machine that has other things to do
MAX_HEADER = 1 << 20
DTYPES = ("uint8", "float32")  # of what is read
MAX_ARRAYS = 8

P = ParamSpec("P")
R = TypeVar("R")

_HERE: ContextVar[bool] = ContextVar("here", default=False)
_FUNCTIONS: dict[str, Callable[..., Any]] = {}
_IDLE: list[Worker] = []
_LOCK = threading.Lock()


class ReadingError(RuntimeError):
    """A mistake in this code base, met while a file was read; the message holds the worker's traceback."""


class Killed(InputError):
    """A file during whose reading the worker was killed, by the system or by somebody."""


@contextmanager
def here() -> Iterator[None]:
    """Read files in this process, inside this context and in this thread."""
    token = _HERE.set(True)
    try:
        yield
    finally:
        _HERE.reset(token)


def sandboxed(result: Callable[P, int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that reads a file do so in a worker.

    The function takes the path first, and plain values besides. It returns tensors, numbers, texts, None, or
    tuples and dicts of these, raises `InputError`, and may warn; all of it comes back as it is.

    Args:
        result: tells of the same arguments how many bytes the result may have, beside what reading takes.

    Returns:
        The decorator of the function.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = f"{function.__module__}.{function.__qualname__}"
        _FUNCTIONS[name] = function

        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            if _HERE.get() or not available():
                return function(*args, **options)
            check_file(str(args[0]))  # what is no file at all needs no worker
            found: R = _ask(name, args, options, MEMORY + result(*args, **options))
            return found

        return call

    return wrap


# In the program ----------------------------------------------------------


def _ask(name: str, args: Any, options: Mapping[str, Any], memory: int) -> Any:
    """Return what a function gives in a worker, warn as it warned, and raise what it raised."""
    request = {"call": name, "args": args, "options": dict(options)}
    request |= {"memory": memory, "seconds": CPU_SECONDS}
    try:
        header, arrays = _tried(request, str(args[0]))
    except Killed:  # perhaps from outside, and not for what it read: once more
        header, arrays = _tried(request, str(args[0]))
    for note in header.get("notes", ()):
        warnings.warn(str(note), stacklevel=4)
    if "fatal" in header:
        raise ReadingError(f"a mistake in our own code at {args[0]}:\n{header['fatal']}")
    if "error" in header:
        raise InputError(str(header["error"]))
    return _unpacked(header["value"], arrays)


def _tried(request: dict[str, Any], name: str) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the header and the arrays with which a worker answers a request."""
    with _LOCK:
        worker = _IDLE.pop() if _IDLE else Worker("codi.io.sandbox:serve", request["memory"])
    try:
        found = _answer(worker, worker.send(request), name)
    except BaseException:  # an interrupt: nobody waits for what the worker is still doing
        worker.stop()
        raise
    with _LOCK:
        _IDLE.append(worker)
    return found


def _answer(worker: Worker, connection: Connection, name: str) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the header and the arrays that a worker sends, or raise `InputError` for what it died of."""
    if not connection.poll(PATIENCE):
        worker.stop()
        raise InputError(f"{name} takes more than {PATIENCE:g} s to read: export it again, or cut out a part")
    try:
        header = json.loads(connection.recv_bytes(MAX_HEADER))
        shapes = header.get("arrays", [])
        if not isinstance(header, dict) or len(shapes) > MAX_ARRAYS:
            raise ValueError(header)
        return header, [_received(connection, dtype, shape) for dtype, shape in shapes]
    except (EOFError, OSError, ValueError, KeyError, TypeError):
        code = worker.bury()
    if code == -signal.SIGXCPU:
        raise InputError(
            f"{name} takes more than {CPU_SECONDS:g} s of a processor to read: make it smaller, or export it "
            "again"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    kind = Killed if code == -signal.SIGKILL else InputError
    raise kind(f"{name} ends the process that reads it {how}: it is damaged, or asks for too much memory")


def _received(connection: Connection, dtype: str, shape: list[int]) -> Tensor:
    """Return one array of a stated kind; of what a worker states nothing is taken on trust."""
    if dtype not in DTYPES or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(dtype)
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if size > MAX_DECODED + MEMORY:
        raise ValueError(size)
    found = np.empty(shape, dtype)
    left = memoryview(found.reshape(-1).view(np.uint8).data)
    while len(left):  # straight into the array: a connection would copy it three times
        count = os.readv(connection.fileno(), [left])
        if not count:
            raise EOFError
        left = left[count:]
    return torch.from_numpy(found)


def _unpacked(value: Any, arrays: list[Tensor]) -> Any:
    """Return what `_packed` took apart."""
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        if "tuple" in value:
            return tuple(_unpacked(each, arrays) for each in value["tuple"])
        if "list" in value:
            return [_unpacked(each, arrays) for each in value["list"]]
        return {name: _unpacked(each, arrays) for name, each in value["dict"].items()}
    return value


# In a worker -------------------------------------------------------------


def serve(connection: Connection, memory: int) -> None:
    """Run a worker: take requests and send answers until the other end of the connection is gone.

    Args:
        connection: gives requests and takes answers: a JSON header, then the bytes of each array.
        memory: bytes that this process may take beyond what it has now; each request has a limit of its own.
    """
    torch.set_num_threads(1)
    _HERE.set(True)
    while True:
        try:
            request = received(connection)
        except (EOFError, OSError):
            return
        limit_memory(request["memory"])
        _limit_seconds(request["seconds"])
        header, arrays = _respond(request)
        connection.send_bytes(json.dumps(header).encode())
        for array in arrays:
            left = memoryview(array.reshape(-1).view(np.uint8).data)
            while len(left):
                left = left[os.write(connection.fileno(), left) :]


def _limit_seconds(seconds: float) -> None:
    """End this process when one file takes more seconds of a processor."""
    import resource

    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds), resource.RLIM_INFINITY))


def _respond(request: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the header and the arrays that answer a request."""
    arrays: list[np.ndarray] = []
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        header: dict[str, Any] = {}
        try:
            value = _FUNCTIONS[request["call"]](*request["args"], **request["options"])
            header["value"] = _packed(value, arrays)
        except InputError as error:
            header["error"] = str(error)[:20_000]
        except MemoryError:
            header["error"] = (
                f"{request['args'][0]} needs more memory than reading a prompt may take: shrink it, or cut "
                "out a part"
            )
        except BaseException:
            header["fatal"] = traceback.format_exc()[-8000:]
    header["notes"] = [str(note.message) for note in notes if issubclass(note.category, UserWarning)]
    if "value" not in header:
        arrays.clear()
    header["arrays"] = [[str(array.dtype), list(array.shape)] for array in arrays]
    return header, arrays


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value in JSON, its tensors taken out into `arrays`."""
    if isinstance(value, Tensor):
        arrays.append(value.contiguous().numpy())
        return {"array": len(arrays) - 1}
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(each, arrays) for each in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(name): _packed(each, arrays) for name, each in value.items()}}
    if isinstance(value, Path):
        return str(value)
    return value
