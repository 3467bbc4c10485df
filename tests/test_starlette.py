"""``requires`` on everything that Starlette takes for an endpoint, under a real server."""

from functools import partial

import httpx
import pytest
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from tokens import resource_server, token
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from ticketgate import role, scope
from ticketgate.errors import ConfigurationError
from ticketgate.starlette import AccessTokenMiddleware, RaisedRefusal, requires

READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}
needs_read = requires(scope("read"))


@needs_read
async def asynchronous(request):
    return PlainTextResponse("open")


@needs_read
def synchronous(request):
    return PlainTextResponse("open")


@needs_read
async def under_another_name(anything):
    return PlainTextResponse("open")


async def with_more(more, request):
    return PlainTextResponse(more)


class Endpoint(HTTPEndpoint):
    @needs_read
    async def get(self, request):
        return PlainTextResponse("open")

    @needs_read
    def post(self, request):
        return PlainTextResponse("open")


@requires(scope("read"), role("clerk"))
async def two(request):
    return PlainTextResponse("open")


@requires()
async def any_token(request):
    return PlainTextResponse("open")


@needs_read
async def websocket(websocket):
    await websocket.accept()
    await websocket.send_text("open")
    await websocket.close()


class Socket(WebSocketEndpoint):
    encoding = "text"

    @needs_read
    async def on_connect(self, websocket):
        await websocket.accept()
        await websocket.send_text("open")

    @requires(scope("shout"))
    async def on_receive(self, websocket, data):
        await websocket.send_text(data.upper())


ROUTES = [
    Route("/async", asynchronous),
    Route("/sync", synchronous),
    Route("/name", under_another_name),
    Route("/partial", needs_read(partial(with_more, "open"))),
    Route("/endpoint", Endpoint),
    Route("/two", two),
    Route("/any", any_token),
    WebSocketRoute("/ws", websocket),
    WebSocketRoute("/socket", Socket),
]


@pytest.fixture(scope="module")
def url():
    app = AccessTokenMiddleware(Starlette(routes=ROUTES), resource_server(), optional=True)
    with serve_asgi(app, ws="websockets-sansio") as url:
        yield url


@pytest.mark.parametrize("path", ["/async", "/sync", "/name", "/partial", "/endpoint"])
def test_http_endpoints_are_guarded(url, path):
    answers = [httpx.get(url + path, headers=headers) for headers in (READER, STRANGER, {})]
    assert [answer.status_code for answer in answers] == [200, 403, 401]
    assert answers[0].text == "open"
    assert 'scope="read"' in answers[1].headers["WWW-Authenticate"]
    assert "error" not in answers[2].headers["WWW-Authenticate"]


def test_every_method_of_an_endpoint_has_its_own_guard(url):
    assert httpx.post(f"{url}/endpoint", headers=READER).text == "open"
    assert httpx.post(f"{url}/endpoint", headers=STRANGER).status_code == 403


def test_head_gets_no_body(url):
    response = httpx.head(f"{url}/async", headers=STRANGER)
    assert (response.status_code, response.content) == (403, b"")


def test_several_requirements_mean_all_of_them(url):
    assert httpx.get(f"{url}/two", headers=READER).status_code == 403
    both = {"Authorization": f"Bearer {token(scope='read', roles=['clerk']).decode()}"}
    assert httpx.get(f"{url}/two", headers=both).text == "open"


def test_without_requirements_any_token_will_do(url):
    assert httpx.get(f"{url}/any", headers=STRANGER).text == "open"
    assert httpx.get(f"{url}/any").status_code == 401


@pytest.mark.parametrize("path", ["/ws", "/socket"])
def test_websocket_endpoints_are_guarded(url, path):
    address = url.replace("http", "ws") + path
    with connect(address, additional_headers=READER) as websocket:
        assert websocket.recv(5) == "open"
    for headers, status in ((STRANGER, 403), ({}, 401)):
        with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status


def test_after_it_was_accepted_a_websocket_can_only_be_closed(url):
    with connect(url.replace("http", "ws") + "/socket", additional_headers=READER) as websocket:
        assert websocket.recv(5) == "open"
        websocket.send("hello")
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(5)
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("path", ["/async", "/sync", "/endpoint"])
def test_without_the_middleware_nothing_opens_and_the_log_says_why(path, caplog):
    with serve_asgi(Starlette(routes=ROUTES)) as url:
        response = httpx.get(url + path, headers=READER)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert "AccessTokenMiddleware" in caplog.text


async def test_an_endpoint_that_gets_no_connection_never_opens(caplog):
    with pytest.raises(RaisedRefusal) as refused:
        await asynchronous("not a request")
    assert refused.value.status_code == 503


def test_a_class_cannot_be_guarded_as_a_whole():
    with pytest.raises(ConfigurationError, match="methods of Endpoint"):
        needs_read(Endpoint)


@pytest.mark.parametrize("wrong", ["orders:read", None, scope])
def test_a_requirement_that_is_none_is_noticed_at_once(wrong):
    with pytest.raises(ConfigurationError, match="no requirement"):
        requires(wrong)


CORS = Middleware(CORSMiddleware, allow_origins=["https://app.example"])
GATE = Middleware(AccessTokenMiddleware, server=resource_server())
FROM_A_PAGE = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}


@pytest.mark.parametrize(("middleware", "readable"), [([CORS, GATE], True), ([GATE, CORS], False)])
def test_cors_belongs_outside_of_the_gate(middleware, readable, caplog):
    with serve_asgi(Starlette(routes=ROUTES, middleware=middleware)) as url:
        assert httpx.options(f"{url}/async", headers=FROM_A_PAGE).status_code == 200
        answer = httpx.get(f"{url}/async", headers=FROM_A_PAGE)
    assert (answer.status_code, "Access-Control-Allow-Origin" in answer.headers) == (401, readable)
    assert ("CORSMiddleware is inside" in caplog.text) != readable


def test_cors_that_is_added_inside_later_is_noticed_at_start(caplog):
    inner = Starlette(routes=ROUTES)
    app = AccessTokenMiddleware(inner, resource_server())
    assert caplog.text == ""
    inner.add_middleware(CORSMiddleware, allow_origins=["*"])
    with serve_asgi(app):
        pass
    assert caplog.text.count("CORSMiddleware is inside") == 1


def test_requirements_hold_below_mounts():
    inner = Starlette(routes=[Route("/orders", asynchronous), Route("/endpoint", Endpoint)])
    routes = [Mount("/api", routes=[Mount("/v1", inner), Route("/health", with_more, name="health")])]
    app = AccessTokenMiddleware(Starlette(routes=routes), resource_server(), public=["/api/v1/none"])
    with serve_asgi(app) as url:
        for path in ("/api/v1/orders", "/api/v1/endpoint"):
            answers = [httpx.get(url + path, headers=headers) for headers in (READER, STRANGER, {})]
            assert [answer.status_code for answer in answers] == [200, 403, 401]
