"""Which keys are used, for what, and why others are not."""

import json

import pytest
from tokens import ABSENT, base64url, key, without_absent

from ticketgate.core.issuer import DEFAULT_ALGORITHMS
from ticketgate.core.jwk import ALGORITHMS, ROCA_PRIMES, UnusableKey, import_key
from ticketgate.core.strict_json import parse_object


def imported(jwk, algorithms=DEFAULT_ALGORITHMS):
    return import_key(parse_object(json.dumps(jwk).encode()), algorithms)


def number(value):
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()


def product(values):
    result = 1
    for value in values:
        result *= value
    return result


RSA, EC, OKP = (key(name).public_jwk() for name in ("RS256", "ES256", "EdDSA"))
GUESSABLE = (2**2047 // product(ROCA_PRIMES) + 1) * 2 * product(ROCA_PRIMES) + pow(
    65_537, 5, product(ROCA_PRIMES)
)


@pytest.mark.requirement("RFC7517-4.2-a", "RFC7517-4.3-a", "RFC7518-3.3-a", "RFC8725-3.5-a")
@pytest.mark.parametrize(
    ("jwk", "changes", "why"),
    [
        (RSA, {"kty": "oct"}, "symmetric"),
        (RSA, {"d": "AQAB"}, "private"),
        (OKP, {"d": "AQAB"}, "private"),
        (RSA, {"k": "AQAB"}, "private"),
        (RSA, {"use": "enc"}, "use"),
        (RSA, {"use": ""}, "use"),
        (RSA, {"key_ops": ["sign"]}, "key_ops"),
        (RSA, {"key_ops": "verify"}, "key_ops"),
        (RSA, {"key_ops": ["verify", "verify"]}, "key_ops"),
        (RSA, {"kid": 1}, "kid"),
        (RSA, {"kty": "AKP"}, "fit no accepted algorithm"),
        (RSA, {"kty": None}, "fit no accepted algorithm"),
        (RSA, {"kty": ABSENT}, "fit no accepted algorithm"),
        (RSA, {"alg": "RS512"}, "fit no accepted algorithm"),
        (RSA, {"alg": "ES256"}, "fit no accepted algorithm"),
        (RSA, {"alg": "none"}, "fit no accepted algorithm"),
        (RSA, {"alg": 1}, "fit no accepted algorithm"),
        (EC, {"alg": "ES384"}, "fit no accepted algorithm"),
        (EC, {"crv": "secp256k1"}, "fit no accepted algorithm"),
        (OKP, {"crv": "X25519"}, "fit no accepted algorithm"),
        (RSA, {"n": ABSENT}, "n is missing"),
        (RSA, {"n": None}, "n is missing"),
        (RSA, {"n": 5}, "n is missing"),
        (RSA, {"n": "!!"}, "n is not base64url"),
        (RSA, {"n": "é"}, "n is not base64url"),
        (RSA, {"n": number(2**1024 + 1)}, "modulus"),
        (RSA, {"n": number(2**2047)}, "modulus"),
        (RSA, {"n": number(2**8192 + 1)}, "modulus"),
        (RSA, {"n": number(GUESSABLE)}, "ROCA"),
        (RSA, {"e": number(1)}, "exponent"),
        (RSA, {"e": number(65_536)}, "exponent"),
        (RSA, {"e": number(2**65 + 1)}, "exponent"),
        (EC, {"x": "AQAB"}, "x has the wrong length"),
        (EC, {"y": ABSENT}, "y is missing"),
        (EC, {"x": base64url(bytes(32)).decode(), "y": base64url(bytes(32)).decode()}, "point"),
        (OKP, {"x": "AQAB"}, "x has the wrong length"),
    ],
)
def test_unusable_keys_say_why(jwk, changes, why):
    with pytest.raises(UnusableKey, match=why):
        imported(without_absent(jwk | changes))


@pytest.mark.parametrize("member", [None, 1, "key", []])
def test_a_member_that_is_no_object_is_no_key(member):
    with pytest.raises(UnusableKey, match="not an object"):
        import_key(member, DEFAULT_ALGORITHMS)


@pytest.mark.requirement("RFC8725-3.1-a", "RFC7517-4.4-a")
@pytest.mark.parametrize(
    ("jwk", "algorithms", "served"),
    [
        (RSA, DEFAULT_ALGORITHMS, ["RS256"]),
        (RSA | {"alg": ABSENT}, DEFAULT_ALGORITHMS, ["RS256", "PS256"]),
        (RSA | {"alg": ABSENT}, ["PS256"], ["PS256"]),
        (RSA | {"alg": ABSENT}, list(ALGORITHMS), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (EC | {"alg": ABSENT}, DEFAULT_ALGORITHMS, ["ES256"]),
        (OKP, DEFAULT_ALGORITHMS, ["Ed25519"]),
        (OKP | {"alg": "Ed25519"}, DEFAULT_ALGORITHMS, ["Ed25519"]),
        (OKP | {"alg": ABSENT}, DEFAULT_ALGORITHMS, ["Ed25519"]),
        (OKP | {"alg": None, "use": None, "key_ops": None, "kid": None}, DEFAULT_ALGORITHMS, ["Ed25519"]),
        (EC | dict.fromkeys(("d", "k", "x5c", "x5t", "x5t#S256")), DEFAULT_ALGORITHMS, ["ES256"]),
        (RSA | {"use": ABSENT, "kid": ABSENT, "key_ops": ["verify", "sign"]}, DEFAULT_ALGORITHMS, ["RS256"]),
    ],
)
def test_a_key_serves_what_it_says(jwk, algorithms, served):
    assert [one.algorithm for one in imported(without_absent(jwk), tuple(algorithms))] == served


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"])
def test_a_key_verifies_its_own_signatures_and_no_others(algorithm):
    signing = key(algorithm)
    (public,) = imported(signing.public_jwk())
    signature = signing.sign(b"message")
    assert public.verify(b"message", signature)
    assert not public.verify(b"another", signature)
    assert not public.verify(b"message", signature[:-1])
    assert not public.verify(b"message", bytes(len(signature)))
    assert not public.verify(b"message", b"")
