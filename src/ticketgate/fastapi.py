"""What FastAPI path operations require of the caller's access token, as dependencies.

    @app.get("/orders")
    async def orders(token: Annotated[AccessToken, Depends(requires(scope("orders:read")))]): ...

``Security(requires(...), scopes=[...])`` requires these scopes too.  Works behind `AccessTokenMiddleware`, and
without it where ``requires(..., server=server)`` or ``app.state.ticketgate`` says which server decides.  For routers
and whole applications: ``APIRouter(dependencies=[Depends(requires(...))])``.
"""

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, HTTPException, WebSocketException
from fastapi.security import SecurityScopes
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from ticketgate.asgi import (
    POLICY_VIOLATION,
    AccessTokenMiddleware,
    ASGIApp,
    Receive,
    Scope,
    Send,
    Verdict,
    admit,
    confirm,
    enter,
    refusal_if_moved,
    respond,
)
from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import Gate, misconfigured, without_a_gate
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import Requirement, all_of, declare, scope
from ticketgate.core.server import ResourceServer
from ticketgate.dependants import invalid_scopes, unused_scopes
from ticketgate.drivers.aio import Driver, default_driver
from ticketgate.errors import CannotDecide, ConfigurationError, OAuthError
from ticketgate.openapi import install_openapi, install_swagger_login
from ticketgate.placement import Placement, effective_routes, layers
from ticketgate.starlette import RaisedRefusal, RefusalHeaders, access_token, as_response, can_respond, deny

__all__ = [
    "AccessTokenMiddleware",
    "Refused",
    "access_token",
    "install",
    "install_openapi",
    "install_swagger_login",
    "requires",
]

NO_SCOPES = SecurityScopes()

logger = logging.getLogger("ticketgate")


class Refused(HTTPException):
    """A request that is refused; FastAPI's body is ``{"detail": {"error", "error_description"}}``.

    `install` gives it the body that everybody else sends.
    """

    def __init__(self, answer: Answer) -> None:
        own = {b"content-type", b"content-length"}  # FastAPI's body is another one
        headers = RefusalHeaders(raw=[(name, value) for name, value in answer.headers if name not in own])
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
        self._needed_with: dict[tuple[str, ...], Requirement] = {(): needed}
        self._own_gate: Gate[Driver] | None = None
        setattr(self, "__call__", self._token)  # noqa: B010  where FastAPI looks whether it is async
        _ = declare(self, needed)

    def __call__(
        self, connection: HTTPConnection, security_scopes: SecurityScopes = NO_SCOPES
    ) -> Awaitable[AccessToken]:
        """What FastAPI calls.  Raises `ConfigurationError` at once where it is used as a decorator."""
        if not isinstance(connection, HTTPConnection):
            raise ConfigurationError(
                "requires() of ticketgate.fastapi is a dependency, not a decorator:"
                " write dependencies=[Depends(requires(...))]"
            )
        return self._token(connection, security_scopes)

    async def _token(self, connection: "HTTPConnection[Any]", security_scopes: SecurityScopes) -> AccessToken:
        """The caller's token.  Raises `Refused`, or closes a WebSocket before it is accepted."""
        answer = await self._refusal(connection, tuple(security_scopes.scopes))
        if answer is None:
            return cast(AccessToken, access_token(connection))
        if isinstance(connection, WebSocket) and not can_respond(connection):
            raise WebSocketException(POLICY_VIOLATION)
        raise Refused(answer)

    def with_scopes(self, scopes: tuple[str, ...]) -> "Requires":
        """What ``Security(self, scopes=scopes)`` requires, for documents and audits."""
        return Requires(self._needed(scopes), self.server, self._fresh_within) if scopes else self

    def _needed(self, scopes: tuple[str, ...]) -> Requirement:
        needed = self._needed_with.get(scopes)
        if needed is None:
            needed = self._needed_with[scopes] = scope(*scopes) & self.needed
        return needed

    async def _refusal(self, connection: "HTTPConnection[Any]", scopes: tuple[str, ...]) -> Answer | None:
        try:
            needed = self._needed(scopes)
        except ConfigurationError as error:
            return misconfigured(error)
        gate = self._gate(connection)
        if gate is None:
            return without_a_gate()
        refusal = await _judge(connection, gate)
        if refusal is None:
            gate = cast("Gate[Driver]", connection.scope["ticketgate.gate"])
            refusal = gate.refusal(access_token(connection), needed)
        if refusal is None and self._fresh_within is not None:
            refusal = await confirm(connection.scope, self._fresh_within)
        return refusal

    def _gate(self, connection: "HTTPConnection[Any]") -> Gate[Driver] | None:
        """The gate of the server that is named here, or else of the innermost: middleware's or the application's."""
        if self.server is not None:
            return self._gate_of(self.server)
        around: Verdict | None = connection.scope.get("ticketgate.middleware")
        app: Any = connection.app
        if around is not None and around[2] is app:
            return around[0]
        server: ResourceServer | None = getattr(app.state, "ticketgate", None)
        if server is not None:
            return self._gate_of(server)
        return around[0] if around is not None else None

    def _gate_of(self, server: ResourceServer) -> Gate[Driver]:
        gate = self._own_gate
        if gate is None or gate.server is not server:
            gate = self._own_gate = Gate(server, default_driver())
        return gate


async def _judge(connection: "HTTPConnection[Any]", gate: Gate[Driver]) -> Answer | None:
    """The refusal of the server of ``gate``, which judges a request once; afterwards it is the innermost."""
    verdict: Verdict | None = connection.scope.get(gate.key)
    if verdict is None:
        return await admit(connection.scope, gate)
    if connection.scope["ticketgate.gate"] is not verdict[0]:
        enter(connection.scope, verdict)
    return None


def requires(
    *requirements: Requirement, server: ResourceServer | None = None, fresh_within: float | None = None
) -> Requires:
    """A dependency whose value is the caller's `AccessToken`: all of ``requirements`` must be met.

    Without arguments any valid token will do.  The scopes of ``Security(requires(...), scopes=[...])``, and of those
    around it, are required too.  ``server`` decides in place of the middleware's or the application's;
    ``fresh_within`` has the issuer confirm the token anew (see `ticketgate.starlette.requires`).
    """
    return Requires(all_of(requirements), server, fresh_within)


def install(
    app: FastAPI, server: ResourceServer | None = None, *, public: Iterable[str] | None = None
) -> None:
    """Give refusals the bodies that ticketgate sends elsewhere, and say which ``server`` decides.

    `ticketgate.errors` that path operations and dependencies raise are answered as refusals, too.
    ``public`` says, for audits, which paths need no token on purpose where there is no middleware to open them.

    Logs an error where neither ``server``, ``app.state.ticketgate`` nor the middleware is there, and for scopes of a
    ``Security(...)`` that no ``requires(...)`` takes.  Raises `ConfigurationError` where one that it takes is not a
    scope.  Both are looked for again when the application starts.
    """
    if server is not None:
        app.state.ticketgate = server
    if public is not None:
        app.state.ticketgate_public = PublicPaths(public)
    _refuse_misplaced(app)
    app.add_exception_handler(Refused, _respond)
    app.add_exception_handler(RaisedRefusal, _respond)
    app.add_exception_handler(OAuthError, cast(Any, _respond_to_error))
    app.add_exception_handler(CannotDecide, cast(Any, _respond_to_error))
    guarded = any(cast(Any, middleware.cls) is AccessTokenMiddleware for middleware in app.user_middleware)
    if not guarded and getattr(app.state, "ticketgate", None) is None:
        logger.error("no resource server: write install(app, server), or add AccessTokenMiddleware first")
    _check_scopes_now_and_at_start(app)


class PlacementMiddleware:
    """Refuses requests for endpoints that were registered without their guard (`ticketgate.starlette.requires`).

    And those that were admitted without a token for another path or method than they have by now.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._placement = Placement(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] in {"http", "websocket"}:
            refusal = refusal_if_moved(scope) or self._placement.refusal(scope)
        if refusal is not None:
            await respond(refusal, scope, send)
            return
        await self.app(scope, receive, send)


def _refuse_misplaced(app: FastAPI) -> None:
    """Innermost, where requests are as the router sees them."""
    if not any(cast(Any, middleware.cls) is PlacementMiddleware for middleware in app.user_middleware):
        app.user_middleware.append(Middleware(PlacementMiddleware))


async def _respond(connection: "HTTPConnection[Any]", error: Exception) -> Response:
    return as_response(connection, cast(Refused | RaisedRefusal, error).answer)


async def _respond_to_error(connection: "HTTPConnection[Any]", error: Exception) -> Response | None:
    """The answer to an error of `ticketgate.errors` that the application raised."""
    gate: Gate[Driver] | None = connection.scope.get("ticketgate.gate")
    server: ResourceServer | None = getattr(connection.app.state, "ticketgate", None)
    if gate is None and server is not None:
        gate = Gate(server, default_driver())
    answer = gate.answer(cast("OAuthError | CannotDecide", error)) if gate is not None else without_a_gate()
    if not isinstance(connection, WebSocket):
        return as_response(connection, answer)
    await deny(connection, answer)
    return None


def _check_scopes_now_and_at_start(app: FastAPI) -> None:
    """Routes may be declared after `install`, and until the application starts."""
    reported: set[str] = set()
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def checked(started: Any) -> AsyncGenerator[Any]:
        _check_scopes(app, reported)
        async with inner(started) as state:
            yield state

    _check_scopes(app, reported)
    app.router.lifespan_context = checked


def _check_scopes(app: FastAPI, reported: set[str]) -> None:
    for path, dependant in _dependants(app.routes):
        for value in invalid_scopes(dependant):
            raise ConfigurationError(f"{path}: {value!r} in Security(..., scopes=[...]) is not a scope")
        for scopes in unused_scopes(dependant):
            problem = (
                f"{path}: Security(..., scopes={scopes}) has no requires() below it: they are not enforced"
            )
            if problem not in reported:
                reported.add(problem)
                logger.error(problem)


def _dependants(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the dependencies of each path operation, those of mounted applications too."""
    for route in effective_routes(routes):
        if hasattr(route, "dependant"):
            yield prefix + str(route.path), route.dependant
        elif hasattr(route, "app"):
            inner = next((layer for layer in layers(route.app) if hasattr(layer, "routes")), None)
            yield from _dependants(getattr(inner, "routes", ()), prefix + getattr(route, "path", ""))
