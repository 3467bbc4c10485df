"""The routes of Starlette and FastAPI applications: mounts, included routers, class endpoints, WebSockets."""

from collections.abc import Iterable, Iterator
from typing import Any

from starlette.routing import Host, Mount, WebSocketRoute

from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import declared, declared_together
from ticketgate.core.server import ResourceServer
from ticketgate.placement import effective_routes, layers
from ticketgate.starlette import called_by, unwrapped

METHODS = ("get", "post", "put", "patch", "delete", "head", "options")


def collect(app: Any, doors: tuple[Door, ...] = (), prefix: str = "") -> Iterator[GuardedRoute]:
    """Every route of ``app``, which is mounted at ``prefix`` behind ``doors``."""
    inner, gate = unwrapped(app)
    doors = (*doors, *([Door.of(gate, prefix)] if gate else []), *_declared_public(inner, prefix))
    routes: Iterable[Any] | None = getattr(inner, "routes", None)
    if routes is None:
        yield GuardedRoute(f"{prefix}/{{path:path}}", ("ANY",), _name(inner), declared(inner), doors)
        return
    server = getattr(getattr(inner, "state", None), "ticketgate", None)
    for route in effective_routes(routes):
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            yield from collect(route.app, doors, prefix + route.path)
        elif isinstance(original, Host):
            yield from collect(route.app, doors, prefix)
        else:
            yield from _of(route, original, doors, prefix, server)


def _declared_public(app: Any, prefix: str) -> list[Door]:
    """What ``install(app, public=...)`` says of an application without middleware."""
    public = getattr(getattr(app, "state", None), "ticketgate_public", None)
    return [Door(public, closes=False, prefix=prefix)] if isinstance(public, PublicPaths) else []


def _of(
    route: Any, original: Any, doors: tuple[Door, ...], prefix: str, server: Any
) -> Iterator[GuardedRoute]:
    calls = called_by(route)
    deciding = [getattr(call, "server", None) for call in calls] + ([server] if len(calls) > 1 else [])
    judges = tuple(one for one in deciding if isinstance(one, ResourceServer))
    doors = (*doors, *_around(route, prefix))
    for methods, handler in _handlers(route, original):
        needed = declared_together([*calls, handler])
        yield GuardedRoute(prefix + str(route.path), methods, _name(route.endpoint), needed, doors, judges)


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
