"""Clients of OpenAI: pictures and sounds at once, clips as jobs, errors in the shape that they read."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
import soundfile  # noqa: E402

from codi.serve.access import Settings  # noqa: E402
from codi.serve.app import create_app  # noqa: E402
from codi.types import InputError  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402
from tests.serve.test_http import client_of, message  # noqa: E402

IMAGES, SPEECH, VIDEOS = "/v1/images/generations", "/v1/audio/speech", "/v1/videos"


@pytest.fixture
def service(tmp_path):
    wave = np.sin(np.arange(16000) * 0.1).astype("float32") / 2
    sound = io.BytesIO()
    soundfile.write(sound, wave, 16000, format="WAV")
    service = FakeService(tmp_path)
    service.media = {"audio": sound.getvalue()}
    return service


@pytest.fixture
def client(service):
    return client_of(service)


# Pictures


def test_pictures_as_addresses(service, client):
    asked = {"prompt": "a ball::0.5", "n": 2, "size": "64x32", "model": "codi-tiny", "user": "u", "seed": 5}
    answer = client.post(IMAGES, json=asked)
    assert answer.status_code == 200 and answer.json()["created"] > 0
    pictures = [client.get(each["url"]).content for each in answer.json()["data"]]
    assert pictures == [b"image 0", b"image 1"]
    assert all(each["url"].startswith("http://127.0.0.1:7860/v1/jobs/") for each in answer.json()["data"])
    line, owner, files, model = service.taken[0]
    assert (owner, files, model) == ("local", {}, "codi-tiny")
    assert line == {
        "text": {"value": "a ball::0.5", "weight": 1.0},  # words, none of which is a weight
        "to": ["image"],
        "seed": 5,
        "width": 64,
        "height": 32,
        "num_samples": 2,
    }


def test_pictures_in_the_answer(client):
    answer = client.post(IMAGES, json={"prompt": "a ball", "response_format": "b64_json", "size": "auto"})
    assert answer.json()["data"] == [{"b64_json": base64.b64encode(b"image 0").decode()}]


def test_seeds_are_drawn(service, client):
    for _ in range(3):
        client.post(IMAGES, json={"prompt": "a ball"})
    assert len({line["seed"] for line, *_ in service.taken}) == 3


def test_what_is_ignored_and_what_is_ours(service, client):
    ignored = {"quality": "hd", "style": "vivid", "moderation": "low", "background": "opaque", "user": "me"}
    ours = {"num_inference_steps": 4, "guidance_scale": 2.5, "negative_text": "snow"}
    assert client.post(IMAGES, json={"prompt": "a", **ignored, **ours}).status_code == 200
    assert {name: service.taken[0][0][name] for name in ours} == ours


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 11}, "n"),
        ({"prompt": "a", "n": "2"}, "n"),
        ({"prompt": "a", "n": True}, "n"),
        ({"prompt": "a", "size": "big"}, "size"),
        ({"prompt": "a", "size": "64x"}, "size"),
        ({"prompt": "a", "size": 64}, "size"),
        ({"prompt": "a", "response_format": "jpeg"}, "response_format"),
        ({"prompt": "a", "output_format": "webp"}, "output_format"),
        ({"prompt": "a", "background": "transparent"}, "background"),
        ({"prompt": "a", "partial_images": 2}, "partial_images"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "a", "mask": "x"}, "mask"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a" * 40_000}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "  "}, None),
    ],
)
def test_requests_that_cannot_be_honoured(service, client, given, param):
    answer = client.post(IMAGES, json=given)
    message(answer, 400)
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not service.taken


def test_other_models(client):
    answer = client.post(IMAGES, json={"prompt": "a", "model": "dall-e-3"})
    assert "codi-tiny" in message(answer, 404) and answer.json()["error"]["code"] == "model_not_found"


def test_a_full_queue_and_a_failure(service, client):
    service.full = 7
    assert client.post(IMAGES, json={"prompt": "a"}).headers["retry-after"] == "7"
    service.full, service.ends = None, "failed"
    assert message(client.post(IMAGES, json={"prompt": "a"}), 400) == "it broke"


def test_what_the_service_refuses_is_a_400(service, client):
    def refuse(*_):
        raise InputError("width is 7: expected a multiple of 8")

    service.submit = refuse
    assert "width is 7" in message(client.post(IMAGES, json={"prompt": "a", "size": "7x8"}), 400)


def test_what_takes_too_long_is_given_up(service):
    service.ends = None
    client = client_of(service, wait=0.3)
    answer = client.post(IMAGES, json={"prompt": "a"})
    assert "POST /v1/jobs" in message(answer, 503) and answer.headers["retry-after"]
    assert [view.state for view in service.jobs.values()] == ["cancelled"]


def test_a_client_that_goes_away_leaves_nothing(service):
    """The request is made by hand: the test client never hangs up."""
    service.ends = None
    app = create_app(service, Settings())
    body = json.dumps({"prompt": "a"}).encode()
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": IMAGES,
        "raw_path": IMAGES.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def ask():
        come = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await come.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        asking = asyncio.ensure_future(app(scope, receive, send))
        while not service.jobs:
            await asyncio.sleep(0.01)
        come.set()
        await asyncio.wait_for(asking, 5)

    asyncio.run(ask())
    assert service.taken and not service.jobs


# Sounds


@pytest.mark.parametrize(
    ("form", "kind", "begins"),
    [("wav", "audio/wav", b"RIFF"), ("flac", "audio/flac", b"fLaC"), (None, "audio/mpeg", b"")],
)
def test_sounds_in_their_formats(service, client, form, kind, begins):
    asked = {"input": "waves", "voice": "alloy", "model": "codi-tiny", "seconds": 1.5}
    answer = client.post(SPEECH, json=asked | ({"response_format": form} if form else {}))
    assert answer.status_code == 200 and answer.headers["content-type"] == kind
    assert answer.content.startswith(begins)
    wave, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 16000 and len(wave) == pytest.approx(16000, abs=1200)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.05)
    line = service.taken[0][0]
    assert line["text"]["value"] == "waves" and line["to"] == ["audio"] and line["audio_length_in_s"] == 1.5


def test_samples_alone(client):
    answer = client.post(SPEECH, json={"input": "waves", "response_format": "pcm"})
    wave = np.frombuffer(answer.content, "<i2")
    assert answer.headers["content-type"] == "audio/pcm" and len(wave) == 24000
    assert np.abs(wave).max() == pytest.approx(16384, rel=0.05)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": "aac"}, "response_format"),
        ({"speed": 2.0}, "speed"),
        ({"instructions": "gently"}, "instructions"),
        ({"stream_format": "sse"}, "stream_format"),
        ({"seconds": -1}, "seconds"),
        ({"input": "x" * 5000}, "input"),
        ({"input": None}, "input"),
    ],
)
def test_sounds_that_cannot_be(service, client, given, param):
    answer = client.post(SPEECH, json={"input": "waves", "voice": "alloy", **given})
    message(answer, 400)
    assert answer.json()["error"]["param"] == param and not service.taken


def test_the_document_says_that_nobody_speaks(client):
    document = client.get("/openapi.json").json()
    assert "no words" in document["paths"][SPEECH]["post"]["description"]
    assert "no speech" in document["components"]["schemas"]["SpeechRequest"]["description"]


# Clips


def test_a_clip_is_a_job_that_is_asked_for_again(service, client):
    service.media = {"video": b"MP4"}
    asked = {"prompt": "a ball", "seconds": "2", "size": "64x64", "model": "codi-tiny"}
    video = client.post(VIDEOS, json=asked).json()
    assert (video["object"], video["status"], video["progress"]) == ("video", "queued", 0)
    assert (video["prompt"], video["seconds"], video["size"]) == ("a ball", "2", "64x64")
    line = service.taken[0][0]
    assert line["to"] == ["video", "audio"] and line["audio_length_in_s"] == 2.0
    place = f"{VIDEOS}/{video['id']}"
    message(client.get(f"{place}/content"), 409)
    service.end(video["id"])
    video = client.get(place).json()
    assert (video["status"], video["progress"], video["error"]) == ("completed", 100, None)
    assert video["completed_at"] and video["expires_at"] is None
    answer = client.get(f"{place}/content")
    assert answer.content == b"MP4" and answer.headers["content-type"] == "video/mp4"
    assert client.get(f"{place}/content", headers={"Range": "bytes=1-"}).content == b"P4"
    message(client.get(f"{place}/content?variant=thumbnail"), 400)
    gone = client.delete(place).json()
    assert gone == {"id": video["id"], "object": "video.deleted", "deleted": True}
    message(client.get(place), 404)


def test_a_form_with_the_first_frame(service, client):
    fields = {"prompt": (None, "a ball"), "seconds": (None, "4"), "input_reference": ("a.png", b"PNG")}
    assert client.post(VIDEOS, files=fields).status_code == 200
    line, _, files, _ = service.taken[0]
    assert files == {"input_reference": b"PNG"}
    assert line["keyframes"] == {"video": {"0": "input_reference"}} and line["audio_length_in_s"] == 4.0
    message(client.post(VIDEOS, files={"prompt": (None, "a"), "other": ("a.png", b"PNG")}), 400)
    message(client.post(VIDEOS, files={"prompt": (None, "a"), "seconds": (None, "long")}), 400)


def test_clips_that_failed(service, client):
    ids = [client.post(VIDEOS, json={"prompt": "a"}).json()["id"] for _ in range(2)]
    service.end(ids[0], "failed", "it broke")
    service.end(ids[1], "cancelled")
    first, second = (client.get(f"{VIDEOS}/{id_}").json() for id_ in ids)
    assert first["status"] == second["status"] == "failed"
    assert first["error"] == {"code": "failed", "message": "it broke"}
    assert second["error"]["code"] == "cancelled" and second["completed_at"] is None
    message(client.get(f"{VIDEOS}/{ids[0]}/content"), 404)


def test_clips_are_listed_apart_from_other_jobs(service, client):
    picture = client.post("/v1/jobs", json={"text": "a", "to": "image"}).json()["id"]
    clips = [client.post(VIDEOS, json={"prompt": "a"}).json()["id"] for _ in range(3)][::-1]
    message(client.get(f"{VIDEOS}/{picture}"), 404)
    message(client.delete(f"{VIDEOS}/{picture}"), 404)
    page = client.get(f"{VIDEOS}?limit=2").json()
    assert [video["id"] for video in page["data"]] == clips[:2] and page["has_more"]
    page = client.get(f"{VIDEOS}?limit=2&after={clips[1]}").json()
    assert [video["id"] for video in page["data"]] == clips[2:] and not page["has_more"]
