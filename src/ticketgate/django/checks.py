"""The system checks: what is wrong with the settings, before the first request."""

from collections.abc import Iterator, Sequence
from typing import Any

from django import VERSION
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from ticketgate.django.middleware import AccessTokenMiddleware
from ticketgate.django.settings import Settings, read_settings
from ticketgate.errors import ConfigurationError

MIDDLEWARE = "ticketgate.django.AccessTokenMiddleware"
AUTHENTICATION = "ticketgate.rest_framework.AccessTokenAuthentication"
FETCHES = "django.middleware.cache.FetchFromCacheMiddleware"
CORS = "corsheaders.middleware.CorsMiddleware"
SETS_USER = tuple(
    f"django.contrib.auth.middleware.{name}Middleware" for name in ("Authentication", "RemoteUser")
)
ANYBODY = "rest_framework.permissions.AllowAny"


@register("security")
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """`ticketgate.E001`, `E002` for settings that cannot work or let anybody in, `ticketgate.W001` to `W005` for what is not safe."""
    try:
        current = read_settings()
    except ConfigurationError as error:
        return [Error(str(error), id="ticketgate.E001")]
    middleware = installed(settings.MIDDLEWARE)
    gate = position_of_gate(middleware)
    found = _order(current, middleware, gate) if gate is not None else _without_middleware()
    return [*found, *_cache_before(middleware[:gate]), *_caches_of(VERSION[:3]), *_order_of_authentication()]


def _cache_before(middleware: list[Any]) -> Iterator[CheckMessage]:
    if any(is_a(one, FETCHES) for one in middleware):
        message = "FetchFromCacheMiddleware answers before any token is looked at, also for expired ones."
        hint = f'Put "{MIDDLEWARE}" before FetchFromCacheMiddleware.'
        yield Error(message, hint=hint, id="ticketgate.E002")


def _caches_of(version: tuple[int, ...]) -> Iterator[CheckMessage]:
    if version < (5, 2, 15) or (6, 0) <= version < (6, 0, 6):
        message = "cache_page of this Django may give the response for one token to another."
        hint = "Install Django 5.2.15, 6.0.6 or later."
        yield Warning(message, hint=hint, id="ticketgate.W006")


def _order(current: Settings, middleware: list[Any], gate: int) -> Iterator[CheckMessage]:
    if any(is_a(one, CORS) for one in middleware[gate + 1 :]):
        message = "CorsMiddleware comes after the gate, which refuses preflights."
        hint = f'Move CorsMiddleware before "{MIDDLEWARE}": browsers cannot read a 401 without CORS headers either.'
        yield Warning(message, hint=hint, id="ticketgate.W002")
    if current.user is not None:
        for name in _sees_another_user(middleware, gate):
            message = f"{name} finds the session's user in request.user, not the token's."
            hint = f'Move "{MIDDLEWARE}" directly after AuthenticationMiddleware.'
            yield Warning(message, hint=hint, id="ticketgate.W003")


def _sees_another_user(middleware: list[Any], gate: int) -> Iterator[str]:
    """The middleware, other than Django's own, before which ``django.contrib.auth`` was the last to set the user."""
    last = -1
    for index, one in enumerate(middleware):
        if index == gate or any(is_a(one, name) for name in SETS_USER):
            last = index
        elif last not in (-1, gate) and not str(getattr(one, "__module__", "")).startswith("django."):
            yield str(getattr(one, "__qualname__", one))


def _without_middleware() -> Iterator[CheckMessage]:
    framework = _framework()
    if not any(is_a(one, AUTHENTICATION) for one in framework["DEFAULT_AUTHENTICATION_CLASSES"]):
        hint = f'Add "{MIDDLEWARE}" to MIDDLEWARE: without it every @requires answers 503.'
        yield Warning("The gate is not installed.", hint=hint, id="ticketgate.W001")
    elif all(is_a(one, ANYBODY) for one in framework["DEFAULT_PERMISSION_CLASSES"]):
        hint = 'Add "ticketgate.rest_framework.HasAccessToken" to DEFAULT_PERMISSION_CLASSES.'
        yield Warning(
            "REST framework views that name no permissions are open.", hint=hint, id="ticketgate.W004"
        )


def _order_of_authentication() -> Iterator[CheckMessage]:
    classes = _framework()["DEFAULT_AUTHENTICATION_CLASSES"]
    if any(is_a(one, AUTHENTICATION) for one in classes[1:]) and not is_a(classes[0], AUTHENTICATION):
        hint = "Move AccessTokenAuthentication to the front of DEFAULT_AUTHENTICATION_CLASSES."
        message = "Another authentication class may choose request.user for a request with an access token."
        yield Warning(message, hint=hint, id="ticketgate.W005")


def _framework() -> dict[str, list[Any]]:
    given: dict[str, Any] = getattr(settings, "REST_FRAMEWORK", None) or {}
    return {
        name: installed(given.get(name, default))
        for name, default in (
            ("DEFAULT_AUTHENTICATION_CLASSES", ()),
            ("DEFAULT_PERMISSION_CLASSES", (ANYBODY,)),
        )
    }


def installed(names: Sequence[Any]) -> list[Any]:
    """What the dotted ``names`` import; one that cannot be imported stays a name, since Django reports it itself."""
    return [_imported(name) if isinstance(name, str) else name for name in names]


def _imported(name: str) -> Any:
    try:
        return import_string(name)
    except ImportError:
        return name


def position_of_gate(middleware: list[Any]) -> int | None:
    """Where the gate is among ``middleware``; None where it is not."""
    gates = (
        index
        for index, one in enumerate(middleware)
        if isinstance(one, type) and issubclass(one, AccessTokenMiddleware)
    )
    return next(gates, None)


def is_a(one: Any, name: str) -> bool:
    """Whether ``one`` is the class of this dotted name, or a subclass; none is imported to find out."""
    return any(f"{cls.__module__}.{cls.__qualname__}" == name for cls in getattr(one, "__mro__", ()))
