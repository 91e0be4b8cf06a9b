"""Send the files of jobs, whole or in part, so that a browser shows them and runs nothing of them."""

import mimetypes
import re
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse

from codi.serve.errors import Refused
from codi.serve.service import Service
from codi.serve.values import JobView

ONE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))")
QUIET = {  # of a file that is shown alone: it runs nothing and loads nothing
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; "
    "img-src 'self'; sandbox",
    "Cache-Control": "private, max-age=3600",
}


def address_of(id: str, name: str) -> str:
    """Return where a file of a job is, from the root of the server."""
    return f"/v1/jobs/{quote(id, safe='')}/files/{quote(name, safe='')}"


def send_file(
    service: Service, view: JobView, name: str, request: Request, download: bool = False
) -> FileResponse:
    """Return the answer that holds a file of a job.

    Args:
        service: the queue.
        view: the job.
        name: the name of the file.
        request: the request, which may ask for a part.
        download: whether a browser is to save it instead of showing it.

    Returns:
        The answer.

    Raises:
        Refused: for a part beyond the end.
    """
    path = service.file(view.id, name, view.owner)
    types = {file["name"]: file["type"] for file in view.files}
    kind = types.get(name) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    status = path.stat()
    _check_range(request, status.st_size)
    return FileResponse(
        path,
        media_type=kind,
        filename=name,
        stat_result=status,
        content_disposition_type="attachment" if download else "inline",
        headers=QUIET,
    )


def _check_range(request: Request, size: int) -> None:
    """Refuse a part beyond the end, and leave out what is no range of one part, as RFC 9110 allows."""
    given = request.headers.get("range")
    if given is None:
        return
    found = ONE_RANGE.fullmatch(given.strip())
    if found and found[1] is not None and found[2] is not None and int(found[1]) > int(found[2]):
        found = None
    if found is None:
        request.scope["headers"] = [row for row in request.scope["headers"] if row[0] != b"range"]
        return
    if (found[1] is not None and int(found[1]) >= size) or (found[3] is not None and int(found[3]) == 0):
        raise Refused(
            416,
            f"the file has {size} bytes: expected a range within them",
            headers={"Content-Range": f"bytes */{size}"},
        )
