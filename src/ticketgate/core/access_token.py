"""The access token: the only proof that all checks passed.

RFC 9068 §2.2, RFC 8693 §4.1 (act), RFC 7643 §4.1.2 (groups, roles, entitlements), RFC 7800 (cnf).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ticketgate.core.strict_json import FrozenDict, as_number, is_array, is_object


@dataclass(frozen=True, slots=True, eq=False)
class AccessToken:
    """What the issuer vouches for; `ResourceServer.authenticate` is the only place that makes one.

    Immutable through and through, safe to share between threads and requests.  ``claims`` and ``header``
    are read-only dicts that ``json.dumps`` accepts; the token itself is not kept.
    """

    claims: FrozenDict = field(repr=False)
    header: FrozenDict = field(repr=False)
    kind: Literal["jwt", "opaque"] = "jwt"
    phantom: str | None = field(default=None, repr=False)
    """The signed JWT that the issuer gave for an opaque token, to be passed on inside one's own walls only."""

    @property
    def scopes(self) -> frozenset[str]:
        """The scope values, each a whole string; empty where the token carries none (RFC 8693 §4.2).

        Some issuers send an array: then each string in it is one value.
        """
        return _words(self.claims.get("scope"))

    @property
    def issuer(self) -> str:
        """Who issued the token: ``iss``, exactly as configured."""
        return str(self.claims["iss"])

    @property
    def subject(self) -> str | None:
        """Whom the token speaks for: ``sub``, unique within the issuer; None for some opaque tokens of clients."""
        return _text(self.claims.get("sub"))

    @property
    def audience(self) -> tuple[str, ...]:
        """All resources the token was issued for: ``aud``."""
        aud = self.claims.get("aud", ())
        return (aud,) if isinstance(aud, str) else aud

    @property
    def client_id(self) -> str | None:
        """The client that asked for the token: ``client_id``; an opaque token may not tell."""
        return _text(self.claims.get("client_id"))

    @property
    def expires_at(self) -> float | None:
        """When the token ends, in seconds since the epoch: ``exp``; an opaque token may not tell."""
        return as_number(self.claims.get("exp"))

    @property
    def issued_at(self) -> float | None:
        """When the token was made, in seconds since the epoch: ``iat``; an opaque token may not tell."""
        return as_number(self.claims.get("iat"))

    @property
    def token_id(self) -> str | None:
        """The token's name, unique within the issuer: ``jti``; an opaque token may not tell."""
        return _text(self.claims.get("jti"))

    @property
    def groups(self) -> frozenset[str]:
        """The groups of the subject (RFC 9068 §2.2.3.1)."""
        return frozenset(_values(self.claims.get("groups")))

    @property
    def roles(self) -> frozenset[str]:
        """The roles of the subject (RFC 9068 §2.2.3.1)."""
        return frozenset(_values(self.claims.get("roles")))

    @property
    def entitlements(self) -> frozenset[str]:
        """The entitlements of the subject (RFC 9068 §2.2.3.1)."""
        return frozenset(_values(self.claims.get("entitlements")))

    @property
    def authentication_time(self) -> float | None:
        """When the subject last logged in, in seconds since the epoch: ``auth_time``."""
        return as_number(self.claims.get("auth_time"))

    @property
    def acr(self) -> str | None:
        """How strongly the subject was authenticated: ``acr``."""
        return _text(self.claims.get("acr"))

    @property
    def amr(self) -> tuple[str, ...] | None:
        """By which methods the subject was authenticated: ``amr`` (RFC 8176)."""
        value = self.claims.get("amr")
        return tuple(name for name in value if isinstance(name, str)) if is_array(value) else None

    @property
    def actor(self) -> FrozenDict | None:
        """Who acts for the subject now, the outermost ``act`` (RFC 8693 §4.1)."""
        return _object(self.claims.get("act"))

    @property
    def confirmation(self) -> FrozenDict | None:
        """The key the token is bound to: ``cnf`` (RFC 7800 §3.1)."""
        return _object(self.claims.get("cnf"))


def _words(scope: Any) -> frozenset[str]:
    """Scope values are separated by single spaces in one string; doubled ones are tolerated.

    A member of an array is one value and is not split, so that none says more than its issuer granted.
    """
    values = scope.split(" ") if isinstance(scope, str) else scope if is_array(scope) else ()
    return frozenset(value for value in values if isinstance(value, str) and value)


def _values(claim: Any) -> Iterator[str]:
    """Strings, or SCIM objects whose ``value`` decides and never ``display`` (RFC 7643 §2.4)."""
    for member in claim if is_array(claim) else (claim,):
        value = member.get("value") if is_object(member) else member
        if isinstance(value, str):
            yield value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _object(value: Any) -> FrozenDict | None:
    return value if is_object(value) else None
