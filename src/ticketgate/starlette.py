"""What Starlette endpoints require of the caller's access token.

    @requires(scope("orders:read") & role("clerk"))
    async def orders(request): ...

Works behind `ticketgate.asgi.AccessTokenMiddleware`.  Refusals are answered here, since an exception that
leaves an endpoint becomes a 500 before an outer middleware sees it.  A guard that something else than the router
calls raises them, since nobody sends what it returns.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from ticketgate.asgi import POLICY_VIOLATION, AccessTokenMiddleware, confirm
from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import Gate, without_a_gate
from ticketgate.core.guards import guard, layers_of, name_of
from ticketgate.core.requirement import Requirement, all_of
from ticketgate.dependants import calls
from ticketgate.drivers.aio import Driver
from ticketgate.errors import CannotDecide, ConfigurationError, OAuthError
from ticketgate.placement import handlers_of, layers

__all__ = ["AccessTokenMiddleware", "RaisedRefusal", "access_token", "exception_handlers", "requires"]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class RefusalHeaders(Headers):
    """The headers of a refusal: handlers that send ``items()`` send each challenge in a field of its own.

    As a mapping, which copies are made of, it joins them with a comma instead (RFC 9110 §5.3).
    """

    def __getitem__(self, key: str) -> str:
        """Raises `KeyError` where there is none; case does not matter."""
        if values := self.getlist(key):
            return ", ".join(values)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        """The names, once each."""
        return iter(dict.fromkeys(self.keys()))

    def __len__(self) -> int:
        return len(set(self.keys()))


class RaisedRefusal(HTTPException):
    """The refusal of a guard that is not the endpoint; Starlette sends ``answer``, FastAPI its body as ``detail``."""

    def __init__(self, answer: Answer) -> None:
        headers = [
            pair for pair in answer.headers if pair[0] != b"content-length"
        ]  # FastAPI's is another one
        super().__init__(answer.status, answer.body.decode(), RefusalHeaders(raw=headers))
        self.answer = answer


def access_token(connection: "HTTPConnection[Any]") -> AccessToken | None:
    """The access token of the caller; None where the caller is anonymous or there is no gate."""
    return cast("AccessToken | None", connection.scope.get("ticketgate.access_token"))


def requires(*requirements: Requirement, fresh_within: float | None = None) -> Callable[[Endpoint], Endpoint]:
    """Guard an endpoint: all of ``requirements`` must be met, none of them means any valid token.

    For async and plain functions, methods of `HTTPEndpoint` and WebSocket endpoints; the connection is
    found among the arguments by what it is, whatever its name.  Without the middleware the answer is always
    503, and the log says why.  ``fresh_within`` has the issuer confirm the token anew where its last answer
    is older than that many seconds (RFC 7662).  Raises `ConfigurationError` for a class: decorate its methods; and
    for a generator: in FastAPI write ``Depends(ticketgate.fastapi.requires(...))``.
    """
    needed = all_of(requirements)

    def decorate(endpoint: Endpoint) -> Endpoint:
        _refuse_what_cannot_be_guarded(endpoint)
        if _is_async(endpoint):
            guarded = _async_guard(endpoint, needed, fresh_within)
        elif fresh_within is not None:
            guarded = wraps(endpoint)(
                _async_guard(partial(run_in_threadpool, endpoint), needed, fresh_within)
            )
        else:
            guarded = _guard(endpoint, needed)
        return cast(Endpoint, guard(guarded, endpoint, needed))

    return decorate


def _refuse_what_cannot_be_guarded(endpoint: Any) -> None:
    if inspect.isclass(endpoint):
        raise ConfigurationError(f"requires() guards functions: decorate the methods of {endpoint.__name__}")
    if _is_generator(endpoint):
        raise ConfigurationError(
            f"requires() cannot guard the generator {name_of(endpoint)}:"
            " in FastAPI write Depends(ticketgate.fastapi.requires(...)), elsewhere return a StreamingResponse"
        )


def _async_guard(
    endpoint: Callable[..., Any], needed: Requirement, fresh_within: float | None
) -> Callable[..., Any]:
    @wraps(endpoint)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        connection = _connection(args, kwargs)
        refusal = _refusal(connection, needed)
        if refusal is None and connection is not None and fresh_within is not None:
            refusal = await confirm(connection.scope, fresh_within)
        if refusal is None:
            try:
                return await endpoint(*args, **kwargs)
            except (OAuthError, CannotDecide) as error:
                refusal = _raised(connection, error)
        _raise_unless_endpoint(guarded, connection, refusal)
        if isinstance(connection, WebSocket):
            _call_no_more(args)
            return await deny(connection, refusal)
        return as_response(connection, refusal)

    return guarded


def _guard(endpoint: Callable[..., Any], needed: Requirement) -> Callable[..., Any]:
    @wraps(endpoint)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        connection = _connection(args, kwargs)
        refusal = _refusal(connection, needed)
        if refusal is None:
            try:
                return endpoint(*args, **kwargs)
            except (OAuthError, CannotDecide) as error:
                refusal = _raised(connection, error)
        _raise_unless_endpoint(guarded, connection, refusal)
        return as_response(connection, refusal)

    return guarded


def _raise_unless_endpoint(guarded: Any, connection: "HTTPConnection[Any] | None", refusal: Answer) -> None:
    """Have whoever called the guard ``guarded`` not go on, unless that is the router, which sends what we return.

    FastAPI takes what a dependency returns for its value, and Litestar ignores what a guard returns.
    """
    if connection is not None and _is_endpoint(guarded, connection):
        return
    if isinstance(connection, WebSocket) and not _can_deny(connection):
        raise WebSocketException(POLICY_VIOLATION)
    raise RaisedRefusal(refusal)


def _is_endpoint(guarded: Any, connection: "HTTPConnection[Any]") -> bool:
    endpoint = connection.scope.get("endpoint")
    if any(_is_generator(layer) for layer in layers_of(endpoint)):
        return False  # FastAPI would iterate over what we return
    called = (layer for handler in handlers_of(endpoint) for layer in layers_of(handler))
    return any(layer is guarded for layer in called)


def _is_generator(operation: Any) -> bool:
    while isinstance(operation, partial):
        operation = operation.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return any(
        inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)
        for one in (operation, getattr(operation, "__call__", None))  # noqa: B004  how it is defined
    )


def _call_no_more(args: tuple[Any, ...]) -> None:
    """Have a `WebSocketEndpoint`, one object for each connection, not run its methods for a refused client."""

    async def nothing(*_: Any) -> None: ...

    if args and isinstance(args[0], WebSocketEndpoint):
        setattr(args[0], "on_receive", nothing)  # noqa: B010
        setattr(args[0], "on_disconnect", nothing)  # noqa: B010


def _is_async(endpoint: Any) -> bool:
    """As Starlette decides it: functions, bound arguments of functions, and objects that are called."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return inspect.iscoroutinefunction(endpoint) or inspect.iscoroutinefunction(
        getattr(endpoint, "__call__", None)  # noqa: B004  what matters is how it is defined
    )


def _connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> "HTTPConnection[Any] | None":
    for value in (*args, *kwargs.values()):
        if _is_connection(value):
            return value
    return None


def _is_connection(value: Any) -> "TypeGuard[HTTPConnection[Any]]":
    return isinstance(value, HTTPConnection)


def _refusal(connection: "HTTPConnection[Any] | None", needed: Requirement) -> Answer | None:
    gate: Gate[Driver] | None = connection.scope.get("ticketgate.gate") if connection else None
    if connection is None or gate is None:
        return without_a_gate()
    return gate.refusal(connection.scope["ticketgate.access_token"], needed)


def _raised(connection: "HTTPConnection[Any] | None", error: OAuthError | CannotDecide) -> Answer:
    """The response to an error of ours that an endpoint raised; a handler of the application comes first."""
    handlers: Any = connection.scope.get("starlette.exception_handlers") if connection else None
    if handlers and any(cls in handlers[0] for cls in type(error).__mro__):
        raise error
    return _answer(connection, error)


def _answer(connection: "HTTPConnection[Any] | None", error: OAuthError | CannotDecide) -> Answer:
    gate: Gate[Driver] | None = connection.scope.get("ticketgate.gate") if connection else None
    return without_a_gate() if gate is None else gate.answer(error)


async def _handle(connection: "HTTPConnection[Any]", error: Exception) -> Response | None:
    answer = _answer(connection, cast("OAuthError | CannotDecide", error))
    if not isinstance(connection, WebSocket):
        return as_response(connection, answer)
    await deny(connection, answer)
    return None


exception_handlers: Mapping[Any, Any] = MappingProxyType({OAuthError: _handle, CannotDecide: _handle})
"""The right answers to our errors where an endpoint without `requires` raises them.

    app = Starlette(routes=routes, exception_handlers=exception_handlers)
"""


def unwrapped(app: Any) -> tuple[Any, tuple[AccessTokenMiddleware, ...]]:
    """The application inside of other ASGI applications, and the gates around it, the outermost first."""
    gates: list[AccessTokenMiddleware] = []
    for layer in layers(app):
        app = layer
        if hasattr(app, "routes"):
            break
        if isinstance(app, AccessTokenMiddleware):
            gates.append(app)
    return app, tuple(gates)


def gates_within(app: Any) -> tuple[AccessTokenMiddleware, ...]:
    """The gates in the middleware of ``app`` itself, the outermost first."""
    found: list[AccessTokenMiddleware] = []
    for entry in app.user_middleware if isinstance(app, Starlette) else ():
        make: Any = entry.cls
        if isinstance(make, type) and issubclass(make, AccessTokenMiddleware):
            settings: Any = entry
            found.append(cast(Any, make)(app.router, *settings.args, **settings.kwargs))
    return tuple(found)


def called_by(route: Any) -> list[Any]:
    """What a request for ``route`` goes through: FastAPI's dependencies, and the endpoint."""
    return list(calls(route.dependant)) if hasattr(route, "dependant") else [route.endpoint]


def as_response(connection: "HTTPConnection[Any] | None", answer: Answer) -> Response:
    """``answer`` as Starlette sends it: raw headers, and no body for a HEAD."""
    is_head = connection is not None and connection.scope.get("method") == "HEAD"
    response = Response(b"" if is_head else answer.body, answer.status)
    response.raw_headers = list(answer.headers)
    return response


async def deny(websocket: "WebSocket[Any]", answer: Answer) -> None:
    """Before it was accepted with a response, where the server can send one; otherwise by closing it."""
    if _can_deny(websocket):
        await websocket.send_denial_response(as_response(websocket, answer))
    elif websocket.application_state is not WebSocketState.DISCONNECTED:
        await websocket.close(POLICY_VIOLATION)


def can_respond(websocket: "WebSocket[Any]") -> bool:
    """Whether the server can refuse a WebSocket with a response."""
    return "websocket.http.response" in (websocket.scope.get("extensions") or {})


def _can_deny(websocket: "WebSocket[Any]") -> bool:
    return can_respond(websocket) and websocket.application_state is WebSocketState.CONNECTING
