"""The gate in front of an ASGI application: Starlette, FastAPI, Litestar, Quart, Django, any.

    app = AccessTokenMiddleware(app, ResourceServer("https://api.example", Issuer("https://as.example")))

Answers are those of RFC 6750 §3.  A WebSocket is refused before it is accepted.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from ticketgate.asgi_layers import (
    contains_application,
    cors_is_next,
    has_cors,
    litestar_route,
    own_root_path,
)
from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import ErrorBody, Gate
from ticketgate.core.health import readiness_answer
from ticketgate.core.public import ACCEPTED_PREFLIGHTS, PublicPaths, is_preflight
from ticketgate.core.request import ResourceRequest
from ticketgate.core.server import ResourceServer
from ticketgate.core.subprotocol import offered_token
from ticketgate.drivers import expiry
from ticketgate.drivers.aio import Driver, default_driver
from ticketgate.errors import CannotDecide, InvalidToken, NoCredentials, OAuthError
from ticketgate.placement import Placement

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Verdict: TypeAlias = tuple[Gate[Driver], AccessToken | None, Any]
"""A gate, the token that its server accepted, and the application that the gate is part of, if it is in one."""

POLICY_VIOLATION = 1008

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as Starlette's ``request.user`` shows it; ``token`` is None for anonymous requests."""

    token: AccessToken | None

    @property
    def is_authenticated(self) -> bool:
        return self.token is not None

    @property
    def display_name(self) -> str:
        return (self.token.subject or self.token.client_id or "") if self.token else ""

    identity = display_name


@dataclass(frozen=True, slots=True)
class Granted:
    """What the caller may do, as Starlette's ``request.auth`` shows it."""

    scopes: list[str]


class AccessTokenMiddleware:
    """Lets requests with a good access token through to ``app``, and answers all others (RFC 6750 §3).

    ``public`` lists paths that are open to everybody, exact or with a trailing ``/*``; credentials sent
    there are ignored.  With ``optional`` a request without credentials passes as anonymous, and bad
    credentials are still refused.  ``driver`` runs the flows; without it all middlewares share one.
    ``error_body`` is given the error and makes the JSON value of an error answer's body.
    ``accept_preflight`` admits whatever looks like a CORS preflight; without it only those that Starlette's or
    Litestar's CORS middleware, directly inside of this one, answers itself.

    WebSockets and responses of type ``text/event-stream`` end when the token they were opened with expires (and
    ``leeway`` has passed), see `ticketgate.drivers.expiry`; ``accept_expired_connections`` lets them go on.
    ``accept_subprotocol_token`` also takes a token from ``new WebSocket(url, ["bearer", token])``, since a
    browser's script can set no Authorization header there; the application sees neither of the two names.

    Paths are those of ``scope["path"]`` without its ``root_path``, or without that of ``FastAPI(root_path=...)`` or
    Django's ``FORCE_SCRIPT_NAME`` directly inside, which take its place; one that routers read in several ways is public
    only if it is in each of them.  CORS middleware belongs outside of this one, so that browsers may read what is
    answered here; the other order is warned about.  Only ``lifespan`` passes unchecked: other types of connection
    than HTTP and WebSocket raise a ValueError.

    The application finds the `AccessToken`, or None, at ``scope["ticketgate.access_token"]``.
    """

    def __init__(
        self,
        app: ASGIApp,
        server: ResourceServer,
        *,
        public: Iterable[str] = (),
        optional: bool = False,
        driver: Driver | None = None,
        error_body: ErrorBody | None = None,
        accept_preflight: bool = False,
        accept_expired_connections: bool = False,
        accept_subprotocol_token: bool = False,
    ) -> None:
        self.app = app
        self.server = server
        self.public = PublicPaths(public)
        self.optional = optional
        self._gate = Gate(server, driver or default_driver(), error_body)
        self._accept_expired_connections = accept_expired_connections
        self._accept_subprotocol_token = accept_subprotocol_token
        self._placement = Placement(app)
        self._own_root_path = own_root_path(app)
        self._litestar_route = litestar_route(app)
        self._contains_application = contains_application(app)
        self._accept_preflight = accept_preflight
        self._knows_about_cors = False
        self._warn_about_cors()
        _log_relaxations(accept_expired_connections, accept_subprotocol_token, accept_preflight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as the ASGI specification wants it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._pass_lifespan(scope, receive, send)
            return
        if self._accept_subprotocol_token and scope["type"] == "websocket":
            send = _take_offered_token(scope, send)
        is_open = self._is_open(scope)
        refusal = await admit(scope, self._gate, is_open=is_open, optional=self.optional)
        if refusal is None:
            refusal = self._placement.refusal(scope)
        if refusal is not None:
            await respond(refusal, scope, send)
            return
        if is_open:
            scope["ticketgate.open"] = (*scope.get("ticketgate.open", ()), (self, _place(scope)))
        scope["ticketgate.middleware"] = scope[self._gate.key]
        token: AccessToken | None = scope["ticketgate.access_token"]
        if token is None or self._accept_expired_connections:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await expiry.run_http(self.app, scope, receive, send, self.server, token)
        else:
            await self._run_websocket(token, scope, receive, send)

    def refusal_elsewhere(self, scope: Scope) -> Answer | None:
        """The answer to a request that is somewhere else than where it was admitted without a token."""
        if self.optional or self._is_open({**scope, "root_path": _root_path(scope)}):
            return None
        return self._gate.answer(NoCredentials())

    async def _pass_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start or stop the application; a type of connection that we cannot check is refused, as ASGI has it."""
        if scope["type"] != "lifespan":
            raise ValueError(f"ASGI scope type {scope['type']!r} is not supported: nothing checks its tokens")
        self._warn_about_cors()  # what is added later is there by now
        self._placement.scan()
        await self.app(scope, receive, send)

    async def _run_websocket(self, token: AccessToken, scope: Scope, receive: Receive, send: Send) -> None:
        if token.expires_at is None:
            await self.app(scope, receive, send)
            return

        async def refuse() -> None:
            await respond(self._gate.answer(InvalidToken("expired")), scope, send)

        remaining = partial(self.server.remaining_lifetime, token)
        await expiry.run_websocket(self.app, scope, receive, send, remaining=remaining, refuse=refuse)

    def _warn_about_cors(self) -> None:
        if not self._knows_about_cors and has_cors(self.app):
            self._knows_about_cors = True
            logger.warning(
                "CORSMiddleware is inside AccessTokenMiddleware: browsers cannot read a 401 or 403."
                " Move it outside: first in middleware=[...], or added last with add_middleware;"
                " with Litestar's cors_config, list the gate in Litestar(middleware=[...])"
            )

    def _is_open(self, scope: Scope) -> bool:
        root_path: str = scope.get("root_path", "")
        if self._own_root_path is not None:
            root_path = self._own_root_path() or root_path
        if "route_handler" in scope and not self._contains_application:
            is_public = self._is_public_in_litestar(scope, root_path)
        else:
            is_public = self.public.include(scope["path"], root_path)
        return is_public or (
            scope.get("method") == "OPTIONS"
            and _looks_like_a_preflight(scope)
            and (self._accept_preflight or cors_is_next(self.app))
        )

    def _is_public_in_litestar(self, scope: Scope, root_path: str) -> bool:
        """Litestar has routed already: its path lacks the root path, and below a mount the mount's path too.

        What was sent is therefore read as well.  It says nothing of an application that is mounted itself: there
        the rest of the path counts too, and it does wherever it cannot be seen that this is Litestar's own list.
        """
        sent = unquote(scope.get("raw_path") or b"")
        if not self.public.include(sent, root_path):
            return False
        if self._litestar_route is not None and getattr(scope["route_handler"], "is_mount", False):
            read = self._litestar_route.path.rstrip("/") + scope["path"]
            return bool(sent.removeprefix(root_path).rstrip("/") == read.rstrip("/"))
        if not self.public.include(scope["path"]):
            return False
        return self._litestar_route is not None or self.public.include(scope["path"], root_path)


def refusal_if_moved(scope: Scope) -> Answer | None:
    """For the innermost layer: what was admitted without a token was admitted for its path and method only."""
    for gate, place in scope.get("ticketgate.open", ()):
        if not _is_at(place, scope) and (refusal := gate.refusal_elsewhere(scope)) is not None:
            return cast(Answer, refusal)
    return None


def _is_at(place: tuple[Any, ...], scope: Scope) -> bool:
    here = _place(scope)
    own = getattr(scope.get("app"), "root_path", None)  # FastAPI's, which comes after a gate around it
    return here == place or (here[:-1] == place[:-1] and here[-1] == own)


def _place(scope: Scope) -> tuple[Any, ...]:
    return scope["type"], scope.get("method"), scope["path"], _root_path(scope)


def _root_path(scope: Scope) -> str:
    """That of the request: mounts add to ``root_path``."""
    return str(scope.get("app_root_path", scope.get("root_path", "")))


def _looks_like_a_preflight(scope: Scope) -> bool:
    """With exactly one origin: Litestar takes an empty one for none, and asks the first of several."""
    fields: list[tuple[bytes, bytes]] = scope["headers"]
    origins = [value for name, value in fields if name == b"origin"]
    lengths = [value for name, value in fields if name == b"content-length"]
    names = {name for name, _ in fields}
    return is_preflight(
        scope["method"],
        has_origin=len(origins) == 1 and origins != [b""],
        has_request_method=b"access-control-request-method" in names,
        has_body=b"transfer-encoding" in names or lengths not in ([], [b"0"]),
    )


def _log_relaxations(
    accept_expired_connections: bool, accept_subprotocol_token: bool, accept_preflight: bool
) -> None:
    if accept_preflight:
        logger.warning(ACCEPTED_PREFLIGHTS)
    if accept_expired_connections:
        logger.warning("accept_expired_connections: WebSockets and event streams outlive their access tokens")
    if accept_subprotocol_token:
        logger.warning(
            "accept_subprotocol_token: access tokens are in Sec-WebSocket-Protocol, which proxies may log"
        )


def _take_offered_token(scope: Scope, send: Send) -> Send:
    """Move the token that a client offered as a subprotocol to where `admit` finds it and nobody else looks.

    Returns a ``send`` that accepts with the subprotocol ``bearer`` where the application chooses none: a
    browser closes a WebSocket whose server chose none of those it offered.
    """
    fields = [value for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
    offer = offered_token(
        fields or (name.encode("latin-1", "replace") for name in scope.get("subprotocols", ()))
    )
    if offer is None:
        return send
    others = ", ".join(offer.others).encode("latin-1")
    scope["ticketgate.offered_token"] = offer
    scope["subprotocols"] = list(offer.others)
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"sec-websocket-protocol"]
    scope["headers"] += [(b"sec-websocket-protocol", others)] if others else []

    async def send_with_subprotocol(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = {**message, "subprotocol": offer.name}
        await send(message)

    return send_with_subprotocol


def _facts(scope: Scope) -> ResourceRequest:
    authorization = tuple(value for name, value in scope["headers"] if name == b"authorization")
    if "ticketgate.offered_token" in scope:
        authorization += scope["ticketgate.offered_token"].authorization()
    return ResourceRequest(scope.get("method", "GET"), authorization=authorization)


async def admit(
    scope: Scope, gate: Gate[Driver], *, is_open: bool = False, optional: bool = False
) -> Answer | None:
    """The refusal of a connection that may not pass; None for one that may.

    Then the token and the gate are in ``scope``, where the application, and what comes after us, will look: as
    the innermost server's, and under ``gate.key``, since a verdict counts only for the server that reached it.
    """
    try:
        token = None if is_open else await gate.driver.run(gate.admit(_facts(scope), optional=optional))
    except (OAuthError, CannotDecide) as error:
        return gate.answer(error)
    scope[gate.key] = verdict = (gate, token, scope.get("app"))
    enter(scope, verdict)
    return None


def enter(scope: Scope, verdict: Verdict) -> None:
    """Have ``verdict`` be the innermost server's: the one that the application sees."""
    gate, token, _ = verdict
    scope["ticketgate.access_token"] = token
    scope["ticketgate.gate"] = gate
    scope["user"] = Caller(token)
    scope["auth"] = Granted(sorted(token.scopes) if token else [])


async def confirm(scope: Scope, within: float) -> Answer | None:
    """The refusal of a request whose token is not active any more; None where it is (RFC 7662 §2.2).

    For what comes after the gate: an answer of the issuer that is at most ``within`` seconds old will do.
    """
    gate: Gate[Driver] = scope["ticketgate.gate"]
    return await gate.driver.run(gate.confirm(_facts(scope), scope["ticketgate.access_token"], within))


class Readiness:
    """An ASGI application for readiness probes; made by `readiness`."""

    def __init__(self, server: ResourceServer, driver: Driver) -> None:
        self._server = server
        self._driver = driver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._driver.run(self._server.warm_up())
        await respond(readiness_answer(self._server.health(named_only=True)), scope, send)


def readiness(server: ResourceServer, *, driver: Driver | None = None) -> Readiness:
    """An endpoint that answers 200 while tokens can be judged and 503 while they cannot.

    Each probe also tries to reach issuers that could not be reached, as often as their back-off allows.

        Route("/ready", readiness(server))       # and public=["/ready"]
    """
    return Readiness(server, driver or default_driver())


async def respond(answer: Answer, scope: Scope, send: Send) -> None:
    """Send ``answer``: as a response, as the denial of a WebSocket, or by closing that unaccepted."""
    kind = scope["type"]
    if kind == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        kind = "websocket.http"
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": f"{kind}.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": f"{kind}.response.body", "body": body})
