"""The routes of Starlette and FastAPI applications: mounts, included routers, class endpoints, WebSockets."""

from collections.abc import Iterable, Iterator
from typing import Any

from starlette.routing import Host, Mount, WebSocketRoute

from ticketgate.asgi import AccessTokenMiddleware, layers
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import declared, declared_together
from ticketgate.core.server import ResourceServer
from ticketgate.dependants import invalid_scopes, unused_scopes
from ticketgate.starlette import called_by, effective_routes, gates_within, unwrapped

PASSED_OVER = (
    "has a decorator that uses the gate around the application instead of the application's own server:"
    " write Depends(requires(...))"
)
METHODS = ("get", "post", "put", "patch", "delete", "head", "options")


def collect(
    app: Any, doors: tuple[Door, ...] = (), prefix: str = "", server: ResourceServer | None = None
) -> Iterator[GuardedRoute]:
    """Every route of ``app``, which is mounted at ``prefix`` behind ``doors``.

    ``server`` decides for FastAPI's ``requires()`` there, unless ``app`` has another one.
    """
    inner, around = unwrapped(app)
    within = gates_within(inner)
    doors = (
        *doors,
        *(Door.of(gate, prefix) for gate in (*around, *within)),
        *_declared_public(inner, prefix),
    )
    routes: Iterable[Any] | None = getattr(inner, "routes", None)
    if routes is None:
        yield GuardedRoute(f"{prefix}/{{path:path}}", ("ANY",), _name(inner), declared(inner), doors)
        return
    server = _deciding(inner, around, within, doors, server)
    for route in effective_routes(routes):
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            yield from collect(route.app, doors, prefix + route.path, server)
        elif isinstance(original, Host):
            yield from collect(route.app, doors, prefix, server)
        else:
            yield from _of(route, original, doors, prefix, server)


def _deciding(
    app: Any,
    around: tuple[AccessTokenMiddleware, ...],
    within: tuple[AccessTokenMiddleware, ...],
    doors: tuple[Door, ...],
    inherited: ResourceServer | None,
) -> ResourceServer | None:
    """The server that a ``requires()`` of ``app`` uses where it names none: see `ticketgate.fastapi.Requires`."""
    if within:
        return within[-1].server
    if not hasattr(app, "state"):  # a router belongs to the application that it is mounted in
        return around[-1].server if around else inherited
    own = getattr(app.state, "ticketgate", None)
    gates = [door.server for door in doors if door.server is not None]
    return own if isinstance(own, ResourceServer) else (gates[-1] if gates else None)


def _declared_public(app: Any, prefix: str) -> list[Door]:
    """What ``install(app, public=...)`` says of an application without middleware."""
    public = getattr(getattr(app, "state", None), "ticketgate_public", None)
    return [Door(public, closes=False, prefix=prefix)] if isinstance(public, PublicPaths) else []


def _of(
    route: Any, original: Any, doors: tuple[Door, ...], prefix: str, server: ResourceServer | None
) -> Iterator[GuardedRoute]:
    calls = called_by(route)
    asked = [call.server or server for call in calls if hasattr(call, "with_scopes")]
    deciding = tuple(dict.fromkeys(one for one in asked if one is not None))
    doors = (*doors, *_around(route, prefix))
    path, wrong = prefix + str(route.path), tuple(_wrong_scopes(route))
    for methods, handler in _handlers(route, original):
        needed = declared_together([*calls, handler])
        if needed is not None and not deciding and _is_passed_over(server, doors):
            wrong = (*wrong, PASSED_OVER)
        yield GuardedRoute(path, methods, _name(route.endpoint), needed, doors, deciding, wrong=wrong)


def _is_passed_over(server: ResourceServer | None, doors: tuple[Door, ...]) -> bool:
    """Whether a decorator, which uses the innermost gate, leaves out the application's own server."""
    gates = [door.server for door in doors if door.server is not None]
    return server is not None and bool(gates) and server not in gates


def _wrong_scopes(route: Any) -> Iterator[str]:
    """What is wrong with FastAPI's ``Security(...)``."""
    if not hasattr(route, "dependant"):
        return
    for scopes in unused_scopes(route.dependant):
        yield f"has Security(..., scopes={scopes}) without requires() below it: these scopes are not enforced"
    for value in invalid_scopes(route.dependant):
        yield f"has {value!r} in Security(..., scopes=[...]), which is not a scope: every request gets a 503"


def _around(route: Any, prefix: str) -> Iterator[Door]:
    """The gates that stand before this route alone: ``Route(..., middleware=[...])``."""
    for layer in layers(getattr(route, "app", None)):
        if isinstance(layer, AccessTokenMiddleware):
            yield Door.of(layer, prefix)


def _handlers(route: Any, original: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The methods of a route, those of a class endpoint with what handles each of them."""
    endpoint = route.endpoint
    if isinstance(original, WebSocketRoute):
        yield ("WEBSOCKET",), getattr(endpoint, "on_connect", None)
    elif isinstance(endpoint, type):
        for method in (name for name in METHODS if hasattr(endpoint, name)):
            yield (method.upper(),), getattr(endpoint, method)
    else:
        methods = sorted(set(route.methods or {"ANY"}) - {"HEAD", "OPTIONS"})
        yield tuple(methods or sorted(route.methods)), None


def _name(endpoint: Any) -> str:
    return str(getattr(endpoint, "__qualname__", type(endpoint).__qualname__))
