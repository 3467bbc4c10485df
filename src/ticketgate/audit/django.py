"""The routes of Django projects: function and class views, and REST framework's."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from inspect import getclosurevars, isfunction
from typing import Any

from django.conf import settings
from django.urls import URLResolver, get_resolver

from ticketgate.audit.layers import middleware_row
from ticketgate.audit.routes import Door, GuardedRoute
from ticketgate.audit.understood import is_understood_middleware, overridden
from ticketgate.core.guards import Protection, name_of
from ticketgate.core.requirement import ANY_TOKEN, Requirement, declared, declared_together
from ticketgate.core.server import ResourceServer
from ticketgate.django.checks import AUTHENTICATION, FETCHES, installed, is_a, position_of_gate
from ticketgate.django.settings import current_settings

EVERY_PATH = "/<path:path>"
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
        view: Any = pattern.callback
        name = str(getattr(view, "__qualname__", type(view).__qualname__))
        for methods, handler, action in _handlers(view):
            permissions = list(_permissions(view, action))
            needed = _needed(view, permissions, handler)
            row = GuardedRoute(
                path, methods, name, None, doors, _authenticating(view), _open(view, permissions)
            )
            yield row.protected_by(Protection(needed, _dispatch(view)))


def _handlers(view: Any) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """The methods of a view, those of a class view with what handles each of them, and the name of the action."""
    view_class = getattr(view, "cls", None) or getattr(view, "view_class", None)
    if view_class is None:
        yield ("ANY",), None, ""
        return
    actions: dict[str, str] = getattr(view, "actions", None) or {
        name: name for name in view_class.http_method_names if name != "options" and hasattr(view_class, name)
    }
    for method, action in actions.items():
        yield (method.upper(),), getattr(view_class, action), action


def _dispatch(view: Any) -> tuple[str, ...]:
    """What a class view puts around its methods: its own ``dispatch``, unless that is where it is guarded."""
    view_class = getattr(view, "cls", None) or getattr(view, "view_class", None)
    if view_class is None or declared(view_class.dispatch) is not None:
        return ()
    return overridden(view_class, "dispatch")


def _needed(view: Any, permissions: list[Any], handler: Any) -> Requirement | None:
    """What a request goes through before the view's own code runs."""
    needed = declared_together([view, *permissions, handler, _below_api_view(handler)])
    if needed is None and _is_ours(view) and any(_known(one) in NEED_USER for one in permissions):
        return ANY_TOKEN  # a user is there for requests with a token only
    return needed


def _below_api_view(handler: Any) -> Any:
    """The function that ``@api_view`` made a view class of; it is only in the closure of the class's methods."""
    is_made = isfunction(handler) and handler.__module__ == "rest_framework.decorators"
    return getclosurevars(handler).nonlocals.get("func") if is_made else None


def _permissions(view: Any, action: str) -> Iterable[Any]:
    """What REST framework asks before it calls the view; None among it where that is only known with a request."""
    if not hasattr(view, "cls"):
        return ()
    from rest_framework.views import APIView

    from ticketgate.rest_framework import all_asked

    if view.cls.get_permissions is APIView.get_permissions:
        return all_asked(_option(view, "permission_classes"))
    try:
        one = view.cls(**view.initkwargs)
        one.action, one.request = action, None
        return [type(permission) for permission in all_asked(one.get_permissions())]
    except Exception:
        return (None,)


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
    return bool(classes) and all(is_a(one, AUTHENTICATION) for one in classes)


def _authenticating(view: Any) -> tuple[ResourceServer, ...]:
    """REST framework's views may look for tokens by themselves."""
    classes = _option(view, "authentication_classes") if hasattr(view, "cls") else ()
    return (current_settings().gate.server,) if any(is_a(one, AUTHENTICATION) for one in classes) else ()
