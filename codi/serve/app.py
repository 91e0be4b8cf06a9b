"""Put a queue of jobs behind HTTP: jobs, their events and files, models, and what OpenAI's clients ask for.

A request is a line of jobs as `codi generate --jobs` reads it. Every answer but a file is JSON, and every
error is one line in it (`codi.serve.errors`). The page at /docs lists all of it.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from codi import __version__
from codi.job_files import files_of
from codi.serve import openai, shapes
from codi.serve.access import Guard, Rooted, Settings, owner_of
from codi.serve.bodies import REQUEST, Bodies, Body, parsed
from codi.serve.downloads import fetch_prompts
from codi.serve.errors import Refused, body_of, later
from codi.serve.files import address_of, send_file
from codi.serve.service import Service
from codi.serve.values import JobView, NoSuchJob, QueueFull
from codi.types import InputError

DESCRIPTION = """Any combination of text, image, audio and video from any combination of them, together.

A job is one line of `codi generate --jobs`: `POST /v1/jobs`, follow `/v1/jobs/{id}/events`, fetch
`/v1/jobs/{id}/files/{name}`. Files go up as parts of a form, beside a part `request` that names them. Clients
of OpenAI find `/v1/images/generations`, `/v1/audio/speech` and `/v1/videos`."""
PAGE = 50  # jobs of a page, if nobody says how many
MOST = 200
STATUSES = {
    400: "The request cannot be read.",
    401: "No token, or a wrong one.",
    403: "A page from elsewhere, or another name of the server.",
    404: "There is no such job, or it is somebody else's.",
    413: "Something is larger than it may be.",
    415: "A body of another kind.",
    422: "The job cannot be made.",
    429: "The queue is full: `Retry-After` says when to come again.",
    503: "The server is stopping.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": shapes.ErrorBody, "description": said} for status, said in STATUSES.items()
}


def create_app(service: Service, settings: Settings | None = None, root: str = "") -> FastAPI:
    """Return the application that answers for a service.

    Args:
        service: the queue of jobs, which the caller starts and stops.
        settings: who may ask for what; without them this machine alone.
        root: the path under which a reverse proxy has the server, such as "/codi".

    Returns:
        The application. Whatever is mounted on it is behind the same guard.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="codi",
        version=__version__,
        description=DESCRIPTION,
        redoc_url=None,
        openapi_tags=[
            {"name": "jobs", "description": "The queue."},
            {"name": "server", "description": "What this server is."},
            {"name": "openai", "description": "The same in the shape that OpenAI's clients know."},
        ],
    )
    bodies = Bodies(service.data / "uploads", service.limits, settings)
    documented = [Security(HTTPBearer(auto_error=False, description="A token, where the server has some."))]
    for router in (_jobs(service, settings, bodies), _server(service)):
        app.include_router(router, dependencies=documented, responses=ERRORS)
    app.include_router(openai.router(service, settings, bodies), dependencies=documented, responses=ERRORS)
    _handle_errors(app)
    _document(app)
    app.add_middleware(Guard, settings=settings)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "Range"],
            expose_headers=["Location", "Retry-After", "Content-Disposition", "Content-Range"],
        )
    app.add_middleware(Rooted, root=root)
    return app


# Jobs ------------------------------------------------------------------


def _jobs(service: Service, settings: Settings, bodies: Bodies) -> APIRouter:
    """Return the routes of the queue."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post(
        "", status_code=202, response_model=shapes.Job, summary="Ask for a job", openapi_extra=_job_body()
    )
    async def submit(request: Request, response: Response) -> dict[str, Any]:
        """Put a job into the queue.

        Its body is the JSON of a job, or a form with that JSON as the part `request` and further parts, each
        of which the JSON names where it names a file.
        """
        async with bodies.read(request) as body:
            view = await enqueue(service, settings, request, body)
        response.headers["Location"] = f"/v1/jobs/{view.id}"
        return job_of(view)

    @router.get("", response_model=shapes.JobList, summary="List own jobs")
    def list_jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MOST, description="Jobs of a page.")] = PAGE,
        before: Annotated[
            str | None, Query(max_length=200, description="The last id of the page before.")
        ] = None,
    ) -> dict[str, Any]:
        """List jobs, the newest first, without their records."""
        views = service.list(owner_of(request), limit=limit + 1, before=before)
        shown = [{**job_of(view), "record": None} for view in views[:limit]]
        more = len(views) > limit
        return {"data": shown, "has_more": more, "next": shown[-1]["id"] if more else None}

    @router.get("/{id}", response_model=shapes.Job, summary="Look at a job")
    def get_job(id: str, request: Request) -> dict[str, Any]:
        """Show a job with its files and its record."""
        return job_of(service.get(id, owner_of(request)))

    @router.delete("/{id}", response_model=shapes.Deleted, summary="Remove a job")
    def delete_job(id: str, request: Request) -> dict[str, Any]:
        """Cancel a job, and remove it with all its files."""
        service.delete(id, owner_of(request))
        return {"id": id}

    @router.post("/{id}/cancel", response_model=shapes.Job, summary="Cancel a job")
    def cancel_job(id: str, request: Request) -> dict[str, Any]:
        """Cancel a job: at once while it waits, within a step while it is made; it stays in the list."""
        return job_of(service.cancel(id, owner_of(request)))

    @router.get(
        "/{id}/files/{name}",
        response_class=FileResponse,
        summary="Get a file",
        responses={200: {"description": "The file.", "content": {"application/octet-stream": {}}}},
    )
    def get_file(
        id: str,
        name: str,
        request: Request,
        download: Annotated[bool, Query(description="Save it instead of showing it.")] = False,
    ) -> Response:
        """Get a file that a job made, or a part of it by `Range`."""
        return send_file(service, service.get(id, owner_of(request)), name, request, download)

    def seen(id: str, request: Request) -> JobView:
        return service.get(id, owner_of(request))

    @router.get("/{id}/events", response_class=EventSourceResponse, summary="Follow a job")
    async def events(
        job: Annotated[JobView, Depends(seen)],
        after: Annotated[int, Query(ge=0, lt=2**53, description="The number of the last event seen.")] = 0,
        last_event_id: Annotated[
            str | None, Header(pattern=r"^\d{0,15}$", description="Sent by browsers; counts before `after`.")
        ] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Stream what happens to a job: queued, started, progress, preview, and done, failed or cancelled.

        The stream ends after the last of these. A comment every 15 seconds keeps proxies from closing it.
        """
        first = int(last_event_id) if last_event_id else after
        try:
            async for event in service.aevents(job.id, job.owner, after=first):
                data = json.dumps(event.data)
                yield ServerSentEvent(event=event.kind, id=str(event.number), raw_data=data)
        except NoSuchJob:  # it was removed while somebody followed it
            return

    return router


async def enqueue(service: Service, settings: Settings, request: Request, body: Body) -> JobView:
    """Put what a request holds into the queue.

    Args:
        service: the queue.
        settings: the limits.
        request: the request.
        body: what it held.

    Returns:
        The job.

    Raises:
        Refused: for what is no job.
    """
    if further := [name for name in body.fields if name != REQUEST]:
        raise Refused(400, f"the part {further[0]!r} is no file: expected a file name beside it")
    if REQUEST not in body.fields:
        raise Refused(400, f"no part named {REQUEST!r}: expected one that holds the JSON of a job")
    line = parsed(body.fields[REQUEST])
    named = set(files_of(line))
    if unused := [name for name in body.files if name not in named]:
        raise Refused(
            400,
            f"the job does not name the part {unused[0]!r}: expected it where a file belongs",
            param=unused[0],
        )
    line = await run_in_threadpool(fetch_prompts, line, body, settings.allow_urls, service.limits)
    model = line.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise Refused(400, "model is no text: expected one of GET /v1/models", param="model")
    if await request.is_disconnected():
        raise ClientDisconnect  # nobody would learn of the job
    return await run_in_threadpool(service.submit, line, owner_of(request), body.files, model)


def job_of(view: JobView) -> dict[str, Any]:
    """Return a job as it goes over HTTP."""
    return {
        "id": view.id,
        "state": view.state,
        "model": view.model,
        "request": view.request,
        "created": view.created,
        "started": view.started,
        "ended": view.ended,
        "position": view.position,
        "progress": view.progress,
        "files": [{**file, "url": address_of(view.id, file["name"])} for file in view.files],
        "record": view.record,
        "error": view.error,
    }


# The server ------------------------------------------------------------


def _server(service: Service) -> APIRouter:
    """Return the routes that say what the server is."""
    router = APIRouter(prefix="/v1", tags=["server"])

    @router.get("/models", response_model=shapes.ModelList, summary="List the models")
    def models() -> dict[str, Any]:
        """List the models, with what they make and by which settings, in OpenAI's shape."""
        return {"data": [{**model, "id": model["name"]} for model in service.models()]}

    @router.get("/models/{id:path}", response_model=shapes.Model, summary="Look at a model")
    def model(id: str) -> dict[str, Any]:
        """Show one model."""
        for each in service.models():
            if each["name"] == id:
                return {**each, "id": id}
        raise Refused(
            404, f"no model {id[:80]!r} here: expected one of GET /v1/models", code="model_not_found"
        )

    @router.get("/health", response_model=shapes.Health, summary="Ask whether the server is up")
    def health(request: Request) -> dict[str, Any]:
        """Say that the server is up; who may ask it for jobs is told how long the queue is, too."""
        known = service.health()
        if not request.scope["state"]["owner"]:
            return {"status": known.get("status", "ok")}
        return {"status": "ok", **known}

    return router


# Errors and documents --------------------------------------------------


def _handle_errors(app: FastAPI) -> None:
    """Answer every error in one shape."""

    def answer(refusal: Refused) -> JSONResponse:
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **refusal.headers}
        return JSONResponse(body_of(refusal), refusal.status, headers)

    def on(kind: type[Exception], change: Callable[[Any], Refused]) -> None:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            return answer(change(error))

        app.add_exception_handler(kind, handler)

    on(Refused, lambda error: error)
    on(InputError, lambda error: Refused(422, str(error), code="cannot_be_made"))
    on(QueueFull, lambda error: later(error.retry_after, "the queue is full: try again later", "queue_full"))
    on(NoSuchJob, lambda error: Refused(404, "there is no such job, or no such file of it", code="not_found"))
    on(
        TimeoutError,
        lambda error: Refused(503, str(error) or "it took too long", headers={"Retry-After": "5"}),
    )
    on(ClientDisconnect, lambda error: Refused(400, "the client went away"))
    on(HTTPException, lambda error: Refused(error.status_code, str(error.detail), headers=error.headers))
    on(RequestValidationError, _of_validation)
    on(Exception, lambda error: Refused(500, "something went wrong here: the log of the server says what"))


def _of_validation(error: RequestValidationError) -> Refused:
    """Return the answer to a parameter that is wrong."""
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return Refused(422, f"{name}: {first['msg']}", param=name)


def _job_body() -> dict[str, Any]:
    """Return what /docs says of the body of a job."""
    reference = {"$ref": "#/components/schemas/JobRequest"}
    form = {
        "type": "object",
        "properties": {REQUEST: reference},
        "required": [REQUEST],
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    content = {"application/json": {"schema": reference}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def _document(app: FastAPI) -> None:
    """Add the models of requests, which are read here and not by FastAPI, to the document of the server."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        found = made()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for model in (shapes.JobRequest, shapes.ImageRequest, shapes.SpeechRequest, shapes.VideoRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        return found

    app.openapi = document  # type: ignore[method-assign]
