"""The gate inside Django REST framework: an authentication class, and permissions that say what is required.

    class Orders(APIView):
        authentication_classes = [AccessTokenAuthentication]       # or in DEFAULT_AUTHENTICATION_CLASSES
        permission_classes = [requires(scope("orders:read"))]

The settings are those of `ticketgate.django`.  Works behind its middleware, and alone: then requests without
credentials are anonymous, and what a view requires decides.
"""

import json
from typing import Any, cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.django import GATE, access_token, admit, current_door, refusal_of
from ticketgate.errors import NoCredentials

__all__ = ["AccessTokenAuthentication", "Refused", "TokenUser", "access_token", "requires"]


class TokenUser:
    """The caller where settings name no ``USER`` function: authenticated, and nothing of what Django grants.

    ``pk`` tells callers apart, also those of several issuers; it is in no database.
    """

    is_authenticated = is_active = True
    is_anonymous = is_staff = is_superuser = False

    def __init__(self, token: AccessToken) -> None:
        self.token = token
        self.username = token.subject or token.client_id or ""
        self.pk = self.id = f"{token.issuer} {self.username}"

    def __str__(self) -> str:
        return self.username

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Whether Django's own permissions let the caller: never, requirements do."""
        return False

    has_perms = has_module_perms = has_perm


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
        """The caller and the token; None without credentials.  Raises `Refused` for bad ones."""
        door, http_request = current_door(), request._request  # the one that middleware saw
        if GATE not in request.META:
            refusal = admit(door._replace(optional=True), http_request)
            if refusal is not None:
                raise _refused(refusal, request)
        token = access_token(request)
        if token is None:
            return None
        user: Any = TokenUser(token) if door.user is None else http_request.user
        return user, token

    def authenticate_header(self, request: Request) -> str:
        """The challenge for a request that other permissions refuse because it is anonymous."""
        refused = _refused(current_door().gate.answer(NoCredentials()), request)
        return cast(str, refused.auth_header)


def requires(*requirements: Requirement, fresh_within: float | None = None) -> type[BasePermission]:
    """A permission class: all of ``requirements`` must be met, none of them means any valid token.

    It answers by itself, with the challenge that names the missing scopes: combine requirements by ``&`` and
    ``|``, not permission classes.  ``fresh_within`` has the issuer confirm the token anew where its last answer is
    older than that many seconds.
    """
    needed = all_of(requirements)

    class Required(BasePermission):
        def has_permission(self, request: Request, view: Any) -> bool:
            refusal = refusal_of(request._request, needed, fresh_within)
            if refusal is not None:
                raise _refused(refusal, request)
            return True

    return declare(Required, needed)


def _refused(answer: Answer, request: Request) -> Refused:
    """REST framework takes two header fields from an exception; the view sends the one that keeps caches away."""
    context: dict[str, Any] = request.parser_context or {}
    if "view" in context:
        context["view"].headers["Cache-Control"] = "no-store"
    return Refused(answer)
