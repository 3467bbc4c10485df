"""The gate in Litestar's own list of middleware, which Litestar runs after it has routed and changed the path."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar, asgi, get
from litestar.middleware import DefineMiddleware
from litestar.types import Receive, Scope, Send
from starlette.responses import PlainTextResponse
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
