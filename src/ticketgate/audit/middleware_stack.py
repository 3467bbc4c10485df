"""Whether the layers that Starlette runs are those that its list of middleware says."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Router

from ticketgate.audit.understood import home_of
from ticketgate.placement import layers


def is_as_built(app: Any) -> bool:
    """Whether ``app.middleware_stack`` is what Starlette or FastAPI builds, as far as its layers show it."""
    if not isinstance(app, Starlette):
        return True
    if "build_middleware_stack" in vars(app):
        return False
    return app.middleware_stack is None or _is_built_from(
        app, [type(one) for one in layers(app.middleware_stack)]
    )


def _is_built_from(app: Starlette, shown: list[Any]) -> bool:
    chosen: list[Any] = [entry.cls for entry in app.user_middleware]
    seen = [cls for cls in shown if cls in chosen or not _is_of_the_framework(cls)]
    if not all(isinstance(cls, type) for cls in chosen):  # a function may make anything
        return _is_of_the_framework(shown[0])
    is_whole = any(issubclass(cls, Router) for cls in shown)
    return _is_of_the_framework(shown[0]) and seen == (chosen if is_whole else chosen[: len(seen)])


def _is_of_the_framework(cls: Any) -> bool:
    return home_of(cls).partition(".")[0] in {"starlette", "fastapi", "builtins"}
