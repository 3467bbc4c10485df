"""An authorization server as an ASGI application, to be mounted anywhere.

RFC 6749 §3.2, RFC 8414 §3.
"""

from contextlib import suppress
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ticketgate.core.flow import Flow
from ticketgate.drivers.aio import Driver, default_driver
from ticketgate.issuing.messages import MAX_BODY_BYTES, Answer, EndpointRequest


class Server(Protocol):
    """What can be served: an `AuthorizationServer`, or what is built around one."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that is answered, below the issuer's origin."""
        ...

    def answer(self, path: str, request: EndpointRequest) -> Flow[Answer]:
        """The answer to a request for one of `paths`."""
        ...


def authorization_server_app(server: Server, *, driver: Driver | None = None) -> Starlette:
    """The whole server as one application: every endpoint at the path that the issuer's identifier gives it.

    An issuer with a path is mounted there; the metadata that RFC 8414 puts before that path is then the outer
    application's to pass on.

        Starlette(routes=[Mount("/auth", authorization_server_app(server))])      # issuer https://example.com/auth
    """
    runner = driver or default_driver()

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        with suppress(ClientDisconnect):  # nobody is there to be answered
            request = Request(scope, receive)
            found = scope["path"] in server.paths
            response = await _respond(server, runner, request) if found else _nothing_here()
            await response(scope, receive, send)

    return Starlette(routes=[Mount("/", app=endpoint)])


def _nothing_here() -> Response:
    return PlainTextResponse("Not Found", 404)


async def _respond(server: Server, runner: Driver, request: Request) -> Response:
    answer = await runner.run(server.answer(request.scope["path"], await _read(request)))
    body = b"" if request.method == "HEAD" else answer.body
    response = Response(body, answer.status)
    for name, value in answer.headers:
        response.headers[name] = value
    return response


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
        request.scope["query_string"],
        first.get(b"origin", b""),
    )
