"""The gate inside Django REST framework: an authentication class, and permissions that say what is required.

    class Orders(APIView):
        authentication_classes = [AccessTokenAuthentication]       # or in DEFAULT_AUTHENTICATION_CLASSES
        permission_classes = [requires(scope("orders:read"))]

The settings are those of `ticketgate.django`.  Works behind its middleware, and alone: then requests without
credentials are anonymous, and what a view requires decides.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import AND, BasePermission
from rest_framework.request import Request

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.django.middleware import GATE, USER, NotAView, access_token, admit
from ticketgate.django.settings import current_settings
from ticketgate.django.users import TokenUser, assign
from ticketgate.django.views import refusal_of
from ticketgate.errors import CannotDecide, ConfigurationError, InternalFault, NoCredentials, OAuthError

__all__ = ["AccessTokenAuthentication", "HasAccessToken", "Refused", "TokenUser", "access_token", "requires"]

logger = logging.getLogger("ticketgate")


class Refused(APIException):
    """A request that is refused, with the status, the challenge and the body that everybody else sends."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        headers = {name: value.decode("ascii") for name, value in answer.headers}
        self.status_code = answer.status
        self.detail = json.loads(answer.body)
        self.auth_header = headers.get(b"www-authenticate")
        self.wait = int(headers.get(b"retry-after", "0"))


class AccessTokenAuthentication(BaseAuthentication):
    """Authenticates by access token: ``request.user`` is the mapped Django user or a `TokenUser`, ``request.auth`` the token."""

    def authenticate(self, request: Request) -> tuple[Any, AccessToken] | None:
        """The user and the token; None without credentials.  Raises `Refused` for bad ones."""
        current, http_request = current_settings(), request._request  # the one that middleware saw
        _answer_our_errors(request)
        _vary_by_token(request)
        if request.META.get(GATE) is not current.gate:  # a gate outside of Django may have another server
            refusal = admit(current, http_request, optional=True)
            if refusal is not None:
                raise _refused(refusal, request)
        token = access_token(request)
        if token is None:
            return None
        user: Any = TokenUser(token) if current.user is None else request.META[USER]
        assign(http_request, user)
        return user, token

    def authenticate_header(self, request: Request) -> str:
        """The challenge for a request that other permissions refuse because it is anonymous."""
        refused = _refused(current_settings().gate.answer(NoCredentials()), request)
        return cast(str, refused.auth_header)


def requires(*requirements: Requirement, fresh_within: float | None = None) -> type[BasePermission]:
    """A permission class: all of ``requirements`` must be met, none of them means any valid token.

    It answers by itself, with the challenge that names the missing scopes: combine requirements by ``&`` and
    ``|``, not permission classes.  ``fresh_within`` has the issuer confirm the token anew where its last answer is
    older than that many seconds.
    """
    needed = all_of(requirements)

    class Required(BasePermission):
        def __new__(cls, *view: Any) -> "Required":
            if view:
                raise ConfigurationError(
                    "requires(...) is a permission class: write @permission_classes([requires(...)]) below @api_view"
                )
            return super().__new__(cls)

        def has_permission(self, request: Request, view: Any) -> bool:
            _vary_by_token(request)
            refusal = _mixed_up(request) or refusal_of(request._request, needed, fresh_within)
            if refusal is not None:
                raise _refused(refusal, request)
            return True

    return declare(Required, needed)


HasAccessToken = requires()
"""The permission for DEFAULT_PERMISSION_CLASSES: any valid token."""


def all_asked(permissions: Iterable[Any]) -> Iterator[Any]:
    """Every permission, class or instance, that must let a request through; those joined by ``&`` one by one."""
    both: Any = AND
    for permission in permissions:
        if isinstance(permission, both):
            yield from all_asked((permission.op1, permission.op2))
        elif getattr(permission, "operator_class", None) is both:
            yield from all_asked((permission.op1_class, permission.op2_class))
        else:
            yield permission


def _mixed_up(request: Request) -> Answer | None:
    """The answer where ``request.user`` may not be whom the token is about: another class authenticated the request."""
    by = request.successful_authenticator
    if by is None or isinstance(by, AccessTokenAuthentication) or access_token(request) is None:
        return None
    if request.META.get(USER) is request.user:
        return None
    logger.error(
        "%s authenticated a request with an access token: list AccessTokenAuthentication first",
        type(by).__name__,
    )
    return current_settings().gate.answer(InternalFault("request.user is not the token's"))


def _vary_by_token(request: Request) -> None:
    """Have caches keep one response for each token: also those around the view, inside of all middleware."""
    headers: dict[str, str] = getattr((request.parser_context or {}).get("view"), "headers", {})
    given = headers.get("Vary", "Authorization")
    headers["Vary"] = given if "Authorization" in given else f"{given}, Authorization"


def _answer_our_errors(request: Request) -> None:
    """Have the view answer our errors: REST framework's own exception handler does not know them.

    Every request has a view object of its own.
    """
    view: Any = (request.parser_context or {}).get("view")
    if view is not None:
        view.handle_exception = partial(_handle_exception, request, view.handle_exception)


def _handle_exception(request: Request, handle: Callable[[Exception], Any], error: Exception) -> Any:
    if isinstance(error, NotAView):
        return handle(_refused(error.answer, request))
    if isinstance(error, OAuthError | CannotDecide):
        return handle(_refused(current_settings().gate.answer(error), request))
    return handle(error)


def _refused(answer: Answer, request: Request) -> Refused:
    """REST framework takes two header fields from an exception; the view sends the one that keeps caches away."""
    context: dict[str, Any] = request.parser_context or {}
    if "view" in context:
        context["view"].headers["Cache-Control"] = "no-store"
    return Refused(answer)
