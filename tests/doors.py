"""The same small API behind the ASGI and the WSGI middleware, for the table to be tried on.

    asgi_app(), wsgi_app()               "/optional/..." goes through a gate that lets anonymous requests pass
    gunicorn "doors:wsgi_app()"          in a process of its own, with the keys in TICKETGATE_TEST_KEYS

GET /calls, in front of the gates, tells how often the application behind them was called.
"""

import json
import os
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from table import API, DOWN, DOWN_JWKS, PATHS
from tokens import ISSUER, Time

from ticketgate import Issuer, ResourceServer
from ticketgate import starlette as ticketgate_starlette
from ticketgate import wsgi as ticketgate_wsgi
from ticketgate.asgi import AccessTokenMiddleware

OPTIONAL = "/optional"


def server() -> ResourceServer:
    keys = json.loads(os.environ["TICKETGATE_TEST_KEYS"])
    issuers = Issuer(ISSUER, jwks=keys), Issuer(DOWN, jwks_uri=DOWN_JWKS)
    return ResourceServer(API, *issuers, clock=Time().clock)


def asgi_app() -> Any:
    calls = count()
    called = [0]

    async def show(request):
        called[0] = next(calls) + 1
        token = request.user.token
        assert token is request.scope["ticketgate.access_token"]
        return JSONResponse({"sub": token.subject if token else None})

    def guarded(needed):
        async def endpoint(request):
            return await show(request)

        return ticketgate_starlette.requires(*needed)(endpoint) if needed else show

    methods = ["GET", "OPTIONS"]
    inner = Starlette(
        routes=[Route(path, guarded(needed), methods=methods) for path, needed in PATHS.items()]
    )
    gates = [AccessTokenMiddleware(inner, server(), optional=optional) for optional in (False, True)]

    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/calls":
            await JSONResponse(called[0])(scope, receive, send)
            return
        path = scope.get("path", "")
        optional = path.startswith(OPTIONAL)
        await gates[optional](scope | {"path": path.removeprefix(OPTIONAL)}, receive, send)

    return app


def wsgi_app() -> Any:
    calls = count()
    called = [0]

    def answer(start_response, value):
        body = json.dumps(value).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def show(environ, start_response):
        called[0] = next(calls) + 1
        token = environ["ticketgate.access_token"]
        return answer(start_response, {"sub": token.subject if token else None})

    routes = {
        path: ticketgate_wsgi.requires(*needed)(show) if needed else show for path, needed in PATHS.items()
    }

    def inner(environ, start_response):
        return routes[environ["PATH_INFO"]](environ, start_response)

    made = server()
    gates = [
        ticketgate_wsgi.AccessTokenMiddleware(inner, made, optional=optional) for optional in (False, True)
    ]

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/calls":
            return answer(start_response, called[0])
        optional = path.startswith(OPTIONAL)
        return gates[optional](environ | {"PATH_INFO": path.removeprefix(OPTIONAL)}, start_response)

    return app
