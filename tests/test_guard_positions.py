"""``@requires`` where something else than the router calls it: a refusal never lets the caller go on."""

import json
from functools import wraps

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from litestar import Litestar, get
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from tokens import resource_server, token

from ticketgate import scope
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit import audit
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import install
from ticketgate.starlette import RaisedRefusal, requires

SERVER = resource_server()
READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}
needs_read = requires(scope("read"))
ran = []


@needs_read
async def asynchronous(request: Request):
    return "value"


@needs_read
def synchronous(request: Request):
    return "value"


@requires(scope("read"), fresh_within=1e9)
def fresh(request: Request):
    return "value"


class Callable:
    @needs_read
    async def __call__(self, request: Request):
        return "value"


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def fastapi_app(dependency, where, installed):
    app = FastAPI(dependencies=[Depends(dependency)] if where == "application" else [])
    router = APIRouter(dependencies=[Depends(dependency)] if where == "router" else [])

    async def outer(value: object = Depends(dependency)):
        return value

    own = {"route": [Depends(dependency)], "nested": [Depends(outer)]}.get(where, [])

    @router.get("/orders", dependencies=own)
    async def orders():
        ran.append("orders")
        return "orders"

    app.include_router(router)
    app.add_middleware(AccessTokenMiddleware, server=SERVER, optional=True)
    if installed:
        install(app)
    return app


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("where", ["application", "router", "route", "nested"])
@pytest.mark.parametrize("dependency", [asynchronous, synchronous, fresh, Callable()])
def test_a_guarded_dependency_of_fastapi_refuses(dependency, where, installed):
    with TestClient(fastapi_app(dependency, where, installed)) as client:
        anonymous, stranger = client.get("/orders"), client.get("/orders", headers=STRANGER)
        assert (anonymous.status_code, stranger.status_code, ran) == (401, 403, [])
        assert anonymous.headers["www-authenticate"].startswith("Bearer")
        body = stranger.json() if installed else json.loads(stranger.json()["detail"])
        assert body["error"] == "insufficient_scope"
        if dependency is not fresh:
            assert (client.get("/orders", headers=READER).status_code, ran) == (200, ["orders"])


@pytest.mark.parametrize("where", ["application", "router", "route"])
def test_an_audit_reports_a_guarded_dependency(where):
    (problem,) = [one for one in audit(fastapi_app(asynchronous, where, True)).problems if "orders" in one]
    assert "write Depends(ticketgate.fastapi.requires(...))" in problem


@pytest.mark.parametrize("installed", [True, False])
def test_a_guarded_dependency_of_a_websocket_refuses(installed):
    @needs_read
    async def guarded(websocket: WebSocket): ...

    app = FastAPI()

    @app.websocket("/orders", dependencies=[Depends(guarded)])
    async def orders(websocket: WebSocket):
        ran.append("orders")

    if installed:
        install(app)
    with (
        pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)) as refused,
        TestClient(AccessTokenMiddleware(app, SERVER)).websocket_connect("/orders", headers=STRANGER),
    ):
        pass
    assert (refused.value.status_code, ran) == (403, [])
    assert audit(AccessTokenMiddleware(app, SERVER)).problems


def test_a_guard_that_an_endpoint_calls_raises():
    async def orders(request):
        await asynchronous(request)
        ran.append("orders")
        return PlainTextResponse("orders")

    client = TestClient(AccessTokenMiddleware(Starlette(routes=[Route("/orders", orders)]), SERVER))
    refused = client.get("/orders", headers=STRANGER)
    assert (refused.status_code, refused.json()["error"], ran) == (403, "insufficient_scope", [])
    assert client.get("/orders", headers=READER).text == "orders"


def test_a_guard_without_a_connection_raises():
    with pytest.raises(RaisedRefusal, match="503"):
        synchronous()


def test_a_guard_of_litestar_raises():
    @needs_read
    def guarded(connection, handler): ...

    @get("/orders", guards=[guarded], sync_to_thread=False)
    def orders() -> str:
        ran.append("orders")
        return "orders"

    client = TestClient(AccessTokenMiddleware(Litestar([orders]), SERVER))
    assert (client.get("/orders", headers=READER).status_code, ran) == (503, [])


def generator(request):
    yield "orders"


async def async_generator(request):
    yield "orders"


class Generating:
    def __call__(self, request):
        yield "orders"


@pytest.mark.parametrize("function", [generator, async_generator, Generating()])
def test_a_generator_cannot_be_guarded(function):
    with pytest.raises(ConfigurationError, match="cannot guard the generator"):
        needs_read(function)


def test_a_decorated_generator_is_refused_before_it_streams():
    def decorated(function):
        @wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    app = FastAPI()

    @app.get("/orders")
    @needs_read
    @decorated
    def orders(request: Request):
        ran.append("orders")
        yield "orders"

    app.add_middleware(AccessTokenMiddleware, server=SERVER)
    install(app)
    assert (TestClient(app).get("/orders", headers=STRANGER).status_code, ran) == (403, [])


class Socket(WebSocketEndpoint):
    encoding = "text"

    @needs_read
    async def on_connect(self, websocket):
        await websocket.accept()

    async def on_receive(self, websocket, data):
        ran.append("received")

    async def on_disconnect(self, websocket, close_code):
        ran.append("disconnected")


def test_a_refused_websocket_endpoint_runs_none_of_its_methods():
    app = Starlette(
        routes=[WebSocketRoute("/orders", Socket)],
        middleware=[Middleware(AccessTokenMiddleware, server=SERVER)],
    )
    client = TestClient(app)
    with (
        pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)),
        client.websocket_connect("/orders", headers=STRANGER),
    ):
        pass
    assert ran == []
    with client.websocket_connect("/orders", headers=READER):
        pass
    assert ran == ["disconnected"]
