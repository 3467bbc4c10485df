"""Which routes an application has and what each requires, read from the declarations that guard them.

    audit(app).problems            # empty, or sentences to act on

`ticketgate routes module:app --check` and `ticketgate.testing.assert_every_route_is_guarded` are made of it.
"""

from typing import Any

from ticketgate.audit.applications import has_routes, routes_of
from ticketgate.audit.routes import Audit, Door, GuardedRoute
from ticketgate.errors import ConfigurationError

__all__ = ["Audit", "Door", "GuardedRoute", "audit"]


def audit(app: Any) -> Audit:
    """Every route of ``app``: a Starlette, FastAPI, Flask or Django application, also inside of middleware.

    What can answer requests and is not understood (middleware, dispatchers, applications without routes) has a
    row too.  Raises `ConfigurationError` for anything else.
    """
    if not has_routes(app):
        raise ConfigurationError(
            f"{type(app).__name__} is no Starlette, FastAPI, Flask or Django application"
        )
    return Audit.of(routes_of(app))
