"""Which routes an application has and what each requires, read from the declarations that guard them.

    audit(app).problems            # empty, or sentences to act on

`ticketgate routes module:app --check` and `ticketgate.testing.assert_every_route_is_guarded` are made of it.
"""

from typing import Any

from ticketgate.asgi import AccessTokenMiddleware as AsgiGate
from ticketgate.audit.routes import Audit, Door, GuardedRoute
from ticketgate.errors import ConfigurationError
from ticketgate.placement import layers
from ticketgate.wsgi import AccessTokenMiddleware as WsgiGate

__all__ = ["Audit", "Door", "GuardedRoute", "audit"]


def audit(app: Any) -> Audit:
    """Every route of ``app``: a Starlette, FastAPI, Flask or Django application, also inside of middleware.

    Raises `ConfigurationError` for anything else.
    """
    doors: list[Door] = []
    inner, kind = app, ""
    for inner in layers(app):
        kind = _kind(inner)
        if kind:
            break
        if isinstance(inner, AsgiGate | WsgiGate):
            doors.append(Door.of(inner))
    if not kind:
        raise ConfigurationError(
            f"{type(app).__name__} is no Starlette, FastAPI, Flask or Django application"
        )
    if kind == "flask":
        from ticketgate.audit.flask import collect
    elif kind == "django":
        from ticketgate.audit.django import collect
    else:
        from ticketgate.audit.starlette import collect
    return Audit.of(collect(inner, tuple(doors)))


def _kind(app: Any) -> str:
    """The framework whose application ``app`` is; none is imported to find out."""
    homes = {
        "starlette.applications": "starlette",
        "flask.app": "flask",
        "django.core.handlers.base": "django",
    }
    return next((homes[cls.__module__] for cls in type(app).__mro__ if cls.__module__ in homes), "")
