"""One small API in every router that runs on ASGI, each behind the same gate; a header says which one is asked.

    uvicorn routers:app                  with the keys in TICKETGATE_TEST_KEYS

Every route answers its own name, so that a test sees what a router made of a path, and not only that it answered.
Frameworks are imported when they are first asked for: all of them together take long.
"""

from typing import Any

from doors import server
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from ticketgate.asgi import AccessTokenMiddleware

PUBLIC = ["/health", "/docs/*", "/mnt/docs/*"]
OPEN = {"/health", "/docs/*", "/mnt/docs/*"}
CLOSED = {"/", "/me", "/healthz", "/docs", "/api/health", "/api/me", "/mnt/me", "/mnt/docs", "/mnt/health"}
MOUNTED = ["/me", "/health", "/docs", "/docs/*"]  # below /mnt, in an application of its own
OWN = sorted(name for name in OPEN | CLOSED if not name.startswith("/mnt"))


def starlette():
    def routes(names, prefix=""):
        return [Route(name.replace("*", "{rest:path}"), starlette_endpoint(prefix + name)) for name in names]

    return Starlette(routes=[*routes(OWN), Mount("/mnt", Starlette(routes=routes(MOUNTED, "/mnt")))])


def starlette_endpoint(name):
    async def endpoint(request: Any):
        return PlainTextResponse(name)

    return endpoint


def fastapi():
    from fastapi import FastAPI

    app, inner = FastAPI(docs_url=None, redoc_url=None), FastAPI(docs_url=None, redoc_url=None)
    for one, names, prefix in ((app, OWN, ""), (inner, MOUNTED, "/mnt")):
        for name in names:
            one.add_api_route(name.replace("*", "{rest:path}"), fastapi_endpoint(prefix + name))
    app.mount("/mnt", inner)
    return app


def fastapi_endpoint(name):
    async def endpoint():
        return PlainTextResponse(name)

    return endpoint


def litestar(**options):
    from litestar import Litestar, asgi
    from litestar.types import Receive, Scope, Send

    inner = Litestar([litestar_endpoint(name, "/mnt") for name in MOUNTED], **QUIET)

    @asgi("/mnt", is_mount=True, copy_scope=True)
    async def mnt(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    return Litestar([*(litestar_endpoint(name) for name in OWN), mnt], **QUIET, **options)


QUIET: dict[str, Any] = {"openapi_config": None, "logging_config": None}


def litestar_endpoint(name, prefix=""):
    from litestar import get

    @get(name.replace("*", "{rest:path}"), media_type="text/plain")
    async def endpoint() -> str:
        return prefix + name

    return endpoint


def quart():
    from quart import Blueprint, Quart

    app, blueprint = Quart("api", static_folder=None), Blueprint("mnt", "mnt", url_prefix="/mnt")
    for one, names, prefix in ((app, OWN, ""), (blueprint, MOUNTED, "/mnt")):
        for number, name in enumerate(names):
            one.add_url_rule(name.replace("*", "<path:rest>"), f"view{number}", quart_view(prefix + name))
    app.register_blueprint(blueprint)
    return app


def quart_view(name):
    async def view(rest=None):
        return name

    return view


def django():
    from django import setup
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import include, path

    def paths(names, prefix=""):
        return [
            path(
                name[1:].replace("*", "<path:rest>"),
                lambda request, rest="", name=prefix + name: HttpResponse(name),
            )
            for name in names
        ]

    urls = (*paths(OWN), path("mnt/", include(paths(MOUNTED, "/mnt"))))
    settings.configure(ROOT_URLCONF=urls, SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
    setup()
    return get_asgi_application()


def gate(app):
    return AccessTokenMiddleware(app, server(), public=PUBLIC)


def litestar_around_the_gate():
    from litestar.middleware import DefineMiddleware

    return litestar(middleware=[DefineMiddleware(gate)])


MAKE = {
    "starlette": lambda: gate(starlette()),
    "fastapi": lambda: gate(fastapi()),
    "litestar": lambda: gate(litestar()),
    "litestar around the gate": litestar_around_the_gate,
    "quart": lambda: gate(quart()),
    "django": lambda: gate(django()),
}
made: dict[str, Any] = {}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    name = dict(scope["headers"])[b"x-router"].decode()
    if name not in made:
        made[name] = MAKE[name]()
    await made[name](scope, receive, send)
