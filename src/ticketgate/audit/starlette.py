"""The routes of Starlette and FastAPI applications: mounts, included routers, class endpoints, WebSockets."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.routing import Host, Mount, WebSocketRoute

from ticketgate.asgi import AccessTokenMiddleware, layers
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import Requirement, all_of, declared
from ticketgate.core.server import ResourceServer
from ticketgate.starlette import unwrapped

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
    for route in _effective(routes):
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            yield from collect(route.app, doors, prefix + route.path)
        elif isinstance(original, Host):
            yield from collect(route.app, doors, prefix)
        else:
            yield from _of(route, original, doors, prefix, server)


def _effective(routes: Iterable[Any]) -> Iterable[Any]:
    """FastAPI keeps included routers apart, and knows what their routes come to."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return routes if contexts is None else contexts(routes)


def _declared_public(app: Any, prefix: str) -> list[Door]:
    """What ``install(app, public=...)`` says of an application without middleware."""
    public = getattr(getattr(app, "state", None), "ticketgate_public", None)
    return [Door(public, closes=False, prefix=prefix)] if isinstance(public, PublicPaths) else []


def _of(
    route: Any, original: Any, doors: tuple[Door, ...], prefix: str, server: Any
) -> Iterator[GuardedRoute]:
    calls = _calls(route.dependant) if hasattr(route, "dependant") else [route.endpoint]
    own = [needed for call in calls if (needed := declared(call)) is not None]
    deciding = [getattr(call, "server", None) for call in calls] + ([server] if len(calls) > 1 else [])
    judges = tuple(one for one in deciding if isinstance(one, ResourceServer))
    doors = (*doors, *_around(route, prefix))
    for methods, more in _by_method(route, original):
        needed = all_of([*own, *more]) if own or more else None
        yield GuardedRoute(prefix + str(route.path), methods, _name(route.endpoint), needed, doors, judges)


def _around(route: Any, prefix: str) -> Iterator[Door]:
    """The gates that stand before this route alone: ``Route(..., middleware=[...])``."""
    for layer in layers(getattr(route, "app", None)):
        if isinstance(layer, AccessTokenMiddleware):
            yield Door.of(layer, prefix)


def _by_method(route: Any, original: Any) -> Iterator[tuple[tuple[str, ...], list[Requirement]]]:
    endpoint = route.endpoint
    if isinstance(original, WebSocketRoute):
        on_connect = declared(getattr(endpoint, "on_connect", None))
        yield ("WEBSOCKET",), [] if on_connect is None else [on_connect]
    elif isinstance(endpoint, type):
        for method in (name for name in METHODS if hasattr(endpoint, name)):
            needed = declared(getattr(endpoint, method))
            yield (method.upper(),), [] if needed is None else [needed]
    else:
        methods = sorted(set(route.methods or {"ANY"}) - {"HEAD", "OPTIONS"})
        yield tuple(methods or sorted(route.methods)), []


def _calls(dependant: Any) -> list[Any]:
    return [dependant.call, *(call for one in dependant.dependencies for call in _calls(one))]


def _name(endpoint: Any) -> str:
    return str(getattr(endpoint, "__qualname__", type(endpoint).__qualname__))
