"""Access tokens for tests: right in everything, or right in everything but one thing.

token()                                    a good one
token(aud="https://other.example")         another claim; ABSENT leaves one out
token(head={"typ": "JWT"})                 another header member
compact(b'{"alg": ...}', b"[]")            any bytes at all, signed by the issuer's key
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ticketgate import Issuer, ResourceServer
from ticketgate.core.clock import Clock
from ticketgate.issuing.keys import SigningKey

ISSUER = "https://as.example"
API = "https://api.example"
NOW = 1_800_000_000


class Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()
ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")


def key(algorithm: str = "RS256", name: str = "first") -> SigningKey:
    """The signing key of this name, the same for the whole run."""
    return _key(algorithm, name)


@cache
def _key(algorithm: str, name: str) -> SigningKey:
    return SigningKey.generate(algorithm)


def jwks(*keys: SigningKey) -> dict[str, Any]:
    """The JWK Set of ``keys``, or of the first key of every algorithm."""
    return {"keys": [one.public_jwk() for one in keys or map(key, ALGORITHMS)]}


def base64url(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def as_json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def without_absent(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good access token, with changes."""
    good = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": API,
        "client_id": "app",
        "iat": NOW - 10,
        "exp": NOW + 300,
        "jti": "one",
    }
    return without_absent(good | changes)


def header(signing: SigningKey, **changes: Any) -> dict[str, Any]:
    """The header of a good access token, with changes."""
    return without_absent({"typ": "at+jwt", "alg": signing.algorithm, "kid": signing.kid} | changes)


def compact(head: Any, payload: Any, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """A compact serialization of whatever bytes or JSON values are given, with a good signature."""
    signing_input = base64url(as_json(head)) + b"." + base64url(as_json(payload))
    return signing_input + b"." + base64url((sign or key().sign)(signing_input))


def token(
    *, signing: SigningKey | None = None, head: Mapping[str, Any] | None = None, **changes: Any
) -> bytes:
    """An access token, good but for the ``changes`` of its claims and those of its header, ``head``."""
    signing = signing or key()
    return compact(header(signing, **(head or {})), claims(**changes), signing.sign)


class Time:
    """Both clocks of a resource server, moved by hand."""

    def __init__(self, wall: float = NOW) -> None:
        self.wall = wall
        self.monotonic = 1000.0

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic)


def resource_server(**options: Any) -> ResourceServer:
    """A resource server that needs no network, at `NOW`."""
    settings = {"clock": Time().clock} | options
    return ResourceServer(API, Issuer(ISSUER, jwks=jwks()), **settings)
