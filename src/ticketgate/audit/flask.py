"""The routes of Flask applications: views, blueprints, class views."""

from collections.abc import Iterator
from typing import Any

from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.core.requirement import declared_together
from ticketgate.placement import layers
from ticketgate.wsgi import AccessTokenMiddleware


def collect(app: Any, doors: tuple[Door, ...] = ()) -> Iterator[GuardedRoute]:
    """Every rule of ``app``, which stands behind ``doors``."""
    gate = getattr(app.extensions.get("ticketgate"), "gate", None)
    doors = (*doors, *([Door.of(gate)] if gate else []), *_around(app))
    for rule in app.url_map.iter_rules():
        view: Any = app.view_functions[rule.endpoint]
        for methods, handler in _handlers(rule, view):
            needed = declared_together([view, handler])
            yield GuardedRoute(str(rule), methods, str(rule.endpoint), needed, doors)


def _around(app: Any) -> Iterator[Door]:
    """The middleware that ``app.wsgi_app`` was wrapped in."""
    for layer in layers(app.wsgi_app):
        if isinstance(layer, AccessTokenMiddleware):
            yield Door.of(layer)


def _handlers(rule: Any, view: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    methods = tuple(sorted(set(rule.methods or ()) - {"HEAD", "OPTIONS"})) or ("ANY",)
    view_class = getattr(view, "view_class", None)
    if view_class is None or (
        hasattr(view_class, "dispatch_request") and not hasattr(view_class, methods[0].lower())
    ):
        yield methods, getattr(view_class, "dispatch_request", None)
        return
    for method in methods:
        yield (method,), getattr(view_class, method.lower(), None)
