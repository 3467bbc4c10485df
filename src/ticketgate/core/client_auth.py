"""Who we are when we ask an authorization server something.

RFC 6749 §2.3.1 (client_secret_basic, client_secret_post), RFC 7523 §2.2 and §3 (private_key_jwt),
RFC 8705 §2 (mutual TLS), RFC 6750 §2.1 (a token of our own).
"""

import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote_plus, urlencode

from ticketgate.core.flow import Certificate, Connection, Flow, HttpRequest, call
from ticketgate.core.signing_key import SigningKey, finish_jwt, jwt_signing_input
from ticketgate.errors import ConfigurationError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_LIFE = 300


@dataclass(frozen=True, slots=True)
class Proof:
    """What a request carries so that the server knows who sends it: more headers, more of the form, or both."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    form: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    certificate: Certificate | None = None


def form_request(
    url: str,
    form: Mapping[str, str],
    proof: Proof,
    *,
    accept: str,
    timeout: float,
    max_bytes: int,
) -> HttpRequest:
    """A POST of ``form`` to an authorization server, with the proof of who sends it (RFC 6749 §3.2)."""
    headers = {"Accept": accept, "Content-Type": "application/x-www-form-urlencoded", **proof.headers}
    body = urlencode({**form, **proof.form}).encode("ascii")
    return HttpRequest(
        "POST",
        url,
        headers,
        timeout,
        max_bytes,
        body=body,
        connection=Connection(proof.certificate),
        keep_alive=True,
    )


def assertion_claims(issuer: str, subject: str, audience: str, now: float, lifetime: int) -> dict[str, Any]:
    """The claims of an assertion that is good once, for ``lifetime`` seconds from ``now`` (RFC 7523 §3)."""
    return {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "iat": int(now),
        "exp": int(now) + lifetime,
        "jti": secrets.token_urlsafe(16),
    }


class ClientAuth(Protocol):
    """A way to authenticate: ``prove`` makes the `Proof` for one request to the issuer ``audience``."""

    @property
    def client_id(self) -> str:
        """The name that the authorization server knows us by; empty where it needs none."""
        ...

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """The proof for a request at ``now``, in seconds since the epoch."""
        ...


def _required(**named: object) -> None:
    for name, value in named.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} must be a string that is not empty")


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """The secret in the Authorization header, both parts form-urlencoded first (RFC 6749 §2.3.1)."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _required(client_id=self.client_id, client_secret=self.client_secret)

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """See `ClientAuth`."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
        yield from ()
        return Proof({"Authorization": f"Basic {b64encode(pair.encode()).decode()}"})


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """The secret in the form (RFC 6749 §2.3.1); for servers that do not know `ClientSecretBasic`."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _required(client_id=self.client_id, client_secret=self.client_secret)

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """See `ClientAuth`."""
        yield from ()
        return Proof(form={"client_id": self.client_id, "client_secret": self.client_secret})


@dataclass(frozen=True, slots=True)
class BearerToken:
    """An access token of our own; a callable is asked for one each time (it may be async under asyncio)."""

    token: str | Callable[[], Any] = field(repr=False)
    client_id: str = ""

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """See `ClientAuth`."""
        token: Any = self.token
        if callable(token):
            token = yield from call(token)
        return Proof({"Authorization": f"Bearer {token}"})


class PrivateKeyJwt:
    """A JWT that our private key signed (RFC 7523 §2.2 and §3), with the issuer as its audience.

    ``key`` is a JWK, a PEM, or a function from the bytes to sign to the signature (for keys in a vault or
    an HSM; it may be async under asyncio), which needs ``algorithm`` and usually ``kid``.  ``lifetime`` is in seconds.
    """

    __slots__ = ("_algorithm", "_kid", "_lifetime", "_sign", "client_id")

    def __init__(
        self,
        client_id: str,
        key: Mapping[str, Any] | str | bytes | Callable[[bytes], Any],
        *,
        algorithm: str | None = None,
        kid: str | None = None,
        lifetime: int = 60,
    ) -> None:
        _required(client_id=client_id)
        if not 0 < lifetime <= MAX_ASSERTION_LIFE:
            raise ConfigurationError(f"lifetime must be above 0 and at most {MAX_ASSERTION_LIFE} seconds")
        self.client_id = client_id
        self._lifetime = lifetime
        if callable(key):
            _required(algorithm=algorithm)
            self._sign: Callable[[bytes], Any] = key
            self._algorithm, self._kid = algorithm or "", kid or ""
        else:
            signing = SigningKey.load(key, algorithm)
            self._sign, self._algorithm, self._kid = signing.sign, signing.algorithm, kid or signing.kid

    def __repr__(self) -> str:
        return f"PrivateKeyJwt({self.client_id!r}, algorithm={self._algorithm!r}, kid={self._kid!r})"

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """See `ClientAuth`."""
        claims = assertion_claims(self.client_id, self.client_id, audience, now, self._lifetime)
        typ = "client-authentication+jwt"
        signing_input = jwt_signing_input(self._algorithm, self._kid, typ, claims)
        assertion = finish_jwt(signing_input, (yield from call(self._sign, signing_input)))
        form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
        return Proof(form={"client_id": self.client_id} | form)


@dataclass(frozen=True, slots=True)
class MutualTls:
    """A client certificate (RFC 8705 §2): the paths of two PEM files; asks at the server's mTLS addresses."""

    client_id: str
    certificate: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        _required(client_id=self.client_id, certificate=self.certificate, key=self.key)

    def prove(self, audience: str, now: float) -> Flow[Proof]:
        """See `ClientAuth`."""
        yield from ()
        return Proof(form={"client_id": self.client_id}, certificate=Certificate(self.certificate, self.key))
