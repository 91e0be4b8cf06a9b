"""Collect SIGINT and SIGTERM instead of dying of them, so that a step ends and a checkpoint is written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect signals while the context lasts; a second SIGINT interrupts at once.

    Yields:
        The list of signals received so far.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
