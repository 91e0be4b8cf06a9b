"""Who may ask a server for what: tokens, owners, names of the server, pages from elsewhere."""

import base64

import pytest

pytest.importorskip("fastapi")

from codi.serve.access import Settings, host_name, is_loopback, owner_of, read_tokens  # noqa: E402
from codi.serve.app import create_app  # noqa: E402
from codi.types import InputError  # noqa: E402
from tests.serve.fake_service import FakeService  # noqa: E402
from tests.serve.test_http import BALL, TestClient, client_of, message  # noqa: E402

ANN, BOB = "ann-token-0123456789", "bob-token-0123456789"
TOKENS = {ANN: "ann", BOB: "bob"}


@pytest.fixture
def service(tmp_path):
    return FakeService(tmp_path)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_tokens_are_owners_who_do_not_see_each_other(service):
    client = client_of(service, tokens=TOKENS)
    id_ = client.post("/v1/jobs", json=BALL, headers=bearer(ANN)).json()["id"]
    service.end(id_)
    assert service.jobs[id_].owner == "ann"
    for path in (id_, f"{id_}/events", f"{id_}/files/{id_}.png"):
        assert client.get(f"/v1/jobs/{path}", headers=bearer(ANN)).status_code == 200
        theirs = message(client.get(f"/v1/jobs/{path}", headers=bearer(BOB)), 404)
        assert theirs == message(client.get("/v1/jobs/0123456789abcdef", headers=bearer(BOB)), 404)
    message(client.delete(f"/v1/jobs/{id_}", headers=bearer(BOB)), 404)
    message(client.post(f"/v1/jobs/{id_}/cancel", headers=bearer(BOB)), 404)
    assert client.get("/v1/jobs", headers=bearer(BOB)).json()["data"] == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        bearer("wrong-token-0123456789"),
        bearer(ANN[:-1]),
        bearer(ANN + "x"),
        bearer(""),
        {"Authorization": ANN},
        {"Authorization": f"Digest {ANN}"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(f"{ANN}:wrong".encode()).decode()},
        {"Cookie": f"token={ANN}"},
    ],
)
def test_without_a_right_token(service, given):
    client = client_of(service, tokens=TOKENS)
    answer = client.get("/v1/jobs", headers=given)
    assert "token" in message(answer, 401) and answer.headers["www-authenticate"].startswith("Bearer")
    message(client.post("/v1/jobs", json=BALL, headers=given), 401)
    assert ANN not in answer.text and not service.taken


def test_a_browser_is_asked_for_the_token_as_a_password(service):
    client = client_of(service, tokens=TOKENS)
    answer = client.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
    assert client.get("/v1/jobs", auth=("anybody", ANN)).status_code == 200


def test_what_says_nothing_of_anybody_needs_no_token(service):
    client = client_of(service, tokens=TOKENS)
    assert client.get("/v1/health").json() == {"status": "ok"}
    assert client.get("/v1/health", headers=bearer(ANN)).json()["queued"] == 3
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 200
    message(client.get("/v1/models"), 401)


def test_this_machine_needs_a_token_too_where_there_are_some(service):
    """Behind a reverse proxy everybody comes from this machine."""
    message(client_of(service, tokens=TOKENS).get("/v1/jobs"), 401)


def test_without_tokens_other_machines_are_not_served(service):
    app = create_app(service, Settings(hosts=("codi.example",)))
    client = TestClient(app, base_url="http://codi.example", client=("192.0.2.7", 1))
    assert "token" in message(client.get("/v1/jobs"), 401)
    assert client.get("/v1/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "1.2.3.4"]
)
def test_a_name_that_was_pointed_here_is_refused(service, host):
    client = client_of(service)
    for method in ("GET", "POST"):
        assert "does not answer as" in message(
            client.request(method, "/v1/jobs", headers={"Host": f"{host}:7860"}), 403
        )


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "127.8.8.8:1", "LOCALHOST"])
def test_names_of_this_machine(service, host):
    assert client_of(service).get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@127.0.0.1", "127.0.0.1:port", "\xe4.example"])
def test_a_host_that_is_none(service, host):
    message(client_of(service).get("/v1/jobs", headers=[(b"host", host.encode("latin-1"))]), 400)


def test_names_that_are_allowed(service):
    client = client_of(service, hosts=("codi.example",))
    assert client.get("/v1/jobs", headers={"Host": "codi.example"}).status_code == 200
    message(client.get("/v1/jobs", headers={"Host": "other.example"}), 403)


@pytest.mark.parametrize(
    "given",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},  # another server of this machine
        {"Origin": "http://localhost:7860"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_from_elsewhere_change_nothing(service, given):
    client = client_of(service)
    id_ = client.post("/v1/jobs", json=BALL).json()["id"]
    assert "another origin" in message(client.post("/v1/jobs", json=BALL, headers=given), 403)
    message(client.delete(f"/v1/jobs/{id_}", headers=given), 403)
    message(client.post(f"/v1/jobs/{id_}/cancel", headers=given), 403)
    assert len(service.taken) == 1 and id_ in service.jobs
    with_token = client_of(service, tokens=TOKENS)
    message(with_token.post("/v1/jobs", json=BALL, headers={**given, **bearer(ANN)}), 403)


def test_its_own_page_may_ask(service):
    own = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert client_of(service).post("/v1/jobs", json=BALL, headers=own).status_code == 202
    proxied = client_of(service, hosts=("codi.example",))
    given = {"Origin": "https://codi.example", "Host": "127.0.0.1:7860"}
    assert proxied.post("/v1/jobs", json=BALL, headers=given).status_code == 202


def test_headers_that_come_twice(service):
    client = client_of(service)
    message(client.get("/v1/jobs", headers=[("host", "127.0.0.1"), ("host", "evil.example")]), 400)


def test_what_is_mounted_is_behind_the_guard_too(service):
    app = create_app(service, Settings(tokens=TOKENS))

    async def inside(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": owner_of(_Request(scope)).encode()})

    class _Request:
        def __init__(self, scope):
            self.scope = scope

    app.mount("/page", inside)
    client = TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1))
    message(client.get("/page/x"), 401)
    assert client.get("/page/x", headers=bearer(BOB)).text == "bob"


# Files of tokens


def test_a_file_of_tokens(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\nann:{ANN}\n bob:{BOB} \n")
    assert read_tokens(None, file) == TOKENS
    assert read_tokens("another-token", file) == {"another-token": "local"} | TOKENS
    assert read_tokens() == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann", "line 1: expected name:token"),
        (f":{ANN}", "line 1: expected name:token"),
        (f"a b:{ANN}", "line 1: expected name:token"),
        ("\nann:short", "line 2: expected a token of at least 8"),
        ("ann:with space in it", "expected a token"),
        (f"ann:{ANN}\nbob:{ANN}", "line 2: this token is there twice"),
        ("# nothing", "holds no token"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, expected):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(InputError, match=expected) as caught:
        read_tokens(None, file)
    assert ANN not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(None, tmp_path / "none")


def test_hosts():
    assert host_name("[::1]:80") == "::1" and host_name("A.example.:1") == "a.example"
    assert host_name("a:b") is None and host_name("") is None
    assert is_loopback("127.3.2.1") and is_loopback("::1") and is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("0.0.0.0") and not is_loopback("10.0.0.1") and not is_loopback("local")


def test_under_a_path_of_a_proxy_that_leaves_it_in_requests_or_not(service):
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from codi.serve.page.routes import ByLanguage

    app = create_app(service, Settings(tokens=TOKENS), "/codi")
    app.mount("/de", Starlette(routes=[Route("/", lambda request: PlainTextResponse(request.url.path))]))
    app.add_middleware(ByLanguage, root="/codi")
    client = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
    for root in ("", "/codi"):
        assert client.get(f"{root}/v1/health").status_code == 200  # open to all
        assert client.get(f"{root}/v1/jobs").status_code == 401
        assert client.get(f"{root}/v1/jobs", headers=bearer(ANN)).json()["data"] == []
        assert client.get(f"{root}/de/", headers=bearer(ANN)).text == "/codi/de/"
        german = client.get(f"{root}/?lang=de", headers=bearer(ANN))
        assert (german.status_code, german.headers["location"]) == (307, "/codi/de/")
