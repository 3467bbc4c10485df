"""The routes of Flask applications: views, blueprints, class views, and what sees requests before them."""

from collections.abc import Iterator
from typing import Any

from flask.views import MethodView

from ticketgate.audit.applications import routes_of
from ticketgate.audit.layers import middleware_row, peel
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import overridden
from ticketgate.core.guards import Protection, name_of, protection_by, protection_of

EVERY_PATH = "/<path:path>"


def collect(app: Any, doors: tuple[Door, ...] = (), prefix: str = "") -> Iterator[GuardedRoute]:
    """Every rule of ``app``, which is mounted at ``prefix`` behind ``doors``."""
    _, doors, rows, mounts = peel(app.wsgi_app, lambda layer: hasattr(layer, "__self__"), doors, prefix)
    yield from rows
    for mounted in mounts:
        yield from routes_of(*mounted)
    yield from _methods(
        app, doors, prefix, "__call__", "wsgi_app", "full_dispatch_request", "preprocess_request"
    )
    gate = getattr(app.extensions.get("ticketgate"), "gate", None)
    inside = (*doors, *([Door.of(gate, prefix)] if gate else []))
    yield from _hooks(app, inside, prefix)
    yield from _methods(app, inside, prefix, "dispatch_request")
    for rule in app.url_map.iter_rules():
        yield from _of(rule, app.view_functions.get(rule.endpoint), inside, prefix)


def _methods(app: Any, doors: tuple[Door, ...], prefix: str, *names: str) -> Iterator[GuardedRoute]:
    """Methods of Flask itself that ``app`` replaces."""
    for name in overridden(type(app), *names):
        yield middleware_row(name, doors, prefix, "overridden", EVERY_PATH)


def _hooks(app: Any, doors: tuple[Door, ...], prefix: str) -> Iterator[GuardedRoute]:
    """Functions that run before views, and may answer in their place; the extension's gate comes before all of them."""
    for _, hooks in sorted(app.before_request_funcs.items(), key=lambda item: item[0] or ""):
        for hook in hooks:
            yield middleware_row(name_of(hook), doors, prefix, "before_request hook", EVERY_PATH)


def _of(rule: Any, view: Any, doors: tuple[Door, ...], prefix: str) -> Iterator[GuardedRoute]:
    path, endpoint = prefix + str(rule), str(rule.endpoint)
    if view is None:
        yield GuardedRoute(path, ("ANY",), endpoint, None, doors)
        return
    dispatch, replaced = _dispatch(view)
    for methods, handler in _handlers(rule, view):
        protection = protection_by([view, *dispatch, handler], replaced)
        yield GuardedRoute(path, methods, endpoint, None, doors).protected_by(protection)
    for name in replaced:
        row = GuardedRoute(path, ("ANY",), endpoint, None, doors, not_understood=f"overridden {name}")
        yield row.protected_by(protection_of(view))


def _dispatch(view: Any) -> tuple[list[Any], tuple[str, ...]]:
    """What a class view replaces of `MethodView`: by a guard, or by something that is not understood."""
    view_class = getattr(view, "view_class", None)
    if view_class is None or not issubclass(view_class, MethodView):
        return [], ()
    replaced = overridden(view_class, "dispatch_request")
    guarded = protection_of(view_class.dispatch_request) != Protection(None)
    return ([view_class.dispatch_request], ()) if guarded else ([], replaced)


def _handlers(rule: Any, view: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    view_class = getattr(view, "view_class", None)
    by_flask = {name for name in ("HEAD", "OPTIONS") if not hasattr(view_class, name.lower())}
    methods = tuple(sorted(set(rule.methods or ()) - by_flask)) or ("ANY",)
    if view_class is None or not issubclass(view_class, MethodView):
        yield methods, getattr(view_class, "dispatch_request", None)
        return
    for method in methods:
        yield (method,), getattr(view_class, method.lower(), None)
