"""Whatever is wrong inside a token or a key is its own fault: no exception of a library ever comes through.

A few hundred mutations with a fixed seed; each is refused in our own words.
"""

import base64
import json
import os
import random
import zlib

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from flows import run
from joserfc.jwk import ECKey, OKPKey, RSAKey
from tokens import API, ISSUER, Time, base64url, jwks, key, token

from ticketgate import Issuer, ResourceServer
from ticketgate.core.jwe import encrypt
from ticketgate.core.jwk import ALGORITHMS, UnusableKey, import_key
from ticketgate.core.request import bearer_request
from ticketgate.core.strict_json import parse_object
from ticketgate.errors import InvalidRequest, InvalidToken

OURS = {
    "RSA": RSAKey.generate_key(2048),
    "EC": ECKey.generate_key("P-256"),
    "OKP": OKPKey.generate_key("X25519"),
}
ODD = [None, True, 0, -1, 10**400, 1e308, "", "x", "A" * 5_000, "\0", "é", [], ["a"], {}, {"a": 1}]
NAMES = ["kty", "crv", "x", "y", "n", "e", "d", "use", "key_ops", "alg", "kid", "x5c", "x5t", "epk"]
HEADERS = [
    "alg",
    "enc",
    "zip",
    "epk",
    "apu",
    "apv",
    "kid",
    "p2c",
    "p2s",
    "iv",
    "tag",
    "typ",
    "cty",
    "b64",
    "jwk",
]
CURVES = ["EC", "OKP", "RSA", "P-256", "P-384", "P-521", "secp256k1", "X25519", "X448", "Ed25519", "Ed448"]
NUMBERS = [base64url(raw).decode() for raw in (bytes(32), b"\xff" * 32, b"\xff" * 66, bytes(255) + b"\1")]


SERVERS = {
    kind: ResourceServer(
        API, Issuer(ISSUER, jwks=jwks()), decryption_keys=[ours.as_dict(private=True)], clock=Time().clock
    )
    for kind, ours in OURS.items()
}


def authenticated(raw, kind="RSA"):
    return run(SERVERS[kind].authenticate(bearer_request(raw)))


def refused(raw, kind="RSA"):
    """Nothing but a 401 (or a 400) for ``raw``."""
    with pytest.raises((InvalidToken, InvalidRequest)):
        authenticated(raw, kind)


def mutated(dice, raw):
    """``raw`` with one to three things wrong: bytes of a part, its length, or a member of its header."""
    parts = raw.split(b".")
    for _ in range(dice.randint(1, 3)):
        number = dice.randrange(len(parts))
        match dice.randrange(5):
            case 0:
                parts[number] = parts[number][: dice.randrange(len(parts[number]) + 1)]
            case 1:
                parts[number] = base64url(dice.randbytes(dice.choice([0, 1, 8, 12, 16, 32, 40, 64, 256])))
            case 2:
                parts[number] += dice.choice([b"A", b"AAAA", b"=", b"_"])
            case _:
                parts[0] = with_odd_member(dice, parts[0])
    return b".".join(parts)


def with_odd_member(dice, part):
    try:
        members = json.loads(base64.urlsafe_b64decode(part + b"=="))
    except ValueError:
        return part
    inner = members.get("epk")
    if isinstance(inner, dict) and dice.random() < 0.5:
        inner[dice.choice(NAMES)] = dice.choice(ODD + CURVES + NUMBERS)
    else:
        members[dice.choice(HEADERS)] = dice.choice(
            [*ODD, "dir", "DEF", "A128KW", "A128GCM", "RSA1_5", "ES256"]
        )
    return base64url(json.dumps(members).encode())


@pytest.mark.parametrize("kind", OURS)
def test_an_encrypted_token_with_anything_wrong_is_refused(kind):
    dice = random.Random(kind)
    good = encrypt(token().decode(), OURS[kind].as_dict(private=False)).encode()
    assert authenticated(good, kind).subject == "alice"
    for _ in range(150):
        raw = mutated(dice, good)
        if raw != good:
            refused(raw, kind)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_signed_token_with_anything_wrong_is_refused(algorithm):
    dice = random.Random(algorithm)
    good = token(signing=key(algorithm))
    for _ in range(100):
        head, claims, signature = good.split(b".")
        wrong = base64url(dice.randbytes(dice.choice([0, 1, 63, 64, 65, 96, 132, 256, 257, 2_000])))
        refused(b".".join([head, claims, dice.choice([wrong, signature[:-4], signature + b"AAAA"])]))
    for size in (64, 96, 256):
        for signature in (bytes(size), b"\xff" * size, bytes(size - 1) + b"\1"):
            refused(b".".join([head, claims, base64url(signature)]))


def encrypted_by_hand(plaintext, *, cek=None, nonce=None, **header):
    """A JWE that anybody can make who knows our public key, whatever is inside."""
    cek, nonce = cek or os.urandom(32), nonce or os.urandom(12)
    head = base64url(json.dumps({"alg": "RSA-OAEP-256", "enc": "A256GCM", **header}).encode())
    wrapped = OURS["RSA"].public_key.encrypt(cek, OAEP(MGF1(SHA256()), SHA256(), None))
    sealed = AESGCM(cek[:32]).encrypt(nonce, plaintext, head)
    return b".".join(map(base64url, (wrapped, nonce, sealed[:-16], sealed[-16:]))).join([head + b".", b""])


def deflated(raw):
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(raw) + compressor.flush()


def test_what_is_right_is_not_refused():
    assert authenticated(encrypted_by_hand(token())).subject == "alice"


@pytest.mark.parametrize("zipped", [{}, {"zip": "DEF"}, {"zip": "XX"}, {"zip": None}, {"zip": ["DEF"]}])
@pytest.mark.parametrize(
    "plaintext",
    [b"", b"no token", b"\xff\xff", b"\x07", bytes(40), os.urandom(40), deflated(token())[:-3],
     deflated(token())[:9], deflated(b" " * 400_000), deflated(b"")],
    ids=range(10),
)  # fmt: skip
def test_whatever_was_encrypted_for_us_is_the_tokens_fault(plaintext, zipped):
    refused(encrypted_by_hand(plaintext, **zipped))


@pytest.mark.parametrize(
    "wrong", [{"cek": os.urandom(48)}, {"nonce": os.urandom(8)}, {"nonce": os.urandom(100)}]
)
def test_keys_and_nonces_of_a_wrong_size_are_the_tokens_fault(wrong):
    refused(encrypted_by_hand(token(), **wrong))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "EdDSA"])
def test_a_key_with_anything_wrong_is_unusable_or_verifies_nothing(algorithm):
    dice = random.Random(algorithm)
    for _ in range(300):
        jwk = key(algorithm).public_jwk()
        for _ in range(dice.randint(1, 3)):
            jwk[dice.choice(NAMES)] = dice.choice(ODD + CURVES + NUMBERS + [["verify"], ["verify", {}]])
        try:
            usable = import_key(parse_object(json.dumps(jwk).encode()), tuple(ALGORITHMS))
        except UnusableKey:
            continue
        assert not any(one.verify(b"message", dice.randbytes(dice.choice([64, 96, 256]))) for one in usable)
