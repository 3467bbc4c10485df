"""The routes of Django projects: function and class views, and REST framework's."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.urls import URLResolver, get_resolver

from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.core.requirement import declared_together
from ticketgate.core.server import ResourceServer
from ticketgate.django import MIDDLEWARE, current_door


def collect(app: Any, doors: tuple[Door, ...] = ()) -> Iterator[GuardedRoute]:
    """Every URL pattern of the project whose handler ``app`` is."""
    door = current_door()
    if MIDDLEWARE in settings.MIDDLEWARE:
        doors = (*doors, Door(door.public, not door.optional, server=door.gate.server))
    else:
        doors = (*doors, Door(door.public, closes=False))
    yield from _of(get_resolver().url_patterns, "/", doors)


def _of(patterns: Any, prefix: str, doors: tuple[Door, ...]) -> Iterator[GuardedRoute]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if isinstance(pattern, URLResolver):
            yield from _of(pattern.url_patterns, path, doors)
            continue
        view: Any = pattern.callback
        for methods, handler in _handlers(view):
            needed = declared_together([view, *_permissions(view), handler])
            name = str(getattr(view, "__qualname__", type(view).__qualname__))
            yield GuardedRoute(path, methods, name, needed, doors, _authenticating(view))


def _handlers(view: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The methods of a view, those of a class view with what handles each of them."""
    view_class = getattr(view, "cls", None) or getattr(view, "view_class", None)
    if view_class is None:
        yield ("ANY",), None
        return
    actions: dict[str, str] = getattr(view, "actions", None) or {
        name: name for name in view_class.http_method_names if name != "options" and hasattr(view_class, name)
    }
    for method, action in actions.items():
        yield (method.upper(),), getattr(view_class, action)


def _permissions(view: Any) -> Iterator[Any]:
    """What REST framework asks before it calls the view."""
    yield from getattr(getattr(view, "cls", None), "permission_classes", ())


def _authenticating(view: Any) -> tuple[ResourceServer, ...]:
    """REST framework's views may look for tokens by themselves."""
    classes: Any = getattr(getattr(view, "cls", None), "authentication_classes", ())
    ours = any(cls.__module__ == "ticketgate.rest_framework" for cls in classes)
    return (current_door().gate.server,) if ours else ()
