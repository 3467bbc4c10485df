"""``TICKETGATE`` in Django's settings, read and checked once."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ticketgate.core.access_token import AccessToken
from ticketgate.core.gate import Gate
from ticketgate.core.public import PublicPaths
from ticketgate.core.server import ResourceServer
from ticketgate.django.users import as_async
from ticketgate.errors import ConfigurationError

NAMES = frozenset({"SERVER", "PUBLIC", "OPTIONAL", "USER", "ERROR_BODY", "ACCEPT_PREFLIGHT"})

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Settings:
    """The members of ``TICKETGATE``; ``gate`` is made of ``SERVER`` and ``ERROR_BODY``."""

    gate: Gate[None]
    public: PublicPaths
    optional: bool
    accept_preflight: bool
    user: Callable[[AccessToken], Any] | None
    user_async: Callable[[AccessToken], Awaitable[Any]] | None


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings, read once.  Raises `ConfigurationError`."""
    current = read_settings()
    if current.accept_preflight:
        logger.warning('TICKETGATE["ACCEPT_PREFLIGHT"] lets CORS preflights through without an access token')
    return current


def read_settings() -> Settings:
    """The settings as they are now.  Raises `ConfigurationError`, whose message the system check repeats."""
    given: Any = getattr(settings, "TICKETGATE", None)
    if not isinstance(given, dict):
        raise ConfigurationError('settings need TICKETGATE = {"SERVER": "project.gate.server"}')
    known = cast(dict[str, Any], given)
    if unknown := sorted(known.keys() - NAMES):
        raise ConfigurationError(
            f"TICKETGATE has unknown members {', '.join(unknown)}: {', '.join(sorted(NAMES))}"
        )
    user = _function(known, "USER")
    return Settings(
        Gate(_server(known), None, _function(known, "ERROR_BODY")),
        PublicPaths(known.get("PUBLIC", ())),
        _switch(known, "OPTIONAL"),
        _switch(known, "ACCEPT_PREFLIGHT"),
        user,
        None if user is None else as_async(user),
    )


def _server(known: dict[str, Any]) -> ResourceServer:
    server = _loaded(known.get("SERVER"))
    if not isinstance(server, ResourceServer):
        raise ConfigurationError('TICKETGATE["SERVER"] is a ResourceServer, or the dotted path of one')
    return server


def _function(known: dict[str, Any], name: str) -> Any:
    function = _loaded(known.get(name))
    if function is not None and not callable(function):
        raise ConfigurationError(f'TICKETGATE["{name}"] is a function, or the dotted path of one')
    return function


def _switch(known: dict[str, Any], name: str) -> bool:
    """A relaxation: the text "False" of an environment variable must not turn it on."""
    value = known.get(name, False)
    if not isinstance(value, bool):
        raise ConfigurationError(f'TICKETGATE["{name}"] is True or False, not {value!r}')
    return value


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ConfigurationError(f"TICKETGATE names {value!r}, which cannot be imported: {error}") from error


def _forget(setting: str, **kwargs: Any) -> None:
    """Tests may override settings."""
    if setting == "TICKETGATE":
        current_settings.cache_clear()


setting_changed.connect(_forget)
