"""The keys that sign, and the key set that lets everybody else check.

RFC 7515 §5.1, RFC 7517 §5, RFC 7518 §3, RFC 7638, RFC 9864 §2.2.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from ticketgate.errors import ConfigurationError

PrivateKey: TypeAlias = RSAKey | ECKey | OKPKey

MIN_RSA_BITS = 2048
GENERATORS: dict[str, Callable[[], PrivateKey]] = {
    "RS256": lambda: RSAKey.generate_key(MIN_RSA_BITS),
    "PS256": lambda: RSAKey.generate_key(MIN_RSA_BITS),
    "ES256": lambda: ECKey.generate_key("P-256"),
    "ES384": lambda: ECKey.generate_key("P-384"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the one algorithm it is used with; its ``kid`` is its thumbprint (RFC 7638).

    Raises `ConfigurationError` for an algorithm that is not asymmetric, and for a key that does not fit it.
    ECDSA takes its random numbers from the operating system, through cryptography (RFC 8725 §3.2).
    """

    algorithm: str
    key: PrivateKey = field(repr=False)
    kid: str = field(init=False)

    def __post_init__(self) -> None:
        _check_algorithm(self.algorithm)
        _check_key(self.algorithm, self.key)
        object.__setattr__(self, "kid", self.key.thumbprint())

    @classmethod
    def generate(cls, algorithm: str = "RS256") -> "SigningKey":
        """A new key, held in memory only; RS256 is what every resource server knows (RFC 9068 §2.1)."""
        _check_algorithm(algorithm)
        return cls(algorithm, GENERATORS[algorithm]())

    def sign(self, signing_input: bytes) -> bytes:
        """The signature over ``signing_input`` (RFC 7515 §5.1)."""
        return JWSRegistry.algorithms[self.algorithm].sign(signing_input, self.key)

    def public_jwk(self) -> dict[str, Any]:
        """What may be published: the public members, ``kid``, ``use`` and ``alg`` (RFC 7517 §4)."""
        members: dict[str, Any] = {**self.key.as_dict(private=False)}
        return members | {"kid": self.kid, "use": "sig", "alg": self.algorithm}


def _check_algorithm(algorithm: str) -> None:
    """RFC 9068 §2.1: access tokens are signed, asymmetrically, and never with ``none``."""
    if algorithm not in GENERATORS:
        raise ConfigurationError(f"access tokens are signed with one of {', '.join(GENERATORS)}")


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


class KeyRing:
    """The key that signs now, and all keys that are published; rotations follow one another.

    >>> ring = KeyRing(SigningKey.generate("ES256"))
    >>> ring.rotate(SigningKey.generate("ES256"))      # the old one is still published, its tokens still good
    """

    __slots__ = ("_keys",)

    def __init__(self, signing: SigningKey) -> None:
        self._keys: tuple[SigningKey, ...] = (signing,)

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self._keys[0]

    def rotate(self, signing: SigningKey, *, keep: bool = True) -> None:
        """Sign with a new key; the old ones stay published, or with ``keep=False`` are withdrawn at once."""
        old = tuple(key for key in self._keys if key.kid != signing.kid)
        self._keys = (signing, *old) if keep else (signing,)

    def withdraw(self, kid: str) -> None:
        """Publish the key no longer.  Raises ValueError for the one that signs."""
        if kid == self.signing.kid:
            raise ValueError("rotate first: this key signs")
        self._keys = tuple(key for key in self._keys if key.kid != kid)

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The key set to publish (RFC 7517 §5), public members only, the signing key first."""
        return {"keys": [key.public_jwk() for key in self._keys]}
