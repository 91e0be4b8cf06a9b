"""The fork server: a clean process that has imported what decoding needs, and forks decoding processes.

A fork of the training process itself would inherit its threads, its locks and its accelerator; a fresh
interpreter takes seconds to import torch. The fork server is started once, without threads, and a worker from
it costs milliseconds. It never imports the program that started it (as `multiprocessing` would), ends when
that program ends, and takes its workers with it.

Requests come over a socket. "fork", with one end of a connection, is answered with the process id of a new
worker; "reap", with a process id, is answered with the exit code, which is negative for a signal.
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
    """The training process's side of the fork server, safe to use from several threads."""

    _shared: "ForkServer | None" = None
    _lock = threading.Lock()

    @classmethod
    def shared(cls) -> "ForkServer":
        """Return the fork server of this process, after starting it if none is running."""
        with cls._lock:
            if cls._shared is None or cls._shared.ended or cls._shared.owner != os.getpid():
                cls._shared = cls()
            return cls._shared

    def __init__(self) -> None:
        self.owner = os.getpid()  # a fork of the training process needs a fork server of its own
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
        self._socket = ours
        self._asking = threading.Lock()

    @property
    def ended(self) -> bool:
        """Return whether the server's process has ended."""
        return self._process.poll() is not None

    def fork(self, memory: int) -> tuple[int, Connection]:
        """Start a worker.

        Args:
            memory: bytes that the worker may take beyond what it has at its start.

        Returns:
            Its process id and the connection to it.

        Raises:
            OSError: if no worker can be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._ask({"fork": memory}, [theirs.fileno()])
        return pid, Connection(ours.detach())

    def reap(self, pid: int) -> int:
        """End a worker if it still runs, and return its exit code, negative for the signal it died of."""
        return self._ask({"reap": pid})

    def _ask(self, request: dict[str, int], handles: list[int] | None = None) -> int:
        """Send a request and return the number that answers it, or raise OSError if the server has ended."""
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
    """Return file descriptors as the ancillary data of a socket message."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))] if handles else []


def main(handle: int) -> None:
    """Run the fork server: import what decoding needs, then answer requests."""
    import av  # noqa: F401
    import PIL.Image  # noqa: F401
    import soundfile  # noqa: F401

    from codi.io.frames import choose_backend
    from codi.libraries import loads

    loads("torchaudio")  # it resamples sounds; loaded here, it is there in every worker at once

    if choose_backend("auto") == "decord":
        import decord  # noqa: F401
    with socket.socket(fileno=handle) as server:
        _attend(server)


def _attend(server: socket.socket) -> None:
    """Answer requests until the other end of the socket is gone, then end all workers."""
    workers: set[int] = set()
    while True:
        message, handles, *_ = socket.recv_fds(server, _SIZE, 1)
        if not message:
            break
        request = json.loads(message)
        if "fork" in request:
            pid = os.fork()
            if pid == 0:
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
    """Wait a short time for a process to end, kill it if it does not, and return its exit code."""
    for pause in (0, 0.01, 0.1, 0.5):
        time.sleep(pause)
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # the worker of a fork server that was ended
            return -signal.SIGKILL
        if done:
            return os.waitstatus_to_exitcode(status)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(handle: int, memory: int) -> None:
    """Run a worker in the forked process; this never returns."""
    from data.worker import serve

    code = 1
    try:
        serve(Connection(handle), memory)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
