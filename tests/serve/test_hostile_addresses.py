"""Prompts that are addresses: none is fetched but from hosts that were allowed by name, within limits."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fastapi")

from codi.serve.limits import Limits  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402
from tests.serve.test_http import client_of, left_over, message  # noqa: E402


@pytest.fixture
def service(tmp_path):
    return FakeService(tmp_path, Limits(max_upload_bytes=5000, max_uploads=3, max_request_bytes=4000))


@pytest.fixture
def client(service):
    return client_of(service)


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
