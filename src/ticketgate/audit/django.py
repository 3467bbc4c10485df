"""The routes of Django projects: function and class views, and REST framework's."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from inspect import getclosurevars, isfunction
from typing import Any

from django.conf import settings
from django.urls import URLResolver, get_resolver

from ticketgate.audit.layers import middleware_row
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import is_of_framework, is_understood_middleware, overridden
from ticketgate.core.guards import Protection, name_of, name_of_decorator
from ticketgate.core.requirement import ANY_TOKEN, Requirement, declared, declared_together, is_declared_by
from ticketgate.core.server import ResourceServer
from ticketgate.django.checks import AUTHENTICATION, FETCHES, installed, is_a, position_of_gate
from ticketgate.django.settings import current_settings

EVERY_PATH = "/<path:path>"
AROUND_GUARDS = (
    "dispatch",
    "setup",
    "initial",
    "check_permissions",
    "perform_authentication",
    "get_authenticators",
    "initialize_request",
)
NEED_USER = frozenset({"IsAuthenticated", "IsAdminUser", "DjangoModelPermissions"})
OPEN_TO_ANYBODY = (
    "authenticates by access token, and its permissions let anybody in: add requires(...) to them"
)


def collect(app: Any, doors: tuple[Door, ...] = (), prefix: str = "") -> Iterator[GuardedRoute]:
    """Every URL pattern of the project whose handler ``app`` is, mounted at ``prefix`` behind ``doors``."""
    current = current_settings()
    middleware = installed(settings.MIDDLEWARE)
    gate = position_of_gate(middleware)
    yield from _middleware(middleware[:gate], doors, prefix)
    yield from _caches(middleware[:gate], doors, prefix)
    closes = gate is not None and not current.optional
    server = None if gate is None else current.gate.server
    doors = (*doors, Door(current.public, closes, prefix, server))
    if gate is not None:
        yield from _middleware(middleware[gate + 1 :], doors, prefix)
    yield from _of(get_resolver().url_patterns, f"{prefix}/", doors)


def _middleware(installed: Iterable[Any], doors: tuple[Door, ...], prefix: str) -> Iterator[GuardedRoute]:
    """Middleware that is not understood."""
    for one in installed:
        if not is_understood_middleware(one):
            yield middleware_row(name_of(one), doors, prefix, path=EVERY_PATH)


def _caches(before: Iterable[Any], doors: tuple[Door, ...], prefix: str) -> Iterator[GuardedRoute]:
    """A cache of the whole site ``before`` the gate: it does not know which tokens are still good."""
    for one in before:
        if is_a(one, FETCHES):
            yield replace(
                middleware_row(name_of(one), doors, prefix, path=EVERY_PATH),
                wrong=(f"{name_of(one)} answers before any token is looked at, also for expired ones",),
                not_understood="",
            )


def _of(patterns: Any, prefix: str, doors: tuple[Door, ...]) -> Iterator[GuardedRoute]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if isinstance(pattern, URLResolver):
            yield from _of(pattern.url_patterns, path, doors)
            continue
        yield from _rows(pattern.callback, path, doors)


def _rows(view: Any, path: str, doors: tuple[Door, ...]) -> Iterator[GuardedRoute]:
    name = str(getattr(view, "__qualname__", type(view).__qualname__))
    asked = list(_permissions(view))
    permissions = [one if _decides(one) else None for one in asked]
    unknown, around = tuple(_not_understood(view, asked)), (*_decorators(view), *_around(_class_of(view)))
    deciding, open_because, wrong = _authenticating(view), _open(view, permissions), tuple(_mixed_up(view))
    for methods, handler, more in _handlers(view):
        not_understood = " and ".join((*unknown, *more))
        protection = Protection(_needed(view, permissions, handler), (*around, *_decorators(handler)))
        row = GuardedRoute(
            path, methods, name, None, doors, deciding, open_because, wrong, not_understood=not_understood
        )
        yield row.protected_by(protection)


def _class_of(view: Any) -> Any:
    return getattr(view, "cls", None) or getattr(view, "view_class", None)


def _handlers(view: Any) -> Iterator[tuple[tuple[str, ...], Any, tuple[str, ...]]]:
    """The methods of a view, those of a class view with what handles each, and what of that is not understood."""
    view_class = _class_of(view)
    if view_class is None:
        yield ("ANY",), None, ()
        return
    actions: dict[str, str] = getattr(view, "actions", None) or {
        name: name for name in view_class.http_method_names if name != "options" and hasattr(view_class, name)
    }
    for method, action in actions.items():
        yield (method.upper(),), getattr(view_class, action), ()
    if overridden(view_class, "options"):
        yield ("OPTIONS",), view_class.options, ()
    for name in overridden(view_class, "http_method_not_allowed"):
        yield ("ANY",), view_class.http_method_not_allowed, (f"overridden {name}",)


def _around(view_class: Any) -> Iterator[str]:
    """What a class view puts around its guards: methods of its own, unless that is where it is guarded."""
    for name in AROUND_GUARDS:
        method = getattr(view_class, name, None)
        yield from overridden(view_class, name) if declared(method) is None else _decorators(method)


def _decorators(view: Any) -> Iterator[str]:
    """The decorators around ``view`` as far as its guard; the frameworks' own only ever refuse."""
    while (inner := getattr(view, "__wrapped__", None)) is not None and not is_declared_by(view):
        name = name_of_decorator(view)
        if not is_of_framework(name):
            yield name
        view = inner


def _needed(view: Any, permissions: list[Any], handler: Any) -> Requirement | None:
    """What a request goes through before the view's own code runs."""
    asked = [getattr(_class_of(view), name, None) for name in AROUND_GUARDS]
    needed = declared_together([view, *asked, *permissions, handler, _below_api_view(handler)])
    if needed is None and _is_ours(view) and any(_known(one) in NEED_USER for one in permissions):
        return ANY_TOKEN  # a user is there for requests with a token only
    return needed


def _below_api_view(handler: Any) -> Any:
    """The function that ``@api_view`` made a view class of; it is only in the closure of the class's methods."""
    is_made = isfunction(handler) and handler.__module__ == "rest_framework.decorators"
    return getclosurevars(handler).nonlocals.get("func") if is_made else None


def _permissions(view: Any) -> Iterable[Any]:
    """What REST framework asks before it calls the view; None among it where that is only known with a request."""
    if not hasattr(view, "cls"):
        return ()
    from ticketgate.rest_framework import all_asked

    if overridden(view.cls, "get_permissions"):
        return (None,)
    return all_asked(_option(view, "permission_classes"))


def _decides(permission: Any) -> bool:
    """Whether ``permission`` decides as it declares: a subclass may have a rule of its own in the place of ours."""
    guards = [one for one in getattr(permission, "__mro__", ()) if is_declared_by(one)]
    return all(permission.has_permission is one.has_permission for one in guards[:1])


def _not_understood(view: Any, permissions: Iterable[Any]) -> Iterator[str]:
    """The permissions that decide in their own way, and a view's own way to choose them."""
    for name in overridden(view.cls, "get_permissions") if hasattr(view, "cls") else ():
        yield f"overridden {name}"
    for one in permissions:
        if not _decides(one):
            yield f"overridden {name_of(one)}.has_permission"


def _mixed_up(view: Any) -> Iterator[str]:
    """What is wrong where another class may choose the user of a request with an access token."""
    classes = list(_option(view, "authentication_classes")) if hasattr(view, "cls") else []
    if any(is_a(one, AUTHENTICATION) for one in classes) and not is_a(classes[0], AUTHENTICATION):
        name = name_of(classes[0])
        yield f"lists {name} before AccessTokenAuthentication: request.user may not be whom the token is about"


def _option(view: Any, name: str) -> Any:
    """A policy of a REST framework view: routers and ``@action`` pass it to ``as_view``."""
    return view.initkwargs.get(name, getattr(view.cls, name))


def _open(view: Any, permissions: list[Any]) -> str:
    """The problem of a view that looks for tokens and needs none; empty for all others."""
    lets_in = all(_known(one) == "AllowAny" for one in permissions)
    return OPEN_TO_ANYBODY if _authenticating(view) and lets_in else ""


def _known(permission: Any) -> str:
    """The name of a permission class that REST framework brings; a subclass may decide otherwise."""
    module = getattr(permission, "__module__", "")
    return str(getattr(permission, "__name__", "")) if module == "rest_framework.permissions" else ""


def _is_ours(view: Any) -> bool:
    """Whether nothing but access tokens authenticates requests for ``view``."""
    classes = _option(view, "authentication_classes") if hasattr(view, "cls") else ()
    return bool(classes) and all(
        is_a(one, AUTHENTICATION) and not overridden(one, "authenticate") for one in classes
    )


def _authenticating(view: Any) -> tuple[ResourceServer, ...]:
    """REST framework's views may look for tokens by themselves."""
    classes = _option(view, "authentication_classes") if hasattr(view, "cls") else ()
    return (current_settings().gate.server,) if any(is_a(one, AUTHENTICATION) for one in classes) else ()
