"""The ways an answer can be no, sorted by whose fault it is.

    OAuthError                 the request cannot be served, told in RFC words
    ├── NoCredentials          401, a challenge without error code      RFC 6750 §3.1
    ├── InvalidRequest         400 invalid_request                      RFC 6750 §3.1
    ├── InvalidToken           401 invalid_token                        RFC 6750 §3.1
    ├── InsufficientScope      403 insufficient_scope, with the scopes  RFC 6750 §3.1
    └── AccessDenied           403 insufficient_scope, without a scope that would help
    CannotDecide               503: nobody's token is to blame
    ├── IssuerUnavailable      the issuer's keys cannot be had now
    └── InternalFault          something unexpected happened in here
    TokenRefused               a token that we asked for was not given  RFC 6749 §5.2
    ConfigurationError         a ValueError while objects are built, never per request

Every refusal has two readers. The client gets ``status``, ``error`` and ``description``, fixed words
from this file. The operator gets ``reason``, a stable slug, with what was ``expected`` and ``actual``.
"""

from typing import ClassVar

__all__ = [
    "AccessDenied",
    "CannotDecide",
    "ConfigurationError",
    "InsufficientScope",
    "InternalFault",
    "InvalidRequest",
    "InvalidToken",
    "IssuerUnavailable",
    "NoCredentials",
    "OAuthError",
    "TokenRefused",
]


MAX_CODE, MAX_DESCRIPTION = 80, 300


def _escaped(text: str, length: int) -> str:
    """``text`` in printable ASCII, of at most ``length`` characters; what was escaped before stays as it is."""
    printable = (one if one.isascii() and one.isprintable() else ascii(one)[1:-1] for one in text[:length])
    return "".join(printable)[:length]


class OAuthError(Exception):
    """The request cannot be served; its subclasses say why (RFC 6750 §3.1).

    ``reason`` is a stable slug; ``expected`` and ``actual`` may hold whatever a stranger sent,
    so they are for logs only.
    """

    status: ClassVar[int]
    error: ClassVar[str | None]
    descriptions: ClassVar[dict[str, str]] = {}
    fallback: ClassVar[str] = ""

    def __init__(self, reason: str, *, expected: object = None, actual: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected = expected
        self.actual = actual

    @property
    def description(self) -> str:
        """Fixed words that are safe to show to anybody."""
        return self.descriptions.get(self.reason, self.fallback)


class NoCredentials(OAuthError):
    """401: no access token was presented, or by a scheme we do not speak."""

    status = 401
    error = None

    def __init__(self, reason: str = "absent", *, expected: object = None, actual: object = None) -> None:
        super().__init__(reason, expected=expected, actual=actual)


class InvalidRequest(OAuthError):
    """400: the Authorization header is not one well-formed set of credentials.

    Reasons: ``repeated``, ``characters``, ``length``, ``token`` (none after the scheme).
    """

    status = 400
    error = "invalid_request"
    fallback = "The Authorization header must be one set of well-formed credentials"


class InvalidToken(OAuthError):
    """401: the access token was read, and it does not open this door.

    Reasons: ``malformed``, ``type``, ``algorithm``, ``critical``, ``issuer``, ``audience``, ``expired``,
    ``not_yet_valid``, ``claim``, ``signature``, ``unknown_key``, ``binding``, ``inactive``.
    """

    status = 401
    error = "invalid_token"
    descriptions: ClassVar[dict[str, str]] = {
        "audience": "The access token was issued for another resource",
        "expired": "The access token expired",
        "not_yet_valid": "The access token is not valid yet",
        "binding": "The access token is bound to a key and no proof was accepted",
    }
    fallback = "The access token is invalid"


class InsufficientScope(OAuthError):
    """403: more scope would open the door; ``scopes`` names everything the operation needs."""

    status = 403
    error = "insufficient_scope"
    fallback = "The access token lacks a scope that this operation needs"

    def __init__(self, scopes: tuple[str, ...], *, expected: object = None, actual: object = None) -> None:
        super().__init__("scope", expected=expected, actual=actual)
        self.scopes = scopes


class AccessDenied(OAuthError):
    """403: a role, group, entitlement or other claim is missing; no scope would help."""

    status = 403
    error = "insufficient_scope"
    fallback = "The access token does not grant this operation"

    def __init__(self, *, expected: object = None, actual: object = None) -> None:
        super().__init__("denied", expected=expected, actual=actual)


class CannotDecide(Exception):
    """503: whether the token is good cannot be known now; ``retry_after`` is in whole seconds."""

    status: ClassVar[int] = 503

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class IssuerUnavailable(CannotDecide):
    """The issuer's metadata or keys cannot be had, and none that we may still use are held."""


class InternalFault(CannotDecide):
    """An unexpected exception while a request was authenticated; its traceback is in the log."""


class TokenRefused(Exception):
    """The authorization server gave us no token; ``error`` is its code and ``description`` its words (RFC 6749 §5.2).

    Both are escaped and cut: they may be anything, and end in logs.  The same request is not sent again for
    ``retry_after`` seconds, 0 where nobody said so.
    """

    def __init__(self, error: str, description: str = "", *, retry_after: int = 0) -> None:
        self.error = _escaped(error, MAX_CODE)
        self.description = _escaped(description, MAX_DESCRIPTION)
        self.retry_after = retry_after
        super().__init__(f"{self.error}: {self.description}" if self.description else self.error)


class ConfigurationError(ValueError):
    """Objects were built in a way that cannot work or is not safe; the message says what to write instead."""
