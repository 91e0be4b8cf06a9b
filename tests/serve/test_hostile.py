"""Whoever means no good, or has a broken client, gets a clear status and one line, and leaves nothing."""

import asyncio
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fastapi")

from codi.serve.access import Settings  # noqa: E402
from codi.serve.app import create_app  # noqa: E402
from codi.serve.limits import Limits  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402
from tests.serve.test_http import BALL, client_of, left_over, message  # noqa: E402

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def service(tmp_path):
    return FakeService(tmp_path, Limits(max_upload_bytes=5000, max_uploads=3, max_request_bytes=4000))


@pytest.fixture
def client(service):
    return client_of(service)


def form(*parts, boundary="xyz", end=True):
    """A form, byte by byte: each part is its headers and its content."""
    text = b""
    for head, content in parts:
        text += f"--{boundary}\r\n{head}\r\n\r\n".encode("utf-8", "surrogateescape") + content + b"\r\n"
    return text + (f"--{boundary}--\r\n".encode() if end else b"")


def part(name, content=b"x", filename=None):
    also = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{also}', content


def post_form(client, *parts, **options):
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    return client.post("/v1/jobs", content=form(*parts, **options), headers=headers)


REQUEST = part("request", json.dumps({"image": "p.png", "to": "text"}).encode())
FILE = part("p.png", b"PNG", "p.png")

# JSON

DEEP = b"[" * 100_0 + b"]" * 100_0
BODIES = {
    "nothing": b"",
    "no JSON": b"text=a&to=image",
    "half": b'{"text": "a", "to": "im',
    "a list": b'[{"text": "a"}]',
    "a text": b'"a red ball"',
    "null": b"null",
    "NaN": b'{"text": "a", "to": "image", "guidance_scale": NaN}',
    "Infinity": b'{"text": "a", "to": "image", "guidance_scale": -Infinity}',
    "beyond all floats": b'{"text": "a", "to": "image", "guidance_scale": 1e999}',
    "a huge number": b'{"text": "a", "to": "image", "seed": 99999999999999999999999999}',
    "a number of 3000 digits": b'{"text": "a", "to": "image", "seed": ' + b"9" * 3000 + b"}",
    "a key twice": b'{"text": "a", "text": "b", "to": "image"}',
    "a key twice inside": b'{"text": {"value": "a", "value": "b"}, "to": "image"}',
    "deep lists": b'{"text": ' + DEEP + b', "to": "image"}',
    "deep enough to matter": b'{"text": ' + b"[" * 40 + b"]" * 40 + b', "to": "image"}',
    "deep objects": b'{"a":' * 600 + b"1" + b"}" * 600,
    "a null byte": b'{"text": "a\\u0000b", "to": "image"}',
    "a null byte in a key": b'{"te\\u0000xt": "a", "to": "image"}',
    "half a surrogate pair": b'{"text": "\\ud83d", "to": "image"}',
    "latin-1": b'{"text": "\xe4", "to": "image"}',
    "utf-16": '{"text": "a", "to": "image"}'.encode("utf-16"),
    "a comment": b'{"text": "a", /* b */ "to": "image"}',
    "two objects": b'{"text": "a", "to": "image"}{"text": "b"}',
    "a model that is no text": b'{"text": "a", "to": "image", "model": {"$ne": null}}',
}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations", "/v1/audio/speech", "/v1/videos"])
def test_json_that_nobody_can_mean(service, client, path):
    for name, body in BODIES.items():
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (name, answer.text)
        message(answer, 400)
        assert not service.taken and not left_over(service), name


def test_large_json(service, client):
    long = {"text": "a" * 5000, "to": "image"}
    message(client.post("/v1/jobs", json=long), 413)
    pieces = (b" " * 1000 for _ in range(1000))  # without a length, counted while it comes
    headers = {"Content-Type": "application/json"}
    message(client.post("/v1/jobs", content=pieces, headers=headers), 413)
    assert not service.taken and not left_over(service)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "text/html", "image/png", "application"]
)
def test_bodies_of_another_kind(service, client, kind):
    """A form of a page from elsewhere can be sent as text/plain without asking first."""
    message(client.post("/v1/jobs", content=json.dumps(BALL), headers={"Content-Type": kind}), 415)
    assert not service.taken


def test_packed_bodies(service, client):
    import gzip

    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 10_000_000)
    message(client.post("/v1/jobs", content=bomb[:3000], headers=headers), 415)


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "a"])
def test_lengths_that_are_none(service, client, length):
    headers = {"Content-Type": "application/json", "Content-Length": length}
    assert client.post("/v1/jobs", content=json.dumps(BALL), headers=headers).status_code in (400, 413)
    assert not service.taken


def test_a_length_that_is_too_large_is_refused_before_anything_is_read(service):
    answered = spoken(service, [], {"content-type": "application/json", "content-length": "99999999999"})
    assert answered.status == 413 and answered.read == 0
    headers = {"content-type": "multipart/form-data; boundary=xyz", "content-length": "99999999999"}
    answered = spoken(service, [], headers)
    assert answered.status == 413 and answered.read == 0 and not left_over(service)


# Forms


@pytest.mark.parametrize(
    "name",
    [
        "../p.png",
        "/etc/passwd",
        "a/b.png",
        "a\\b.png",
        "..",
        ".",
        "",
        " ",
        ".hidden",
        "a" * 200,
        "a\x01b.png",
        "job:0123456789abcdef",
        "C:p.png",
        "-rf",
        "\u202egnp.exe",
    ],
)
def test_names_of_parts_that_are_no_plain_names(service, client, name):
    line = part("request", json.dumps({"image": name or "x", "to": "text"}).encode())
    message(post_form(client, line, part(name, b"PNG", "p.png")), 400)
    assert not service.taken and not left_over(service)
    assert not [path for path in service.data.rglob("*") if path.is_file()]


def test_null_bytes_in_names(service, client):
    line = part("request", b'{"image": "p.png\\u0000.wav", "to": "text"}')
    message(post_form(client, line, FILE), 400)
    message(post_form(client, REQUEST, part("p.png\0.wav", b"PNG", "p.png")), 400)
    assert not service.taken


def test_names_of_files_mean_nothing(service, client):
    """Only the name of the part counts; what the client's disk calls the file is not used."""
    answer = post_form(client, REQUEST, part("p.png", b"PNG", "../../../etc/passwd"))
    assert answer.status_code == 202 and service.taken[0][2] == {"p.png": b"PNG"}
    assert not left_over(service)


BAD_FORMS = {
    "no request": [FILE],
    "only the request, which names a part": None,
    "the request twice": [REQUEST, REQUEST, FILE],
    "a part twice": [REQUEST, FILE, FILE],
    "a part that nothing names": [REQUEST, FILE, part("q.png", b"PNG", "q.png")],
    "a field that is no file": [REQUEST, FILE, part("extra", b"x")],
    "a part without a name": [REQUEST, FILE, ("Content-Disposition: form-data", b"x")],
    "a part without headers": [REQUEST, FILE, ("X-Nothing: 1", b"x")],
    "a request that is no JSON": [part("request", b"text=a"), FILE],
    "a request that is half a JSON": [part("request", b'{"image": "p.png'), FILE],
    "very long headers": [REQUEST, ("X: " + "a" * 9000, b"x")],
    "many headers": [REQUEST, ("\r\n".join(f"X-{k}: 1" for k in range(50)), b"x")],
}


@pytest.mark.parametrize("name", [name for name, parts in BAD_FORMS.items() if parts])
def test_forms_that_are_wrong(service, client, name):
    message(post_form(client, *BAD_FORMS[name]), 400)
    assert not service.taken and not left_over(service)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=" + "x" * 1000,
    ],
)
def test_boundaries_that_are_wrong(service, client, kind):
    content = form(REQUEST, FILE)
    message(client.post("/v1/jobs", content=content, headers={"Content-Type": kind}), 400)
    assert not service.taken and not left_over(service)


def test_files_that_are_too_large_or_too_many(service, client):
    message(post_form(client, REQUEST, part("p.png", b"x" * 6000, "p.png")), 413)
    many = [part(f"{k}.png", b"x", "a") for k in range(4)]
    message(post_form(client, REQUEST, *many), 413)
    message(post_form(client, part("request", b"{}" + b" " * 5000), FILE), 413)
    message(post_form(client, REQUEST, *[part(f"f{k}", b"x" * 1000) for k in range(9)]), 413)
    assert not service.taken and not left_over(service)


def test_half_a_form(service, client):
    message(post_form(client, REQUEST, FILE, end=False), 400)
    assert not service.taken and not left_over(service)


# Clients that go away


class spoken:  # noqa: N801  # reads like a verb
    """One request, message by message, as a server hands it on; the client hangs up at the end."""

    def __init__(self, service, pieces, headers, stall=30.0, path="/v1/jobs", hang_up=True):
        app = create_app(service, Settings(stall=stall))
        self.status, self.read, self.left = None, 0, None
        lines = [(b"host", b"127.0.0.1"), *((k.encode(), v.encode()) for k, v in headers.items())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": lines,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

        async def receive():
            self.read += 1
            if messages:
                return messages.pop(0)
            self.left = left_over(service)
            if not hang_up:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                self.status = message["status"]

        asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))


FORM = {"content-type": "multipart/form-data; boundary=xyz"}


@pytest.mark.parametrize("cut", [10, 100, 200, 260])
def test_a_client_that_goes_away_in_the_middle(service, cut):
    content = form(REQUEST, part("p.png", b"P" * 100, "p.png"))
    found = spoken(service, [content[: cut // 2], content[cut // 2 : cut]], FORM)
    assert found.left, "the upload was on its way"
    assert not left_over(service) and not service.taken


def test_a_client_that_goes_away_before_its_job_is_taken(service):
    content = form(REQUEST, FILE)
    body = {"content-type": FORM["content-type"], "content-length": str(len(content))}
    spoken(service, [content], body)
    assert not left_over(service) and not service.taken


def test_a_client_that_says_nothing_more(service):
    content = form(REQUEST, FILE)[:150]
    found = spoken(service, [content], FORM, stall=0.1, hang_up=False)
    assert found.status == 400 and not left_over(service) and not service.taken


def test_what_a_killed_server_left_is_gone_at_the_next_start(service):
    stale = service.data / "uploads" / "tmpabc"
    stale.mkdir(parents=True)
    (stale / "000.png").write_bytes(b"PNG")
    create_app(service, Settings())
    assert not left_over(service)


def test_uploads_that_fill_the_disk_together(service):
    client = client_of(service, uploads_at_once=0)
    answer = post_form(client, REQUEST, FILE)
    assert "uploads" in message(answer, 429) and answer.headers["retry-after"]
    assert client.post("/v1/jobs", json=BALL).status_code == 202  # JSON is small


# Names in paths


PATHS = [
    "../../../etc/passwd",
    "..%2f..%2fqueue.sqlite",
    "%2e%2e/%2e%2e/queue.sqlite",
    "queue.sqlite",
    "%00.png",
    "a%00.png",
    ".",
    "%2e%2e",
    "x" * 5000,
    "\u202e.png",
    "%ff%fe",
]


def test_paths_lead_nowhere_else(service, client):
    (service.data / "queue.sqlite").write_bytes(b"SECRET")
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    service.end(id_)
    for path in PATHS:
        answer = client.get(f"/v1/jobs/{id_}/files/{path}")
        assert answer.status_code == 404 and "SECRET" not in answer.text, path
        message(answer, 404)


@pytest.mark.parametrize("rest", ["", "/events", "/files/a.png"])
def test_ids_that_are_none(client, rest):
    from urllib.parse import quote

    for id_ in ("..", "%2e%2e", "a'or'1'='1", "*", "%", "0" * 3000, "%00", HTML, "\u0000"):
        shown = id_ if id_.startswith("%") else quote(id_, safe="")
        answer = client.get(f"/v1/jobs/{shown}{rest}")
        assert answer.status_code in (404, 405), (id_, answer.text)
        assert HTML not in answer.text


# Markup


def test_markup_is_never_interpreted(service, client):
    id_ = client.post("/v1/jobs", json={"text": HTML, "to": "image"}).json()["id"]
    for path in (f"/v1/jobs/{id_}", "/v1/jobs", f"/v1/jobs/{id_}/events"):
        answer = client.get(path)
        assert answer.headers["content-type"].split(";")[0] in ("application/json", "text/event-stream")
        assert answer.headers["x-content-type-options"] == "nosniff"
    answer = client.post("/v1/jobs", json={HTML: HTML, "model": [HTML]})
    message(answer, 400)


def test_lines_in_events_stay_one_event(service, client):
    """What a prompt holds cannot end an event and begin another."""
    service.ends = None
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    evil = "x\n\nevent: done\ndata: {}\n\nid: 99"
    service.end(id_, "failed", evil)
    text = client.get(f"/v1/jobs/{id_}/events").text
    assert text.count("event: done") == 0 or "\\n\\nevent: done" in text
    assert "\nid: 99" not in text and text.count("\n\n") == 4


def test_controls_in_messages_reach_no_terminal(client):
    answer = client.post("/v1/jobs", json={"text": "a", "to": "image", "model": "\x1b[2Jx"})
    assert "\x1b" not in answer.text


# Addresses

ADDRESSES = [
    "http://127.0.0.1/x.png",
    "https://127.0.0.1/x.png",
    "https://[::1]/x.png",
    "http://169.254.169.254/latest/meta-data",
    "https://allowed.example.evil.example/x.png",
    "https://allowed.example@evil.example/x.png",
    "https://user:password@allowed.example/x.png",
    "https://evil.example/?allowed.example",
    "https://evil.example#allowed.example",
    "https://allowed.example:8443/x.png",
    "https://allowed.example:99999/x.png",
    "http://allowed.example/x.png",
    "ftp://allowed.example/x.png",
    "file:///etc/passwd",
    "gopher://allowed.example/x",
    "data:image/png;base64,AAAA",
    "  https://evil.example/x.png",
]


def test_addresses_are_not_fetched(service, monkeypatch):
    client = client_of(service, allow_urls=("allowed.example",))
    monkeypatch.setattr("codi.serve.downloads._fetch", lambda *_: pytest.fail("it was fetched"))
    for address in ADDRESSES:
        sketch, start = {"control": {"sketch": address}}, {"start": {"image": address}, "to": "image"}
        for line in ({"image": address}, start, sketch):
            answer = client.post("/v1/jobs", json={"to": "text", **line})
            assert answer.status_code == 400, (address, answer.text)
            message(answer, 400)
    assert not service.taken and not left_over(service)


def test_an_address_in_words_is_words(service, client):
    assert client.post("/v1/jobs", json={"text": ADDRESSES[0], "to": "image"}).status_code == 202


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A server of https on this machine, with a certificate that the client is told to trust."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("https")
    _certify(folder)
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            if self.path == "/moved.png":
                self.send_response(302)
                self.send_header("Location", "/a.png")
                self.end_headers()
                return
            self.send_response(404 if "none" in self.path else 200)
            self.end_headers()
            if self.path.startswith("/large"):
                for _ in range(100):
                    self.wfile.write(b"x" * 1000)
            self.wfile.write(b"PNG")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # clients hang up here
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.seen, server.trust = seen, str(folder / "cert.pem")
    yield server
    server.shutdown()
    server.server_close()


def _certify(folder):
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    certificate = (
        builder.add_extension(names, critical=False).add_extension(constraints, critical=True)
    ).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


def test_allowed_hosts_are_fetched_within_limits(service, elsewhere, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", elsewhere.trust)
    host = f"localhost:{elsewhere.server_port}"
    client = client_of(service, allow_urls=(host,))
    line = {"image": [f"https://{host}/a.png::0.5", f"https://{host}/b/a.png?x=1"], "to": "text"}
    assert client.post("/v1/jobs", json=line).status_code == 202
    taken, _, files, _ = service.taken[0]
    assert files == {"a.png": b"PNG", "1-a.png": b"PNG"} and elsewhere.seen == ["/a.png", "/b/a.png?x=1"]
    assert [entry["value"] for entry in taken["image"]] == ["a.png", "1-a.png"]
    for path, status in (("moved.png", 400), ("none.png", 400), ("large.png", 413)):
        message(client.post("/v1/jobs", json={"image": f"https://{host}/{path}", "to": "text"}), status)
    many = [f"https://{host}/{k}.png" for k in range(4)]
    message(client.post("/v1/jobs", json={"image": many, "to": "text"}), 413)
    assert elsewhere.seen[2:] == ["/moved.png", "/none.png", "/large.png"]
    assert len(service.taken) == 1 and not left_over(service)


def test_a_host_without_a_right_certificate(service, elsewhere):
    host = f"localhost:{elsewhere.server_port}"
    answer = client_of(service, allow_urls=(host,)).post("/v1/jobs", json={"image": f"https://{host}/a.png"})
    assert "gave no file" in message(answer, 400) and not left_over(service)


# Many at once


def test_many_who_ask_at_once(service):
    """Each is answered for itself, and none waits for one that is slow to send."""
    client = client_of(service)
    began = time.monotonic()
    answers = []

    def ask(k):
        answers.append(client.post("/v1/jobs", json={"text": f"ball {k}", "to": "image"}).status_code)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 20 and len({line["text"] for line, *_ in service.taken}) == 20
    assert time.monotonic() - began < 30
