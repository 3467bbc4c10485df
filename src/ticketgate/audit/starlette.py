"""The routes of Starlette and FastAPI applications: mounts, included routers, class endpoints, WebSockets."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.routing import Host, Mount, WebSocketRoute

from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit.applications import routes_of
from ticketgate.audit.layers import EVERY_PATH, middleware_row, overridden_rows, peel
from ticketgate.audit.middleware_stack import is_as_built
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import (
    is_understood_application,
    is_understood_middleware,
    name_of_middleware,
    overridden,
    overridden_in_gate,
)
from ticketgate.core.guards import name_of, protection_by, protection_of
from ticketgate.core.public import PublicPaths
from ticketgate.core.server import ResourceServer
from ticketgate.dependants import calls as calls_of
from ticketgate.dependants import invalid_scopes, unused_scopes
from ticketgate.placement import METHODS, effective_routes, is_route, layers
from ticketgate.starlette import called_by

PASSED_OVER = (
    "has a decorator that uses the gate around the application instead of the application's own server:"
    " write Depends(requires(...))"
)
DISPATCHING = ("dispatch", "__await__", "__init__")
ROUTING = ("matches", "handle", "get_route_handler")


def collect(
    app: Any, doors: tuple[Door, ...] = (), prefix: str = "", server: ResourceServer | None = None
) -> Iterator[GuardedRoute]:
    """Every route of ``app``, which is mounted at ``prefix`` behind ``doors``.

    ``server`` decides for FastAPI's ``requires()`` there, unless ``app`` has another one.
    """
    before = len(doors)
    inner, doors, rows, _ = peel(
        app, lambda layer: hasattr(layer, "routes") or is_route(layer), doors, prefix
    )
    yield from rows
    server = doors[-1].server if len(doors) > before else server
    if is_route(inner):
        yield from _of(inner, doors, prefix, server)
    elif not hasattr(inner, "routes"):
        yield from routes_of(inner, doors, prefix)
    else:
        yield from _of_application(inner, doors, prefix, server)


def _of_application(
    inner: Any, doors: tuple[Door, ...], prefix: str, server: ResourceServer | None
) -> Iterator[GuardedRoute]:
    for name in overridden(type(inner), "__call__", "build_middleware_stack"):
        yield middleware_row(name, doors, prefix, "overridden")
    if not is_as_built(inner):
        yield middleware_row("middleware_stack", doors, prefix, "replaced")
    router, before = getattr(inner, "router", inner), len(doors)
    doors, rows = _added(inner, doors, prefix)
    yield from rows
    _, doors, rows, _ = peel(getattr(router, "middleware_stack", None), inspect.ismethod, doors, prefix)
    yield from rows
    server = _deciding(inner, doors, doors[before:], server)
    doors = (*doors, *_declared_public(inner, prefix))
    for route in effective_routes(inner.routes):
        yield from _of(route, doors, prefix, server)
    yield from _besides_routes(router, doors, prefix)


def _added(
    app: Any, doors: tuple[Door, ...], prefix: str
) -> tuple[tuple[Door, ...], tuple[GuardedRoute, ...]]:
    """The gates among the middleware of a Starlette application, and what of the rest is not understood."""
    rows: list[GuardedRoute] = []
    for entry in app.user_middleware if isinstance(app, Starlette) else ():
        middleware: Any = entry
        make = middleware.cls
        if isinstance(make, type) and issubclass(make, AccessTokenMiddleware):
            rows += overridden_rows(make, doors, prefix)
            gate = cast(Any, make)(cast(Any, app).router, *middleware.args, **middleware.kwargs)
            doors = (*doors, Door.of(gate, prefix))
        elif not is_understood_middleware(make):
            rows.append(middleware_row(name_of_middleware(make, middleware.kwargs), doors, prefix))
    return doors, tuple(rows)


def _deciding(
    app: Any, doors: tuple[Door, ...], within: tuple[Door, ...], inherited: ResourceServer | None
) -> ResourceServer | None:
    """The server that a ``requires()`` of ``app`` uses where it names none: see `ticketgate.fastapi.Requires`."""
    if within:
        return within[-1].server
    if not hasattr(app, "state"):  # a router belongs to the application that it is mounted in
        return inherited
    own = getattr(app.state, "ticketgate", None)
    gates = [door.server for door in doors if door.server is not None]
    return own if isinstance(own, ResourceServer) else (gates[-1] if gates else None)


def _declared_public(app: Any, prefix: str) -> list[Door]:
    """What ``install(app, public=...)`` says of an application without middleware."""
    public = getattr(getattr(app, "state", None), "ticketgate_public", None)
    return [Door(public, closes=False, prefix=prefix)] if isinstance(public, PublicPaths) else []


def _besides_routes(router: Any, doors: tuple[Door, ...], prefix: str) -> Iterator[GuardedRoute]:
    """What answers where no route matches, and what a router does by itself."""
    for name in overridden(type(router), "__call__", "app", "handle"):
        yield middleware_row(name, doors, prefix, "overridden")
    for group in getattr(router, "_low_priority_routes", ()):  # FastAPI's frontends
        for route in getattr(group, "routes", ()):
            row = GuardedRoute(
                prefix + route.path.rstrip("/") + EVERY_PATH, ("GET",), "frontend", None, doors
            )
            yield row.protected_by(protection_by(called_by(group)))
    default = getattr(router, "default", None)
    if default is None or default == getattr(router, "not_found", None):
        replaced = overridden(type(router), "not_found")
        default = router.not_found if replaced else None
    if default is not None:
        yield from collect(default, doors, prefix)


def _of(
    route: Any, doors: tuple[Door, ...], prefix: str, server: ResourceServer | None
) -> Iterator[GuardedRoute]:
    original = getattr(route, "original_route", route)
    if isinstance(original, Mount | Host):
        for name in overridden(type(original), *ROUTING):
            yield middleware_row(name, doors, prefix + getattr(route, "path", ""), "overridden")
    if isinstance(original, Mount):
        yield from collect(route.app, doors, prefix + route.path, server)
    elif isinstance(original, Host):
        yield from collect(route.app, doors, prefix, server)
    elif getattr(route, "endpoint", None) is None:
        yield GuardedRoute(
            prefix + str(getattr(route, "path", None) or EVERY_PATH),
            ("ANY",),
            name_of(original),
            None,
            doors,
            not_understood=f"route {name_of(original)}",
        )
    else:
        yield from _of_endpoint(route, original, doors, prefix, server)


def _of_endpoint(
    route: Any, original: Any, doors: tuple[Door, ...], prefix: str, server: ResourceServer | None
) -> Iterator[GuardedRoute]:
    endpoint = route.endpoint
    calls = _really_called_by(route)
    asked = [call.server or server for call in calls if hasattr(call, "with_scopes")]
    deciding = tuple(dict.fromkeys(one for one in asked if one is not None))
    around, inside = _around(route, original, prefix)
    path, name, doors = prefix + str(route.path), name_of(endpoint), (*doors, *around)
    wrong, unknown = (*_wrong_scopes(route), *_wrong_guards(route)), _unknown(endpoint)
    dispatching = overridden(endpoint, *DISPATCHING) if isinstance(endpoint, type) else ()
    for methods, handler in _handlers(route, original):
        protection = protection_by([*calls, handler], (*inside, *dispatching))
        passed_over = protection.needed is not None and not deciding and _is_passed_over(server, doors)
        problems = (*wrong, PASSED_OVER) if passed_over else wrong
        row = GuardedRoute(path, methods, name, None, doors, deciding, wrong=problems, not_understood=unknown)
        yield row.protected_by(protection)
    for one in dispatching:
        row = GuardedRoute(path, ("ANY",), name, None, doors, deciding, not_understood=f"overridden {one}")
        yield row.protected_by(protection_by(calls))


def _really_called_by(route: Any) -> list[Any]:
    """What a request goes through, with FastAPI's ``dependency_overrides`` as they are now."""
    provider = getattr(route, "dependency_overrides_provider", None)
    overrides = getattr(provider, "dependency_overrides", None)
    return list(calls_of(route.dependant, overrides)) if overrides else called_by(route)


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


def _wrong_guards(route: Any) -> Iterator[str]:
    """Decorated dependencies: their guard is of another kind, and refuses with another body."""
    for call in called_by(route)[1:]:
        if not hasattr(call, "with_scopes") and protection_of(call).needed is not None:
            yield f"has @requires on the dependency {name_of(call)}: write Depends(ticketgate.fastapi.requires(...))"


def _around(route: Any, original: Any, prefix: str) -> tuple[list[Door], tuple[str, ...]]:
    """The gates before this route alone (``Route(..., middleware=[...])``), and what else is around its guard."""
    doors: list[Door] = []
    inside = list(overridden(type(original), *ROUTING))
    for layer in layers(getattr(route, "app", None)):
        if isinstance(layer, AccessTokenMiddleware):
            inside += overridden_in_gate(type(layer))
            doors.append(Door.of(layer, prefix))
        elif hasattr(layer, "app") and not is_understood_middleware(layer):
            inside.append(name_of_middleware(layer))
    return doors, tuple(inside)


def _unknown(endpoint: Any) -> str:
    """Why it cannot be said what ``endpoint`` does, an ASGI application of its own; empty where it can."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if inspect.isfunction(endpoint) or inspect.ismethod(endpoint):
        return ""
    if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint | WebSocketEndpoint):
        return ""
    return "" if is_understood_application(endpoint) else f"application {name_of(endpoint)}"


def _handlers(route: Any, original: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The methods of a route, those of a class endpoint with what handles each of them."""
    endpoint = route.endpoint
    if isinstance(original, WebSocketRoute):
        yield ("WEBSOCKET",), getattr(endpoint, "on_connect", None)
    elif isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        for method in (name for name in METHODS if hasattr(endpoint, name)):
            yield (method.upper(),), getattr(endpoint, method)
        if overridden(endpoint, "method_not_allowed"):
            yield ("ANY",), endpoint.method_not_allowed
    else:
        methods = sorted(set(route.methods or {"ANY"}) - {"HEAD", "OPTIONS"})
        yield tuple(methods or sorted(route.methods)), None
