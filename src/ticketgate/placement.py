"""Finds the endpoints of an ASGI application that were registered without their guard: see `core.guards`.

Works on whatever has ``routes`` with ``matches`` and ``endpoint``: Starlette, FastAPI and what they mount.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from inspect import getattr_static
from typing import Any, NamedTuple

from ticketgate.core.challenge import Answer
from ticketgate.core.gate import registered_without_its_guard
from ticketgate.core.guards import name_of, protection_of

MOST_LAYERS = 50
METHODS = ("get", "post", "put", "patch", "delete", "head", "options", "query")

logger = logging.getLogger("ticketgate")


def layers(app: Any) -> Iterator[Any]:
    """``app``, and what it wraps, as far as middleware shows it in an attribute ``app``."""
    for _ in range(MOST_LAYERS):
        yield app
        app = getattr(app, "app", None)
        if app is None:
            return


def effective_routes(routes: Iterable[Any]) -> Iterable[Any]:
    """``routes`` as they take effect: FastAPI keeps included routers apart, and knows what their routes come to."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return routes if contexts is None else contexts(routes)


class Misplaced(NamedTuple):
    """An endpoint without its guard, and the routes that lead to it, mounts first."""

    endpoint: str
    path: tuple[Any, ...]

    def is_reached_by(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether a request goes there, as the routes themselves decide it."""
        inner = dict(scope)
        for route in self.path:
            match, more = route.matches(inner)
            if match.name != "FULL":
                return False
            inner.update(more)
        return True


class NoRouter:
    """Stands for the router of applications that do not show theirs."""

    routes: tuple[Any, ...] = ()


class Placement:
    """The endpoints of ``app`` that were registered without their guard: normally there are none."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._router: Any = NoRouter
        self._routes: Any = NoRouter.routes
        self._root_path = ""
        self._lists: tuple[list[Any], ...] = ()
        self._scanned: tuple[list[Any], ...] | None = None
        self._misplaced: tuple[Misplaced, ...] = ()

    def refusal(self, scope: MutableMapping[str, Any]) -> Answer | None:
        """The answer to a request for one of them, which is logged; None for every other request."""
        if self._lists != self._scanned or self._router.routes is not self._routes:
            self.scan()
        return self._refusal(scope) if self._misplaced else None

    def scan(self) -> None:
        """Look at all routes; called again whenever one was added, removed or replaced, below mounts too.

        Not noticed are changes of a route itself, and of what is mounted in place of something else.
        """
        router: Any = NoRouter
        routes: Any = router.routes
        for layer in layers(self._app):
            inner = getattr(layer, "router", layer)
            if is_route(layer):
                routes = [layer]
                break
            if _has_routes(inner):
                router, routes = inner, inner.routes
                self._root_path = str(getattr(layer, "root_path", ""))
                break
        lists = tuple(_lists(routes))
        scanned = tuple(map(list, lists))
        self._misplaced = tuple(_misplaced(routes, ()))
        self._router, self._routes = router, router.routes
        self._lists, self._scanned = lists, scanned  # last: another thread goes by it

    def _refusal(self, scope: MutableMapping[str, Any]) -> Answer | None:
        if self._root_path:  # as FastAPI(root_path=...) sets it
            scope = {**scope, "root_path": self._root_path}
        for one in self._misplaced:
            if one.is_reached_by(scope):
                return registered_without_its_guard(one.endpoint)
        return None


def _misplaced(routes: Iterable[Any], above: tuple[Any, ...]) -> Iterator[Misplaced]:
    for route in effective_routes(routes):
        endpoint = getattr(route, "endpoint", None)
        path = (*above, route)
        if endpoint is None:
            if len(path) < MOST_LAYERS:
                yield from _misplaced(routes_below(route), path)
        elif any(protection_of(handler).misplaced for handler in handlers_of(endpoint)):
            yield Misplaced(name_of(endpoint), path)


def _lists(routes: Any, depth: int = 0) -> Iterator[list[Any]]:
    """The lists that routes are added to: ``routes``, and those of routers that are mounted or included there."""
    if depth > MOST_LAYERS or not _is_list(routes):
        return
    yield routes
    for route in routes:
        included = getattr(route, "original_router", None)  # FastAPI's
        yield from _lists(routes_below(route) if included is None else included.routes, depth + 1)


def routes_below(route: Any) -> Any:
    """The routes of what is mounted at ``route``, also inside of middleware."""
    for layer in layers(getattr(route, "app", None)):
        if is_route(layer):
            return (layer,)
        if _has_routes(layer):
            return layer.routes
    return ()


def _has_routes(app: Any) -> bool:
    return _is_list(getattr(app, "routes", None))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def is_route(app: Any) -> bool:
    """Whether ``app`` is a route that serves as an application, as `Mount` can; routers have a default."""
    return hasattr(app, "matches") and not hasattr(app, "default")


def handlers_of(endpoint: Any) -> Iterator[Any]:
    """What handles requests for ``endpoint``: itself, and whatever a class has, since it says what it dispatches."""
    yield endpoint
    if isinstance(endpoint, type):
        yield from (getattr_static(endpoint, name) for name in dir(endpoint))
