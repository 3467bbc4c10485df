"""Key sets, the choice of a key, and how long keys live."""

import base64
import hashlib
import json
import math
from codecs import BOM_UTF8
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tokens import base64url, key

from ticketgate import KeyPolicy
from ticketgate.core.freshness import Age, Backoff, Budget, Held, freshness_lifetime, hold, retry_after
from ticketgate.core.issuer import DEFAULT_ALGORITHMS
from ticketgate.core.keys import KeySet, parse_jwk_set
from ticketgate.errors import ConfigurationError

FIRST, SECOND, EC = key().public_jwk(), key("RS256", "second").public_jwk(), key("ES256").public_jwk()


def key_set(*members, max_keys=100):
    return parse_jwk_set(json.dumps({"keys": members}).encode(), DEFAULT_ALGORITHMS, max_keys)


def chosen(keys, alg, kid=None):
    header = {"alg": alg} if kid is None else {"alg": alg, "kid": kid}
    return [one.kid for one in keys.candidates(header)]


@pytest.mark.requirement("RFC7517-5-a", "RFC7517-5-b")
def test_members_that_cannot_be_used_are_dropped_and_named():
    keys = key_set(FIRST, {"kty": "oct", "kid": "secret\n", "k": "AQAB"}, {"kty": "AKP"}, "text", EC)
    assert [one.kid for one in keys.keys] == [FIRST["kid"], EC["kid"]]
    assert keys.dropped == (
        "'secret\\n': it is symmetric",
        "a key without kid: its alg, kty and crv fit no accepted algorithm",
        "a key without kid: it is not an object",
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"null", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}', b'{"keys": [1]}',
     b'{"keys": [], "keys": []}', b"<html>"],
)  # fmt: skip
def test_what_is_no_usable_key_set_is_an_error(raw):
    with pytest.raises(ValueError, match=r"."):
        parse_jwk_set(raw, DEFAULT_ALGORITHMS, 100)


def test_too_many_keys_are_cut_off():
    keys = key_set(FIRST, SECOND, EC, max_keys=2)
    assert len(keys.keys) == 2
    assert keys.dropped == ("1 more: above max_keys=2",)


@pytest.mark.parametrize(
    ("members", "alg", "kid", "expected"),
    [
        ([FIRST, SECOND], "RS256", FIRST["kid"], [FIRST["kid"]]),
        ([FIRST, SECOND], "RS256", "unknown", []),
        ([FIRST, SECOND], "RS256", None, []),
        ([FIRST, EC], "RS256", None, [FIRST["kid"]]),
        ([FIRST, EC], "ES256", FIRST["kid"], []),
        ([FIRST, SECOND | {"kid": FIRST["kid"]}], "RS256", FIRST["kid"], [FIRST["kid"]] * 2),
        ([FIRST | {"kid": "same"}] * 9, "RS256", "same", ["same"] * 4),
        ([FIRST | {"kid": ""}], "RS256", "", [""]),
    ],
    ids=range(8),
)
def test_the_choice_of_a_key(members, alg, kid, expected):
    assert chosen(key_set(*members), alg, kid) == expected


def test_a_key_without_a_name_serves_tokens_without_one():
    nameless = {name: value for name, value in FIRST.items() if name != "kid"}
    keys = key_set(nameless, EC)
    assert chosen(keys, "RS256") == [None]
    assert chosen(keys, "RS256", "x") == []


def certificate(signing, name="issuer"):
    """A certificate for the key, expired long ago, in DER; nobody validates it."""
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime(2001, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(names, names, signing.key.public_key, 1, day, day + timedelta(1))
    own = signing.key.private_key
    return builder.sign(own, None if signing.algorithm == "EdDSA" else SHA256()).public_bytes(Encoding.DER)


def x5c(der):
    return base64.b64encode(der).decode()


def x5t(der, function=hashlib.sha1):
    return base64url(function(der).digest()).decode()


def named_by(keys, **names):
    header = {"alg": "RS256"} | {name.replace("_", "#"): value for name, value in names.items()}
    return [one.kid for one in keys.candidates(header)]


DER, OTHER_DER = certificate(key()), certificate(key("RS256", "second"))
THUMBPRINT, OTHER = x5t(DER), x5t(OTHER_DER)


@pytest.mark.parametrize(
    ("first", "second", "names", "expected"),
    [
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": "abc"}, [FIRST["kid"]]),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": "def"}, [SECOND["kid"]]),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": "ABC"}, []),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t_S256": "abc"}, []),
        ({"x5t#S256": "abc"}, {"x5t": "abc"}, {"x5t_S256": "abc"}, [FIRST["kid"]]),
        ({"x5t": "abc"}, {}, {"x5t": "abc"}, [FIRST["kid"]]),
        ({"x5t": "abc"}, {"x5t": "abc"}, {"x5t": "abc"}, [FIRST["kid"], SECOND["kid"]]),
        ({"x5c": [x5c(DER)]}, {"x5c": [x5c(OTHER_DER)]}, {"x5t": THUMBPRINT}, [FIRST["kid"]]),
        ({"x5c": [x5c(DER)]}, {"x5c": [x5c(OTHER_DER)]}, {"x5t": OTHER}, [SECOND["kid"]]),
        ({"x5c": [x5c(DER)]}, {}, {"x5t_S256": x5t(DER, hashlib.sha256)}, [FIRST["kid"]]),
        ({"x5c": [x5c(DER), x5c(OTHER_DER)]}, {}, {"x5t": OTHER}, []),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": "abc", "kid": SECOND["kid"]}, [SECOND["kid"]]),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": "abc", "kid": "unknown"}, []),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": None}, []),
        ({"x5t": "abc"}, {"x5t": "def"}, {"x5t": ["abc"]}, []),
        ({"x5t": "a" * 101}, {}, {"x5t": "a" * 101}, []),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_key_is_found_by_its_certificate_where_the_token_has_no_key_id(first, second, names, expected):
    assert named_by(key_set(FIRST | first, SECOND | second), **names) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [({}, [FIRST["kid"]]), ({"x5t": "abc"}, []), ({"x5t#S256": "x"}, []), ({"x5c": [x5c(DER)]}, [])],
)
def test_the_only_key_serves_a_token_that_names_a_certificate_unless_it_has_another(members, expected):
    assert named_by(key_set(FIRST | members), x5t="elsewhere") == expected
    assert named_by(key_set(FIRST | members)) == [FIRST["kid"]]


VERSION_3, VERSION_6 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"


@pytest.mark.parametrize(
    "chain",
    [
        None,
        [],
        "",
        x5c(DER),
        {},
        [None],
        [1],
        [""],
        ["!"],
        ["é"],
        [x5c(DER[:-1])],
        [x5c(DER + b"x")],
        [x5c(b"0" * 99)],
        [x5c(DER.replace(VERSION_3, VERSION_6))],
    ],
)
def test_a_certificate_that_cannot_be_read_names_nothing(chain):
    (one,) = key_set(FIRST | {"x5c": chain}).keys
    assert one.certificates == frozenset()


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_key_with_the_certificate_of_another_key_is_dropped(algorithm):
    jwk, right, wrong = key(algorithm).public_jwk(), key(algorithm), key(algorithm, "second")
    (one,) = key_set(jwk | {"x5c": [x5c(certificate(right))]}).keys
    assert len(one.certificates) == 2
    keys = key_set(jwk | {"x5c": [x5c(certificate(wrong))]}, FIRST)
    assert keys.dropped == (f"{jwk['kid']!r}: its x5c is the certificate of another key",)
    with pytest.raises(ValueError, match="another key"):
        key_set(jwk | {"x5c": [x5c(DER if jwk["kty"] != "RSA" else certificate(key("ES256")))]})


@pytest.mark.parametrize("mark", [b"", BOM_UTF8])
def test_a_byte_order_mark_before_a_key_set_is_skipped(mark):
    raw = mark + json.dumps({"keys": [FIRST]}).encode()
    assert len(parse_jwk_set(raw, DEFAULT_ALGORITHMS, 100).keys) == 1


def test_what_was_looked_for_in_vain_has_a_name():
    names = [{}, {"kid": "a"}, {"x5t": "a"}, {"x5t#S256": "a"}, {"kid": "a", "x5t": "a"}]
    assert len({KeySet.wanted({"alg": "RS256", **name}) for name in names}) == 5


def test_sets_are_compared_by_their_content():
    assert not key_set(FIRST).same_as(key_set(FIRST | {"x5t": "abc"}))
    assert key_set(FIRST, EC).same_as(key_set(EC, FIRST))
    assert not key_set(FIRST).same_as(key_set(FIRST | {"kid": "other"}))
    assert not key_set(FIRST).same_as(key_set(SECOND | {"kid": FIRST["kid"]}))
    assert not key_set(FIRST).same_as(None)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:33:00 GMT"


@pytest.mark.requirement("RFC9111-4.2.1-a", "RFC9111-5.3-a")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 600),
        ({"cache-control": "no-store"}, 600),
        ({"cache-control": "no-cache, no-store"}, 600),
        ({"cache-control": "public"}, 600),
        ({"cache-control": "max-age=300"}, 300),
        ({"cache-control": 'public,  MAX-AGE = "300"'}, 300),
        ({"cache-control": "s-maxage=5, max-age=300"}, 300),
        ({"cache-control": "max-age=300, no-store"}, 300),
        ({"cache-control": "max-age=0"}, 60),
        ({"cache-control": "max-age=9999999999"}, 86_400),
        ({"cache-control": "max-age=" + "9" * 400}, 86_400),
        ({"cache-control": "max-age=" + "9" * 400, "age": "9" * 400}, 60),
        ({"cache-control": "max-age=" + "9" * 5_000, "age": "1"}, 86_400),
        ({"cache-control": "max-age=-5"}, 600),
        ({"cache-control": "max-age=300", "age": "100"}, 200),
        ({"cache-control": "max-age=300", "age": "1000"}, 60),
        ({"cache-control": "max-age=300", "age": "soon"}, 300),
        ({"age": "100"}, 600),
        ({"expires": LATER, "date": DATE}, 300),
        ({"expires": LATER, "date": DATE, "age": "60"}, 240),
        ({"expires": LATER}, 600),
        ({"expires": DATE, "date": LATER}, 60),
        ({"expires": "0", "date": DATE}, 60),
        ({"expires": LATER, "date": DATE, "cache-control": "max-age=120"}, 120),
    ],
)
def test_how_long_an_answer_is_fresh(headers, seconds):
    assert freshness_lifetime(headers, KeyPolicy()) == seconds


def test_the_times_of_a_key_set():
    held = hold(key_set(FIRST), {}, KeyPolicy(), now=1000, jitter=0)
    assert (held.fetched_at, held.refresh_at, held.fresh_until, held.dead_at) == (1000, 1480, 1600, 5200)
    early, late = (hold(key_set(FIRST), {}, KeyPolicy(), 0, jitter).refresh_at for jitter in (-1, 1))
    assert (early, late) == pytest.approx((432, 528))


@pytest.mark.parametrize(
    ("now", "age"),
    [
        (0, Age.FRESH),
        (79, Age.FRESH),
        (80, Age.DUE),
        (99, Age.DUE),
        (100, Age.STALE),
        (199, Age.STALE),
        (200, Age.DEAD),
    ],
)
def test_the_ages_of_a_key_set(now, age):
    assert Held(key_set(FIRST), 0, 80, 100, 200).age(now) is age


def test_configured_keys_never_age():
    held = Held(key_set(FIRST))
    assert (held.age(10**12), held.is_static) == (Age.FRESH, True)


@pytest.mark.requirement("RFC9110-10.2.3-a")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("7", 7), (" 7 ", 7), ("0", 0), ("100000", 300), ("-5", 0), ("soon", 0), ("7.5", 0), ("\u0667", 0),
     ("Fri, 15 Jan 2027 08:00:40 GMT", 40), ("Fri, 15 Jan 2027 07:00:00 GMT", 0), ("Sat, 16 Jan 2027 08:00:00 GMT", 300)],
)  # fmt: skip
def test_how_long_an_issuer_wants_to_be_left_alone(value, seconds):
    assert retry_after({"retry-after": value}, wall=1_800_000_000) == seconds


def test_a_retry_after_is_longer_than_the_back_off_or_does_not_matter():
    assert Backoff().after_failure(0, 0, "", at_least=60).retry_at == 60
    assert Backoff().after_failure(0, 0, "", at_least=0.1).retry_at == 0.5


def test_a_budget_allows_two_quick_looks_and_then_one_per_cooldown():
    budget = Budget(30)
    allowed = []
    for now in (0, 0.1, 0.2, 15, 30.1, 30.2, 59, 61, 200, 201, 202):
        after = budget.spend(now)
        allowed.append(after is not None)
        budget = after or budget
    assert allowed == [True, True, False, False, True, False, False, True, True, True, False]


def test_a_budget_without_a_cooldown_is_never_empty():
    assert Budget(0).spend(0).spend(0).spend(0) is not None


def test_the_back_off_doubles_up_to_half_a_minute():
    backoff, delays = Backoff(), []
    for _ in range(9):
        backoff = backoff.after_failure(100, 0, "down")
        delays.append(backoff.retry_at - 100)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert Backoff().seconds_left(5) == 1
    assert backoff.seconds_left(100) == 30
    assert backoff.seconds_left(100.5) == 30
    assert backoff.seconds_left(500) == 1
    assert math.isclose(Backoff().after_failure(0, 1, "").retry_at, 0.55)


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_ttl": -1},
        {"cooldown": -0.1},
        {"min_ttl": 10, "max_ttl": 5},
        {"refresh_ahead": 0},
        {"refresh_ahead": float("nan")},
        {"stale_if_error": float("inf")},
        {"cooldown": float("nan")},
        {"timeout": float("inf")},
        {"max_bytes": "1"},
        {"refresh_ahead": 1.1},
        {"timeout": 0},
        {"max_bytes": 0},
        {"max_keys": 0},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=f"KeyPolicy\\({next(iter(wrong))}"):
        KeyPolicy(**wrong)
