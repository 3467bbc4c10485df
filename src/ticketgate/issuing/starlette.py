"""An authorization server as an ASGI application, to be mounted anywhere.

RFC 6749 §3.2, RFC 8414 §3.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ticketgate.drivers.aio import Driver, default_driver
from ticketgate.issuing.messages import MAX_BODY_BYTES, EndpointRequest
from ticketgate.issuing.server import AuthorizationServer

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def routes(server: AuthorizationServer, *, driver: Driver | None = None) -> list[BaseRoute]:
    """A route for each endpoint, at the paths that the issuer's identifier gives them."""
    runner = driver or default_driver()

    async def endpoint(request: Request) -> Response:
        path = request.scope["path"]
        answer = await runner.run(server.answer(path, await _read(request)))
        body = b"" if request.method == "HEAD" else answer.body
        response = Response(body, answer.status)
        for name, value in answer.headers:
            response.headers[name] = value
        return response

    return [Route(path, endpoint, methods=METHODS) for path in server.paths]


def authorization_server_app(server: AuthorizationServer, *, driver: Driver | None = None) -> Starlette:
    """The whole server as one application."""
    return Starlette(routes=routes(server, driver=driver))


async def _read(request: Request) -> EndpointRequest:
    """The request as the endpoints want it; a body that is too long is cut where that can be seen."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    headers: list[tuple[bytes, bytes]] = request.scope["headers"]
    first = {name: value for name, value in reversed(headers)}
    return EndpointRequest(
        request.method,
        first.get(b"content-type", b""),
        tuple(value for name, value in headers if name == b"authorization"),
        bytes(body),
        first.get(b"accept", b""),
    )
