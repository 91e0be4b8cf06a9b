"""Answer clients of OpenAI: pictures and sounds at once, clips as jobs that are asked for again.

A field that OpenAI has and that cannot act here is either listed as ignored in the models of requests
(`codi.serve.shapes`) or refused; so is a field that nobody knows. Fields of our own, such as `seed`, stand
beside them: the clients send what is given as `extra_body`.
"""

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from codi.serve import shapes
from codi.serve.access import Settings, owner_of
from codi.serve.bodies import REQUEST, Bodies, Body, parsed
from codi.serve.errors import Refused
from codi.serve.files import address_of, send_file
from codi.serve.service import Service
from codi.serve.sounds import TYPES, sound_as
from codi.serve.values import CANCELLED, DONE, FAILED, FINAL, QUEUED, JobView, NoSuchJob
from codi.types import InputError, Modality

Shape = TypeVar("Shape", bound=BaseModel)

OWN = ("num_inference_steps", "guidance_scale", "negative_text")  # keys of a job that pass as they are
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
PICTURE_PART = "input_reference"
VARIANTS = ("video",)  # of OpenAI's, which has thumbnails as well
LOOK = 0.25  # seconds between looks whether the client is still there
SOUND_CONTENT: dict[str, Any] = {kind: {} for kind in TYPES.values()}


def router(service: Service, settings: Settings, bodies: Bodies) -> APIRouter:
    """Return the routes in OpenAI's shape.

    Args:
        service: the queue.
        settings: how long a request may wait for its result.
        bodies: reads requests.

    Returns:
        The routes.
    """
    found = APIRouter(prefix="/v1", tags=["openai"])
    _add_images(found, service, settings, bodies)
    _add_speech(found, service, settings, bodies)
    _add_videos(found, service, bodies)
    return found


# Pictures --------------------------------------------------------------


def _add_images(found: APIRouter, service: Service, settings: Settings, bodies: Bodies) -> None:
    @found.post(
        "/images/generations",
        response_model=shapes.Images,
        response_model_exclude_none=True,
        summary="Make pictures",
        openapi_extra=_body(shapes.ImageRequest),
    )
    async def images(request: Request) -> dict[str, Any]:
        """Make pictures from words, and answer when they are there.

        Their job stays in the list of jobs. An address needs the same token as the request.
        """
        async with bodies.read(request, files=False) as body:
            asked = _read(body, shapes.ImageRequest)
        line = _line(asked, asked.prompt, Modality.IMAGE) | _pixels(asked.size)
        line["num_samples"] = asked.n or 1
        view = await _made(service, settings, request, line, asked.model)
        names = [file["name"] for file in _files(view, Modality.IMAGE)]
        if asked.response_format == "b64_json":
            paths = [service.file(view.id, name, view.owner) for name in names]
            data = [{"b64_json": await run_in_threadpool(_as_base64, path)} for path in paths]
        else:
            root = str(request.base_url).rstrip("/")
            data = [{"url": root + address_of(view.id, name)} for name in names]
        return {"created": int(view.created), "data": data}


def _as_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


# Sounds ----------------------------------------------------------------


def _add_speech(found: APIRouter, service: Service, settings: Settings, bodies: Bodies) -> None:
    @found.post(
        "/audio/speech",
        response_class=Response,
        summary="Make a sound",
        openapi_extra=_body(shapes.SpeechRequest),
        responses={200: {"description": "The sound.", "content": SOUND_CONTENT}},
    )
    async def speech(request: Request) -> Response:
        """Make the sound that `input` describes, and answer with it: a sound, the models speak no words."""
        async with bodies.read(request, files=False) as body:
            asked = _read(body, shapes.SpeechRequest)
        line = _line(asked, asked.input, Modality.AUDIO)
        if asked.seconds is not None:
            line["audio_length_in_s"] = asked.seconds
        view = await _made(service, settings, request, line, asked.model)
        name = _files(view, Modality.AUDIO)[0]["name"]
        form = asked.response_format or "mp3"
        content = await run_in_threadpool(sound_as, service.file(view.id, name, view.owner), form)
        return Response(content, media_type=TYPES[form], headers={"X-Codi-Job": view.id})


# Clips -----------------------------------------------------------------


def _add_videos(found: APIRouter, service: Service, bodies: Bodies) -> None:
    @found.post(
        "/videos",
        response_model=shapes.Video,
        summary="Ask for a clip",
        openapi_extra=_body(shapes.VideoRequest, picture=True),
    )
    async def create(request: Request) -> dict[str, Any]:
        """Ask for a clip, with its sound where the model makes sounds, and look at it until it is there.

        A form may hold a picture as `input_reference`, which is the first frame. The job is one of the list
        of jobs, with events and previews there.
        """
        async with bodies.read(request) as body:
            asked = _read(body, shapes.VideoRequest)
            if further := [name for name in body.files if name != PICTURE_PART]:
                raise _wrong(
                    f"the file {further[0]!r} has no place here: expected {PICTURE_PART}", further[0]
                )
            line = _line(asked, asked.prompt, *_moving(service, asked.model)) | _pixels(asked.size)
            line |= _seconds(asked.seconds)
            if PICTURE_PART in body.files:
                line["keyframes"] = {Modality.VIDEO.value: {"0": PICTURE_PART}}
            if await request.is_disconnected():
                raise ClientDisconnect
            view = await run_in_threadpool(_submit, service, line, request, body.files, asked.model)
        return _video(view)

    @found.get("/videos", response_model=shapes.VideoList, summary="List clips")
    def list_videos(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(max_length=200)] = None,
    ) -> dict[str, Any]:
        """List the jobs that make clips, the newest first."""
        owner, last = owner_of(request), after
        shown: list[JobView] = []
        while len(shown) <= limit and (views := service.list(owner, limit=100, before=last)):
            shown += [view for view in views if _makes_clips(view)]
            last = views[-1].id
        page = [_video(view) for view in shown[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"data": page, "has_more": len(shown) > limit, **ends}

    def seen(id: str, request: Request) -> JobView:
        view = service.get(id, owner_of(request))
        if not _makes_clips(view):
            raise NoSuchJob(id)
        return view

    @found.get("/videos/{id}", response_model=shapes.Video, summary="Look at a clip")
    def retrieve(id: str, request: Request) -> dict[str, Any]:
        """Say how far a clip is."""
        return _video(seen(id, request))

    @found.get("/videos/{id}/content", response_class=FileResponse, summary="Get a clip")
    def content(
        id: str, request: Request, variant: Annotated[str | None, Query(max_length=40)] = None
    ) -> Response:
        """Get the clip, an mp4."""
        view = seen(id, request)
        if variant is not None and variant not in VARIANTS:
            raise _wrong(f"variant is {variant!r}: expected {' or '.join(VARIANTS)}", "variant")
        if view.state not in FINAL:
            raise Refused(409, "the clip is not made yet: ask again when its status is completed")
        files = _files(view, Modality.VIDEO)
        if not files:
            raise Refused(404, f"there is no clip: the job was {view.state}", code="not_found")
        return send_file(service, view, files[0]["name"], request)

    @found.delete("/videos/{id}", response_model=shapes.Deleted, summary="Remove a clip")
    def delete(id: str, request: Request) -> dict[str, Any]:
        """Cancel the job of a clip, and remove it with its files."""
        service.delete(seen(id, request).id, owner_of(request))
        return {"id": id, "object": "video.deleted"}


def _moving(service: Service, model: str | None) -> list[Modality]:
    """Return a clip, and the sound that goes with it where the model makes sounds."""
    models = {each["name"]: each for each in service.models()}
    found = models.get(model, {}) if model else next(iter(models.values()))
    sounds = {Modality.AUDIO.value} & set(found.get("outputs", ()))
    return [Modality.VIDEO, *map(Modality, sounds)]


def _makes_clips(view: JobView) -> bool:
    """Return whether a job makes clips."""
    to = view.request.get("to") or ""
    names = to.split(",") if isinstance(to, str) else to
    return bool({str(name).strip().lower() for name in names} & {Modality.VIDEO.value})


def _video(view: JobView) -> dict[str, Any]:
    """Return a job that makes clips in OpenAI's shape."""
    status = {QUEUED: "queued", DONE: "completed", FAILED: "failed", CANCELLED: "failed"}
    made = (view.record or {}).get("resolved") or {}
    asked = view.request
    seconds = asked.get("audio_length_in_s") or asked.get("seconds")
    if made.get("num_frames") and made.get("fps"):
        seconds = made["num_frames"] / made["fps"]
    width, height = (made.get(side) or asked.get(side) for side in ("width", "height"))
    problem = None
    if view.state in (FAILED, CANCELLED):
        problem = {"code": view.state, "message": view.error or f"the job was {view.state}"}
    return {
        "id": view.id,
        "model": view.model,
        "status": status.get(view.state, "in_progress"),
        "progress": round(100 * view.progress),
        "created_at": int(view.created),
        "completed_at": int(view.ended) if view.ended and view.state == DONE else None,
        "prompt": _words(asked.get(Modality.TEXT.value)),
        "seconds": f"{seconds:g}" if isinstance(seconds, (int, float)) else "auto",
        "size": f"{width}x{height}" if width and height else "auto",
        "error": problem,
    }


def _words(prompt: Any) -> str | None:
    """Return the words of a prompt in any of its forms."""
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    value = first.get("value") if isinstance(first, Mapping) else first
    return value if isinstance(value, str) else None


# What they share -------------------------------------------------------


def _read(body: Body, shape: type[Shape]) -> Shape:
    """Return a request, or raise `Refused` for one that says what cannot be."""
    form = REQUEST not in body.fields
    values: dict[str, Any] = {}
    if form:
        values = {name: _decoded(name, text) for name, text in body.fields.items()}
        values = parsed(json.dumps(values).encode())
    else:
        values = parsed(body.fields[REQUEST])
    if unknown := [name for name in values if name not in shape.model_fields and values[name] is not None]:
        known = ", ".join(shape.model_fields)
        raise _wrong(f"{unknown[0][:80]!r} cannot be honoured here: expected some of {known}", unknown[0])
    try:
        return shape.model_validate(values, strict=not form)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        raise _wrong(f"{name}: {first['msg']}", name) from None


def _decoded(name: str, text: bytes) -> str:
    """Return the text of a field of a form."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong(f"{name} is not UTF-8: expected words", name) from None


def _wrong(message: str, param: str | None) -> Refused:
    return Refused(400, message, param=None if param is None else param[:80])


def _line(asked: Any, words: str, *outputs: Modality) -> dict[str, Any]:
    """Return the line of jobs of a request; its seed is drawn here unless it is given."""
    if not words.strip():
        raise _wrong("the prompt is empty: expected words", None)
    line: dict[str, Any] = {
        Modality.TEXT.value: {"value": words, "weight": 1.0},  # as it is: no '::0.5' is a weight here
        "to": [output.value for output in outputs],
        "seed": secrets.randbits(31) if asked.seed is None else asked.seed,
    }
    for name in OWN:
        if getattr(asked, name) is not None:
            line[name] = getattr(asked, name)
    return line


def _pixels(size: str | None) -> dict[str, int]:
    """Return the sides of what is made."""
    if size in (None, "auto"):
        return {}
    found = SIZE.fullmatch(str(size))
    if found is None:
        raise _wrong(f"size is {str(size)[:40]!r}: expected WIDTHxHEIGHT, such as 64x64, or auto", "size")
    return {"width": int(found[1]), "height": int(found[2])}


def _seconds(seconds: str | float | None) -> dict[str, float]:
    """Return the length of a clip."""
    if seconds is None:
        return {}
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", str(seconds)):
        raise _wrong(f"seconds is {str(seconds)[:40]!r}: expected a number such as 2", "seconds")
    return {"audio_length_in_s": float(seconds)}


def _submit(
    service: Service,
    line: dict[str, Any],
    request: Request,
    files: Mapping[str, Path],
    model: str | None,
) -> JobView:
    """Put a job into the queue; what is wrong with it is a 400, as OpenAI's clients expect."""
    known = [each["name"] for each in service.models()]
    if model is not None and model not in known:
        message = f"model {model[:80]!r} is not here: expected {', '.join(known)}"
        raise Refused(404, message, code="model_not_found", param="model")
    try:
        return service.submit(line, owner_of(request), files, model)
    except InputError as error:
        raise Refused(400, str(error)) from None


async def _made(
    service: Service, settings: Settings, request: Request, line: dict[str, Any], model: str | None
) -> JobView:
    """Return a job when it is done; nobody makes it any further if the client goes away."""
    view = await run_in_threadpool(_submit, service, line, request, {}, model)
    ended = asyncio.ensure_future(_end(service, view))
    waited = 0.0
    try:
        while not (await asyncio.wait({ended}, timeout=LOOK))[0]:
            waited += LOOK
            if await request.is_disconnected():
                await run_in_threadpool(service.delete, view.id, view.owner)
                raise ClientDisconnect
            if waited >= settings.wait:
                await run_in_threadpool(service.cancel, view.id, view.owner)
                message = f"it was not made within {settings.wait:g} s: ask by POST /v1/jobs"
                raise Refused(503, message, headers={"Retry-After": "60"})
        view = await ended
    finally:
        ended.cancel()
    if view.state != DONE:
        raise Refused(409 if view.state == CANCELLED else 400, view.error or f"the job was {view.state}")
    return view


async def _end(service: Service, view: JobView) -> JobView:
    """Return a job after its last event."""
    async for _ in service.aevents(view.id, view.owner):
        pass
    return await run_in_threadpool(service.get, view.id, view.owner)


def _files(view: JobView, modality: Modality) -> list[dict[str, Any]]:
    """Return the files of a job that hold one modality."""
    return [file for file in view.files if file["modality"] in {modality.value}]


def _body(shape: type[BaseModel], picture: bool = False) -> dict[str, Any]:
    """Return what /docs says of a body."""
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{shape.__name__}"}
    content = {"application/json": {"schema": schema}}
    if picture:
        part = {"type": "object", "properties": {PICTURE_PART: {"type": "string", "format": "binary"}}}
        content["multipart/form-data"] = {"schema": {"allOf": [schema, part]}}
    return {"requestBody": {"required": True, "content": content}}
