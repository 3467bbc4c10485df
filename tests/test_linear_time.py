"""Whatever an unauthenticated client sends is read in time proportional to its length (SECURITY.md).

For every parser, and every regular expression in the package, the worst of these is found at the full size:
each byte repeated, each pair of significant bytes repeated, both also behind the beginnings that lead a parser
deeper, and a good input that is cut short.  Then the worst is read at half the size, and half of that:
what doubles may cost 2.5 times as much.  Quadratic time shows as 4.
"""

import ast
import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest
from flows import World
from joserfc.jwk import ECKey
from tokens import key

from ticketgate import Issuer, ResourceRequest, ResourceServer
from ticketgate.core.access_token import AccessToken
from ticketgate.core.credentials import MAX_TOKEN_BYTES
from ticketgate.core.freshness import KeyPolicy, freshness_lifetime, retry_after
from ticketgate.core.issuer import DEFAULT_ALGORITHMS
from ticketgate.core.jwe import encrypt
from ticketgate.core.jwt import decode_base64url, read
from ticketgate.core.keys import parse_jwk_set
from ticketgate.core.metadata import parse_metadata
from ticketgate.core.public import PublicPaths
from ticketgate.core.signing_key import base64url, finish_jwt, sign_jwt
from ticketgate.core.strict_json import FrozenDict, parse_object
from ticketgate.core.subprotocol import offered_token
from ticketgate.core.web_address import is_safe
from ticketgate.demo.browser_clients import BrowserClient, BrowserClients
from ticketgate.errors import CannotDecide, OAuthError
from ticketgate.issuing.assertions import read_assertion
from ticketgate.issuing.clients import Client, Clients
from ticketgate.issuing.introspection_endpoint import _wants_signed
from ticketgate.issuing.messages import EndpointRequest, Refusal, parse_form, read_parameters
from ticketgate.issuing.tokens import scope_values

READS_NO_REQUEST = {"audit", "cli.py", "demo", "testing.py", "route_templates.py"}
(ROOT,) = map(Path, find_spec("ticketgate").submodule_search_locations)
API, AS = "https://api.example", "https://as.example"
SIZES = (1_024, 2_048, 4_096, 8_192, 16_384)
FULL = SIZES[-1]
SIGNIFICANT = b'"\\{}[],:;.-+/=&%#@? \t\n\0aA0e'
BEGINNINGS = {
    "bytes": (b"",),
    "json": (b"", b'{"a":', b'{"a":"', b'{"a":[0,', b"[" * 66 + b'"', b'{"a":' + b"[" * 66 + b'"\\"'),
    "url": (b"", b"https://", b"https://as.example/", b"https://[", b"http://127.0.0.1:"),
    "header": (b"", b"Bearer ", b"Basic ", b"Basic,", b"max-age="),
}
DECRYPTION_KEY = ECKey.generate_key("P-256", {"kid": "ours"})
CLIENTS = Clients([Client("app", "s" * 32)])
BROWSER_CLIENT = BrowserClient("web", frozenset(), frozenset({"http://127.0.0.1/cb"}))
PUBLIC = PublicPaths(["/health", "/docs/*"])


def read_offer(fields: list[bytes]) -> object:
    offer = offered_token(fields)
    return offer and offer.authorization()


def claims(size: int) -> dict[str, object]:
    """The claims of a token that is about as long as ``size`` once it is encoded: many groups, as directories have."""
    names = [f"{number:032x}" for number in range(max(1, (size * 3 // 4 - 450) // 36))]
    now = int(time.time())
    plain = {"iss": AS, "sub": "alice", "aud": API, "client_id": "app", "jti": "1", "groups": names}
    return {**plain, "iat": now, "exp": now + 300}


def signed(size: int) -> bytes:
    return sign_jwt(key(), "at+jwt", claims(size)).encode()


def encrypted(size: int) -> bytes:
    return encrypt(
        signed(max(1, size * 3 // 4 - 200)).decode(), DECRYPTION_KEY.as_dict(private=False)
    ).encode()


def with_payload(raw: bytes) -> bytes:
    """A token whose payload is ``raw``, with a good header and a signature that nobody made."""
    header = base64url(json.dumps({"typ": "at+jwt", "alg": "RS256", "kid": key().kid}).encode())
    return finish_jwt(header + b"." + base64url(raw[: len(raw) * 3 // 4 - 350]), bytes(256)).encode()


def with_header(raw: bytes) -> bytes:
    return base64url(raw[: len(raw) * 3 // 4]) + b".e30.AA"


def with_type(raw: bytes) -> bytes:
    """A token with ``raw`` in its typ, escaped so that any byte can stand there."""
    header = json.dumps({"alg": "RS256", "typ": raw[:4_000].decode("latin-1")})
    return base64url(header.encode()[:6_000]) + b".e30.AA"


def encrypted_payload(raw: bytes) -> bytes:
    inner = with_payload(raw[: len(raw) * 3 // 4 - 300]).decode()
    return encrypt(inner, DECRYPTION_KEY.as_dict(private=False)).encode()


def server(**options: object) -> ResourceServer:
    return ResourceServer(
        API, Issuer(AS, jwks={"keys": [key().public_jwk()]}), token_cache=0, leeway=300, **options
    )


PLAIN, DECRYPTING = server(), server(decryption_keys=[DECRYPTION_KEY.as_dict(private=True)])


def present(to: ResourceServer, token: bytes) -> None:
    _ = World().run(to.authenticate(ResourceRequest(authorization=(b"Bearer " + token,))))


def text(function: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda raw: function(raw.decode("latin-1"))


GOOD_FORM = b"grant_type=client_credentials&scope=" + b"a" * FULL
GOOD_JSON = json.dumps(claims(FULL)).encode()
GOOD_JWKS = json.dumps({"keys": [key().public_jwk()] * 30}).encode()

Good: TypeAlias = bytes | Callable[[int], bytes]
PARSERS: dict[str, tuple[str, Callable[[bytes], object], Good]] = {
    # name              the beginnings, the parser, a good input to cut short
    "token": ("bytes", lambda raw: present(PLAIN, raw), signed),
    "payload": ("json", lambda raw: present(PLAIN, with_payload(raw)), GOOD_JSON),
    "header": ("json", lambda raw: present(PLAIN, with_header(raw)), GOOD_JSON),
    "type": ("bytes", lambda raw: present(PLAIN, with_type(raw)), b"application/at+jwt" * 900),
    "encrypted token": ("bytes", lambda raw: present(DECRYPTING, raw), encrypted),
    "encrypted header": ("json", lambda raw: present(DECRYPTING, with_header(raw)[:-6] + b"...."), GOOD_JSON),
    "jwt": ("bytes", read, signed),
    "base64url": ("bytes", decode_base64url, base64url(bytes(FULL))),
    "json": ("json", parse_object, GOOD_JSON),
    "credentials": ("header", lambda raw: present(PLAIN, raw[7:]), lambda size: b"Bearer " + signed(size)),
    "another scheme": (
        "header",
        lambda raw: World().run(PLAIN.authenticate(ResourceRequest(authorization=(raw,)))),
        b"Basic " + b"a, bearer" * 1_800,
    ),
    "subprotocols": ("bytes", lambda raw: read_offer([raw]), b"bearer, x, " * 1_400),
    "path": ("bytes", text(PUBLIC.include), b"/docs/" + b"a/" * 8_000),
    "below a public path": ("bytes", text(lambda path: PUBLIC.include(f"/docs/{path}")), b"a/" * 8_000),
    "below a root path": ("bytes", text(lambda path: PUBLIC.include(f"/api/docs/{path}", "/api")), b"a/" * 8_000),
    "form": ("bytes", lambda raw: read_parameters(EndpointRequest(body=raw)), GOOD_FORM),
    "query": ("bytes", parse_form, GOOD_FORM),
    "client credentials": (
        "header",
        lambda raw: CLIENTS.authenticated(EndpointRequest(authorization=(raw,)), {}, 0),
        b"Basic " + base64url(b"%41" * 3_000),
    ),
    "assertion": ("bytes", text(read_assertion), signed),
    "assertion payload": ("json", lambda raw: read_assertion(with_payload(raw).decode()), GOOD_JSON),
    "client id": ("bytes", text(lambda name: CLIENTS.authenticated(EndpointRequest(), {"client_id": name}, 0)), b"a" * FULL),
    "accept": ("bytes", _wants_signed, b"application/json;q=1," * 800),
    "scope": ("bytes", text(scope_values), b"orders:read " * 1_300),
    "scope claim": ("bytes", text(lambda value: AccessToken(FrozenDict(scope=value), FrozenDict()).scopes), b"a " * 8_000),
    "url": ("url", text(is_safe), b"https://as.example/" + b"a/" * 8_000),
    "redirect uri": (
        "url",
        text(BROWSER_CLIENT.has_redirect_uri),
        b"http://127.0.0.1:1/" + b"a" * FULL,
    ),
    "origin": ("url", text(BrowserClients([BROWSER_CLIENT]).have_pages_at), b"http://127.0.0.1:" + b"1" * FULL),
    "jwk set": ("json", lambda raw: parse_jwk_set(raw, DEFAULT_ALGORITHMS, 100), GOOD_JWKS),
    "modulus": (
        "bytes",
        lambda raw: parse_jwk_set(
            json.dumps({"keys": [{"kty": "RSA", "n": raw.decode("latin-1"), "e": "AQAB"}]}).encode(),
            DEFAULT_ALGORITHMS,
            100,
        ),
        base64url(b"\xff" * FULL),
    ),
    "metadata": ("json", lambda raw: parse_metadata(raw, AS), GOOD_JSON),
    "cache control": (
        "header",
        text(lambda value: freshness_lifetime({"cache-control": value, "age": value}, KeyPolicy())),
        b"max-age=" + b"1" * FULL,
    ),
    "retry after": ("bytes", text(lambda value: retry_after({"retry-after": value}, 0)), b"1" * FULL),
}  # fmt: skip


def modules() -> list[Path]:
    """Those that read what clients and issuers send."""
    paths = sorted(ROOT.rglob("*.py"))
    return [path for path in paths if READS_NO_REQUEST.isdisjoint(path.relative_to(ROOT).parts)]


def patterns() -> Iterator[tuple[str, "re.Pattern[str] | re.Pattern[bytes]"]]:
    """Every regular expression in the package, read from its source: not every module can be imported here."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"re.compile", "compile"}:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", eval(ast.unparse(node), {"re": re})


PATTERNS = dict(patterns())


class Hostile(NamedTuple):
    """An input that may take long to read, of any size."""

    name: str
    of_size: Callable[[int], bytes]

    @classmethod
    def repeated(cls, beginning: bytes, unit: bytes) -> "Hostile":
        return cls(
            f"{beginning!r}, then {unit!r} again and again", lambda size: (beginning + unit * size)[:size]
        )


def hostile(beginnings: tuple[bytes, ...], good: Good) -> list[Hostile]:
    units = [bytes([byte]) for byte in range(256)]
    units += [bytes(pair) for pair in itertools.permutations(SIGNIFICANT, 2)]
    make = good if callable(good) else partial(getitem, good)
    short = Hostile("a good one, cut short", lambda size: make(size)[:-1])
    return [short, *itertools.starmap(Hostile.repeated, itertools.product(beginnings, units))]


def getitem(good: bytes, size: int) -> bytes:
    return good[:size]


def cost(parse: Callable[[bytes], object], raw: bytes, attempts: int = 1) -> float:
    """Seconds of processor time, the least of some attempts."""
    times: list[float] = []
    for _ in range(attempts):
        before = time.thread_time()
        with contextlib.suppress(ValueError, OAuthError, CannotDecide, Refusal):
            _ = parse(raw)
        times.append(time.thread_time() - before)
    return min(times)


def worst(parse: Callable[[bytes], object], inputs: list[Hostile]) -> list[Hostile]:
    """The three that cost most."""
    return sorted(inputs, key=lambda one: cost(parse, one.of_size(FULL)), reverse=True)[:3]


def growth(parse: Callable[[bytes], object], one: Hostile) -> float:
    """By how much the cost grows where the size doubles, at most; below 50 microseconds nothing can be measured."""
    costs = [max(cost(parse, one.of_size(size), 5), 50e-6) for size in SIZES]
    return max(after / before for before, after in itertools.pairwise(costs))


def assert_linear(kind: str, parse: Callable[[bytes], object], good: Good) -> None:
    for one in worst(parse, hostile(BEGINNINGS[kind], good)):
        grown = growth(parse, one)
        for _ in range(4):  # a machine that is busy elsewhere may make one measurement look worse
            grown = min(grown, growth(parse, one)) if grown >= 2.5 else grown
        assert grown < 2.5, f"{one.name}: {grown:.1f} times as much for twice the size"


@pytest.mark.parametrize("name", PARSERS)
def test_time_is_proportional_to_size(name):
    kind, parse, good = PARSERS[name]
    assert_linear(kind, parse, good)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_takes_time_proportional_to_size(name):
    pattern = PATTERNS[name]
    of_bytes = isinstance(pattern.pattern, bytes)
    match = pattern.fullmatch if of_bytes else text(pattern.fullmatch)
    assert_linear("bytes", match, b"a" * FULL)


@pytest.mark.parametrize(
    ("good", "to", "tokens"),
    [
        (signed(FULL - 300), PLAIN, ("token", "payload", "header", "type", "credentials", "another scheme")),
        (encrypted(FULL - 300), DECRYPTING, ("encrypted token", "encrypted header")),
    ],
    ids=["signed", "encrypted"],
)
def test_a_bad_token_costs_at_most_ten_times_a_good_one(good, to, tokens):
    assert len(good) <= MAX_TOKEN_BYTES
    for name in tokens:
        kind, parse, sample = PARSERS[name]
        for bad in worst(parse, hostile(BEGINNINGS[kind], sample)):
            assert ratio(parse, bad.of_size(FULL), to, good) < 10, f"{name}, {bad.name}"


def test_what_is_encrypted_for_us_costs_at_most_ten_times_a_good_one():
    good = encrypted(FULL - 300)
    for beginning, unit in itertools.product(
        BEGINNINGS["json"], (b"[", b"{}", b',""', b'\\"', b",1e1", b"[]")
    ):
        bad = encrypted_payload((beginning + unit * FULL)[:FULL])
        assert ratio(partial(present, DECRYPTING), bad, DECRYPTING, good) < 10, f"{beginning!r} and {unit!r}"


def ratio(parse: Callable[[bytes], object], bad: bytes, to: ResourceServer, good: bytes) -> float:
    """What ``bad`` costs in terms of a good token, measured side by side."""
    return min(cost(parse, bad, 3) / cost(partial(present, to), good, 3) for _ in range(4))


def searches(source: str) -> list[str]:
    """The calls that look for a pattern anywhere: each start may scan the rest again."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = (call.func.attr for call in calls if isinstance(call.func, ast.Attribute))
    return [name for name in named if name in {"search", "sub", "subn", "finditer", "findall"}]


def test_nothing_searches_with_a_regular_expression():
    assert searches("X.search(raw); re.sub(b'', raw); X.fullmatch(raw)") == ["search", "sub"]
    for path in modules():
        assert not searches(path.read_text()), path
