"""Read the body of a request: JSON, or JSON and files, counted while it comes and kept nowhere afterwards.

Files go straight to disk, into a folder of the request that is gone when the request is answered, whether it
was whole or not. No name that comes from outside becomes a name on this disk.
"""

import asyncio
import math
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from codi.jobs import read_json
from codi.serve.access import Settings
from codi.serve.errors import Refused, later
from codi.serve.limits import Limits
from codi.serve.uploads import check_name
from codi.types import InputError

REQUEST = "request"  # the part of a form that holds the JSON
DEEPEST = 32  # how deep JSON may be nested
LARGEST = 2**63  # beyond any whole number that is asked for
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
CLOSE = {"Connection": "close"}  # the rest of the body is not read
ENVELOPE = 4096  # bytes of a form around each of its parts


@dataclass(kw_only=True)
class Body:
    """What a request held.

    Attributes:
        fields: the texts of a form by name, or the JSON under `REQUEST`, undecoded.
        files: files by the names of their parts.
        folder: where they are; None for a request that is not to have files.
    """

    fields: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    folder: Path | None = None


class Bodies:
    """Reads bodies, and has the folder in which uploads lie meanwhile.

    Args:
        folder: the folder; what a server that was killed left in it is removed.
        limits: how large anything may be.
        settings: how long and how many may be read.
    """

    def __init__(self, folder: Path, limits: Limits, settings: Settings) -> None:
        self.folder = folder
        self.limits = limits
        self.settings = settings
        self._reading = 0
        shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def read(self, request: Request, files: bool = True) -> AsyncIterator[Body]:
        """Yield the body of a request; its files are gone afterwards, but for those that were moved away.

        Args:
            request: the request, of which nothing was read yet.
            files: whether it may be a form with files.

        Yields:
            The body.

        Raises:
            Refused: for a body that is too large, of another kind, or cut short.
        """
        kind, options = _kind(request)
        if files and kind == "multipart/form-data":
            with self._counted(), self._new_folder() as folder:
                body = Body(folder=folder)
                await self._read_form(request, options, body)
                yield body
        elif kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
            with self._new_folder() if files else _no_folder() as folder:
                text = await self._read_all(request)
                yield Body(fields={REQUEST: text}, folder=folder)
        else:
            wanted = "application/json or multipart/form-data" if files else "application/json"
            raise Refused(415, f"Content-Type is {kind[:80]!r}: expected {wanted}", headers=CLOSE)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the requests whose files are being read, so that they cannot fill the disk together."""
        if self._reading >= self.settings.uploads_at_once:
            refusal = later(5, "too many uploads at once: try again later", "uploads_full")
            refusal.headers |= CLOSE
            raise refusal
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    @contextmanager
    def _new_folder(self) -> Iterator[Path]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            yield Path(name)

    async def _read_all(self, request: Request) -> bytes:
        """Return a body that may not be larger than JSON is."""
        found = bytearray()
        async for chunk in self._chunks(request, self.limits.max_request_bytes):
            found += chunk
        return bytes(found)

    async def _read_form(self, request: Request, options: Mapping[bytes, bytes], body: Body) -> None:
        """Read a form into a body."""
        limits = self.limits
        form = _Form(body, limits)
        boundary = options.get(b"boundary")
        if not boundary:
            raise Refused(400, "a form without a boundary: expected one in Content-Type", headers=CLOSE)
        most = limits.max_request_bytes + (limits.max_uploads + 1) * ENVELOPE
        most += limits.max_uploads * limits.max_upload_bytes
        try:
            parser = MultipartParser(boundary, form.callbacks)
            async for chunk in self._chunks(request, most):
                parser.write(chunk)
            parser.finalize()
        except FormParserError as error:
            raise Refused(400, f"the form cannot be read: {error}", headers=CLOSE) from None
        finally:
            form.close()
        if not form.ended:
            raise Refused(400, "the form ends before its last boundary: expected all of it", headers=CLOSE)

    async def _chunks(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Yield the pieces of a body of at most so many bytes, as they come."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "Content-Encoding is given: expected a plain body", headers=CLOSE)
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise Refused(400, "Content-Length is no number: expected the size of the body", headers=CLOSE)
        if len(length) > 18 or int(length) > most:
            raise _too_large(most, "the body")
        pieces = request.stream()
        count = 0
        while True:
            try:
                async with asyncio.timeout(self.settings.stall):
                    chunk = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"nothing came for {self.settings.stall:g} s: expected the rest of the body"
                raise Refused(400, message, headers=CLOSE) from None
            count += len(chunk)
            if count > most:
                raise _too_large(most, "the body")
            yield chunk


class _Form:
    """Puts the parts of a form where they belong while they are read."""

    def __init__(self, body: Body, limits: Limits) -> None:
        self.body = body
        self.limits = limits
        self.ended = False
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._texts = 0  # bytes of all parts that are no files
        self._file: IO[bytes] | None = None
        self._size = 0

    @property
    def callbacks(self) -> Any:
        """What the parser calls."""
        names = (
            "part_begin part_data part_end header_field header_value header_end headers_finished end".split()
        )
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def close(self) -> None:
        """Close the file that is being written, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part_begin(self) -> None:
        self._disposition = b""
        self._text = bytearray()
        self._size = 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        """Open a file for a part that is one."""
        _, options = parse_options_header(self._disposition)
        try:
            self._name = options.get(b"name", b"").decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(400, "the name of a part is not UTF-8", headers=CLOSE) from None
        _check_name(self._name)
        if self._name in self.body.fields or self._name in self.body.files:
            raise Refused(400, f"two parts are named {self._name!r}: expected one", headers=CLOSE)
        if b"filename" not in options or self._name == REQUEST:
            return
        if len(self.body.files) >= self.limits.max_uploads:
            most = self.limits.max_uploads
            raise Refused(413, f"more than {most} files: expected at most {most}", headers=CLOSE)
        path = new_file(self.body, self._name)
        self._file = open(path, "xb")  # noqa: SIM115  # closed at the end of the part, or by `close`

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._texts += end - start
            if self._texts > self.limits.max_request_bytes:
                raise _too_large(self.limits.max_request_bytes, "the parts that are no files")
            self._text += data[start:end]
            return
        self._size += end - start
        if self._size > self.limits.max_upload_bytes:
            raise _too_large(self.limits.max_upload_bytes, f"the file {self._name!r}")
        self._file.write(data[start:end])

    def _part_end(self) -> None:
        if self._file is None:
            if len(self.body.fields) > 64:
                raise Refused(400, "more than 64 fields: expected a few", headers=CLOSE)
            self.body.fields[self._name] = bytes(self._text)
        self.close()

    def _end(self) -> None:
        self.ended = True


def new_file(body: Body, name: str) -> Path:
    """Return the path of a new file of a body; of its name only an ordinary suffix is on the disk."""
    assert body.folder is not None, "this request has no files"
    suffix = Path(name).suffix
    plain = suffix.lower() if SUFFIX.fullmatch(suffix) else ""
    path = body.folder / f"{len(body.files):03d}{plain}"
    body.files[name] = path
    return path


def _check_name(name: str) -> None:
    """Raise `Refused` for what can be no name of a part."""
    try:
        check_name(name)
    except InputError as error:
        raise Refused(400, str(error), code="bad_name", headers=CLOSE) from None


def parsed(text: bytes) -> dict[str, Any]:
    """Return a JSON object, strictly read.

    Args:
        text: the JSON in UTF-8.

    Returns:
        The object.

    Raises:
        Refused: for what is no JSON, and for what JSON takes but nobody can mean.
    """
    try:
        value = read_json(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8: expected a JSON object") from None
    except InputError as error:
        raise Refused(400, str(error)) from None
    if not isinstance(value, dict):
        raise Refused(400, f"the body is a JSON {type(value).__name__}: expected an object")
    _check(value)
    return value


def _check(value: Any) -> None:
    """Raise `Refused` for values that no part of a request can be."""
    left = [(value, 1)]
    while left:
        inner, depth = left.pop()
        if depth > DEEPEST:
            raise Refused(400, f"the JSON is nested more than {DEEPEST} deep: expected a job")
        if isinstance(inner, dict):
            left += [(each, depth + 1) for each in (*inner, *inner.values())]
        elif isinstance(inner, list):
            left += [(each, depth + 1) for each in inner]
        elif isinstance(inner, str):
            _check_text(inner)
        elif isinstance(inner, float) and not math.isfinite(inner):
            raise Refused(400, "a number is beyond all numbers: expected a finite one")
        elif isinstance(inner, int) and abs(inner) >= LARGEST:
            raise Refused(400, f"a number has {len(str(inner))} digits: expected one below 2**63")


def _check_text(text: str) -> None:
    """Raise `Refused` for a text that cannot be written down."""
    if "\0" in text:
        raise Refused(400, f"the text {text[:40]!r} has a null byte: expected none")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(400, f"the text {ascii(text[:40])} has half a pair of surrogates") from None


def _kind(request: Request) -> tuple[str, Mapping[bytes, bytes]]:
    """Return the media type of a body and its parameters."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").lower(), options


@contextmanager
def _no_folder() -> Iterator[None]:
    yield None


def _too_large(most: int, what: str) -> Refused:
    size = f"{most >> 20} MB" if most >= 1 << 20 else f"{most} bytes"
    return Refused(
        413, f"{what} has more than {size}: expected at most that", code="too_large", headers=CLOSE
    )
