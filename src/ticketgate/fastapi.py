"""What FastAPI path operations require of the caller's access token, as dependencies.

    @app.get("/orders")
    async def orders(token: Annotated[AccessToken, Depends(requires(scope("orders:read")))]): ...

Works behind `AccessTokenMiddleware`, and without it where ``requires(..., server=server)`` or
``app.state.ticketgate`` says which server decides.  For routers and whole applications:
``APIRouter(dependencies=[Depends(requires(...))])``.
"""

import json
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, cast

from fastapi import FastAPI, HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from ticketgate.asgi import (
    POLICY_VIOLATION,
    AccessTokenMiddleware,
    ASGIApp,
    Receive,
    Scope,
    Send,
    admit,
    confirm,
    respond,
)
from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import Gate, without_a_gate
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.core.server import ResourceServer
from ticketgate.drivers.aio import Driver, default_driver
from ticketgate.errors import ConfigurationError
from ticketgate.openapi import install_openapi, install_swagger_login
from ticketgate.placement import Placement
from ticketgate.starlette import access_token, as_response

__all__ = [
    "AccessTokenMiddleware",
    "Refused",
    "access_token",
    "install",
    "install_openapi",
    "install_swagger_login",
    "requires",
]

logger = logging.getLogger("ticketgate")


class Pairs:
    """Header pairs as `HTTPException` takes them; a dict could not hold two challenges."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        own = {b"content-type", b"content-length"}  # FastAPI's body is another one
        self._pairs = [
            (name.decode("ascii"), value.decode("ascii")) for name, value in pairs if name not in own
        ]

    def items(self) -> list[tuple[str, str]]:
        """The pairs, in order."""
        return self._pairs


class Refused(HTTPException):
    """A request that is refused; FastAPI's body is ``{"detail": {"error", "error_description"}}``.

    `install` gives it the body that everybody else sends.
    """

    def __init__(self, answer: Answer) -> None:
        headers = cast(Any, Pairs(answer.headers))
        super().__init__(answer.status, json.loads(answer.body), headers)
        self.answer = answer


class Requires:
    """A dependency that lets requests through whose token meets a requirement; made by `requires`."""

    def __init__(
        self, needed: Requirement, server: ResourceServer | None, fresh_within: float | None
    ) -> None:
        self.needed = needed
        self.server = server
        self._fresh_within = fresh_within
        setattr(self, "__call__", self._token)  # noqa: B010  where FastAPI looks whether it is async
        _ = declare(self, needed)

    def __call__(self, connection: HTTPConnection) -> Awaitable[AccessToken]:
        """What FastAPI calls.  Raises `ConfigurationError` at once where it is used as a decorator."""
        if not isinstance(connection, HTTPConnection):
            raise ConfigurationError(
                "requires() of ticketgate.fastapi is a dependency, not a decorator:"
                " write dependencies=[Depends(requires(...))]"
            )
        return self._token(connection)

    async def _token(self, connection: "HTTPConnection[Any]") -> AccessToken:
        """The caller's token.  Raises `Refused`, or closes a WebSocket before it is accepted."""
        answer = await self._refusal(connection)
        if answer is None:
            return cast(AccessToken, access_token(connection))
        if isinstance(connection, WebSocket):
            await _deny(connection, answer)
        raise Refused(answer)

    async def _refusal(self, connection: "HTTPConnection[Any]") -> Answer | None:
        scope = connection.scope
        if "ticketgate.gate" not in scope:
            server = self.server or getattr(connection.app.state, "ticketgate", None)
            if server is None:
                return without_a_gate()
            refusal = await admit(scope, Gate(server, default_driver()))
            if refusal is not None:
                return refusal
        gate: Gate[Driver] = scope["ticketgate.gate"]
        refusal = gate.refusal(scope["ticketgate.access_token"], self.needed)
        if refusal is None and self._fresh_within is not None:
            refusal = await confirm(scope, self._fresh_within)
        return refusal


def requires(
    *requirements: Requirement, server: ResourceServer | None = None, fresh_within: float | None = None
) -> Requires:
    """A dependency whose value is the caller's `AccessToken`: all of ``requirements`` must be met.

    Without arguments any valid token will do.  ``server`` decides where there is no middleware;
    ``fresh_within`` has the issuer confirm the token anew (see `ticketgate.starlette.requires`).
    """
    return Requires(all_of(requirements), server, fresh_within)


def install(
    app: FastAPI, server: ResourceServer | None = None, *, public: Iterable[str] | None = None
) -> None:
    """Give refusals the bodies that ticketgate sends elsewhere, and say which ``server`` decides.

    ``public`` says, for audits, which paths need no token on purpose where there is no middleware to open them.
    Logs an error where neither ``server``, ``app.state.ticketgate`` nor the middleware is there.
    """
    if server is not None:
        app.state.ticketgate = server
    if public is not None:
        app.state.ticketgate_public = PublicPaths(public)
    _refuse_misplaced(app)
    app.add_exception_handler(Refused, _respond)
    guarded = any(cast(Any, middleware.cls) is AccessTokenMiddleware for middleware in app.user_middleware)
    if not guarded and getattr(app.state, "ticketgate", None) is None:
        logger.error("no resource server: write install(app, server), or add AccessTokenMiddleware first")


class PlacementMiddleware:
    """Refuses requests for endpoints that were registered without their guard (`ticketgate.starlette.requires`)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._placement = Placement(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._placement.refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if refusal is not None:
            await respond(refusal, scope, send)
            return
        await self.app(scope, receive, send)


def _refuse_misplaced(app: FastAPI) -> None:
    """Innermost, where requests are as the router sees them."""
    if not any(cast(Any, middleware.cls) is PlacementMiddleware for middleware in app.user_middleware):
        app.user_middleware.append(Middleware(PlacementMiddleware))


async def _respond(request: "Request[Any]", error: Exception) -> Response:
    return as_response(request, cast(Refused, error).answer)


async def _deny(websocket: "WebSocket[Any]", answer: Answer) -> None:
    """With a response where the server can send one, and closed without a word otherwise."""
    if "websocket.http.response" in (websocket.scope.get("extensions") or {}):
        await websocket.send_denial_response(as_response(websocket, answer))
    raise WebSocketException(POLICY_VIOLATION)
