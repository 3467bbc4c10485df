"""What is particular to ASGI: WebSockets, mounts, lifespan, and whose errors are whose."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from table import DOWN, DOWN_JWKS
from tokens import API, ISSUER, jwks, resource_server, token
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ticketgate import Issuer, ResourceServer, scope
from ticketgate.asgi import AccessTokenMiddleware, readiness
from ticketgate.drivers.aio import Driver
from ticketgate.errors import ConfigurationError
from ticketgate.starlette import requires

BEARER = {"Authorization": f"Bearer {token(scope='orders:read').decode()}"}


async def show(request):
    caller = request.user.token
    return JSONResponse({"path": request.scope["path"], "sub": caller.subject if caller else None})


async def whoami(request):
    user = request.user
    return JSONResponse([user.is_authenticated, user.display_name, user.identity, request.auth.scopes])


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(websocket.user.token.subject)
    await websocket.close()


async def guarded_echo(websocket):
    await echo(websocket)


ROUTES = [
    Route("/health", show),
    Route("/docs/{rest:path}", show),
    Route("/me", show),
    Route("/whoami", whoami),
    WebSocketRoute("/ws", echo),
    WebSocketRoute("/ws/orders", requires(scope("orders:read"))(guarded_echo)),
    WebSocketRoute("/ws/admin", requires(scope("admin"))(guarded_echo)),
]


def guarded(app=None, **options):
    options = {"public": ["/health", "/docs/*"]} | options
    return AccessTokenMiddleware(app or Starlette(routes=ROUTES), resource_server(), **options)


@pytest.fixture(scope="module")
def url():
    with serve_asgi(guarded(), ws="websockets-sansio") as url:
        yield url


def socket_url(url, path):
    return url.replace("http", "ws") + path


@pytest.mark.parametrize(
    ("path", "headers", "status", "error"),
    [
        ("/ws", {}, 401, None),
        ("/ws", {"Authorization": "Bearer x"}, 401, "invalid_token"),
        ("/ws", {"Authorization": "Bearer"}, 400, "invalid_request"),
        ("/ws/admin", BEARER, 403, "insufficient_scope"),
    ],
)
def test_a_handshake_is_refused_with_an_answer(url, path, headers, status, error):
    with pytest.raises(InvalidStatus) as refused, connect(socket_url(url, path), additional_headers=headers):
        pass
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["WWW-Authenticate"].startswith(f'Bearer realm="{API}"')
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.body).get("error") == error


@pytest.mark.parametrize("path", ["/ws", "/ws/orders"])
def test_a_handshake_with_a_good_token_is_accepted(url, path):
    with connect(socket_url(url, path), additional_headers=BEARER) as websocket:
        assert websocket.recv(5) == "alice"


def call(app, **scope):
    """What ``app`` sends for one connection, in this process."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    base = {"type": "http", "method": "GET", "path": "/me", "headers": [], "root_path": ""}
    asyncio.run(app(base | scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/ws", "/ws/admin"])
def test_a_server_without_denial_responses_closes_the_handshake(path):
    headers = [(b"authorization", BEARER["Authorization"].encode())] if path == "/ws/admin" else []
    sent = call(guarded(), type="websocket", path=path, headers=headers)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


def test_a_handshake_is_never_taken_for_a_preflight():
    headers = [(b"origin", b"x"), (b"access-control-request-method", b"GET")]
    (message,) = call(guarded(), type="websocket", path="/ws", headers=headers)
    assert message["type"] == "websocket.close"


GOOD = token(scope="orders:read")


def offer(*fields, **options):
    """What is sent, and what the application got, for a WebSocket with these Sec-WebSocket-Protocol fields."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await send({"type": "websocket.accept", "subprotocol": None})

    headers = [(b"sec-websocket-protocol", field) for field in fields] + options.pop("headers", [])
    kept = list(headers)
    settings = {"accept_subprotocol_token": True} | options
    path = settings.pop("path", "/ws")
    extensions = {"websocket.http.response": {}}
    scope = {"type": "websocket", "path": path, "headers": headers, "extensions": extensions}
    (first, *_) = call(guarded(app, **settings), **scope, subprotocols=["as the server reads it"])
    assert headers == kept  # the server's own list
    return first, scopes


@pytest.mark.parametrize(
    "fields", [[b"bearer, %s" % GOOD], [b"bearer", GOOD], [b"chat, bearer,%s,v2" % GOOD]]
)
def test_a_token_that_is_offered_as_a_subprotocol_is_taken(fields):
    first, (scope,) = offer(*fields)
    assert first == {"type": "websocket.accept", "subprotocol": "bearer"}
    assert scope["ticketgate.access_token"].subject == "alice"
    others = ["chat", "v2"] if b"chat" in fields[0] else []
    assert scope["subprotocols"] == others
    assert scope["headers"] == ([(b"sec-websocket-protocol", b"chat, v2")] if others else [])
    assert GOOD.decode() not in repr(scope)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"chat", 401),
        (b"bearer", 400),
        (b"bearer, x/y", 400),
        (b"bearer, a=", 400),
        (b"bearer, x", 401),
        (b"bearer, %s, bearer, x" % GOOD, 400),
    ],
)
def test_a_bad_offer_is_refused(field, status):
    first, scopes = offer(field)
    assert (first["status"], scopes) == (status, [])


@pytest.mark.parametrize("scheme", [b"Bearer ", b"Basic "])
def test_an_offer_beside_an_authorization_header_is_refused(scheme):
    first, scopes = offer(b"bearer, %s" % GOOD, headers=[(b"authorization", scheme + GOOD)])
    assert (first["status"], scopes) == (400, [])


def test_an_offer_counts_only_where_it_is_accepted(caplog):
    first, scopes = offer(b"bearer, %s" % GOOD, accept_subprotocol_token=False)
    assert (first["status"], scopes, caplog.text) == (401, [], "")
    offer(b"bearer, %s" % GOOD)
    (warning,) = (record for record in caplog.records if "accept_subprotocol_token" in record.getMessage())
    assert warning.levelname == "WARNING"


@pytest.mark.parametrize("field", [b"bearer, %s" % GOOD, b"bearer, x/y, chat", b"bearer, %s, bearer" % GOOD])
def test_no_application_on_a_public_path_sees_an_offer(field):
    first, (scope,) = offer(field, path="/health")
    assert (first["subprotocol"], scope["ticketgate.access_token"]) == ("bearer", None)
    assert GOOD.decode() not in repr(scope)


def test_an_offer_that_only_the_server_reports_is_taken():
    (first,) = call(
        guarded(accept_subprotocol_token=True),
        type="websocket",
        path="/ws/admin",
        subprotocols=["bearer", GOOD.decode()],
        extensions={"websocket.http.response": {}},
    )[:1]
    assert first["status"] == 403


def test_a_plain_request_offers_nothing():
    sent = call(
        guarded(accept_subprotocol_token=True), headers=[(b"sec-websocket-protocol", b"bearer, " + GOOD)]
    )
    assert sent[0]["status"] == 401


def test_an_offered_token_can_be_judged_again():
    """What comes after the gate looks for credentials where the gate found them."""
    inner = guarded(Starlette(routes=ROUTES))
    (first, *_) = call(
        guarded(inner, accept_subprotocol_token=True),
        type="websocket",
        path="/ws/orders",
        headers=[(b"sec-websocket-protocol", b"bearer, " + GOOD)],
        subprotocols=[],
    )
    assert (first["type"], first["subprotocol"]) == ("websocket.accept", "bearer")


def test_an_error_of_the_application_is_its_own():
    async def failing(scope, receive, send):
        raise KeyError("of the application")

    with pytest.raises(KeyError, match="of the application"):
        call(guarded(failing), path="/health")


def test_of_other_connections_only_lifespan_reaches_the_application():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    call(guarded(app), type="lifespan")
    for kind in ("http.push", "webtransport", "HTTP", "lifespan.startup", ""):
        with pytest.raises(ValueError, match=r"scope type .* is not supported"):
            call(guarded(app, public=["/*"]), type=kind, path="/")
    assert seen == ["lifespan"]


def test_the_lifespan_passes_through():
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        seen.append("started")
        yield
        seen.append("ended")

    with serve_asgi(guarded(Starlette(routes=ROUTES, lifespan=lifespan)), lifespan="on"):
        assert seen == ["started"]
    assert seen == ["started", "ended"]


@pytest.mark.parametrize("path", ["/health", "/docs/a", "/docs/a/b/"])
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Bearer"}, BEARER]
)
def test_credentials_on_a_public_path_are_ignored(url, path, headers):
    response = httpx.get(url + path, headers=headers)
    assert (response.status_code, response.json()) == (200, {"path": path, "sub": None})


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/Health",
        "/health/",
        "/healthz",
        "/docs",
        "/docs/",
        "/docsx",
        "/docs/../me",
        "/docs//me",
    ],
)
def test_what_only_resembles_a_public_path_is_closed(path):
    assert call(guarded(), path=path)[0]["status"] == 401


@pytest.mark.parametrize(
    "wrong", ["/health", ["health"], ["/a/*/b"], ["/a*"], [""], [None], ["/a/../b"], ["/a//b"], ["/a%20b"]]
)
def test_public_paths_that_cannot_mean_anything_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="public"):
        guarded(public=wrong)


def test_everything_may_be_public():
    assert call(guarded(public=["/*"]))[0]["status"] == 200


def test_public_means_the_same_under_a_mount():
    with serve_asgi(Starlette(routes=[Mount("/api", guarded())])) as url:
        assert httpx.get(f"{url}/api/health").status_code == 200
        assert httpx.get(f"{url}/api/me").status_code == 401
        assert httpx.get(f"{url}/api/me", headers=BEARER).json()["sub"] == "alice"


def test_public_means_the_same_behind_a_root_path():
    with serve_asgi(guarded(), root_path="/proxy") as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/me").status_code == 401


def test_a_root_path_that_only_resembles_the_path_is_not_cut_off():
    assert call(guarded(), path="/proxyhealth", root_path="/proxy")[0]["status"] == 401


@pytest.mark.parametrize("server_root", ["", "/docs"])
def test_the_root_path_of_a_fastapi_application_takes_the_place_of_the_servers(server_root):
    inner = FastAPI()
    inner.root_path = "/docs"
    inner.add_api_route("/{rest:path}", lambda rest: rest)
    client = TestClient(guarded(inner), root_path=server_root)
    assert client.get("/docs/orders").status_code == 401
    assert client.get("/docs/health").status_code == 200
    assert client.get("/health").status_code == 200


DJANGO = """
from django import setup
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import re_path
from starlette.testclient import TestClient
from test_asgi import guarded

urls = (re_path(".*", lambda request: HttpResponse(request.path_info)),)
settings.configure(ROOT_URLCONF=urls, SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
setup()
app = guarded(get_asgi_application())

def status(path):
    return TestClient(app).get(path).status_code

for forced in ("/docs", "/do", None):
    settings.FORCE_SCRIPT_NAME = forced
    print([status(path) for path in ("/docs/secret", "/docs/health")])
"""


def test_the_script_name_that_django_is_forced_to_takes_the_place_of_the_servers():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", DJANGO], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines() == [
        "[401, 200]",
        "[401, 401]",
        "[200, 200]",
    ]


def test_the_user_and_what_it_may_do_are_shown_to_starlette(url):
    assert httpx.get(f"{url}/whoami", headers=BEARER).json() == [True, "alice", "alice", ["orders:read"]]


def test_an_anonymous_user_is_nobody():
    with serve_asgi(guarded(optional=True)) as url:
        assert httpx.get(f"{url}/whoami").json() == [False, "", "", []]


def test_head_gets_the_headers_and_no_body():
    start, body = call(guarded(), method="HEAD")
    assert (start["status"], body["body"]) == (401, b"")
    assert dict(start["headers"])[b"content-length"] == b"2"


def problem(error):
    return {"title": error.error, "status": error.status, "reason": error.reason}


def test_the_body_of_an_error_can_be_replaced_and_nothing_else():
    plain = call(guarded(), headers=[(b"authorization", b"Bearer x")])
    worded = call(guarded(error_body=problem), headers=[(b"authorization", b"Bearer x")])
    assert json.loads(worded[1]["body"]) == {"title": "invalid_token", "status": 401, "reason": "malformed"}
    headers, others = dict(worded[0]["headers"]), dict(plain[0]["headers"])
    assert int(headers.pop(b"content-length")) == len(worded[1]["body"])
    others.pop(b"content-length")
    assert (worded[0]["status"], headers) == (plain[0]["status"], others)


def test_the_body_is_replaced_where_a_requirement_is_not_met_too():
    with serve_asgi(
        guarded(Starlette(routes=[Route("/", requires(scope("x"))(show))]), error_body=problem)
    ) as url:
        assert httpx.get(url, headers=BEARER).json()["title"] == "insufficient_scope"


@pytest.mark.parametrize("wrong", [lambda error: 1 / 0, lambda error: object(), lambda error: error.nothing])
def test_a_failing_error_body_is_left_out(wrong, caplog):
    start, body = call(guarded(error_body=wrong))
    assert (start["status"], body["body"]) == (401, b"{}")
    assert "error_body failed" in caplog.text


def test_a_driver_can_be_brought_along():
    class Counting(Driver):
        runs = 0

        async def run(self, flow):
            Counting.runs += 1
            return await super().run(flow)

    call(guarded(driver=Counting()))
    assert Counting.runs == 1


def test_it_stands_in_a_list_of_middleware():
    async def hello(request):
        return PlainTextResponse(request.user.display_name)

    middleware = [Middleware(AccessTokenMiddleware, server=resource_server(), public=["/health"])]
    with serve_asgi(Starlette(routes=[Route("/", hello)], middleware=middleware)) as url:
        assert httpx.get(url, headers=BEARER).text == "alice"
        assert httpx.get(url).status_code == 401


def test_readiness_is_what_the_issuers_say():
    down = ResourceServer(API, Issuer(DOWN, jwks_uri=DOWN_JWKS))
    both = ResourceServer(API, Issuer(DOWN, jwks_uri=DOWN_JWKS), Issuer(ISSUER, jwks=jwks()))
    with serve_asgi(readiness(down)) as url:
        response = httpx.get(url)
        assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    with serve_asgi(readiness(both)) as url:
        response = httpx.get(url)
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "issuers": [{"issuer": DOWN, "state": "unavailable"}, {"issuer": ISSUER, "state": "fresh"}],
    }


class Endless:
    """What a careless double of an application looks like."""

    user_middleware = 1

    @property
    def app(self):
        return self


def test_an_application_without_end_is_wrapped_all_the_same():
    assert AccessTokenMiddleware(Endless(), resource_server()).app.user_middleware == 1
