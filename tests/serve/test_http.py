"""Jobs over HTTP: asked for, followed, fetched, removed; what is said when they cannot be."""

import json

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from codi.jobs import job_keys  # noqa: E402
from codi.serve import shapes  # noqa: E402
from codi.serve.access import Settings  # noqa: E402
from codi.serve.app import create_app  # noqa: E402
from codi.serve.limits import Limits  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402

BALL = {"text": "a red ball", "to": "image"}


def client_of(service, **settings):
    app = create_app(service, Settings(**settings))
    return TestClient(app, base_url="http://127.0.0.1:7860", client=("127.0.0.1", 50000))


@pytest.fixture
def service(tmp_path):
    return FakeService(tmp_path, Limits(max_upload_bytes=1000, max_uploads=2, max_request_bytes=4000))


@pytest.fixture
def client(service):
    return client_of(service)


def message(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    text = answer.json()["error"]["message"]
    assert "\n" not in text and text
    return text


def left_over(service):
    folder = service.data / "uploads"
    return list(folder.iterdir()) if folder.is_dir() else []


# Jobs


def test_a_job_is_taken_shown_and_removed(service, client):
    answer = client.post("/v1/jobs", json={**BALL, "model": "codi-tiny"})
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["position"], job["request"], job["record"]) == ("queued", 1, BALL, None)
    assert service.taken == [(BALL, "local", {}, "codi-tiny")]
    service.end(job["id"])
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["state"] == "done" and job["record"]["model"] == {"name": "codi-tiny"}
    (file,) = job["files"]
    assert client.get(file["url"]).content == b"image 0"
    assert client.delete(f"/v1/jobs/{job['id']}").json()["deleted"] is True
    assert message(client.get(f"/v1/jobs/{job['id']}"), 404) == "there is no such job, or no such file of it"


def test_files_go_up_as_parts_of_a_form(service, client):
    line = {"image": "p.png", "audio": {"value": "s.wav", "weight": 2}, "to": ["text"]}
    parts = {"request": (None, json.dumps(line)), "p.png": ("anything", b"PNG"), "s.wav": ("../../x", b"W")}
    assert client.post("/v1/jobs", files=parts).status_code == 202
    assert service.taken == [(line, "local", {"p.png": b"PNG", "s.wav": b"W"}, None)]
    parts["request"] = ("request.json", json.dumps(line), "application/json")  # as curl -F request=@file does
    assert client.post("/v1/jobs", files=parts).status_code == 202
    assert service.taken[1][0] == line and not left_over(service)


def test_a_full_queue_says_when_to_come_again(service, client):
    service.full = 2.3
    answer = client.post("/v1/jobs", json=BALL)
    assert "full" in message(answer, 429) and answer.headers["retry-after"] == "3"


def test_what_cannot_be_made_is_one_line(client):
    answer = client.post("/v1/jobs", json={"text": "nothing", "to": "image"})
    assert message(answer, 422) == "nothing can be made of it: expected something"


def test_pages_of_jobs(service, client):
    ids = [client.post("/v1/jobs", json=BALL).json()["id"] for _ in range(5)][::-1]
    first = client.get("/v1/jobs?limit=2").json()
    assert [job["id"] for job in first["data"]] == ids[:2] and first["has_more"] and first["next"] == ids[1]
    second = client.get(f"/v1/jobs?limit=3&before={ids[1]}").json()
    assert [job["id"] for job in second["data"]] == ids[2:] and not second["has_more"]
    assert second["next"] is None
    assert "limit" in message(client.get("/v1/jobs?limit=0"), 422)
    assert "limit" in message(client.get("/v1/jobs?limit=many"), 422)
    message(client.get("/v1/jobs?before=elsewhere"), 404)


def test_cancel(service, client):
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    assert client.post(f"/v1/jobs/{id_}/cancel").json()["state"] == "cancelled"
    message(client.post("/v1/jobs/other/cancel"), 404)


def test_lists_leave_records_out(service, client):
    service.end(client.post("/v1/jobs", json=BALL).json()["id"])
    (job,) = client.get("/v1/jobs").json()["data"]
    assert job["state"] == "done" and job["record"] is None and job["files"]


# Events


def events_of(text):
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def test_events_have_ids_and_end_after_the_last(service, client):
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    answer = client.get(f"/v1/jobs/{id_}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events_of(answer.text)
    assert [(number, kind) for number, kind, _ in found] == [
        (1, "queued"),
        (2, "started"),
        (5, "progress"),
        (9, "done"),
    ]
    assert found[2][2] == {"step": 1, "steps": 2, "outputs": {"image": [1, 2]}}


def test_events_go_on_where_a_client_stopped(service, client):
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    service.end(id_)
    answer = client.get(f"/v1/jobs/{id_}/events", headers={"Last-Event-ID": "2"})
    assert [number for number, _, _ in events_of(answer.text)] == [5, 9]
    assert [n for n, _, _ in events_of(client.get(f"/v1/jobs/{id_}/events?after=5").text)] == [9]
    assert client.get(f"/v1/jobs/{id_}/events?after=9").text == ""
    message(client.get(f"/v1/jobs/{id_}/events", headers={"Last-Event-ID": "x"}), 422)
    message(client.get("/v1/jobs/other/events"), 404)


def test_a_quiet_stream_has_heartbeats(service, client, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    service.ends = None
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    import threading

    threading.Timer(0.4, service.end, [id_]).start()
    text = client.get(f"/v1/jobs/{id_}/events").text
    assert ": ping" in text and "event: done" in text


# Files


@pytest.fixture
def made(service, client):
    service.media = {"image": bytes(range(100)), "text": b"<script>alert(1)</script>"}
    id_ = client.post("/v1/jobs", json={"text": "a", "to": "image,text"}).json()["id"]
    service.end(id_)
    return f"/v1/jobs/{id_}/files/{id_}"


def test_files_have_their_type_and_name_and_run_nothing(client, made):
    answer = client.get(f"{made}.png")
    name = made.rpartition("/")[2]
    assert answer.headers["content-type"] == "image/png" and answer.content == bytes(range(100))
    assert answer.headers["content-disposition"] == f'inline; filename="{name}.png"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    saved = client.get(f"{made}.png?download=1").headers["content-disposition"]
    assert saved.startswith("attachment")
    words = client.get(f"{made}.txt")
    assert words.headers["content-type"].startswith("text/plain") and "<script>" in words.text
    assert client.get(f"{made}.json").headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("given", "status", "content"),
    [
        ("bytes=0-9", 206, bytes(range(10))),
        ("bytes=90-", 206, bytes(range(90, 100))),
        ("bytes=-5", 206, bytes(range(95, 100))),
        ("bytes=50-5000", 206, bytes(range(50, 100))),
        ("bytes=9-3", 200, bytes(range(100))),
        ("lines=1-2", 200, bytes(range(100))),
        ("bytes=a-b", 200, bytes(range(100))),
        ("bytes=0-1,5-6", 200, bytes(range(100))),
    ],
)
def test_parts_of_files(client, made, given, status, content):
    answer = client.get(f"{made}.png", headers={"Range": given})
    assert (answer.status_code, answer.content) == (status, content)
    if status == 206:
        assert answer.headers["content-range"].endswith("/100")


@pytest.mark.parametrize("given", ["bytes=100-", "bytes=5000-6000", "bytes=-0"])
def test_parts_beyond_the_end(client, made, given):
    answer = client.get(f"{made}.png", headers={"Range": given})
    assert "100 bytes" in message(answer, 416) and answer.headers["content-range"] == "bytes */100"


# The server


def test_models_and_health(client):
    models = client.get("/v1/models").json()
    assert models["object"] == "list" and models["data"][0]["id"] == "codi-tiny"
    assert models["data"][0]["outputs"] == ["text", "image", "audio", "video"]
    assert client.get("/v1/models/codi-tiny").json()["object"] == "model"
    message(client.get("/v1/models/other/x"), 404)
    assert client.get("/v1/health").json() == {
        "status": "ok",
        "ready": True,
        "queued": 3,
        "models": ["codi-tiny"],
    }


def test_what_is_not_there(client):
    message(client.get("/v1/nothing"), 404)
    message(client.put("/v1/jobs"), 405)


def test_a_bug_is_one_line_and_says_nothing_of_the_inside(service, client):
    def broken(id, owner):
        raise RuntimeError("/secret/path")

    service.get = broken
    quiet = TestClient(
        client.app, base_url="http://127.0.0.1", client=("127.0.0.1", 1), raise_server_exceptions=False
    )
    assert "secret" not in message(quiet.get("/v1/jobs/x"), 500)


def test_the_document_lists_everything_with_words(client):
    document = client.get("/openapi.json").json()
    assert client.get("/docs").status_code == 200
    assert set(document["paths"]) == {
        "/v1/jobs",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/cancel",
        "/v1/jobs/{id}/files/{name}",
        "/v1/jobs/{id}/events",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/health",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/videos",
        "/v1/videos/{id}",
        "/v1/videos/{id}/content",
    }
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            assert said["description"] and said["summary"] and said["tags"], (path, method)
    request = document["components"]["schemas"]["JobRequest"]["properties"]
    assert set(request) == {*job_keys(), "model"}
    assert all(said["description"] for said in request.values())
    references = set()

    def walk(value):
        if isinstance(value, dict):
            references.add(value.get("$ref"))
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(document)
    schemas = document["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in references if isinstance(ref, str)} <= set(schemas)


def test_every_key_of_a_line_is_explained():
    unexplained = set(job_keys()) - set(shapes._KEYS) - {"text", "image", "audio", "video"}
    assert all(key.startswith("negative_") for key in unexplained)


def test_origins_that_are_allowed_may_read(service):
    client = client_of(service, cors=("https://app.example",))
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/jobs", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
    answer = client.post("/v1/jobs", json=BALL, headers={"Origin": "https://app.example"})
    assert answer.status_code == 202 and "location" in answer.headers["access-control-expose-headers"].lower()
    others = client.get("/v1/jobs", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in others.headers
