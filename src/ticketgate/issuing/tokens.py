"""Access tokens as signed JWTs, with the claims that every one of them carries.

RFC 9068 §2, RFC 6749 §3.3 (scope), RFC 6750 §5 (lifetime, audience).
"""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ticketgate.core.signing_key import SigningKey, sign_jwt

MAX_LIFETIME = 3600
PROTECTED = frozenset({"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"})
SCOPE_VALUE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def issue_access_token(
    key: SigningKey,
    *,
    issuer: str,
    subject: str,
    audience: str | Sequence[str],
    client_id: str,
    lifetime: int = 300,
    scope: str = "",
    claims: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> str:
    """A signed access token for ``audience`` (RFC 9068 §2).

    ``lifetime`` is in seconds, 1 to 3600; ``scope`` holds values between single spaces; ``claims`` are added
    (``roles``, ``groups``, ``acr``, ``cnf``, ...) and cannot replace what the other arguments say; ``now`` is
    in seconds since the epoch.  Raises ValueError for anything else.

    >>> issue_access_token(key, issuer="https://as.example", subject="alice",
    ...                    audience="https://api.example", client_id="app", scope="orders:read")
    """
    issued_at = int(time.time() if now is None else now)
    payload: dict[str, Any] = {
        "iss": _named("issuer", issuer),
        "sub": _named("subject", subject),
        "aud": _audience(audience),
        "client_id": _named("client_id", client_id),
        "iat": issued_at,
        "exp": issued_at + _lifetime(lifetime),
        "jti": secrets.token_urlsafe(16),
    }
    if scope:
        payload["scope"] = " ".join(scope_values(scope))
    return sign_jwt(key, "at+jwt", payload | _additional(claims or {}))


def scope_values(scope: str) -> tuple[str, ...]:
    """The values of a scope string, each once.  Raises ValueError where it is not one (RFC 6749 §3.3)."""
    values = tuple(dict.fromkeys(scope.split(" ")))
    if not all(map(SCOPE_VALUE.fullmatch, values)):
        raise ValueError("a scope is printable ASCII without quote and backslash, between single spaces")
    return values


def _named(name: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a string that is not empty")
    return value


def _audience(audience: str | Sequence[str]) -> str | list[str]:
    """RFC 6750 §5.2: a token is good for somebody in particular, or it is not made."""
    if isinstance(audience, str):
        return _named("audience", audience)
    if not audience:
        raise ValueError("audience must name at least one resource")
    return [_named("audience", name) for name in audience]


def _lifetime(lifetime: int) -> int:
    """RFC 6750 §5.3: access tokens live an hour or less; True and 1.5 are no number of seconds."""
    if type(lifetime) is not int or not 1 <= lifetime <= MAX_LIFETIME:
        raise ValueError(f"lifetime must be between 1 and {MAX_LIFETIME} whole seconds")
    return lifetime


def _additional(claims: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 9068 §2.2.2: more claims may be there, but none in place of those that decide."""
    if overridden := sorted(PROTECTED & claims.keys()):
        raise ValueError(f"these claims have arguments of their own: {', '.join(overridden)}")
    return dict(claims)
