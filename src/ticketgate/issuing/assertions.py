"""JWTs in which somebody vouches for a client or a user.

RFC 7521 §5, RFC 7523 §3, RFC 8725 §3.11.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ticketgate.core.claims import (
    Rules,
    audience_includes_us,
    expires_in_the_future,
    is_valid_already,
    subject_is_named,
    was_issued_in_the_past,
)
from ticketgate.core.flow import Flow, call
from ticketgate.core.freshness import KeyPolicy
from ticketgate.core.http_options import Whereabouts, checked_address
from ticketgate.core.issuer import DEFAULT_ALGORITHMS
from ticketgate.core.jwk import PRIVATE_MEMBERS, Key
from ticketgate.core.jwt import (
    UnverifiedJWT,
    algorithm_is_one_of,
    media_type,
    nothing_is_critical,
    read,
)
from ticketgate.core.key_source import KeySource
from ticketgate.core.keys import KeySet, static_jwk_set
from ticketgate.core.metadata_source import MetadataSource
from ticketgate.core.strict_json import FrozenDict, is_array, without_nulls
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import ConfigurationError, InvalidToken
from ticketgate.issuing.stores import Store, name_of

GRANT_TYPES = frozenset({"application/jwt"})
CLIENT_TYPES = GRANT_TYPES | {"application/client-authentication+jwt"}
LEEWAY = 30.0
MAX_LIFE = 3600.0
REMEMBERED = 60.0
"""Seconds for which a used assertion is remembered after its end: processes do not read the clock at one moment."""


@dataclass(frozen=True, slots=True)
class AssertionIssuer:
    """Somebody whose assertions are grants (RFC 7523 §2.1): ``issuer`` is their ``iss``, compared exactly.

    Their keys are one of ``jwks``, ``jwks_uri``, or ``find_key``, which is given header and claims and returns a
    JWK, a JWK Set or None (it may be async).

    ``scopes`` is what may be asked for by its assertions, nothing by default; ``accept_any_scope`` lets them ask for
    every scope.  ``accept_any_subject`` takes whomever it names for the subject of the token.  Clients authenticate or
    name themselves, and never get more than their own scopes; with ``accept_unauthenticated_clients`` they need not.
    """

    issuer: str
    jwks: Mapping[str, Any] | None = field(default=None, repr=False)
    jwks_uri: str | None = None
    find_key: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    scopes: frozenset[str] = frozenset()
    accept_any_scope: bool = False
    accept_any_subject: bool = False
    accept_unauthenticated_clients: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", frozenset(self.scopes))
        if not self.issuer or sum(way is not None for way in (self.jwks, self.jwks_uri, self.find_key)) != 1:
            raise ConfigurationError("an AssertionIssuer needs a name and one of jwks, jwks_uri, find_key")
        _ = checked_address("jwks_uri", self.jwks_uri, insecure_http=False)
        if self.jwks is not None:
            _ = public_key_set(self.jwks, f"AssertionIssuer {self.issuer!r}")

    @property
    def allowed_scopes(self) -> frozenset[str] | None:
        """What may be asked for, None for anything."""
        return None if self.accept_any_scope else self.scopes


def public_key_set(jwks: Mapping[str, Any], whose: str) -> KeySet:
    """The keys that somebody configured to check signatures of ``whose``.

    Raises `ConfigurationError` for a set without a usable key, and for one with a secret in it: that is for its owner
    alone, and not to be copied, kept or shown.
    """
    keys = static_jwk_set(jwks, DEFAULT_ALGORITHMS)
    if any(map(_is_secret, jwks["keys"])):
        raise ConfigurationError(f"jwks of {whose} holds a private or symmetric key: give public keys only")
    return keys


def _is_secret(jwk: Mapping[str, Any] | None) -> bool:
    if not isinstance(jwk, Mapping):
        return False
    return jwk.get("kty") == "oct" or not PRIVATE_MEMBERS.isdisjoint(without_nulls(jwk))


class AssertionKeys:
    """The keys of an `AssertionIssuer`."""

    def __init__(self, issuer: AssertionIssuer) -> None:
        self.issuer = issuer
        static = None if issuer.jwks is None else static_jwk_set(issuer.jwks, DEFAULT_ALGORITHMS)
        policy = KeyPolicy()
        where = MetadataSource(Whereabouts(issuer.issuer, issuer.jwks_uri), policy)
        self._source = KeySource(where, DEFAULT_ALGORITHMS, policy, static)

    def find(self, jwt: UnverifiedJWT, around: Surroundings) -> Flow[tuple[Key, ...]]:
        """The keys that may have signed; none where there is none.  Raises `IssuerUnavailable`."""
        if self.issuer.find_key is None:
            return (yield from self._source.find(jwt.header, around.clock.read(), around))
        found = yield from call(self.issuer.find_key, jwt.header, jwt.claims)
        if found is None:
            return ()
        jwks = found if "keys" in found else {"keys": [found]}
        return static_jwk_set(jwks, DEFAULT_ALGORITHMS).candidates(jwt.header)


def read_assertion(raw: str) -> UnverifiedJWT:
    """An assertion before anything in it is believed.  Raises `InvalidToken`."""
    jwt = read(raw.encode("utf-8", "replace"))
    algorithm_is_one_of(jwt.header, DEFAULT_ALGORITHMS)
    nothing_is_critical(jwt.header)
    if not isinstance(jwt.claims.get("iss"), str):
        raise InvalidToken("issuer", expected="iss", actual=jwt.claims.get("iss"))
    return jwt


def type_is_for(jwt: UnverifiedJWT, *, client: bool) -> None:
    """RFC 8725 §3.11: a JWT that was made for something else is no assertion, whoever signed it."""
    allowed = CLIENT_TYPES if client else GRANT_TYPES
    if media_type(jwt.header.get("typ", "JWT")) not in allowed:
        raise InvalidToken("type", expected=sorted(allowed), actual=jwt.header.get("typ"))


def is_for_one_audience(claims: FrozenDict) -> None:
    """Draft-ietf-oauth-rfc7523bis §3: one that names two servers could be used by either at the other."""
    aud = claims.get("aud")
    if not isinstance(aud, str) and (not is_array(aud) or len(aud) != 1):
        raise InvalidToken("audience", expected="one audience", actual=aud)


def check_assertion(claims: FrozenDict, audiences: Sequence[str], now: float) -> None:
    """RFC 7523 §3: for us, alive, not for ever, and about somebody.  Raises `InvalidToken`."""
    rules = Rules(now, LEEWAY, frozenset(audiences))
    audience_includes_us(claims, rules)
    expires_in_the_future(claims, rules)
    if claims["exp"] > now + MAX_LIFE + LEEWAY:
        raise InvalidToken("claim", expected="an exp within an hour", actual=claims["exp"])
    is_valid_already(claims, rules)
    if "iat" in claims:
        was_issued_in_the_past(claims, rules)
    subject_is_named(claims, rules)


def use_once(raw: str, claims: FrozenDict, store: Store, now: float) -> None:
    """RFC 7523 §3: an assertion is good for one use.  Raises `InvalidToken` for the second.

    One without ``jti`` goes by what was signed, and not by the whole: of one ECDSA signature anybody can make another
    that is valid too.
    """
    jti = claims.get("jti")
    if jti is not None and not isinstance(jti, str):
        raise InvalidToken("claim", expected="jti: a string", actual=jti)
    identity = json.dumps([claims["iss"], jti]) if jti else raw.rpartition(".")[0]
    if not store.add("assertion", name_of(identity), float(claims["exp"]) + LEEWAY + REMEMBERED, now):
        raise InvalidToken("claim", expected="an assertion that is new", actual="a replay")
