"""The fork server: a clean process that has imported what decoding needs, and forks decoding processes.

A fork of the program itself would inherit its threads, its locks and its accelerator; a fresh interpreter
takes seconds to import torch. The fork server is started once, without threads, and a worker from it costs
milliseconds. It never imports the program that started it (as `multiprocessing` would), ends when that
program ends, and takes its workers with it.

Requests come over a socket. "fork", with one end of a connection, is answered with the process id of a new
worker; "reap", with a process id, is answered with the exit code, which is negative for a signal.

This module imports nothing heavy, so that a command can start the server before it imports torch.
"""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

START_SECONDS = 300  # to import what is needed, on a busy machine
_SIZE = 4096
# What the server imports before anybody asks, by name: this module itself knows nothing of media.
LIBRARIES = ("av", "PIL.Image", "soundfile")
MODULES = ("codi.io",)


def available() -> bool:
    """Return whether this system can fork processes and hand them connections; Windows cannot."""
    return hasattr(os, "fork") and hasattr(socket, "recv_fds")


def start() -> None:
    """Start the fork server, so that it is ready when a file is to be read."""
    if available():
        ForkServer.shared()


class ForkServer:
    """The program's side of the fork server, safe to use from several threads."""

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
        self.owner = os.getpid()  # a fork of the program needs a fork server of its own
        ours, theirs = socket.socketpair()
        ours.settimeout(START_SECONDS)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "codi.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # an interrupt from the keyboard is for the program to handle
                start_new_session=True,
            )
        self._socket = ours
        self._asking = threading.Lock()

    @property
    def ended(self) -> bool:
        """Return whether the server's process has ended."""
        return self._process.poll() is not None

    def fork(self, serve: str, memory: int, libraries: Sequence[str] = ()) -> tuple[int, Connection]:
        """Start a worker.

        Args:
            serve: "module:function" of what it runs, a function of a connection and of `memory`.
            memory: bytes that the worker may take beyond what it has at its start.
            libraries: what the server imports first, so that it is there in every worker at once; one that
                does not load is left out.

        Returns:
            Its process id and the connection to it.

        Raises:
            OSError: if no worker can be started.
        """
        ours, theirs = socket.socketpair()
        request = {"fork": serve, "memory": memory, "libraries": list(libraries)}
        with theirs:
            pid = self._ask(request, [theirs.fileno()])
        return pid, Connection(ours.detach())

    def reap(self, pid: int) -> int:
        """End a worker if it still runs, and return its exit code, negative for the signal it died of."""
        return self._ask({"reap": pid})

    def _ask(self, request: dict[str, Any], handles: list[int] | None = None) -> int:
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


class Worker:
    """One process that the fork server forks, started when it is first needed and after every death.

    Args:
        serve: "module:function" of what it runs.
        memory: bytes that it may take beyond what it has at its start.
        libraries: as for `ForkServer.fork`.

    Attributes:
        pid: its process id; None while there is no process.
    """

    def __init__(self, serve: str, memory: int, libraries: Sequence[str] = ()) -> None:
        self._serve = serve
        self._memory = memory
        self._libraries = libraries
        self._owner = 0
        self.pid: int | None = None
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection to the process, which is started if it does not run."""
        if self._connection is None or self._owner != os.getpid():
            self.pid, self._connection = ForkServer.shared().fork(self._serve, self._memory, self._libraries)
            self._owner = os.getpid()
        return self._connection

    def send(self, job: Any) -> Connection:
        """Hand a job over and return the connection on which its answer will come.

        The process takes it with `received`. Where no process can be started, `OSError` is raised.
        """
        sent = (os.getcwd(), job)
        try:
            self.connection.send(sent)
        except (BrokenPipeError, ConnectionResetError):  # it died while it had nothing to do
            self.stop()
            self.connection.send(sent)
        return self.connection

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._connection is None:
            return
        if self._owner == os.getpid() and self.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                ForkServer.shared().reap(self.pid)
        self._forget()

    def bury(self) -> int:
        """Return the exit code of a process that ended by itself, negative for a signal, and forget it."""
        assert self.pid is not None, "a worker that was never started has not ended"
        try:
            code = ForkServer.shared().reap(self.pid)
        except OSError:
            code = -signal.SIGKILL  # the fork server is gone, and its workers were killed with it
        self._forget()
        return code

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.pid = self._connection = None


def received(connection: Connection) -> Any:
    """Wait for the next job that `Worker.send` hands over.

    From then on relative names start where they start in the program, which may have changed its folder since
    this process was forked.

    Args:
        connection: the worker's end.

    Returns:
        The job.

    Raises:
        EOFError: where the program has ended.
        RuntimeError: where its folder cannot be entered.
    """
    folder, job = connection.recv()
    try:
        os.chdir(folder)
    except OSError as error:  # which stands for an ended program to those who call this
        raise RuntimeError(f"the program's folder {folder} cannot be entered") from error
    return job


def limit_memory(extra: int) -> None:
    """Give a file that asks for too much memory an error instead of the machine's memory.

    Args:
        extra: bytes that this process may take beyond what it has now; on Linux alone is there such a limit.
    """
    try:
        import resource

        status = Path("/proc/self/status").read_text()
        now = int(status.split("VmData:")[1].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (now + extra, resource.RLIM_INFINITY))
    except (ImportError, OSError, IndexError, ValueError):
        pass


def main(handle: int) -> None:
    """Run the fork server: import what reading media needs, then answer requests."""
    from codi.libraries import loads

    for name in LIBRARIES:
        loads(name)
    for name in MODULES:
        import_module(name)
    with socket.socket(fileno=handle) as server:
        _attend(server)


def _attend(server: socket.socket) -> None:
    """Answer requests until the other end of the socket is gone, then end all workers."""
    from codi.libraries import loads

    workers: set[int] = set()
    while True:
        message, handles, *_ = socket.recv_fds(server, _SIZE, 1)
        if not message:
            break
        request = json.loads(message)
        if "fork" in request:
            for name in request["libraries"]:
                loads(name)
            pid = os.fork()
            if pid == 0:
                server.close()
                _work(handles[0], request["fork"], request["memory"])
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


def _work(handle: int, serve: str, memory: int) -> None:
    """Run a worker in the forked process; this never returns."""
    module, _, function = serve.partition(":")
    code = 1
    try:
        run = getattr(import_module(module), function)
        # an interrupt from the keyboard is for the program to handle, which then ends its workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to stderr by themselves
        run(Connection(handle), memory)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
