"""Say who may ask a server for what: tokens and their owners, hosts, origins, and this machine alone.

A server without tokens serves its own machine only. Web pages that a browser on this machine shows could
still reach it, so it answers under names of this machine alone (a page that points its own name here, by DNS
rebinding, is refused), and nothing can be changed by a page from elsewhere. A server with tokens asks
everybody for one, this machine too: behind a reverse proxy every request comes from this machine.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codi.serve.errors import Refused, as_response
from codi.types import InputError

LOCAL = "local"  # the owner of jobs on a server without tokens, and of the token of --token
SHORTEST = 8  # characters of a token
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
OPEN = frozenset({"/v1/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"})  # say nothing of anybody
NOSNIFF = (b"x-content-type-options", b"nosniff")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server lets whom do over HTTP.

    Attributes:
        tokens: the owner of each token; empty for a server that serves its own machine alone.
        hosts: further names by which browsers may call the server, such as that of a reverse proxy.
        cors: origins, such as "https://app.example", whose pages may read answers.
        allow_urls: hosts, such as "media.example" or "media.example:8443", from which prompts that are given
            as https addresses are fetched.
        uploads_at_once: requests with files that are read at the same time.
        stall: seconds for which a body may stop coming.
        wait: seconds for which a request in OpenAI's shape waits for its result.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    uploads_at_once: int = 8
    stall: float = 30.0
    wait: float = 600.0


def read_tokens(token: str | None = None, file: str | Path | None = None) -> dict[str, str]:
    """Return the owner of each token that the command line gives.

    Args:
        token: one token, whose owner is the same as on a server without tokens.
        file: a file with a line `name:token` for each; lines that are empty or begin with # do not count.

    Returns:
        The owner of each token.

    Raises:
        InputError: for a file that cannot be read, a line of another form, and a token that comes twice.
    """
    found: dict[str, str] = {}
    if token is not None:
        _add(found, token, LOCAL, "--token")
    if file is None:
        return found
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file} cannot be read ({error}): expected lines name:token") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        origin = f"{file} line {number}"
        name, sign, value = line.strip().partition(":")
        if not sign or not NAME.fullmatch(name):
            raise InputError(
                f"{origin}: expected name:token, the name of letters, digits, '.', '_', '@', '-'"
            )
        _add(found, value, name, origin)
    if not found:
        raise InputError(f"{file} holds no token: expected lines name:token")
    return found


def _add(tokens: dict[str, str], token: str, owner: str, origin: str) -> None:
    """Add a token, of which no message shows more than that it is wrong."""
    if len(token) < SHORTEST or not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            f"{origin}: expected a token of at least {SHORTEST} letters, digits and signs without spaces, "
            "such as `openssl rand -hex 24` prints"
        )
    if token in tokens:
        raise InputError(f"{origin}: this token is there twice; expected another one for each name")
    tokens[token] = owner


def owner_of(request: Any) -> str:
    """Return the owner that a request was let in as.

    Args:
        request: a request of Starlette or FastAPI, or one of Gradio, which holds such a request.

    Returns:
        The name of the owner.
    """
    state = getattr(request, "request", request).scope.get("state", {})
    owner = state.get("owner")
    assert owner, "a request came past the guard"
    return owner


class Guard:
    """An ASGI application around another, which lets requests in or answers why not.

    Args:
        app: the application inside; it finds the owner of a request by `owner_of`.
        settings: what is allowed.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        # Digests are equally long, so that comparing them takes equally long for every token.
        self._owners = [(_digest(token), owner) for token, owner in settings.tokens.items()]
        self._hosts = {name.lower() for name in settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            owner = self._admit(scope)
        except Refused as refusal:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await as_response(refusal)(scope, receive, send)
            return
        inner = {**scope, "state": {**scope.get("state", {}), "owner": owner}}
        await self.app(inner, receive, _as_it_is(send))

    def _admit(self, scope: Scope) -> str:
        """Return the owner of a request, or raise `Refused`."""
        headers = _headers(scope)
        host = self._check_host(headers.get("host", ""))
        if scope["type"] == "websocket" or scope["method"] not in SAFE:
            self._check_origin(headers, host)
        if not self.settings.tokens:
            return self._this_machine(scope)
        if owner := self._owner(headers.get("authorization", "")):
            return owner
        if _path_of(scope) in OPEN:
            return ""
        raise _unauthorized(headers)

    def _check_host(self, host: str) -> str:
        """Return the Host of a request; raise `Refused` for one that a page from elsewhere may have brought.

        With tokens every name is fine: a page from elsewhere has no token, whatever its name points to.
        """
        name = host_name(host)
        if name is None:
            raise Refused(400, "the header Host is missing or no host: expected the name of this server")
        allowed = is_loopback(name) or name in self._hosts
        if not allowed and (self._hosts or not self.settings.tokens):
            raise Refused(
                403,
                f"this server does not answer as {name[:80]}: call it by the name of this machine, or start "
                "it with --allow-host",
                code="host_not_allowed",
            )
        return host.lower()

    def _check_origin(self, headers: Mapping[str, str], host: str) -> None:
        """Raise `Refused` for a request that a page of another origin sends."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return  # no browser, or the page itself
        elif origin in self.settings.cors:
            return
        else:
            place = urlsplit(origin).netloc.lower()
            if place == host or (place and host_name(place) in self._hosts):
                return
        raise Refused(
            403,
            "this request comes from a page of another origin: start the server with --cors ORIGIN",
            code="origin_not_allowed",
        )

    def _this_machine(self, scope: Scope) -> str:
        """Return the owner of what this machine asks for; raise `Refused` for another machine."""
        client = scope.get("client")
        if client is None or is_loopback(client[0]):  # None: a Unix socket
            return LOCAL
        if _path_of(scope) in OPEN:
            return ""
        raise Refused(
            401,
            "this server has no tokens and serves its own machine alone: start it with --token-file",
            code="no_tokens",
        )

    def _owner(self, authorization: str) -> str | None:
        """Return the owner of the token in a header; None for none, and for a wrong one."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":  # what browsers send: the token is the password
            try:
                value = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
        elif scheme.lower() != "bearer":
            return None
        given = _digest(value.strip())
        found = None
        for digest, owner in self._owners:  # all of them, so that time says nothing of which was close
            if hmac.compare_digest(digest, given):
                found = owner
        return found


def _path_of(scope: Scope) -> str:
    """Return the path of a request below that of the server."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Rooted:
    """An ASGI application around another, which puts the path of the server into requests.

    A reverse proxy that has the server under a path may leave that path in requests or take it out. What is
    inside, and is mounted there, wants it in.

    Args:
        app: the application inside.
        root: the path of the server, such as "/codi"; "" for the top.
    """

    def __init__(self, app: App, root: str) -> None:
        self.app = app
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        root = self.root
        if root and scope["type"] in ("http", "websocket"):
            path = scope["path"]
            scope = {**scope, "root_path": root}
            if path != root and not path.startswith(f"{root}/"):
                scope |= {"path": root + path, "raw_path": root.encode() + scope.get("raw_path", b"")}
        await self.app(scope, receive, send)


def _as_it_is(send: Send) -> Send:
    """Return a function that sends answers which browsers take for what they say they are."""

    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            others = [row for row in message.get("headers", ()) if row[0].lower() != NOSNIFF[0]]
            message = {**message, "headers": [*others, NOSNIFF]}
        await send(message)

    return sent


def _unauthorized(headers: Mapping[str, str]) -> Refused:
    """Return the answer to a request without a right token; a browser is shown where to type it."""
    wanted = 'Bearer realm="codi"'
    if "text/html" in headers.get("accept", ""):
        wanted = 'Basic realm="codi: the token is the password", charset="UTF-8"'
    message = "no token, or a wrong one: expected the header `Authorization: Bearer TOKEN`"
    return Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": wanted})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by lower-case names; Host and Authorization may come once only."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name = key.decode("latin-1").lower()
        if name in found and name in ("host", "authorization", "origin"):
            raise Refused(400, f"the header {name} comes twice: expected it once")
        found[name] = value.decode("latin-1")
    return found


def host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port, in lower case; None for what is no host."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", host)
    return found[1].lower().rstrip(".").strip("[]") if found else None


def is_loopback(name: str) -> bool:
    """Return whether a name or an address is this machine's own."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
