"""Fetch prompts that are given as https addresses, from hosts that were allowed by name and no others."""

import http.client
import re
import ssl
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from codi.border import ADDRESS
from codi.job_files import files_of, with_files
from codi.serve.bodies import Body, new_file
from codi.serve.errors import Refused
from codi.serve.limits import Limits

TIMEOUT = 10.0  # seconds for which a host may say nothing
LONGEST = 60.0  # seconds that a file may take
PIECE = 1 << 16


def fetch_prompts(
    line: Mapping[str, Any], body: Body, hosts: Collection[str], limits: Limits
) -> dict[str, Any]:
    """Return a line of jobs that names files of a body where it named addresses; these are fetched.

    Args:
        line: the line.
        body: takes the files, beside those that were uploaded.
        hosts: those that are allowed, with a port unless it is 443.
        limits: how many files there may be, and how large.

    Returns:
        The line; as it is if it names no address.

    Raises:
        Refused: for an address of another host or kind, and for a file that is not there or too large.
    """
    addresses = [name for name in files_of(line) if ADDRESS.match(name)]
    if not addresses:
        return dict(line)
    places = {address: _allowed(address, hosts) for address in addresses}
    if len(body.files) + len(places) > limits.max_uploads:
        raise Refused(413, f"more than {limits.max_uploads} files: expected at most that")
    names = {}
    for address, place in places.items():
        names[address] = _free_name(place, body)
        _fetch(place, new_file(body, names[address]), limits.max_upload_bytes)
    return with_files(line, lambda name: names.get(name, name))


def _allowed(address: str, hosts: Collection[str]) -> SplitResult:
    """Return the parts of an address that may be fetched; raise `Refused` for another."""
    shown = address.strip()[:60]
    try:
        place = urlsplit(address.strip())
        port = place.port
    except ValueError:
        raise Refused(400, f"{shown!r} is no address: expected the name of an uploaded part") from None
    known = {host.lower() for host in hosts}
    host = (place.hostname or "").lower()
    named = host if port in (None, 443) else f"{host}:{port}"
    plain = place.scheme.lower() == "https" and place.username is None and place.password is None
    if not plain or named not in known:
        raise Refused(
            400,
            f"{shown!r} is an address, and this server fetches none from there: upload the file as a part of "
            "a form, or start the server with --allow-url HOST (https alone)",
            code="url_not_allowed",
        )
    return place


def _free_name(place: SplitResult, body: Body) -> str:
    """Return a name for a fetched file that no other file of the request has."""
    last = unquote(place.path.rpartition("/")[2])
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-60:].lstrip(".") or "fetched"
    name, number = plain, 0
    while name in body.files or name in body.fields:
        number += 1
        name = f"{number}-{plain}"
    return name


def _fetch(place: SplitResult, path: Path, most: int) -> None:
    """Write what an address holds into a file, without following it elsewhere."""
    host = place.hostname or ""
    until = time.monotonic() + LONGEST
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection(host, place.port or 443, timeout=TIMEOUT, context=context)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    try:
        connection.request("GET", target, headers={"Accept": "*/*", "User-Agent": "codi"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Refused(400, f"{host} answered {answer.status}: expected 200 and the file, no redirection")
        size = 0
        with open(path, "xb") as file:
            while piece := answer.read1(PIECE):
                size += len(piece)
                if size > most:
                    raise Refused(413, f"the file at {host} has more than {most >> 20} MB", code="too_large")
                if time.monotonic() > until:
                    raise Refused(400, f"{host} took longer than {LONGEST:g} s: upload the file")
                file.write(piece)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refused(400, f"{host} gave no file ({type(error).__name__}): check the address") from None
    finally:
        connection.close()
