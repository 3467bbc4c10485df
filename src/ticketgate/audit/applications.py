"""The routes of whatever application it is, mounted ones included."""

from collections.abc import Callable, Iterator
from typing import Any

from ticketgate.audit.layers import EVERY_PATH, peel
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import is_understood_application
from ticketgate.core.guards import name_of, protection_of
from ticketgate.placement import layers

Collect = Callable[[Any, tuple[Door, ...], str], Iterator[GuardedRoute]]


def kind_of(app: Any) -> str:
    """The framework whose application ``app`` is; none is imported to find out."""
    homes = {
        "starlette.applications": "starlette",
        "flask.app": "flask",
        "django.core.handlers.base": "django",
    }
    return next((homes[cls.__module__] for cls in type(app).__mro__ if cls.__module__ in homes), "")


def has_routes(app: Any) -> bool:
    """Whether ``app`` is an application that can be audited, also inside of middleware."""
    return any(map(kind_of, layers(app)))


def routes_of(app: Any, doors: tuple[Door, ...] = (), prefix: str = "") -> Iterator[GuardedRoute]:
    """Every route of ``app``, which is mounted at ``prefix`` behind ``doors``; one row where it shows none."""
    inner, doors, rows, mounts = peel(app, kind_of, doors, prefix)
    yield from rows
    for mounted in mounts:
        yield from routes_of(*mounted)
    collect = _collector(kind_of(inner))
    yield from collect(inner, doors, prefix) if collect else [opaque_row(inner, doors, prefix)]


def opaque_row(app: Any, doors: tuple[Door, ...], prefix: str) -> GuardedRoute:
    """An application whose routes cannot be seen."""
    name, protection = name_of(app), protection_of(app)
    unknown = "" if is_understood_application(app) else f"application {name}"
    return GuardedRoute(
        prefix + EVERY_PATH, ("ANY",), name, protection.needed, doors, not_understood=unknown
    ).protected_by(protection)


def _collector(kind: str) -> Collect | None:
    if kind == "flask":
        from ticketgate.audit.flask import collect
    elif kind == "django":
        from ticketgate.audit.django import collect
    elif kind == "starlette":
        from ticketgate.audit.starlette import collect
    else:
        return None
    return collect
