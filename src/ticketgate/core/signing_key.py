"""A private key and what it signs: access tokens of an issuer, and the assertions of a client.

RFC 7515 §5.1 and §7.1, RFC 7518 §3, RFC 7638, RFC 9864 §2.2.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from ticketgate.core.private_key import PrivateKey, load_key
from ticketgate.errors import ConfigurationError

MIN_RSA_BITS = 2048
GENERATORS: dict[str, Callable[[], PrivateKey]] = {
    "RS256": lambda: RSAKey.generate_key(MIN_RSA_BITS),
    "PS256": lambda: RSAKey.generate_key(MIN_RSA_BITS),
    "ES256": lambda: ECKey.generate_key("P-256"),
    "ES384": lambda: ECKey.generate_key("P-384"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
}
USUAL = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the one algorithm it is used with; without a ``kid`` it goes by its thumbprint.

    Raises `ConfigurationError` for an algorithm that is not asymmetric, and for a key that does not fit it.
    ECDSA takes its random numbers from the operating system, through cryptography (RFC 8725 §3.2).
    """

    algorithm: str
    key: PrivateKey = field(repr=False)
    kid: str = ""

    def __post_init__(self) -> None:
        _check_algorithm(self.algorithm)
        _check_key(self.algorithm, self.key)
        if not self.kid:
            object.__setattr__(self, "kid", self.key.thumbprint())

    @classmethod
    def generate(cls, algorithm: str = "RS256") -> "SigningKey":
        """A new key, held in memory only; RS256 is what every resource server knows (RFC 9068 §2.1)."""
        _check_algorithm(algorithm)
        return cls(algorithm, GENERATORS[algorithm]())

    @classmethod
    def load(cls, source: Mapping[str, Any] | str | bytes, algorithm: str | None = None) -> "SigningKey":
        """The key in a JWK or a PEM; its ``alg``, or the usual one for its type, where none is given."""
        try:
            key = load_key(source)
        except ValueError as error:
            raise ConfigurationError(f"a key that signs is a private JWK or PEM: {error}") from error
        named: Mapping[str, Any] = source if isinstance(source, Mapping) else {}
        usual = USUAL.get("RSA" if isinstance(key, RSAKey) else key.curve_name, "")
        return cls(algorithm or named.get("alg") or usual, key, named.get("kid") or "")

    def sign(self, signing_input: bytes) -> bytes:
        """The signature over ``signing_input`` (RFC 7515 §5.1)."""
        name = "Ed25519" if self.algorithm == "EdDSA" else self.algorithm
        return JWSRegistry.algorithms[name].sign(signing_input, self.key)

    def private_jwk(self) -> dict[str, Any]:
        """The whole key, to be kept in a safe place and loaded again."""
        members: dict[str, Any] = {**self.key.as_dict(private=True)}
        return members | {"kid": self.kid, "use": "sig", "alg": self.algorithm}

    def public_jwk(self) -> dict[str, Any]:
        """What may be published: the public members, ``kid``, ``use`` and ``alg`` (RFC 7517 §4)."""
        members: dict[str, Any] = {**self.key.as_dict(private=False)}
        return members | {"kid": self.kid, "use": "sig", "alg": self.algorithm}


def _check_algorithm(algorithm: str) -> None:
    """RFC 9068 §2.1: signed, asymmetrically, and never with ``none``."""
    if algorithm not in GENERATORS:
        raise ConfigurationError(f"sign with one of {', '.join(GENERATORS)}")


def _check_key(algorithm: str, key: PrivateKey) -> None:
    try:
        JWSRegistry.algorithms[algorithm].check_key(key)
    except JoseError as error:
        raise ConfigurationError(f"this key cannot sign with {algorithm}") from error
    if not key.is_private:
        raise ConfigurationError("a public key cannot sign")
    if isinstance(key, RSAKey) and key.raw_value.key_size < MIN_RSA_BITS:
        raise ConfigurationError(f"an RSA key has at least {MIN_RSA_BITS} bits (RFC 7518 §3.3)")
    if algorithm == "EdDSA" and isinstance(key, OKPKey) and key.curve_name != "Ed25519":
        raise ConfigurationError("EdDSA is used with Ed25519 here")


def sign_jwt(key: SigningKey, typ: str, claims: Mapping[str, Any]) -> str:
    """``claims`` as a signed JWT in compact serialization (RFC 7515 §7.1)."""
    signing_input = jwt_signing_input(key.algorithm, key.kid, typ, claims)
    return finish_jwt(signing_input, key.sign(signing_input))


def jwt_signing_input(algorithm: str, kid: str, typ: str, claims: Mapping[str, Any]) -> bytes:
    """What is signed of a JWT: its header and its claims."""
    header = {"typ": typ, "alg": algorithm} | ({"kid": kid} if kid else {})
    return b".".join([base64url(_json(header)), base64url(_json(claims))])


def finish_jwt(signing_input: bytes, signature: bytes) -> str:
    """The JWT that ``signature`` makes of ``signing_input``."""
    return b".".join([signing_input, base64url(signature)]).decode("ascii")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def base64url(raw: bytes) -> bytes:
    """``raw`` in base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(raw).rstrip(b"=")
