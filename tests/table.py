"""The one table: what a client sends, and what every door must answer, to the byte.

Each row goes through the core, through ASGI and through WSGI servers alike, so that no door has rules of
its own.  The numbers are those of the response table in the documentation of answers: 1 no credentials,
3 malformed credentials, 5 bad token, 6 scope, 7 role, 14 outage, 16 preflight, 18 optional.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tokens import ABSENT, ALGORITHMS, API, NOW, as_json, base64url, claims, compact, header, jwks, key, token

from ticketgate import role, scope

DOWN = "https://down.example"
DOWN_JWKS = "https://127.0.0.1:9/jwks"  # nobody listens on the discard port
PATHS = {
    "/": (),
    "/orders": (scope("orders:read"),),
    "/both": (scope("orders:read", "orders:write"),),
    "/either": (scope("a") | scope("b"),),
    "/admin": (role("admin"),),
    "/clerk": (scope("orders:read") & role("clerk"),),
}


@dataclass(frozen=True)
class Expected:
    """An answer: its status, its challenge lines and its JSON body."""

    status: int
    challenges: tuple[str, ...] = ()
    body: Any = None


def refused(status: int, error: str, description: str, more: str = "") -> Expected:
    line = f'Bearer realm="{API}", error="{error}", error_description="{description}"{more}'
    return Expected(status, (line,), {"error": error, "error_description": description})


def lacking(scopes: str) -> Expected:
    words = "The access token lacks a scope that this operation needs"
    return refused(403, "insufficient_scope", words, f', scope="{scopes}"')


OPEN = Expected(200, body={"sub": "alice"})
ANONYMOUS = Expected(200, body={"sub": None})
PREFLIGHT = ANONYMOUS
NO_CREDENTIALS = Expected(401, (f'Bearer realm="{API}"',), {})
MALFORMED = refused(
    400, "invalid_request", "The Authorization header must be one set of well-formed credentials"
)
INVALID = refused(401, "invalid_token", "The access token is invalid")
EXPIRED = refused(401, "invalid_token", "The access token expired")
EARLY = refused(401, "invalid_token", "The access token is not valid yet")
ELSEWHERE = refused(401, "invalid_token", "The access token was issued for another resource")
BOUND = refused(401, "invalid_token", "The access token is bound to a key and no proof was accepted")
DENIED = refused(403, "insufficient_scope", "The access token does not grant this operation")
UNAVAILABLE = Expected(503, (), {})


@dataclass(frozen=True)
class Row:
    """One request and its answer; ``refused_by`` names the servers that refuse it by themselves."""

    name: str
    authorization: tuple[bytes, ...]
    expected: Expected
    path: str = "/"
    method: str = "GET"
    optional: bool = False
    more: tuple[tuple[bytes, bytes], ...] = ()
    refused_by: frozenset[str] = field(default=frozenset())


def row(name: str, credentials: bytes | tuple[bytes, ...], expected: Expected, **options: Any) -> Row:
    values = (credentials,) if isinstance(credentials, bytes) else credentials
    servers = frozenset(options.pop("refused_by", "").split())
    return Row(name, values, expected, refused_by=servers, **options)


def bearer(raw: bytes) -> bytes:
    return b"Bearer " + raw


GOOD = token()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(b".")
ES256, STRANGER = key("ES256"), key("RS256", "stranger")
CONTROLS = "httptools gunicorn waitress"

CREDENTIALS = [
    row("1 none", (), NO_CREDENTIALS),
    row("1 an empty value", b"", NO_CREDENTIALS),
    row("2 Basic", b"Basic dXNlcjpzZWNyZXQ=", NO_CREDENTIALS),
    row("2 DPoP", b"DPoP " + GOOD, NO_CREDENTIALS),
    row("2 Negotiate", b"Negotiate abc", NO_CREDENTIALS),
    row("2 a scheme that begins like ours", b"BearerX " + GOOD, NO_CREDENTIALS),
    row("2 the token alone", GOOD, NO_CREDENTIALS),
    row("2 token in the query", (), NO_CREDENTIALS, path="/?access_token=" + GOOD.decode()),
    row("3 no token", b"Bearer", MALFORMED),
    row("3 no token but a space", b"Bearer ", MALFORMED),
    row("3 surplus text", bearer(GOOD) + b" more", MALFORMED),
    row("3 surplus parameter", bearer(GOOD) + b', realm="x"', MALFORMED),
    row("3 two tokens", bearer(GOOD) + b" " + GOOD, MALFORMED),
    row("3 a tab for the space", b"Bearer\t" + GOOD, MALFORMED),
    row("3 quotes", b'Bearer "' + GOOD + b'"', MALFORMED),
    row("3 padding alone", b"Bearer ===", MALFORMED),
    row("3 padding in the middle", b"Bearer ab=cd", MALFORMED),
    row("3 Latin-1", b"Bearer caf\xe9", MALFORMED),
    row("3 UTF-8", "Bearer café".encode(), MALFORMED),
    row("3 bytes that are no text", b"Bearer \xff\xfe\x80", MALFORMED),
    row("3 a scheme of odd bytes", b"\xff\xfe " + GOOD, MALFORMED),
    row("3 a control byte", b"Bearer a\x01b", MALFORMED, refused_by=CONTROLS),
    row("3 NUL", b"Bearer a\x00b", MALFORMED, refused_by=CONTROLS + " h11"),
    row("3 16 KiB and a byte", bearer(b"a" * 16_385), MALFORMED, refused_by="gunicorn"),
    row("3 a mebibyte", bearer(b"a" * 2**20), MALFORMED, refused_by="h11 gunicorn waitress"),
    row("4 two fields", (bearer(GOOD), bearer(GOOD)), MALFORMED),
    row("4 two fields of two schemes", (bearer(GOOD), b"Basic abc"), MALFORMED),
    row("4 two fields the other way round", (b"Basic abc", bearer(GOOD)), MALFORMED),
    row("4 joined with a comma", bearer(GOOD) + b"," + bearer(GOOD), MALFORMED),
    row("4 joined with comma and space", bearer(GOOD) + b", Basic abc", MALFORMED),
    row("4 joined the other way round", b"Basic abc, " + bearer(GOOD), MALFORMED),
    row("5 16 KiB", bearer(b"a" * 16_384), INVALID, refused_by="gunicorn"),
    row("ok", bearer(GOOD), OPEN),
    row("ok in lower case", b"bearer " + GOOD, OPEN),
    row("ok in upper case", b"BEARER " + GOOD, OPEN),
    row("ok after several spaces", b"Bearer     " + GOOD, OPEN),
    row("16 preflight", (), PREFLIGHT, method="OPTIONS", more=(
        (b"origin", b"https://app.example"), (b"access-control-request-method", b"GET"))),
    row("16 OPTIONS without asking for a method", (), NO_CREDENTIALS, method="OPTIONS", more=(
        (b"origin", b"https://app.example"),)),
    row("16 OPTIONS without an origin", (), NO_CREDENTIALS, method="OPTIONS", more=(
        (b"access-control-request-method", b"GET"),)),
    row("18 optional, none", (), ANONYMOUS, optional=True),
    row("18 optional, another scheme", b"Basic abc", ANONYMOUS, optional=True),
    row("18 optional, a good token", bearer(GOOD), OPEN, optional=True),
    row("18 optional, a bad token", bearer(token(exp=NOW - 60)), EXPIRED, optional=True),
    row("18 optional, malformed", b"Bearer", MALFORMED, optional=True),
    row("18 optional, but a scope is needed", (), NO_CREDENTIALS, path="/orders", optional=True),
]  # fmt: skip


def bad(name: str, raw: bytes, expected: Expected = INVALID) -> Row:
    return row(name, bearer(raw), expected)


def good(name: str, raw: bytes) -> Row:
    return row(name, bearer(raw), OPEN)


def deep(levels: int) -> bytes:
    return as_json(claims())[:-1] + b',"x":' + b"[" * levels + b"]" * levels + b"}"


def der(raw: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def with_public_key_as_secret(signing_input: bytes) -> bytes:
    return hmac.digest(json.dumps(key().public_jwk()).encode(), signing_input, hashlib.sha256)


def flipped(segment: bytes) -> bytes:
    """The segment with another first character."""
    return (b"B" if segment[:1] != b"B" else b"C") + segment[1:]


H = header(key())
FORM = [
    bad("5 opaque", b"2YotnFZFEjr1zCsicMWpAA"),
    bad("5 one dot", HEAD + b"." + PAYLOAD),
    bad("5 four parts", GOOD + b"." + SIGNATURE),
    bad("5 five parts", b".".join([HEAD, b"", PAYLOAD, PAYLOAD, SIGNATURE])),
    bad("5 dots alone", b".."),
    bad("5 no payload", HEAD + b".." + SIGNATURE),
    bad("5 no header", b"." + PAYLOAD + b"." + SIGNATURE),
    bad("5 a part is padded", HEAD + b"." + PAYLOAD + b"." + SIGNATURE + b"=="),
    bad("5 plain base64", HEAD + b"." + PAYLOAD + b".ab+/" + SIGNATURE),
    bad("5 bits to spare", GOOD[:-1] + bytes([GOOD[-1] + 1])),
    bad("5 a length that base64 never has", HEAD + b"." + PAYLOAD + b"." + SIGNATURE[:-1]),
    bad("5 header is no JSON", compact(b"{", claims())),
    bad("5 header is an array", compact([H], claims())),
    bad("5 payload is an array", compact(H, [claims()])),
    bad("5 payload is a string", compact(H, '"text"')),
    bad("5 payload is null", compact(H, b"null")),
    bad("5 payload is empty", compact(H, b"")),
    bad("5 something after the payload", compact(H, as_json(claims()) + b"{}")),
    bad("5 a name twice in the header", compact(as_json(H)[:-1] + b',"alg":"RS256"}', claims())),
    bad("5 a name twice in the payload", compact(H, as_json(claims())[:-1] + b',"sub":"alice"}')),
    bad("5 a name twice deep in the payload", compact(H, as_json(claims())[:-1] + b',"x":{"a":1,"a":1}}')),
    bad("5 NaN", compact(H, as_json(claims())[:-1] + b',"x":NaN}')),
    bad("5 Infinity", compact(H, as_json(claims())[:-1] + b',"x":-Infinity}')),
    bad("5 a number out of range", compact(H, as_json(claims())[:-1] + b',"x":1e999}')),
    good("ok 64 levels deep", compact(H, deep(63))),
    bad("5 65 levels deep", compact(H, deep(64))),
    bad("5 thousands of levels deep", compact(H, deep(5000))),
    good("ok brackets in a string", token(x="[" * 500 + '\\"' + "{" * 500)),
    bad("5 UTF-16", compact(H, json.dumps(claims()).encode("utf-16"))),
    bad("5 UTF-32", compact(H, json.dumps(claims()).encode("utf-32-le"))),
    bad("5 a byte order mark", compact(H, b"\xef\xbb\xbf" + as_json(claims()))),
    bad("5 no UTF-8", compact(H, as_json(claims())[:-1] + b',"x":"\xff"}')),
    bad("5 a lone surrogate", compact(H, as_json(claims())[:-1] + b',"x":"\\ud800"}')),
    bad("5 a header above 8 KiB", token(head={"x": "y" * 8192})),
    good("ok a large header", token(head={"x": "y" * 4096})),
    good("ok a very long integer", compact(H, as_json(claims())[:-1] + b',"x":' + b"9" * 1000 + b"}")),
]

HEADER = [
    *(good(f"ok {algorithm}", token(signing=key(algorithm))) for algorithm in ALGORITHMS),
    *(good(f"ok typ {typ}", token(head={"typ": typ})) for typ in (
        "at+jwt", "at+JWT", "AT+JWT", "application/at+jwt", "Application/AT+JWT")),
    *(bad(f"5 typ {typ!r}", token(head={"typ": typ})) for typ in (
        ABSENT, None, "", "JWT", "jwt", "at+jwt;x=1", "at+jwt ", " at+jwt", "text/at+jwt", "at", "at+jwt,JWT",
        ["at+jwt"], 1, "dpop+jwt", "token-introspection+jwt", "application/application/at+jwt", "\u212at+jwt")),
    *(bad(f"5 alg {alg!r}", token(head={"alg": alg})) for alg in (
        ABSENT, None, 1, ["RS256"], "", "rs256", "RS256 ", "RS384", "RS512", "PS256", "ES256", "HS256", "foo")),
    *(bad(f"5 alg {alg} and no signature", compact(H | {"alg": alg}, claims(), lambda _: b""))
      for alg in ("none", "None", "NONE", "nOnE", "RS256")),
    bad("5 HS256 with the public key as its secret",
        compact(H | {"alg": "HS256"}, claims(), with_public_key_as_secret)),
    *(bad(f"5 crit {crit!r}", token(head={"crit": crit, "exp": 1, "b64": True})) for crit in (
        None, 1, "exp", [], [None], ["exp"], ["b64"], ["alg"], ["exp", "exp"], {"exp": 1})),
    bad("5 crit alone", token(head={"crit": ["exp"]})),
    *(bad(f"5 b64 {b64}", token(head={"b64": b64})) for b64 in (True, False, None)),
    *(bad(f"5 kid {kid!r}", token(head={"kid": kid})) for kid in (1, None, ["x"], "", "unknown")),
    bad("5 kid of another key", token(head={"kid": ES256.kid})),
    bad("5 no kid where several keys fit", token(signing=key("EdDSA"), head={"kid": ABSENT})),
    good("ok no kid where one key fits", token(head={"kid": ABSENT})),
    *(good(f"ok {name} is ignored", token(head={name: "https://attacker.example"})) for name in ("jku", "x5u")),
    *(bad(f"5 {name} brings no key", token(signing=STRANGER, head={name: value, "kid": key().kid}))
      for name, value in (("jwk", STRANGER.public_jwk()), ("jku", "http://127.0.0.1:1/jwks"),
                          ("x5u", "http://127.0.0.1:1/x5u"), ("x5c", ["MIIB"]))),
]  # fmt: skip

SIGNATURES = [
    bad("5 a stranger's signature", token(signing=STRANGER, head={"kid": key().kid})),
    bad("5 a stranger's key id", token(signing=STRANGER)),
    bad("5 another header", HEAD[:-4] + flipped(HEAD[-4:]) + b"." + PAYLOAD + b"." + SIGNATURE),
    bad("5 another payload", HEAD + b"." + base64url(as_json(claims(sub="root"))) + b"." + SIGNATURE),
    bad("5 another signature", HEAD + b"." + PAYLOAD + b"." + flipped(SIGNATURE)),
    bad("5 half a signature", HEAD + b"." + PAYLOAD + b"." + SIGNATURE[:172]),
    bad("5 too much signature", HEAD + b"." + PAYLOAD + b"." + SIGNATURE + b"AAAA"),
    bad("5 no signature", HEAD + b"." + PAYLOAD + b"."),
    bad("5 ES256 in DER", compact(header(ES256), claims(), lambda raw: der(ES256.sign(raw)))),
    bad("5 ES256 of nothing", compact(header(ES256), claims(), lambda _: bytes(64))),
    bad("5 ES256 with the key of another curve",
        compact(header(ES256, kid=key("ES384").kid), claims(), key("ES384").sign)),
    bad("5 PS256 with the key for RS256", token(head={"alg": "PS256"})),
]  # fmt: skip

CLAIMS = [
    *(bad(f"5 iss {iss!r}", token(iss=iss)) for iss in (
        ABSENT, None, 1, "", "https://as.example/", "https://AS.example", "http://as.example",
        "https://other.example", ["https://as.example"])),
    *(good(f"ok aud {aud}", token(aud=aud)) for aud in (API, [API], ["https://other.example", API])),
    *(bad(f"5 aud {aud!r}", token(aud=aud), ELSEWHERE) for aud in (
        ABSENT, None, 1, True, "", [], [[API]], {"aud": API}, [API, 1], "https://API.example", API + "/",
        API + " https://other.example", "https://other.example", ["https://other.example"], "app")),
    *(bad(f"5 exp {exp!r}", token(exp=exp)) for exp in (
        ABSENT, None, str(NOW + 60), True, [NOW + 60], 1e300, 10**30, 253_402_300_800)),
    bad("5 exp as a very long integer",
        compact(H, as_json(claims(exp=0)).replace(b'"exp":0', b'"exp":' + b"9" * 400))),
    *(bad(f"5 exp {exp}", token(exp=exp), EXPIRED) for exp in (NOW - 30, NOW - 30.5, 0, -1, 1.5)),
    *(good(f"ok exp {exp}", token(exp=exp)) for exp in (NOW - 29, NOW - 29.5, 253_402_300_799)),
    *(bad(f"5 nbf {nbf!r}", token(nbf=nbf)) for nbf in (None, "0", False, [], 1e300)),
    *(bad(f"5 nbf {nbf}", token(nbf=nbf), EARLY) for nbf in (NOW + 31, NOW + 30.5)),
    *(good(f"ok nbf {nbf}", token(nbf=nbf)) for nbf in (NOW + 30, NOW, 0)),
    *(bad(f"5 iat {iat!r}", token(iat=iat)) for iat in (ABSENT, None, "0", True, 1e300)),
    bad("5 iat to come", token(iat=NOW + 31), EARLY),
    *(good(f"ok iat {iat}", token(iat=iat)) for iat in (NOW + 30, 0, NOW - 0.25)),
    *(bad(f"5 {name} {value!r}", token(**{name: value}))
      for name in ("sub", "client_id", "jti") for value in (ABSENT, None, "", 1, True, ["x"])),
    *(bad(f"5 cnf {cnf!r}", token(cnf=cnf), BOUND) for cnf in (
        {"jkt": "x"}, {"x5t#S256": "x"}, {"unknown": 1}, {}, None, "x", [1])),
]  # fmt: skip

GRANTS = [
    row("6 no scope", bearer(GOOD), lacking("orders:read"), path="/orders"),
    row("6 another scope", bearer(token(scope="orders:reads read")), lacking("orders:read"), path="/orders"),
    row("6 scope in another case", bearer(token(scope="Orders:Read")), lacking("orders:read"), path="/orders"),
    row("6 one of two", bearer(token(scope="orders:read")), lacking("orders:read orders:write"), path="/both"),
    row("6 neither alternative", bearer(GOOD), lacking("a"), path="/either"),
    *(row(f"6 scope {value!r}", bearer(token(scope=value)), lacking("orders:read"), path="/orders")
      for value in (None, 1, ["orders:read x"], [["orders:read"]], {"orders:read": 1}, "", "orders:read\tx")),
    row("ok scope in an array", bearer(token(scope=["x", "orders:read"])), OPEN, path="/orders"),
    row("ok scope", bearer(token(scope="orders:read")), OPEN, path="/orders"),
    row("ok scope among others", bearer(token(scope=" a  orders:read b ")), OPEN, path="/orders"),
    row("ok both scopes", bearer(token(scope="orders:write orders:read")), OPEN, path="/both"),
    row("ok the second alternative", bearer(token(scope="b")), OPEN, path="/either"),
    *(row(f"7 roles {roles!r}", bearer(token(roles=roles, scope="admin")), DENIED, path="/admin")
      for roles in (ABSENT, None, 1, "administrator", "user admin", ["Admin"], [["admin"]], {"admin": True},
                    [{"display": "admin"}], [{"value": "user", "display": "admin"}], [{"value": 1}])),
    *(row(f"ok roles {roles!r}", bearer(token(roles=roles)), OPEN, path="/admin")
      for roles in ("admin", ["admin"], ["user", "admin"], [{"value": "admin"}],
                    [{"value": "admin", "display": "user"}, None])),
    row("7 scope there, role missing", bearer(token(scope="orders:read")), DENIED, path="/clerk"),
    row("6 role there, scope missing", bearer(token(roles=["clerk"])), lacking("orders:read"), path="/clerk"),
    row("7 neither there", bearer(GOOD), DENIED, path="/clerk"),
    row("ok both there", bearer(token(roles=["clerk"], scope="orders:read")), OPEN, path="/clerk"),
]  # fmt: skip

OUTAGE = [
    row("14 keys that nobody can fetch", bearer(token(iss=DOWN)), UNAVAILABLE),
    row("14 the same when optional", bearer(token(iss=DOWN)), UNAVAILABLE, optional=True),
    row("5 expired, so that keys do not matter", bearer(token(iss=DOWN, exp=NOW - 60)), EXPIRED),
]

TABLE = [*CREDENTIALS, *FORM, *HEADER, *SIGNATURES, *CLAIMS, *GRANTS, *OUTAGE]
assert len({one.name for one in TABLE}) == len(TABLE)
KEYS = jwks()
