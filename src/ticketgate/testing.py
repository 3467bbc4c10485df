"""An issuer in your tests: tokens of every kind, good and bad, without sockets; and a pytest plugin.

def test_orders(issuer):                                   # the fixture comes with ticketgate
    app = make_app(issuer.server("https://api.example"))
    client.get("/orders", headers=issuer.bearer(scope="orders:read"))                    # 200
    client.get("/orders", headers=issuer.bearer(scope="orders:read", break_="expired"))  # 401
    issuer.outage()                                        # and now: 503
"""

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ticketgate.core.clock import Clock, Now
from ticketgate.core.flow import Flow
from ticketgate.core.freshness import Held, KeyPolicy
from ticketgate.core.http_options import Whereabouts
from ticketgate.core.issuer import DEFAULT_ALGORITHMS, Issuer
from ticketgate.core.jwk import Key
from ticketgate.core.jwt import UnverifiedJWT
from ticketgate.core.key_source import KeySource
from ticketgate.core.keys import KeySet, static_jwk_set
from ticketgate.core.metadata_source import MetadataSource
from ticketgate.core.server import ResourceServer
from ticketgate.core.signing_key import SigningKey, base64url, finish_jwt, sign_jwt
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import ConfigurationError, IssuerUnavailable
from ticketgate.issuing.keys import KeyRing

__all__ = ["LocalIssuer", "MovableClock", "assert_every_route_is_guarded"]

IDENTIFIER = "https://issuer.test"
AUDIENCE = "https://api.test"


def assert_every_route_is_guarded(app: Any, *, strict: bool = False) -> None:
    """Fail where a route of ``app`` is neither protected nor public, and for all else that `ticketgate routes` finds.

    With ``strict`` also for what cannot be judged from outside: guards inside other decorators, which may answer
    first, and middleware, dispatchers and applications that are not understood.
    ``app`` is a Starlette, FastAPI, Flask or Django application, also inside of middleware.
    """
    from ticketgate.audit import audit  # it knows every framework, and most tests need none of it

    found = audit(app)
    if wrong := (*found.problems, *(found.notes if strict else ())):
        raise AssertionError("\n".join(wrong))


class MovableClock:
    """A clock that goes on by itself, and further when it is told to."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._real = Clock()

    def advance(self, seconds: float) -> None:
        """Be ``seconds`` later."""
        self._ahead += seconds

    @property
    def clock(self) -> Clock:
        """What `ResourceServer` takes as its clock."""
        return Clock(lambda: self._real.wall() + self._ahead, lambda: self._real.monotonic() + self._ahead)


class LocalKeys(KeySource):
    """The keys of a `LocalIssuer`: always those of this moment, and none during an outage."""

    def __init__(self, identifier: str) -> None:
        super().__init__(
            MetadataSource(Whereabouts(identifier), KeyPolicy()), DEFAULT_ALGORITHMS, KeyPolicy()
        )
        self.is_out = False

    def publish(self, ring: KeyRing) -> None:
        """Have the keys of ``ring`` from now on."""
        self.held = Held(static_jwk_set(ring.jwks(), DEFAULT_ALGORITHMS))

    def verify(self, jwt: UnverifiedJWT, now: Now, around: Surroundings) -> Flow[KeySet]:
        """See `KeySource.verify`; nothing is fetched."""
        if self.is_out:
            raise IssuerUnavailable("the issuer of the test is out")
        return (yield from super().verify(jwt, now, around))

    def find(self, header: Mapping[str, Any], now: Now, around: Surroundings) -> Flow[tuple[Key, ...]]:
        """See `KeySource.find`; nothing is fetched."""
        if self.is_out:
            raise IssuerUnavailable("the issuer of the test is out")
        return (yield from super().find(header, now, around))


Breaking = Callable[["LocalIssuer", dict[str, Any], dict[str, Any]], str]


class LocalIssuer:
    """An issuer in this process.  Its tokens are good for `server`, at the time of ``clock``."""

    def __init__(
        self, identifier: str = IDENTIFIER, *, audience: str = AUDIENCE, algorithm: str = "ES256"
    ) -> None:
        self.identifier = identifier
        self.audience = audience
        self.clock = MovableClock()
        self.keys = KeyRing(SigningKey.generate(algorithm))
        self.issuer = Issuer(identifier, jwks=self.keys.jwks())
        self._local = LocalKeys(identifier)
        self._local.publish(self.keys)
        self.issuer.keys = self._local
        self._count = 0

    def server(self, audience: str | Sequence[str] | None = None, **options: Any) -> ResourceServer:
        """A resource server that trusts this issuer; ``options`` are those of `ResourceServer`."""
        names = self.audience if audience is None else audience
        self.audience = names if isinstance(names, str) else next(iter(names))
        settings: dict[str, Any] = {"clock": self.clock.clock, "leeway": 0, **options}
        return ResourceServer(names, self.issuer, **settings)

    def token(self, *, lifetime: int = 60, break_: str | None = None, **claims: Any) -> str:
        """An access token with these ``claims`` (``scope="a b"``, ``roles=[...]``, ...), good for ``lifetime`` seconds.

        ``break_`` makes it bad in one way; see ``BREAKS``.
        """
        now = int(self.clock.clock.wall())
        self._count += 1
        payload: dict[str, Any] = {
            "iss": self.identifier,
            "sub": "alice",
            "aud": self.audience,
            "client_id": "app",
            "iat": now,
            "exp": now + lifetime,
            "jti": f"token-{self._count}",
        } | claims
        signing = self.keys.signing
        header = {"typ": "at+jwt", "alg": signing.algorithm, "kid": signing.kid}
        if break_ is None:
            return sign_jwt(signing, "at+jwt", payload)
        if break_ not in BREAKS:
            raise ConfigurationError(f"break_ is one of {', '.join(BREAKS)}")
        return BREAKS[break_](self, header, payload)

    def bearer(self, **options: Any) -> dict[str, str]:
        """The headers of a request with such a token; the options are those of `token`."""
        return {"Authorization": f"Bearer {self.token(**options)}"}

    def rotate(self, *, keep: bool = False) -> None:
        """Sign with a new key; tokens by the old ones are refused from now on, or go on with ``keep``."""
        self.keys.rotate(keep=keep)
        self._local.publish(self.keys)

    def outage(self, is_out: bool = True) -> None:
        """Be out of reach, with no keys at hand; ``outage(False)`` ends it."""
        self._local.is_out = is_out
        self._local.publish(self.keys)  # another key set, so that no verified token is remembered

    def sign(self, header: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
        """Any header and any claims, signed by the key of this moment."""
        signing_input = b".".join([_segment(header), _segment(payload)])
        return finish_jwt(signing_input, self.keys.signing.sign(signing_input))


def _segment(value: Mapping[str, Any]) -> bytes:
    return base64url(json.dumps(dict(value)).encode())


def _with_claims(**changes: Any) -> Breaking:
    return lambda issuer, header, payload: issuer.sign(header, {**payload, **changes})


def _with_header(**changes: Any) -> Breaking:
    return lambda issuer, header, payload: issuer.sign({**header, **changes}, payload)


def _without(name: str) -> Breaking:
    return lambda issuer, header, payload: issuer.sign(
        header, {k: v for k, v in payload.items() if k != name}
    )


def _expired(issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]) -> str:
    return issuer.sign(header, payload | {"exp": payload["iat"] - 301, "iat": payload["iat"] - 600})


def _early(issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]) -> str:
    return issuer.sign(header, payload | {"nbf": payload["iat"] + 600})


def _by_a_stranger(issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]) -> str:
    signing_input = b".".join([_segment(header), _segment(payload)])
    return finish_jwt(signing_input, SigningKey.generate("ES256").sign(signing_input))


def _unsigned(issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]) -> str:
    return finish_jwt(b".".join([_segment(header | {"alg": "none"}), _segment(payload)]), b"")


def _with_the_public_key_as_secret(
    issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]
) -> str:
    signing_input = b".".join([_segment(header | {"alg": "HS256"}), _segment(payload)])
    secret = json.dumps(issuer.keys.signing.public_jwk()).encode()
    return finish_jwt(signing_input, hmac.digest(secret, signing_input, "sha256"))


def _malformed(issuer: LocalIssuer, header: dict[str, Any], payload: dict[str, Any]) -> str:
    return issuer.sign(header, payload).replace(".", "..", 1)


BREAKS: dict[str, Breaking] = {
    "expired": _expired,
    "not_yet_valid": _early,
    "issuer": _with_claims(iss="https://stranger.test"),
    "audience": _with_claims(aud="https://other.test"),
    "typ": _with_header(typ="JWT"),
    "crit": _with_header(crit=["exp"]),
    "alg_none": _unsigned,
    "hs256_public_key": _with_the_public_key_as_secret,
    "unknown_kid": _with_header(kid="unknown"),
    "signature": _by_a_stranger,
    "bound": _with_claims(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
    "no_subject": _without("sub"),
    "no_client_id": _without("client_id"),
    "no_token_id": _without("jti"),
    "malformed": _malformed,
}
"""The ways to make a token bad; each is refused with 401."""

try:
    import pytest
except ModuleNotFoundError:
    pass
else:

    @pytest.fixture
    def issuer() -> LocalIssuer:
        """An issuer in this process, new for each test."""
        return LocalIssuer()
