"""What a request passes before it reaches an application with routes: gates, and middleware around them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ticketgate.asgi import AccessTokenMiddleware as AsgiGate
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import is_understood_middleware, name_of_middleware, overridden_in_gate
from ticketgate.placement import layers
from ticketgate.wsgi import AccessTokenMiddleware as WsgiGate

EVERY_PATH = "/{path:path}"


class Mounted(NamedTuple):
    """An application that a dispatcher calls for paths below ``prefix``."""

    app: Any
    doors: tuple[Door, ...]
    prefix: str


class Peeled(NamedTuple):
    """What is inside of all middleware, the ``doors`` before it, and rows for what is not understood."""

    inner: Any
    doors: tuple[Door, ...]
    rows: tuple[GuardedRoute, ...] = ()
    mounts: tuple[Mounted, ...] = ()


def peel(app: Any, is_inner: Callable[[Any], object], doors: tuple[Door, ...], prefix: str) -> Peeled:
    """``app`` without the middleware around what ``is_inner``, as far as it can be seen."""
    rows: list[GuardedRoute] = []
    mounts: list[Mounted] = []
    inner = app
    for inner in layers(app):
        if is_inner(inner):
            break
        if isinstance(inner, AsgiGate | WsgiGate):
            rows += overridden_rows(type(inner), doors, prefix)
            doors = (*doors, Door.of(inner, prefix))
        elif type(inner).__module__ == "werkzeug.middleware.dispatcher":
            mounts += [Mounted(mounted, doors, prefix + path) for path, mounted in inner.mounts.items()]
        elif hasattr(inner, "app") and not is_understood_middleware(inner):
            rows.append(middleware_row(name_of_middleware(inner), doors, prefix))
    return Peeled(inner, doors, tuple(rows), tuple(mounts))


def overridden_rows(gate: Any, doors: tuple[Door, ...], prefix: str) -> list[GuardedRoute]:
    """What a subclass of our gates does in its own way."""
    return [middleware_row(name, doors, prefix, "overridden") for name in overridden_in_gate(gate)]


def middleware_row(
    name: str, doors: tuple[Door, ...], prefix: str, what: str = "middleware", path: str = EVERY_PATH
) -> GuardedRoute:
    """Something that sees requests behind ``doors`` and can answer them before any route does."""
    return GuardedRoute(
        prefix + path, ("ANY",), name, None, doors, not_understood=f"{what} {name}", is_route=False
    )
