"""What is inside an ASGI gate, as far as applications and middleware show it.

Frameworks are only looked up among the loaded modules: an object cannot be an instance of a class that is not.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

from ticketgate.placement import MOST_LAYERS, layers

CORS = ("starlette.middleware.cors:CORSMiddleware", "litestar.middleware._internal.cors:CORSMiddleware")
STARLETTE = ("starlette.applications:Starlette", "fastapi.applications:FastAPI")
FASTAPI = ("fastapi.applications:FastAPI",)
LITESTAR = ("litestar.app:Litestar",)
LITESTAR_ROUTES = ("litestar.routes.base:BaseRoute",)
DJANGO = ("django.core.handlers.asgi:ASGIHandler",)
AROUND_ALL_MIDDLEWARE = (  # by Starlette and FastAPI themselves; none of them runs a handler or changes the request
    "starlette.middleware.errors:ServerErrorMiddleware",
    "starlette.middleware.body_limit:RequestBodyLimitMiddleware",
    "fastapi.telemetry._asgi:ExceptionTelemetryMiddleware",
    "fastapi._body_limit:AppBodyLimitMiddleware",
)


def has_cors(app: Any) -> bool:
    """Whether CORS middleware is anywhere in ``app``, as far as that can be seen; by name, since it only warns."""
    return any(
        getattr(cls, "__name__", "") == "CORSMiddleware" for layer in layers(app) for cls in _seen(layer)
    )


def _seen(layer: Any) -> Iterator[Any]:
    yield type(layer)
    yield type(getattr(layer, "asgi_handler", None))  # Litestar's cors_config
    added: Any = getattr(layer, "user_middleware", [])
    if isinstance(added, list):
        yield from (getattr(entry, "cls", None) for entry in cast("Iterable[Any]", added))


def cors_is_next(app: Any) -> bool:
    """Whether the first layer in ``app`` is the CORS middleware of Starlette or Litestar.

    That answers every preflight by itself, so no handler runs.  A subclass with a ``__call__`` of its own may not.
    """
    return _keeps(_first_layer(app), CORS, "__call__")


def _first_layer(app: Any) -> Any:
    """The class of the first layer that runs in ``app`` and that its author chose."""
    for _ in range(MOST_LAYERS):
        if _keeps(type(app), STARLETTE, "__call__"):
            if app.middleware_stack is None:
                return _first_added(app)
            app = app.middleware_stack
        elif _keeps(type(app), LITESTAR, "__call__"):
            app = app.asgi_handler
        elif any(type(app) is known for known in _loaded(AROUND_ALL_MIDDLEWARE)):
            app = app.app
        else:
            break
    return cast(Any, type(app))


def _first_added(app: Any) -> Any:
    """The outermost entry of ``user_middleware``: Starlette builds its layers when it is first called."""
    as_usual = _keeps(type(app), STARLETTE, "build_middleware_stack")
    if not as_usual or "build_middleware_stack" in vars(app) or not app.user_middleware:
        return None
    return app.user_middleware[0].cls


def own_root_path(app: Any) -> Callable[[], str] | None:
    """How to read the root path that ``app`` itself puts in the place of the server's, which empty ones do not."""
    for layer in layers(app):
        if isinstance(layer, tuple(_loaded(FASTAPI))):
            return partial(getattr, layer, "root_path")
        if isinstance(layer, tuple(_loaded(DJANGO))):
            return _forced_script_name
    return None


def _forced_script_name() -> str:
    return getattr(sys.modules["django.conf"].settings, "FORCE_SCRIPT_NAME", None) or ""


def litestar_route(app: Any) -> Any:
    """The route of Litestar that ``app`` ends in, as it does where a gate is in Litestar's own list; otherwise None."""
    *_, innermost = layers(app)
    route = getattr(innermost, "__self__", None)
    return route if isinstance(route, tuple(_loaded(LITESTAR_ROUTES))) else None


def contains_application(app: Any) -> bool:
    """Whether ``app`` is an application that reads ``scope["path"]``, also inside of middleware."""
    known = tuple(_loaded((*STARLETTE, *LITESTAR, *DJANGO)))
    return any(isinstance(layer, known) for layer in layers(app))


def _keeps(cls: Any, names: tuple[str, ...], method: str) -> bool:
    """Whether ``cls`` is one of these classes, or a subclass that does not override ``method``."""
    return any(
        issubclass(cls, known) and getattr(cls, method) is getattr(known, method)
        for known in _loaded(names)
        if isinstance(cls, type)
    )


def _loaded(names: tuple[str, ...]) -> Iterator[type]:
    """The classes behind ``module:Class``, of modules that are loaded."""
    for name in names:
        module, _, attribute = name.partition(":")
        found: Any = getattr(sys.modules.get(module), attribute, None)
        if isinstance(found, type):
            yield found
