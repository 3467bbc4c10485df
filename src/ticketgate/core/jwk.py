"""One JSON Web Key: from a member of a JWK Set to a key that verifies one algorithm, or the reason why not.

RFC 7517 §4 (no certificate is validated), RFC 7518 §3 and §6, RFC 8037 §2, RFC 8725 §3.1-3.5, RFC 9864 §2.

Signatures are verified by cryptography directly: what an algorithm needs is made once, with the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from joserfc.jwk import JWKRegistry

from ticketgate.core.jwt import decode_base64url
from ticketgate.core.strict_json import is_array, is_object, without_nulls
from ticketgate.core.x5c import CertificateThumbprint, first_certificate, thumbprints

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

HASHES: dict[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
COORDINATE_BYTES = {"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": 32}


ROCA_PRIMES = (
    *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97),
    *(101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167),
)

Verify: TypeAlias = Callable[[bytes, bytes], bool]


class UnusableKey(ValueError):
    """A key that we will not verify with; the message says why, in our own words."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A public key bound to the one algorithm that it verifies (RFC 8725 §3.1)."""

    kid: str | None
    algorithm: str
    thumbprint: str
    certificates: frozenset[CertificateThumbprint] = field(repr=False)
    """The names of the key's certificate (RFC 7517 §4.8 and §4.9); nobody checked the certificate itself."""
    verify: Verify = field(repr=False)
    """Whether (message, signature) was signed by this key."""


def operation(algorithm: str) -> str:
    """The name under which keys are kept: EdDSA with Ed25519 is Ed25519 (RFC 9864 §2.2)."""
    return "Ed25519" if algorithm == "EdDSA" else algorithm


def import_key(jwk: Any, algorithms: tuple[str, ...]) -> tuple[Key, ...]:
    """The key that ``jwk`` describes, once for each of ``algorithms`` it serves.  Raises `UnusableKey`.

    A JWK that names its ``alg`` serves that one only; one without serves all that fit its type and curve.
    Members that are null count as absent.
    """
    if not is_object(jwk):
        raise UnusableKey("it is not an object")
    jwk = without_nulls(jwk)
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("its kid is not a string")
    _is_public(jwk)
    _is_for_verifying(jwk)
    served = dict.fromkeys(map(operation, _algorithms(jwk, algorithms)))
    thumbprint, public = _public_key(_material(jwk))
    certificates = _certificates(jwk, public)
    return tuple(
        Key(kid, algorithm, thumbprint, certificates, _verifier(algorithm, public)) for algorithm in served
    )


def _certificates(jwk: Mapping[str, Any], public: Any) -> frozenset[CertificateThumbprint]:
    """What the key's certificate is called; that in ``x5c`` must hold the same key (RFC 7517 §4.7)."""
    certificate = first_certificate(jwk.get("x5c"))
    if certificate is None:
        return thumbprints(jwk)
    if certificate.public_key != public:
        raise UnusableKey("its x5c is the certificate of another key")
    return thumbprints(jwk) | certificate.thumbprints


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
    if not is_array(operations) or operations.count("verify") != 1:
        raise UnusableKey("its key_ops do not include verify once")


def _algorithms(jwk: Mapping[str, Any], algorithms: tuple[str, ...]) -> list[str]:
    """The accepted algorithms that the key's ``alg``, ``kty`` and ``crv`` allow."""
    alg = jwk.get("alg")
    fitting = [name for name in algorithms if ALGORITHMS[name] == _fit(jwk) and alg in (None, name)]
    if not fitting:
        raise UnusableKey("its alg, kty and crv fit no accepted algorithm")
    return fitting


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
    if _is_guessable(number):
        raise UnusableKey("its modulus gives its factors away (ROCA, CVE-2017-15361)")
    return str(jwk["n"])


def _is_guessable(modulus: int) -> bool:
    """Whether a flawed generator made it: then it is a power of 65537 modulo every small prime."""
    return all(modulus % prime in powers for prime, powers in _powers_of_65537())


@cache
def _powers_of_65537() -> tuple[tuple[int, frozenset[int]], ...]:
    return tuple((p, frozenset(pow(65_537, power, p) for power in range(p))) for p in ROCA_PRIMES)


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


def _public_key(material: dict[str, str | list[str]]) -> tuple[str, Any]:
    """The key's thumbprint (RFC 7638) and what verifies with it; made once, not while a request waits."""
    try:
        key = JWKRegistry.import_key(material)
        return key.thumbprint(), key.public_key
    except ValueError as error:
        raise UnusableKey("it is not a point on its curve") from error


def _verifier(algorithm: str, public: Any) -> Verify:
    """What says whether a signature by ``algorithm`` is right; cheap, since all it needs is at hand."""
    if isinstance(public, RSAPublicKey):
        return _rsa_verifier(public, algorithm)
    if isinstance(public, EllipticCurvePublicKey):
        return _ecdsa_verifier(public, algorithm)

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def _rsa_verifier(public: RSAPublicKey, algorithm: str) -> Verify:
    """RFC 7518 §3.3 and §3.5: the salt of PSS is as long as the hash."""
    digest = HASHES[algorithm[2:]]
    padding: AsymmetricPadding = PKCS1v15()
    if algorithm.startswith("PS"):
        padding = PSS(MGF1(digest), PSS.DIGEST_LENGTH)

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, message, padding, digest)
        except InvalidSignature:
            return False
        return True

    return verify


def _ecdsa_verifier(public: EllipticCurvePublicKey, algorithm: str) -> Verify:
    """RFC 7518 §3.4: R and S in the full size of the curve, one after the other, and never DER."""
    scheme, size = ECDSA(HASHES[algorithm[2:]]), (public.key_size + 7) // 8

    def verify(message: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        try:
            public.verify(encode_dss_signature(r, s), message, scheme)
        except InvalidSignature:
            return False
        return True

    return verify
