"""The process that makes what is asked for, as the server sees it: started, spoken to, started again.

It is a process of its own, so that whatever a job does to it (a crash in native code, memory) leaves the
server alive. Server and process send each other tuples over a socket; both are ours.
"""

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from codi.types import InputError

CHECK_SECONDS = 120.0  # until the process has to answer whether it can make a job
PAUSES = (0.0, 0.5, 2.0, 10.0, 30.0)  # seconds before it is started again, after so many starts in vain
STOP_SECONDS = 2.0


@dataclass
class _Question:
    """A question whose answer is waited for."""

    answered: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] | None = None


class Link:
    """The server's end of the connection to the process that makes.

    Args:
        settings: what the process is told at its start: models, device, precision, folder.
        handle: is called with every message about jobs, one after another.
        died: is called when the process has ended by itself, before it is started again.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        handle: Callable[[tuple[Any, ...]], Any],
        died: Callable[[], Any],
    ) -> None:
        self._settings = settings
        self._handle = handle
        self._died = died
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codi-serve-link", daemon=True)
        self.models: list[dict[str, Any]] = []
        self.ready = False
        self.starts = 0
        self.unusable: str | None = None  # why the process cannot do anything

    @property
    def pid(self) -> int | None:
        """The id of the process; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the process, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            process = self._process
        if process is not None:
            self.send("stop")
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS * 2)

    def kill(self) -> None:
        """End the process in the middle of what it does; another one is started."""
        with self._changed:
            process = self._process
        if process is not None:
            process.kill()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the process has loaded its models, and return whether it has.

        Args:
            timeout: seconds; None for as long as it takes.

        Returns:
            Whether it can make jobs.

        Raises:
            InputError: if it cannot load a model, with the reason.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.ready or self.unusable or self._stopping.is_set(), timeout)
            if self.unusable:
                raise InputError(self.unusable)
            return self.ready

    def send(self, *message: Any) -> bool:
        """Send a message, and return whether there was a process to send it to."""
        with self._sending:
            connection = self._connection
            if connection is None:
                return False
            try:
                connection.send(message)
            except OSError:
                return False
            return True

    def check(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return what the process says of a job that is to be taken.

        Args:
            job: its id, line and model.

        Returns:
            What `codi.serve.making.Maker.check` does.

        Raises:
            InputError: with the reason why it cannot be made.
            TimeoutError: if the process does not answer.
        """
        return self._ask("check", job)

    def mask(self, painted: dict[str, Any]) -> bool:
        """Let the process make a mask of what was painted, and return whether anything was.

        Args:
            painted: the arguments of `codi.serve.masks.write_mask`, by their names.

        Returns:
            Whether there is a mask.

        Raises:
            InputError: if what was painted cannot be read.
            TimeoutError: if the process does not answer.
        """
        return bool(self._ask("mask", painted)["painted"])

    def _ask(self, kind: str, what: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a question; raise `InputError` for an error in it."""
        for _ in range(3):  # a process that dies meanwhile is started again
            if not self.wait_ready(CHECK_SECONDS):
                break
            question, number = _Question(), next(self._numbers)
            with self._lock:
                self._questions[number] = question
            try:
                if self.send(kind, number, what):
                    question.answered.wait(CHECK_SECONDS)
            finally:
                with self._lock:
                    self._questions.pop(number, None)
            if question.answer is not None:
                if question.answer.get("error"):
                    raise InputError(question.answer["error"])
                return question.answer
        raise TimeoutError("the process that makes media does not answer")

    # The thread that starts it and listens to it

    def _run(self) -> None:
        in_vain = 0
        while not self._stopping.is_set():
            connection = self._begin()
            self._listen(connection)
            in_vain = 0 if self.ready else in_vain + 1
            self._end()
            if self._stopping.is_set() or self.unusable:
                return
            self._died()
            self._stopping.wait(PAUSES[min(in_vain, len(PAUSES) - 1)])

    def _begin(self) -> Connection:
        """Start the process and return the connection to it."""
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "codi.serve.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the keyboard is for the server to handle
            )
        connection = Connection(ours.detach())
        with self._changed, self._sending:
            self._process, self._connection = process, connection
            self.starts += 1
        if self._stopping.is_set():
            process.kill()
        else:
            self.send("settings", self._settings)
        return connection

    def _listen(self, connection: Connection) -> None:
        """Take messages until the process ends."""
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                return
            kind = message[0]
            if kind == "ready":
                with self._changed:
                    self.models, self.ready = message[1], True
                    self._changed.notify_all()
            elif kind == "unusable" and not self.models:  # once they were loaded, they will be again
                with self._changed:
                    self.unusable = message[1]
                    self._changed.notify_all()
            if kind == "answer":
                with self._lock:
                    question = self._questions.get(message[1])
                if question is not None:
                    question.answer = message[2]
                    question.answered.set()
            elif not self._stopping.is_set():
                self._handle(message)

    def _end(self) -> None:
        """Forget a process that has ended, or ends now because it does not speak any more."""
        with self._changed, self._sending:
            process, connection = self._process, self._connection
            self._process = self._connection = None
            self.ready = False
            questions = list(self._questions.values())
            self._changed.notify_all()
        if connection is not None:
            connection.close()
        if process is not None:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for question in questions:
            question.answered.set()


def _has_fileno(stream: Any) -> bool:
    """Return whether a stream is one of the system's, which a process can be given."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False
