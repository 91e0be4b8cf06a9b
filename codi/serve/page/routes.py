"""What the page needs beside Gradio: files of jobs for its players, and the choice of language."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from codi.serve.page.words import DEFAULT, LANGUAGES
from codi.serve.service import NoSuchJob

INLINE = ("image/png", "image/jpeg", "image/webp", "video/mp4", "audio/wav", "audio/x-wav", "text/plain")


def add_files(app: FastAPI, service: Any, owner: Callable[[Any], str]) -> None:
    """Let an application give out the files of jobs to their owners, at /media/JOB/NAME.

    Args:
        app: the application; nothing may be mounted at its root yet.
        service: the queue of jobs.
        owner: returns whose jobs a request may see.
    """

    async def media(request: Request, job: str, name: str, download: bool = False) -> Response:
        try:
            whose = owner(request)
            view = await asyncio.to_thread(service.get, job, whose)
            path = await asyncio.to_thread(service.file, job, name, whose)
        except NoSuchJob:
            return PlainTextResponse("no such file", status_code=404)
        about: dict[str, Any] = next((file for file in view.files if file["name"] == name), {})
        mime = str(about.get("type") or "")
        shown = mime in INLINE and not download
        return FileResponse(
            path,
            media_type=mime if mime in INLINE else "application/octet-stream",
            filename=name,
            content_disposition_type="inline" if shown else "attachment",
            headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=3600"},
        )

    app.add_api_route("/media/{job}/{name}", media, methods=["GET"], include_in_schema=False)


class ByLanguage:
    """Leads `/?lang=de` to the page in that language.

    Args:
        app: the application inside.
        path: the path at which the page lies.
        root: the path under which a reverse proxy has the server, which it may leave in requests or not.
    """

    def __init__(self, app: Any, path: str = "/", root: str = "") -> None:
        self.app = app
        self.path = path
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the address of the page."""
        wanted = None
        if scope["type"] == "http" and scope["method"] == "GET":
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            wanted = (query.get("lang") or [None])[0]
        here = scope.get("path", "").removeprefix(self.root).rstrip("/")
        pages = {page_path(self.path, language).rstrip("/"): language for language in LANGUAGES}
        if wanted in LANGUAGES and here in pages and pages[here] != wanted:
            target = self.root + page_path(self.path, wanted)
            answer = Response(status_code=307, headers={"Location": target})
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)


def page_path(path: str, language: str) -> str:
    """Return the path of the page in a language."""
    return path if language == DEFAULT else f"{path.rstrip('/')}/{language}/"
