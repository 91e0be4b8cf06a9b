"""Answer what cannot be done: one line in JSON, in the shape that OpenAI's clients read, and a status.

{"error": {"message": "...", "type": "invalid_request_error", "code": "queue_full", "param": null}}
"""

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

LONGEST = 1000  # characters of a message
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
TYPES = {  # of errors, by status; the others are mistakes of who asks
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Refused(Exception):
    """Says that a request is answered with an error.

    Args:
        status: the status of HTTP.
        message: what came, what was expected, and what to do.
        code: a word for programs.
        param: the field of the request that is wrong.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def later(seconds: float, message: str, code: str) -> Refused:
    """Return the answer to a request that may come again after some seconds."""
    wait = str(max(1, math.ceil(seconds)))
    return Refused(429, message, code=code, headers={"Retry-After": wait})


def body_of(refusal: Refused) -> dict[str, Any]:
    """Return the JSON of an error."""
    return {
        "error": {
            "message": one_line(refusal),
            "type": TYPES.get(refusal.status, "invalid_request_error"),
            "code": refusal.code,
            "param": refusal.param,
        }
    }


def one_line(message: Any) -> str:
    """Return a message as one line that no terminal obeys, of which the middle is left out if it is long."""
    line = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode("utf-8")
    line = CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 :]}"


def as_response(refusal: Refused) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that answers with an error.

    The connection ends with it, because the body of the request may not have been read.
    """
    body = json.dumps(body_of(refusal)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **{name.lower(): value for name, value in refusal.headers.items()},
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return answer
