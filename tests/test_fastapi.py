"""``requires`` as a dependency: path operations, routers, applications and WebSockets, under a real server."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from servers import serve_asgi
from starlette.middleware import Middleware
from tokens import API, resource_server, token
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ticketgate import AccessToken, role, scope
from ticketgate.core.challenge import Answer
from ticketgate.errors import (
    AccessDenied,
    InsufficientScope,
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
    NoCredentials,
)
from ticketgate.fastapi import AccessTokenMiddleware, Refused, access_token, install, requires

READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}
MALFORMED = {"Authorization": "Bearer"}
Reader = Annotated[AccessToken, Depends(requires(scope("read")))]


def api(**options):
    app = FastAPI(**options)
    router = APIRouter(prefix="/router", dependencies=[Depends(requires(scope("read"), role("clerk")))])

    @app.get("/orders")
    async def orders(caller: Reader):
        return {"sub": caller.subject}

    @app.get("/plain")
    def plain(caller: Reader):
        return {"sub": caller.subject}

    @app.get("/any", dependencies=[Depends(requires())])
    async def any_token():
        return {"sub": None}

    @router.get("/")
    async def of_a_router():
        return {"sub": None}

    @app.websocket("/ws")
    async def websocket(websocket: WebSocket, caller: Reader):
        await websocket.accept()
        await websocket.send_text(caller.subject or "")
        await websocket.close()

    app.include_router(router)
    return app


def with_the_middleware():
    app = api(middleware=[Middleware(AccessTokenMiddleware, server=resource_server())])
    install(app)
    return app


def with_a_state():
    app = api()
    install(app, resource_server())
    return app


def without_install():
    app = api()
    app.state.ticketgate = resource_server()
    return app


@pytest.fixture(scope="module", params=[with_the_middleware, with_a_state, without_install])
def url(request):
    with serve_asgi(request.param(), ws="websockets-sansio") as url:
        yield url


@pytest.mark.parametrize("path", ["/orders", "/plain"])
def test_path_operations_get_the_token(url, path):
    answer = httpx.get(url + path, headers=READER)
    assert (answer.status_code, answer.json()) == (200, {"sub": "alice"})


@pytest.mark.parametrize(
    ("path", "headers", "status", "error", "more"),
    [
        ("/orders", {}, 401, None, ""),
        ("/orders", MALFORMED, 400, "invalid_request", ""),
        ("/orders", {"Authorization": "Bearer x"}, 401, "invalid_token", ""),
        ("/orders", STRANGER, 403, "insufficient_scope", ', scope="read"'),
        ("/any", {}, 401, None, ""),
        ("/any", STRANGER, 200, None, ""),
        ("/router/", READER, 403, "insufficient_scope", ""),
    ],
)
def test_refusals(url, path, headers, status, error, more):
    answer = httpx.get(url + path, headers=headers)
    assert answer.status_code == status
    if status == 200:
        return
    (challenge,) = answer.headers.get_list("WWW-Authenticate")
    assert challenge.startswith(f'Bearer realm="{API}"')
    assert challenge.endswith(more)
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body.get("detail", body).get("error") == error


def test_websockets(url):
    address = url.replace("http", "ws") + "/ws"
    with connect(address, additional_headers=READER) as websocket:
        assert websocket.recv(5) == "alice"
    for headers, status in ((STRANGER, 403), ({}, 401)):
        with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
        assert refused.value.response.headers["WWW-Authenticate"].startswith("Bearer ")


def test_without_install_the_body_is_fastapis(caplog):
    with serve_asgi(without_install()) as url:
        assert httpx.get(f"{url}/orders", headers=STRANGER).json()["detail"]["error"] == "insufficient_scope"
    with serve_asgi(with_a_state()) as url:
        assert httpx.get(f"{url}/orders", headers=STRANGER).json()["error"] == "insufficient_scope"
        assert httpx.head(f"{url}/orders", headers=STRANGER).status_code == 405


def test_with_neither_nothing_opens_and_the_log_says_what_to_add(caplog):
    app = api()
    install(app)
    assert "install(app, server)" in caplog.text
    with serve_asgi(app) as url:
        assert httpx.get(f"{url}/orders", headers=READER).status_code == 503


def test_the_dependency_may_name_its_server():
    app = FastAPI()

    @app.get("/", dependencies=[Depends(requires(scope("read"), server=resource_server()))])
    async def show():
        return {}

    @app.websocket("/ws", dependencies=[Depends(requires(scope("read"), server=resource_server()))])
    async def websocket(websocket: WebSocket):
        await websocket.accept()

    with serve_asgi(app) as url:
        assert [httpx.get(url, headers=headers).status_code for headers in (READER, STRANGER, {})] == [
            200,
            403,
            401,
        ]


def test_the_token_of_a_request():
    app = api(middleware=[Middleware(AccessTokenMiddleware, server=resource_server(), optional=True)])

    @app.get("/who")
    async def who(request: Request):
        caller = access_token(request)
        return caller.subject if caller else None

    with serve_asgi(app) as url:
        assert [httpx.get(f"{url}/who", headers=headers).json() for headers in (READER, {})] == [
            "alice",
            None,
        ]


CHALLENGES = [
    (b"www-authenticate", b'Bearer realm="x"'),
    (b"www-authenticate", b'DPoP algs="ES256"'),
    (b"cache-control", b"no-store"),
]
OWN = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def refused_twice():
    return Refused(Answer(401, (*CHALLENGES, *OWN), b"{}"))


def test_the_headers_of_a_refusal_are_a_mapping():
    headers = refused_twice().headers
    joined = 'Bearer realm="x", DPoP algs="ES256"'
    copied = {"www-authenticate": joined, "cache-control": "no-store"}
    assert isinstance(headers, Mapping)
    assert (dict(headers), {**headers}, {name: headers[name] for name in headers}) == (copied, copied, copied)
    assert (list(headers), len(headers)) == (list(copied), 2)
    assert headers["WWW-Authenticate"] == headers.get("www-authenticate") == joined
    assert "Cache-Control" in headers
    assert "Content-Type" not in headers
    assert (headers.get("x"), headers.get("x", "y")) == (None, "y")
    with pytest.raises(KeyError, match="X-Other"):
        headers["X-Other"]


def copying(request, error):
    return JSONResponse({"words": "ours"}, error.status_code, headers={**dict(error.headers), "X-Own": "1"})


def passing_on(request, error):
    return JSONResponse({"words": "ours"}, error.status_code, headers=error.headers)


@pytest.mark.parametrize(
    ("handler", "fields"), [(None, 2), (passing_on, 2), (copying, 1)], ids=["fastapi", "passed on", "copied"]
)
async def test_both_challenges_go_out(handler, fields):
    app = FastAPI()
    if handler is not None:
        app.add_exception_handler(HTTPException, handler)

    @app.get("/")
    async def refuse():
        raise refused_twice()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.example") as client:
        answer = await client.get("/")
    assert answer.status_code == 401
    assert len(answer.headers.get_list("WWW-Authenticate")) == fields
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="x", DPoP algs="ES256"'
    assert answer.json() == ({"detail": {}} if handler is None else {"words": "ours"})


RAISED = [  # the error, its status, what its challenge ends with, its code
    (AccessDenied(), 403, 'operation"', "insufficient_scope"),
    (InsufficientScope(("x", "y")), 403, ', scope="x y"', "insufficient_scope"),
    (InvalidToken("inactive"), 401, 'is invalid"', "invalid_token"),
    (InvalidRequest("token"), 400, 'credentials"', "invalid_request"),
    (NoCredentials(), 401, f'realm="{API}"', None),
    (IssuerUnavailable("away", retry_after=7), 503, None, None),
]


def raising(error):
    async def fail():
        raise error

    app = FastAPI()
    app.get("/async")(fail)
    app.get("/plain", dependencies=[Depends(requires(scope("read")))])(lambda: asyncio.run(fail()))
    app.get("/dependency", dependencies=[Depends(fail)])(lambda: None)
    return app


def raising_behind_the_middleware(error):
    app = raising(error)
    app.add_middleware(AccessTokenMiddleware, server=resource_server())
    install(app)
    return app


def raising_with_a_state(error):
    app = raising(error)
    install(app, resource_server())
    return app


@pytest.mark.parametrize(("error", "status", "ending", "code"), RAISED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("made", [raising_behind_the_middleware, raising_with_a_state])
async def test_our_errors_may_be_raised(made, error, status, ending, code):
    transport = httpx.ASGITransport(made(error))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        for path in ("/async", "/plain", "/dependency"):
            answer = await client.get(path, headers=READER)
            assert (answer.status_code, answer.headers["Cache-Control"]) == (status, "no-store")
            assert answer.json().get("error") == code
            if ending is None:
                assert (answer.headers["Retry-After"], "WWW-Authenticate" in answer.headers) == ("7", False)
            else:
                (challenge,) = answer.headers.get_list("WWW-Authenticate")
                assert challenge.startswith(f'Bearer realm="{API}"')
                assert challenge.endswith(ending)


async def test_our_errors_where_no_server_is_known(caplog):
    app = raising(AccessDenied())
    install(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        assert (await client.get("/async")).status_code == 503
