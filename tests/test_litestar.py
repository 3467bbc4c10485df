"""The gate in Litestar's own list of middleware, which Litestar runs after it has routed and changed the path."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar, asgi, get
from litestar.middleware import DefineMiddleware
from litestar.types import Receive, Scope, Send
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tokens import resource_server, token

from ticketgate.asgi import AccessTokenMiddleware

PUBLIC = ["/", "/health", "/docs/*", "/mnt/docs/*"]
BEARER = {"Authorization": f"Bearer {token().decode()}"}


@asgi("/mnt", is_mount=True, copy_scope=True)
async def mnt(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("mnt " + scope["path"])(scope, receive, send)


@get(["/", "/health", "/me", "/docs", "/docs/{rest:path}", "/api/health"])
async def show() -> str:
    return "shown"


async def without_raw_path(app, scope, receive, send):
    await app({name: value for name, value in scope.items() if name != "raw_path"}, receive, send)


def answer(path, headers=None, *, root="", raw=True):
    gate = DefineMiddleware(AccessTokenMiddleware, server=resource_server(), public=PUBLIC)
    options: dict[str, Any] = {"openapi_config": None, "logging_config": None}
    app: Any = Litestar([show, mnt], middleware=[gate], **options)

    async def asked():
        inner = app if raw else lambda *args: without_raw_path(app, *args)
        transport = httpx.ASGITransport(inner, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(asked())


@pytest.mark.parametrize("path", ["/", "/health", "/docs/a", "/mnt/docs/a"])
def test_public_paths_are_whole_ones(path):
    assert answer(path) == 200
    assert answer("/api" + path, root="/api") == 200


@pytest.mark.parametrize(
    "path", ["/me", "/docs", "/mnt", "/mnt/", "/mnt/health", "/mnt/mnt/docs/a", "/api/health"]
)
def test_what_is_left_of_a_path_below_a_mount_opens_nothing(path):
    assert answer(path) == 401
    assert answer("/api" + path, root="/api") == 401
    assert answer(path, BEARER) == 200


@pytest.mark.parametrize("path", ["/mnt/docs/a", "/health"])
def test_a_server_that_does_not_say_what_was_sent_opens_nothing(path):
    assert answer(path, raw=False) == 401


async def say(request):
    return PlainTextResponse("said")


async def plain(scope, receive, send):
    await PlainTextResponse("plain")(scope, receive, send)


@get(["/secret", "/page", "/docs/page"])
async def anything() -> str:
    return "anything"


def hidden(app):
    """Middleware that does not show what is inside."""

    async def middleware(scope, receive, send):
        await app(scope, receive, send)

    return middleware


OPTIONS: dict[str, Any] = {"openapi_config": None, "logging_config": None}
INNER = {
    "starlette": lambda: Starlette(routes=[Route("/{rest:path}", say)]),
    "litestar": lambda: Litestar([anything], **OPTIONS),
    "plain": lambda: plain,
}


def mounted_at(path, app):
    """The status of a request without a token, for ``app`` in a mount of Litestar."""

    @asgi(path, is_mount=True, copy_scope=True)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    def status(sent):
        async def asked():
            transport = httpx.ASGITransport(Litestar([mount], **OPTIONS))
            async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
                return (await client.get(sent)).status_code

        return asyncio.run(asked())

    return status


@pytest.mark.parametrize("inner", INNER)
def test_the_path_of_a_mount_opens_nothing_in_what_is_mounted(inner):
    status = mounted_at("/docs", AccessTokenMiddleware(INNER[inner](), resource_server(), public=["/docs/*"]))
    assert status("/docs/secret") == 401
    assert status("/docs/docs/page") == 200


@pytest.mark.parametrize(("inner", "expected"), [("starlette", 200), ("litestar", 200), ("plain", 401)])
def test_an_application_that_can_be_seen_in_a_mount_has_paths_of_its_own(inner, expected):
    status = mounted_at("/app", AccessTokenMiddleware(INNER[inner](), resource_server(), public=["/docs/*"]))
    assert status("/app/docs/page") == expected
    assert status("/app/secret") == 401


@pytest.mark.parametrize("between", [None, hidden])
def test_a_list_of_middleware_of_a_mounted_litestar(between):
    @asgi("/secret", is_mount=True, copy_scope=True)
    async def secret(scope: Scope, receive: Receive, send: Send) -> None:
        await plain(scope, receive, send)

    gate = DefineMiddleware(AccessTokenMiddleware, server=resource_server(), public=["/docs/*"])
    inner = Litestar([secret], middleware=[gate, *([between] if between else [])], **OPTIONS)
    assert mounted_at("/docs", inner)("/docs/secret/x") == 401


@pytest.mark.parametrize(("between", "expected"), [(None, 200), (hidden, 401)])
def test_the_whole_path_of_a_mount_may_be_public(between, expected):
    gate = DefineMiddleware(AccessTokenMiddleware, server=resource_server(), public=["/mnt/docs/*"])
    app: Any = Litestar([mnt], middleware=[gate, *([between] if between else [])], **OPTIONS)

    async def asked():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return (await client.get("/mnt/docs/a")).status_code

    assert asyncio.run(asked()) == expected
