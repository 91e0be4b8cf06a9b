"""A server is told to end, once and again while a client still holds on to it."""

import argparse
import os
import signal
import socket
import threading
import time
from http.client import HTTPConnection

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from codi.serve import command  # noqa: E402
from codi.serve.access import Settings  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402


class Held(FakeService):
    """A queue with one job, which nobody who follows it is let go from."""

    def __init__(self, data):
        super().__init__(data)
        self.ends = None
        self.submit({"text": "a ball", "to": "image"}, "local")

    def wait_ready(self):
        return True

    def release(self):
        """Let nobody go."""


def ended(service, interrupts, capfd):
    """Serves until this process was interrupted so often; returns what `_serve` does, and stderr."""
    held = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        connection = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=30)

        def hold_on():
            while True:
                try:
                    connection.request("GET", f"/v1/jobs/{next(iter(service.jobs))}/events")
                    break
                except ConnectionRefusedError:
                    connection.close()
            held.append(connection.getresponse())
            held[0].read(1)
            for _ in range(interrupts):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)  # else the system makes one of them

        client = threading.Thread(target=hold_on, daemon=True)
        client.start()
        forced = command._serve(service, Settings(), listener, argparse.Namespace(no_page=True, root_path=""))
        client.join(30)
        connection.close()
    return forced, capfd.readouterr().err


def test_an_interrupt_lets_a_client_that_holds_on_wait_for_a_moment_only(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(command, "GRACE_SECONDS", 1)
    forced, said = ended(Held(tmp_path), 1, capfd)
    assert not forced and "Traceback" not in said and "Cancelled" not in said


def test_a_second_interrupt_ends_it_at_once_and_without_a_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(command, "GRACE_SECONDS", 60)
    forced, said = ended(Held(tmp_path), 2, capfd)
    assert forced and "Traceback" not in said and "Cancelled" not in said
