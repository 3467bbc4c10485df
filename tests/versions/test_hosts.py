"""One table, all hosts: each example of the documentation, run as its users run it, answers the same."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.request import parse_http_list, parse_keqv_list

import httpx
import pytest
from fault_issuer import FaultIssuer, status
from servers import free_port, start
from tokens import API, key
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
UVICORN = ["uvicorn", "--port", "{port}", "--log-level", "warning", "--ws", "websockets-sansio"]
GUNICORN = ["gunicorn", "-b", "127.0.0.1:{port}", "--no-control-socket", "-k"]
HOSTS = {
    "starlette": [*UVICORN, "starlette_app:app"],
    "fastapi": [*UVICORN, "fastapi_app:app"],
    "fastapi dependencies": [*UVICORN, "fastapi_dependencies:app"],
    "flask gthread": [*GUNICORN, "gthread", "flask_app:create_app()"],
    "flask sync": [*GUNICORN, "sync", "flask_app:create_app()"],
    "flask waitress": ["waitress", "--listen", "127.0.0.1:{port}", "--call", "flask_app:create_app"],
    "django wsgi": [*GUNICORN, "gthread", "django_app:application"],
    "django asgi": [*UVICORN, "--lifespan", "off", "django_app:asgi_application"],
    "rest framework": [*GUNICORN, "gthread", "rest_framework_app:application"],
    "wsgi": ["waitress", "--listen", "127.0.0.1:{port}", "wsgi_app:app"],
}
WEBSOCKETS = ("starlette", "fastapi", "fastapi dependencies")
EXPIRED = {"exp": 1_500_000_000, "iat": 1_499_999_000}
STRANGER = key("ES256")
INVALID = ("invalid_token", "The access token is invalid")
ROWS = {  # name: path, headers, status, error, its description, the scopes of the challenge
    "good": ("/orders", {"scope": "orders:read"}, 200, None, None, None),
    "any token": ("/me", {}, 200, None, None, None),
    "role": ("/admin", {"roles": ["admin"]}, 200, None, None, None),
    "public": ("/health", None, 200, None, None, None),
    "none": ("/orders", None, 401, None, None, None),
    "none, any token": ("/me", None, 401, None, None, None),
    "basic": ("/orders", ["Basic YTpi"], 401, None, None, None),
    "empty": ("/orders", ["Bearer"], 400, "invalid_request", None, None),
    "malformed": ("/orders", ["Bearer a b"], 400, "invalid_request", None, None),
    "two headers": ("/orders", ["Bearer x", "Bearer x"], 400, "invalid_request", None, None),
    "no token at all": ("/orders", ["Bearer x"], 401, *INVALID, None),
    "expired": ("/orders", EXPIRED, 401, "invalid_token", "The access token expired", None),
    "wrong scope": ("/orders", {"scope": "orders"}, 403, "insufficient_scope", None, "orders:read"),
    "wrong role": ("/admin", {"roles": ["administrator"]}, 403, "insufficient_scope", None, None),
    "another audience": ("/me", {"aud": "https://other.example"}, 401, "invalid_token", None, None),
    "outage": ("/orders", {"scope": "orders:read", "signing": STRANGER}, 503, None, None, None),
}


@pytest.fixture(scope="module")
def issuer():
    with FaultIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module", params=HOSTS)
def host(request, issuer):
    port = free_port()
    command = [part.format(port=port) for part in HOSTS[request.param]]
    env = os.environ | {"ISSUER": issuer.url}
    with start([sys.executable, "-m", *command], port=port, cwd=EXAMPLES, env=env) as url:
        yield request.param, url


def headers_of(wanted, issuer):
    match wanted:
        case None:
            return []
        case list():
            return [("Authorization", value) for value in wanted]
        case _:
            return [("Authorization", f"Bearer {issuer.token(**wanted)}")]


def challenge_of(answer):
    """The scheme and the parameters of the one challenge; None where there is none."""
    lines = answer.headers.get_list("WWW-Authenticate")
    if not lines:
        return None
    scheme, _, parameters = ", ".join(lines).partition(" ")
    return scheme, parse_keqv_list(parse_http_list(parameters))


@pytest.mark.parametrize("name", ROWS)
def test_every_host_answers_as_the_table_says(host, issuer, name):
    path, wanted, code, error, description, scopes = ROWS[name]
    if name == "outage":  # with keys at hand, and a token by a key that nobody has seen
        httpx.get(f"{host[1]}/me", headers=headers_of({}, issuer)).raise_for_status()
        issuer.faults["/jwks"] = status(500)
    try:
        answer = httpx.get(host[1] + path, headers=headers_of(wanted, issuer))
    finally:
        issuer.faults.clear()
    assert answer.status_code == code
    if code == 200:
        assert path == "/health" or answer.json() == {"sub": "alice"}
        return
    assert answer.headers.get_list("Cache-Control") == ["no-store"]
    assert answer.headers["Content-Type"] == "application/json"
    assert ("Retry-After" in answer.headers) == (code == 503)
    if code == 503:
        assert (challenge_of(answer), answer.json()) == (None, {})
        return
    scheme, parameters = challenge_of(answer)
    assert (scheme, parameters.pop("realm")) == ("Bearer", API)
    assert parameters.pop("scope", None) == scopes
    assert parameters == answer.json()
    assert parameters.get("error") == error
    assert description in (None, parameters.get("error_description"))


# What a preflight gets: Starlette's CORSMiddleware and Flask answer it themselves, no view does.
PREFLIGHTS = dict.fromkeys(HOSTS, 401) | {"starlette": 200, "fastapi dependencies": 405}
PREFLIGHTS |= dict.fromkeys(["flask gthread", "flask sync", "flask waitress"], 200)


def test_no_view_answers_a_preflight(host):
    name, url = host
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    answer = httpx.options(f"{url}/me", headers=asking)
    assert (answer.status_code, "sub" in answer.text) == (PREFLIGHTS[name], False)
    for method, headers in (
        ("HEAD", asking),
        ("OPTIONS", {}),
        ("OPTIONS", {"Origin": "https://app.example"}),
    ):
        assert httpx.request(method, f"{url}/me", headers=headers).status_code in (401, 405)


def test_websockets_where_the_host_has_them(host, issuer):
    name, url = host
    if name not in WEBSOCKETS:
        assert httpx.get(f"{url}/ws", headers=headers_of({}, issuer)).status_code in (404, 500)
        return
    address = url.replace("http", "ws") + "/ws"
    with connect(address, additional_headers=headers_of({"scope": "orders:read"}, issuer)) as websocket:
        assert websocket.recv(5) == "alice"
    for wanted, code in ((None, 401), ({}, 403), (EXPIRED, 401), (["Bearer"], 400)):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(address, additional_headers=headers_of(wanted, issuer)),
        ):
            pass
        response = refused.value.response
        assert (response.status_code, response.headers["Cache-Control"]) == (code, "no-store")
        assert response.headers["WWW-Authenticate"].startswith(f'Bearer realm="{API}"')


@pytest.mark.parametrize(
    "application",
    [
        "starlette_app:app",
        "fastapi_app:app",
        "fastapi_dependencies:app",
        "flask_app:create_app()",
        "django_app:application",
        "rest_framework_app:application",
    ],
)
def test_no_route_of_the_examples_is_open_by_accident(application, issuer):
    done = subprocess.run(
        [sys.executable, "-m", "ticketgate", "routes", application, "--check"],
        capture_output=True,
        text=True,
        cwd=EXAMPLES,
        env=os.environ | {"ISSUER": issuer.url},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
