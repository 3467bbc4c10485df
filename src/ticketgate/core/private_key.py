"""Private keys as users have them: a JWK or a PEM.

RFC 7517 §4, RFC 7468 §10.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

PrivateKey: TypeAlias = RSAKey | ECKey | OKPKey

NO_KEY = (JoseError, ValueError, TypeError, KeyError, AttributeError)


def load_key(source: Mapping[str, Any] | str | bytes) -> PrivateKey:
    """The RSA, EC or OKP key in a JWK or a PEM; whether it is private is left to who uses it.  Raises ValueError."""
    return _from_jwk(source) if isinstance(source, Mapping) else _from_pem(source)


def _from_jwk(jwk: Mapping[str, Any]) -> PrivateKey:
    if jwk.get("kty") == "oct":
        raise ValueError("the key is symmetric")
    try:
        return cast(PrivateKey, JWKRegistry.import_key(dict(jwk)))
    except NO_KEY as error:
        raise ValueError("the JWK is no key") from error


def _from_pem(pem: str | bytes) -> PrivateKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            return kind.import_key(pem)
        except NO_KEY:
            continue
    raise ValueError("the PEM is no RSA, EC or OKP key")
