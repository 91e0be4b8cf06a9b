"""Talk to a server of `codi serve`, with the standard library alone.

A server that is full says when to come again, and one that is restarted is gone for a while: both are waited
for. What it refuses comes out as `InputError` with the server's own line.
"""

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from codi.types import InputError, WriteError

PIECE = 1 << 16
TIMEOUT = 60.0  # seconds for which a server may say nothing; while a job is made it says something every 15
PATIENCE = 120.0  # seconds for which a server that was there may be gone
PAUSE = 1.0  # seconds between tries meanwhile
GONE = (OSError, http.client.HTTPException)  # what a connection raises that breaks


class Full(Exception):
    """Says that a server takes no job now.

    Args:
        seconds: after which to come again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the server is full for {seconds:g} s")
        self.seconds = seconds


class Missing(InputError):
    """Says that a server has no such job."""


@dataclass
class Answer:
    """What a server answered: its status, its headers by lower-case names, and its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, read as JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise InputError(
                "the server answers with something else than JSON: expected one of `codi serve` at --server"
            ) from None


@dataclass
class Client:
    """A server, and how it is reached.

    Attributes:
        url: where it is, such as http://127.0.0.1:7860.
        token: what it asks for, if it asks for one.
        seen: whether it has answered; one that has is waited for when it is gone.
    """

    url: str
    token: str | None = None
    seen: bool = False
    _place: Any = field(init=False)

    def __post_init__(self) -> None:
        """Raise `InputError` for what is no address of a server."""
        try:
            self._place = urlsplit(self.url if "//" in self.url else f"//{self.url}", scheme="http")
            port = self._place.port
        except ValueError:
            port = -1
        if port == -1 or self._place.scheme not in ("http", "https") or not self._place.hostname:
            raise InputError(f"--server {self.url!r}: expected an address such as http://127.0.0.1:7860")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise InputError("--token: expected a token without spaces, as the server has it")

    def submit(self, line: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        """Put a job into the queue.

        Args:
            line: the job, whose names of files are keys of `files`.
            files: what is uploaded.

        Returns:
            The job as the server has it.

        Raises:
            InputError: if the server refuses it.
            Full: if it takes none now.
        """
        text = json.dumps(line).encode()
        if not files:
            return self._asked("POST", "/v1/jobs", text, {"Content-Type": "application/json"}).json()
        form = _Form(text, files)
        return self._asked("POST", "/v1/jobs", form, form.headers).json()

    def job(self, id_: str) -> dict[str, Any]:
        """Return a job; `Missing` is raised if it is not there."""
        return self._asked("GET", f"/v1/jobs/{quote(id_, safe='')}").json()

    def cancel(self, id_: str) -> None:
        """Cancel a job; one that is gone is cancelled."""
        with contextlib.suppress(Missing):
            self._asked("POST", f"/v1/jobs/{quote(id_, safe='')}/cancel")

    def events(self, id_: str, seconds: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the kind and the data of each event of a job, until its last one or the time is over.

        Args:
            id_: the job.
            seconds: how long to listen; None for as long as it takes.

        Yields:
            Events. A stream that breaks is taken up where it broke.
        """
        until = None if seconds is None else time.monotonic() + seconds
        last = ""
        while True:
            for number, kind, data in self._stream(id_, last, until):
                last = number
                yield kind, data
                if kind in ("done", "failed", "cancelled"):
                    return
            if (until is not None and time.monotonic() >= until) or self.job(id_)["ended"] is not None:
                return
            time.sleep(PAUSE / 4)

    def _stream(self, id_: str, last: str, until: float | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield number, kind and data of the events of one connection; one that breaks just ends."""
        headers = {"Last-Event-ID": last} if last else {}
        with self._connection() as connection:
            try:
                path = f"/v1/jobs/{quote(id_, safe='')}/events"
                self._send(connection, "GET", path, None, headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    return  # what is wrong, asking for the job will tell
                sock = connection.sock
                found: dict[str, str] = {}
                while True:
                    if until is not None and sock is not None:
                        sock.settimeout(max(0.05, min(TIMEOUT, until - time.monotonic())))
                    line = answer.readline()
                    if not line:
                        return
                    name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                    if name:
                        found[name] = value.removeprefix(" ")
                    elif "data" in found:
                        yield found.get("id", ""), found.get("event", ""), json.loads(found["data"])
                    if not name and not value:
                        found = {}
                    if until is not None and time.monotonic() >= until:
                        return
            except (*GONE, ValueError):
                return

    def download(self, url: str, path: Path) -> str:
        """Write a file of a job into a new file here, and return its sha256.

        Args:
            url: where it is, from the root of the server.
            path: the file.

        Returns:
            The sha256, in hexadecimal digits.

        Raises:
            InputError: if it is not there, or cannot be written.
        """
        for _ in self._tries():
            digest = hashlib.sha256()
            with self._connection() as connection:
                try:
                    self._send(connection, "GET", url, None, {})
                    answer = connection.getresponse()
                    if answer.status != 200:
                        raise _refusal(_read(answer))
                    length = int(answer.headers.get("Content-Length", -1))
                except GONE:
                    continue
                with _writing(path), open(path, "wb") as file:
                    while piece := _piece(answer):
                        digest.update(piece)
                        file.write(piece)
                    if file.tell() == length:
                        return digest.hexdigest()
        raise AssertionError("the tries end with an error")

    def _asked(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to a request, or raise what the server says against it."""
        for _ in self._tries():
            with self._connection() as connection:
                try:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        # a server that refuses an upload closes it; its answer may be there all the same
                        self._send(connection, method, path, body, headers or {})
                    answer = _read(connection.getresponse())
                except GONE:
                    continue
            self.seen = True
            if answer.status < 300:
                return answer
            if answer.status == 429:
                raise Full(_seconds(answer.headers.get("retry-after")))
            if answer.status == 503:
                continue
            raise _refusal(answer)
        raise AssertionError("the tries end with an error")

    def _tries(self) -> Iterator[None]:
        """Yield until a server has been gone for too long; one that never was there is not waited for."""
        began = time.monotonic()
        while True:
            yield
            if not self.seen or time.monotonic() - began > PATIENCE:
                raise InputError(
                    f"no answer from {self.url}: expected a server there, which `codi serve` starts; "
                    "--server says where it is"
                )
            time.sleep(PAUSE)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        """Yield a connection, which is closed afterwards."""
        host, port = self._place.hostname, self._place.port
        connection: http.client.HTTPConnection
        if self._place.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port or 443, timeout=TIMEOUT, context=context)
        else:
            connection = http.client.HTTPConnection(host, port or 80, timeout=TIMEOUT)
        try:
            yield connection
        finally:
            connection.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
    ) -> None:
        sent = {"User-Agent": "codi", **headers}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        connection.request(method, self._place.path.rstrip("/") + path, body, sent)


class _Form:
    """A form with the JSON of a job and files, which is read from the disk while it is sent."""

    def __init__(self, request: bytes, files: Mapping[str, Path]) -> None:
        boundary = secrets.token_hex(16)
        self._parts: list[tuple[bytes, bytes | Path]] = []
        self._parts.append((_part(boundary, 'name="request"', "application/json"), request))
        for name, path in files.items():
            what = f'name="{name}"; filename="{name}"'
            self._parts.append((_part(boundary, what, "application/octet-stream"), path))
        self._end = f"--{boundary}--\r\n".encode()
        length = len(self._end)
        for head, content in self._parts:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            length += len(head) + size + 2
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(length),
        }

    def __iter__(self) -> Iterator[bytes]:
        for head, content in self._parts:
            yield head
            if isinstance(content, bytes):
                yield content
            else:
                with open(content, "rb") as file:
                    while piece := file.read(PIECE):
                        yield piece
            yield b"\r\n"
        yield self._end


def _part(boundary: str, what: str, kind: str) -> bytes:
    """Return what stands before the content of a part of a form."""
    lines = (f"--{boundary}", f"Content-Disposition: form-data; {what}", f"Content-Type: {kind}", "", "")
    return "\r\n".join(lines).encode()


def _read(answer: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, headers, answer.read())


def _piece(answer: http.client.HTTPResponse) -> bytes:
    """Return the next piece of a body; nothing where the connection broke."""
    try:
        return answer.read(PIECE)
    except GONE:
        return b""


def _refusal(answer: Answer) -> InputError:
    """Return the error for an answer that is one."""
    try:
        message = json.loads(answer.body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "it is no server of `codi serve`"
    error = Missing if answer.status == 404 else InputError
    return error(f"the server answers {answer.status}: {message}")


def _seconds(text: str | None) -> float:
    """Return what Retry-After says, within what is sensible."""
    try:
        return min(max(float(text or 5), 0.1), 600.0)
    except ValueError:
        return 5.0


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from None
