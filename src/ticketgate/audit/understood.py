"""Which code an audit understands: that of the frameworks, known neither to answer by itself nor to skip a guard."""

from collections.abc import Mapping
from inspect import isfunction
from typing import Any

from ticketgate.core.guards import name_of

FRAMEWORKS = ("starlette", "fastapi", "flask", "werkzeug", "django", "rest_framework", "ticketgate")
ANSWERING = {
    "starlette.middleware.base",  # calls a function of the application
    "starlette.middleware.wsgi",
    "werkzeug.debug",  # its console runs code
    "werkzeug.middleware.dispatcher",
    "werkzeug.middleware.http_proxy",
    "werkzeug.middleware.shared_data",
}
MORE_MIDDLEWARE = ("corsheaders", "uvicorn")
APPLICATIONS = ("starlette.staticfiles", "fastapi.staticfiles", "ticketgate")


def is_understood_middleware(middleware: Any) -> bool:
    """Whether a middleware passes on every request that it does not refuse."""
    home = home_of(middleware)
    return home not in ANSWERING and _is_in(home, (*FRAMEWORKS, *MORE_MIDDLEWARE))


def is_understood_application(app: Any) -> bool:
    """Whether an application without routes is known for what it serves."""
    return _is_in(home_of(app), APPLICATIONS)


def is_of_framework(name: str) -> bool:
    """Whether the function of this dotted name is a framework's, or ours."""
    return _is_in(name, FRAMEWORKS)


def overridden(cls: Any, *names: str) -> tuple[str, ...]:
    """Those methods of a framework's class that ``cls`` replaces, like ``Orders.dispatch``."""
    return tuple(
        f"{cls.__qualname__}.{name}"
        for name in names
        if (home := str(getattr(getattr(cls, name, None), "__module__", None) or ""))
        and not _is_in(home, FRAMEWORKS)
    )


def overridden_in_gate(gate: Any) -> tuple[str, ...]:
    """Those methods of our gates that the class ``gate`` replaces."""
    lineage: tuple[type, ...] = gate.__mro__
    ours = [vars(cls) for cls in lineage if _is_in(cls.__module__, ("ticketgate",))]
    methods = {name for attributes in ours for name, value in attributes.items() if isfunction(value)}
    return overridden(gate, *sorted(methods - {"__init__"}))


def name_of_middleware(middleware: Any, options: Mapping[str, Any] | None = None) -> str:
    """Its class, or the function that ``@app.middleware("http")`` was given."""
    function = (options or {}).get("dispatch") or getattr(middleware, "dispatch_func", None)
    given = function if home_of(middleware) == "starlette.middleware.base" and function else middleware
    return name_of(given)


def home_of(thing: Any) -> str:
    """The module of a class, a function, or an object's class."""
    named = thing if isinstance(thing, type) or hasattr(thing, "__code__") else type(thing)
    return str(getattr(named, "__module__", None) or "")


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
