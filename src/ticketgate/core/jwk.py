"""One JSON Web Key: from a member of a JWK Set to a key that verifies one algorithm, or the reason why not.

RFC 7517 §4, RFC 7518 §6, RFC 8037 §2, RFC 8725 §3.1-3.5, RFC 9864 §2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from ticketgate.core.jwt import decode_base64url

PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
RSA_BITS = range(2_048, 8_193)
EXPONENT_BITS = 64


class Fit(NamedTuple):
    """Which keys an algorithm may use."""

    kty: str
    crv: str | None = None


ALGORITHMS: dict[str, Fit] = {
    "RS256": Fit("RSA"),
    "RS384": Fit("RSA"),
    "RS512": Fit("RSA"),
    "PS256": Fit("RSA"),
    "PS384": Fit("RSA"),
    "PS512": Fit("RSA"),
    "ES256": Fit("EC", "P-256"),
    "ES384": Fit("EC", "P-384"),
    "ES512": Fit("EC", "P-521"),
    "EdDSA": Fit("OKP", "Ed25519"),
    "Ed25519": Fit("OKP", "Ed25519"),
}
"""Every algorithm we verify; no ``none`` and nothing symmetric can ever be configured (RFC 8725 §3.2)."""

COORDINATE_BYTES = {"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": 32}


class UnusableKey(ValueError):
    """A key that we will not verify with; the message says why, in our own words."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A public key bound to the one algorithm that it verifies (RFC 8725 §3.1)."""

    kid: str | None
    algorithm: str
    thumbprint: str
    verify: Callable[[bytes, bytes], bool] = field(repr=False)
    """Whether (message, signature) was signed by this key."""


def operation(algorithm: str) -> str:
    """The name under which keys are kept: EdDSA with Ed25519 is Ed25519 (RFC 9864 §2.2)."""
    return "Ed25519" if algorithm == "EdDSA" else algorithm


def import_key(jwk: Any, algorithms: tuple[str, ...]) -> Key:
    """The key that ``jwk`` describes, for one of ``algorithms``.  Raises `UnusableKey`."""
    if not isinstance(jwk, dict):
        raise UnusableKey("it is not an object")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("its kid is not a string")
    _is_public(jwk)
    _is_for_verifying(jwk)
    algorithm = operation(_algorithm(jwk, algorithms))
    key = _public_key(_material(jwk))
    verify = partial(JWSRegistry.algorithms[algorithm].verify, key=key)
    return Key(kid, algorithm, key.thumbprint(), verify)


def _is_public(jwk: Mapping[str, Any]) -> None:
    if jwk.get("kty") == "oct":
        raise UnusableKey("it is symmetric")
    if not PRIVATE_MEMBERS.isdisjoint(jwk):
        raise UnusableKey("it contains private material")


def _is_for_verifying(jwk: Mapping[str, Any]) -> None:
    """RFC 7517 §4.2 and §4.3: what the key says it is for includes verifying signatures."""
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("its use is not sig")
    operations = jwk.get("key_ops", ("verify",))
    if not isinstance(operations, tuple) or operations.count("verify") != 1:
        raise UnusableKey("its key_ops do not include verify once")


def _algorithm(jwk: Mapping[str, Any], algorithms: tuple[str, ...]) -> str:
    """The key's own ``alg``; without one, the first of the allowlist that fits its type and curve."""
    alg = jwk.get("alg")
    fitting = [name for name in algorithms if ALGORITHMS[name] == _fit(jwk)]
    if alg is None and fitting:
        return fitting[0]
    if not isinstance(alg, str) or alg not in fitting:
        raise UnusableKey("its alg, kty and crv fit no accepted algorithm")
    return alg


def _fit(jwk: Mapping[str, Any]) -> tuple[Any, Any]:
    return (jwk.get("kty"), None if jwk.get("kty") == "RSA" else jwk.get("crv"))


def _material(jwk: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The members that make the key, and nothing else; kty and crv are known to be ours by now."""
    if jwk["kty"] == "RSA":
        return {"kty": "RSA", "n": _modulus(jwk), "e": _exponent(jwk)}
    crv = jwk["crv"]
    point = {"x": _coordinate(jwk, "x", crv)}
    if jwk["kty"] == "EC":
        point["y"] = _coordinate(jwk, "y", crv)
    return {"kty": jwk["kty"], "crv": crv, **point}


def _modulus(jwk: Mapping[str, Any]) -> str:
    number = int.from_bytes(_bytes(jwk, "n"), "big")
    if number.bit_length() not in RSA_BITS or number % 2 == 0:
        raise UnusableKey(f"its modulus has not {RSA_BITS[0]} to {RSA_BITS[-1]} bits")
    return str(jwk["n"])


def _exponent(jwk: Mapping[str, Any]) -> str:
    number = int.from_bytes(_bytes(jwk, "e"), "big")
    if number < 3 or number % 2 == 0 or number.bit_length() > EXPONENT_BITS:
        raise UnusableKey("its public exponent is weak")
    return str(jwk["e"])


def _coordinate(jwk: Mapping[str, Any], name: str, crv: str) -> str:
    """RFC 7518 §6.2.1.2: the full size of a coordinate, always."""
    if len(_bytes(jwk, name)) != COORDINATE_BYTES[crv]:
        raise UnusableKey(f"its {name} has the wrong length")
    return str(jwk[name])


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str) or not value:
        raise UnusableKey(f"its {name} is missing")
    try:
        return decode_base64url(value.encode("ascii"))
    except ValueError as error:
        raise UnusableKey(f"its {name} is not base64url") from error


def _public_key(material: dict[str, str | list[str]]) -> RSAKey | ECKey | OKPKey:
    try:
        key = JWKRegistry.import_key(material)
    except ValueError as error:
        raise UnusableKey("it is not a point on its curve") from error
    if not isinstance(key, RSAKey | ECKey | OKPKey):
        raise UnusableKey("it is symmetric")
    key.public_key  # noqa: B018  made once, here, and not while a request waits
    return key
