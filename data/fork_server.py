"""Where decoding processes come from: one clean process that has imported what they need, and forks.

A fork of the training process itself would inherit its threads, its locks and its accelerator; a fresh
interpreter takes seconds to import torch. The nursery is started once, without threads, and a worker from it
costs milliseconds. It never imports the program that started it (as `multiprocessing` would), ends when that
one does, and takes its workers with it.

Over a socket it is told "fork" with one end of a connection, and answers with the process id; or "reap" and
an id, and answers with the exit code, negative for a signal.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

START_SECONDS = 300  # to import what is needed, on a busy machine
_SIZE = 4096


class ForkServer:
    """The side of the process that trains. Safe to use from several threads."""

    _shared: "ForkServer | None" = None
    _lock = threading.Lock()

    @classmethod
    def shared(cls) -> "ForkServer":
        """The one of this process, started when it is first asked for, or again if it was ended."""
        with cls._lock:
            if cls._shared is None or cls._shared.ended or cls._shared.owner != os.getpid():
                cls._shared = cls()
            return cls._shared

    def __init__(self) -> None:
        self.owner = os.getpid()  # a fork of the training process needs a nursery of its own
        ours, theirs = socket.socketpair()
        ours.settimeout(START_SECONDS)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "data.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # an interrupt from the keyboard is for the training process to handle
                start_new_session=True,
            )
        self._socket, self._asking = ours, threading.Lock()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def fork(self, memory: int) -> tuple[int, Connection]:
        """A new worker: its process id and the connection to it. Raises OSError if there is none
        to be had.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._ask({"fork": memory}, [theirs.fileno()])
        return pid, Connection(ours.detach())

    def reap(self, pid: int) -> int:
        """Ends a worker if it is still there; returns its exit code, negative for the signal it died of."""
        return self._ask({"reap": pid})

    def _ask(self, request: dict[str, int], handles: list[int] | None = None) -> int:
        with self._asking:
            try:
                self._socket.sendmsg([json.dumps(request).encode()], _ancillary(handles or []))
                answer = self._socket.recv(_SIZE)
            except ConnectionError:
                answer = b""
        if not answer:
            raise OSError(f"the process that starts decoders ended (exit code {self._process.poll()})")
        return int(answer)


def _ancillary(handles: list[int]) -> list[Any]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))] if handles else []


def main(handle: int) -> None:
    """The life of the nursery."""
    import av  # noqa: F401
    import PIL.Image  # noqa: F401
    import soundfile  # noqa: F401

    from codi.io.frames import choose_backend
    from codi.libraries import loads

    loads("torchaudio")  # what resamples sounds: children are to find it loaded

    if choose_backend("auto") == "decord":
        import decord  # noqa: F401
    with socket.socket(fileno=handle) as server:
        _attend(server)


def _attend(server: socket.socket) -> None:
    workers: set[int] = set()
    while True:
        message, handles, *_ = socket.recv_fds(server, _SIZE, 1)
        if not message:
            break
        request = json.loads(message)
        if "fork" in request:
            if (pid := os.fork()) == 0:
                server.close()
                _work(handles[0], request["fork"])
            workers.add(pid)
            os.close(handles[0])
            answer = pid
        else:
            answer = _reap(request["reap"])
            workers.discard(request["reap"])
        server.send(str(answer).encode())
    for pid in workers:
        _reap(pid)


def _reap(pid: int) -> int:
    """Waits for a process that has ended or is about to, then no longer."""
    for pause in (0, 0.01, 0.1, 0.5):
        time.sleep(pause)
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # the worker of a nursery that was ended
            return -signal.SIGKILL
        if done:
            return os.waitstatus_to_exitcode(status)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(handle: int, memory: int) -> None:
    """A worker's whole life; never returns."""
    from data.workers import serve

    code = 1
    try:
        serve(Connection(handle), memory)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
