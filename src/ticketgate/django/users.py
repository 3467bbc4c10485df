"""The user of a request: what ``TICKETGATE["USER"]`` makes of the access token, or a `TokenUser`."""

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import cached_property, partial
from hashlib import sha256
from inspect import isawaitable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.http import HttpRequest

from ticketgate.core.access_token import AccessToken
from ticketgate.errors import AccessDenied, CannotDecide, InternalFault, OAuthError

logger = logging.getLogger("ticketgate")


class TokenUser:
    """A user who has an access token and no account: authenticated, without any of Django's permissions.

    ``pk`` is 64 hexadecimal digits that tell users and clients apart, also those of several issuers; it is not in
    any database.
    """

    is_authenticated = is_active = True
    is_anonymous = is_staff = is_superuser = False

    def __init__(self, token: AccessToken) -> None:
        self.token = token
        self.username = token.subject or token.client_id or ""

    @cached_property
    def pk(self) -> str:
        """SHA-256 of issuer, kind of identifier and identifier: a client has its own id as ``sub`` (RFC 9068 §2.2)."""
        token = self.token
        if token.subject is not None and token.subject != token.client_id:
            kind, name = "sub", token.subject
        elif token.client_id is not None:
            kind, name = "client_id", token.client_id
        else:
            kind, name = "jti", token.token_id or ""
        return sha256(json.dumps([token.issuer, kind, name]).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The same as ``pk``."""
        return self.pk

    def __str__(self) -> str:
        return self.username

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Always False: requirements decide, not Django's permissions."""
        return False

    has_perms = has_module_perms = has_perm


def find_user(function: Callable[[AccessToken], Any], token: AccessToken) -> Any:
    """The user that ``function``, sync or async, returns for ``token``; see `_usable`.

    Raises `AccessDenied` where there is no such user, and `InternalFault` for any other exception.
    """
    with _only_our_errors():
        user = function(token)
        return _usable(async_to_sync(_result_of)(user) if isawaitable(user) else user)


async def find_user_async(function: Callable[[AccessToken], Awaitable[Any]], token: AccessToken) -> Any:
    """The same on an event loop, with a function that `as_async` returned."""
    with _only_our_errors():
        user = await function(token)
        return _usable(await user if isawaitable(user) else user)


def as_async(function: Callable[[AccessToken], Any]) -> Callable[[AccessToken], Awaitable[Any]]:
    """``function`` for an event loop; a sync one runs in a thread, where Django allows queries."""
    if is_async(function):
        return function
    return sync_to_async(partial(_ask, function))


def is_async(function: Any) -> bool:
    """Whether what ``function`` returns is to be awaited, as Django sees it: marked functions count."""
    return iscoroutinefunction(function) or iscoroutinefunction(  # pyright: ignore[reportDeprecated]  asyncio's, before Python 3.12
        getattr(function, "__call__", None)  # noqa: B004  what matters is how it is defined
    )


def _ask(function: Callable[[AccessToken], Any], token: AccessToken) -> Any:
    """A StopIteration must not leave the thread: no future takes one, and the request would wait for ever."""
    with _only_our_errors():
        return function(token)


def assign(request: HttpRequest, user: Any) -> None:
    """Have ``request.user`` and ``await request.auser()`` be ``user``, and nobody whom a session names."""
    request.user = user
    request.auser = partial(_same, user)


async def _same(user: Any) -> Any:
    return user


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _usable(user: Any) -> Any:
    """``user``, unless there is none, or it is inactive (as Django's anonymous user is)."""
    if user is None or not getattr(user, "is_active", True):
        raise AccessDenied(expected='an active user from TICKETGATE["USER"]')
    return user


@contextmanager
def _only_our_errors() -> Generator[None, None, None]:
    """A user that does not exist is refused; whatever else fails is our fault, and never lets anybody in."""
    try:
        yield
    except (OAuthError, CannotDecide):
        raise
    except (ObjectDoesNotExist, PermissionDenied) as error:
        raise AccessDenied(
            expected='a user from TICKETGATE["USER"]', actual=type(error).__qualname__
        ) from None
    except Exception as error:
        where = "".join(
            traceback.format_tb(error.__traceback__)
        )  # what the exception says may quote the token
        logger.error('unexpected %s in TICKETGATE["USER"]\n%s', type(error).__qualname__, where)
        raise InternalFault('TICKETGATE["USER"] failed') from None
