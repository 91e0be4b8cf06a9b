"""The process that makes what a server is asked for: it loads the models once, and takes what fits together.

It is started by `codi.serve.link` and speaks with it alone. One thread takes messages, one checks whether
jobs can be made and makes masks, and the main thread makes jobs. When the server goes away, even by being
killed, this process ends at once.

    from the server                        to the server
    ("settings", {...})                    ("ready", [model, ...]) or ("unusable", why)
    ("check" | "mask", number, {...})      ("answer", number, {...})
    ("make", [job, ...])                   ("progress" | "preview", id, {...}), ...
                                           ("done" | "failed" | "cancelled", id, {...}), ("idle", {...})
    ("cancel", id), ("watch", id, bool)
    ("stop",)
"""

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from codi.failures import OUT_OF_MEMORY, is_of_memory
from codi.types import InputError


class Worker:
    """The process: its connection, and what it is still to do.

    Args:
        connection: leads to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._questions: queue.SimpleQueue[tuple[str, int, dict[str, Any]]] = queue.SimpleQueue()
        self._batches: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
        self._state = threading.Lock()
        self._cancelled: set[str] = set()
        self._watched: set[str] = set()

    def send(self, *message: Any) -> None:
        """Send a message; where nobody is there any more, this process ends."""
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(0)

    def is_cancelled(self, id_: str) -> bool:
        """Return whether a job is wanted no more."""
        with self._state:
            return id_ in self._cancelled

    def is_watched(self, id_: str) -> bool:
        """Return whether anybody looks at a job."""
        with self._state:
            return id_ in self._watched

    def run(self) -> None:
        """Load what the server names, and make what it sends, until it goes away."""
        kind, settings = self._connection.recv()
        assert kind == "settings", kind
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        os.chdir(settings["inputs"])  # so that names in records and messages begin at the folder of a job
        from codi.serve.making import Maker
        from codi.serve.reports import log

        try:
            maker = Maker(settings, self)
            described = maker.described()
        except InputError as error:
            self.send("unusable", str(error))
            return
        except (MemoryError, RuntimeError, OSError) as error:
            log(error)
            why = OUT_OF_MEMORY if is_of_memory(error) else f"{type(error).__name__}: {error}"
            self.send("unusable", " ".join(f"the models cannot be loaded: {why}".split()))
            return
        threading.Thread(target=self._answer, args=(maker,), name="answer", daemon=True).start()
        self.send("ready", described)
        while True:
            batch = self._batches.get()
            took = maker.make(batch)
            with self._state:
                self._cancelled.clear()
            self.send("idle", took)

    def _listen(self) -> None:
        """Take messages."""
        while True:
            try:
                kind, *rest = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if kind == "stop":
                os._exit(0)
            elif kind in ("check", "mask"):
                self._questions.put((kind, rest[0], rest[1]))
            elif kind == "make":
                with self._state:
                    self._watched.update(job["id"] for job in rest[0] if job["watched"])
                self._batches.put(rest[0])
            elif kind == "cancel":
                with self._state:
                    self._cancelled.add(rest[0])
            elif kind == "watch":
                with self._state:
                    (self._watched.add if rest[1] else self._watched.discard)(rest[0])

    def _answer(self, maker: Any) -> None:
        """Answer whether jobs can be made, and make masks."""
        while True:
            kind, number, what = self._questions.get()
            self.send("answer", number, maker.check(what) if kind == "check" else maker.mask(what))


def main(handle: int) -> None:
    """Run the process with the connection that has this handle."""
    from codi.start_up import wait_passively

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wait_passively()
    Worker(Connection(handle)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
