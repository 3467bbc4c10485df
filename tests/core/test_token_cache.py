"""The cache of verified tokens never opens a door that verification would keep closed."""

import threading

import pytest
from flows import World, reply, run
from tokens import API, ISSUER, NOW, Time, claims, compact, header, jwks, key, token

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.clock import Now
from ticketgate.core.freshness import Held
from ticketgate.core.jwt import KNOWN_HEADERS, MAX_KNOWN_HEADERS
from ticketgate.core.key_source import KeySource
from ticketgate.core.keys import static_jwk_set
from ticketgate.core.request import bearer_request
from ticketgate.core.token_cache import TokenCache
from ticketgate.errors import ConfigurationError, InvalidToken

JWKS = "https://as.example/jwks"


class Gate:
    """A resource server whose keys come from a world, with its clock."""

    def __init__(self, **options):
        self.time = Time()
        self.world = World({JWKS: jwks(key())})
        policy = KeyPolicy(min_ttl=1, cooldown=0)
        self.issuer = Issuer(ISSUER, jwks_uri=JWKS, keys=policy)
        self.server = ResourceServer(API, self.issuer, clock=self.time.clock, **options)

    def open(self, raw):
        return self.world.run(self.server.authenticate(bearer_request(raw)))


def test_a_hit_gives_the_very_same_token():
    gate = Gate()
    raw = token()
    assert gate.open(raw) is gate.open(raw)


def test_no_cache_gives_another_one():
    gate = Gate(token_cache=0)
    raw = token()
    assert gate.open(raw) is not gate.open(raw)


@pytest.mark.parametrize("cached", [0, 100])
@pytest.mark.parametrize("leeway", [0, 30])
def test_expiry_is_exact(cached, leeway):
    gate = Gate(token_cache=cached, leeway=leeway)
    raw = token(exp=NOW + 20)
    gate.open(raw)
    gate.time.wall = NOW + 20 + leeway - 0.001
    gate.open(raw)
    gate.time.wall = NOW + 20 + leeway
    with pytest.raises(InvalidToken, match="expired"):
        gate.open(raw)


def test_an_entry_lives_for_a_minute():
    gate = Gate()
    raw = token()
    first = gate.open(raw)
    gate.time.advance(59)
    assert gate.open(raw) is first
    gate.time.advance(1)
    assert gate.open(raw) is not first


def test_an_entry_ends_when_the_keys_are_due():
    gate = Gate()
    gate.world.pages[JWKS] = reply(jwks(key()), cache_control="max-age=20")
    raw = token()
    first = gate.open(raw)
    gate.time.advance(18)
    assert gate.open(raw) is not first
    assert gate.world.behind


def test_a_withdrawn_key_refuses_at_once():
    gate = Gate()
    raw = token()
    gate.open(raw)
    gate.world.pages[JWKS] = jwks(key("ES256"))
    gate.time.advance(1)
    gate.open(token(signing=key("ES256")))
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(raw)


class RotatingKeys(KeySource):
    """Keys that change while a token is being verified, as a refresh on another thread has it."""

    def verify(self, jwt, now, around):
        verified_by = yield from super().verify(jwt, now, around)
        self.held = Held(static_jwk_set(jwks(key("ES256")), ("ES256",)))
        return verified_by


def test_a_key_that_is_withdrawn_during_verification_leaves_nothing_behind():
    issuer = Issuer(ISSUER)
    issuer.keys = RotatingKeys(
        issuer.metadata, ("RS256",), KeyPolicy(), static_jwk_set(jwks(key()), ("RS256",))
    )
    server = ResourceServer(API, issuer, clock=Time().clock)
    raw = token()
    assert run(server.authenticate(bearer_request(raw))).subject == "alice"
    with pytest.raises(InvalidToken, match="unknown_key"):
        run(server.authenticate(bearer_request(raw)))


def test_the_same_keys_again_keep_the_entries():
    gate = Gate()
    raw = token()
    first = gate.open(raw)
    gate.time.advance(1)
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(token(signing=key("ES256")))
    assert gate.open(raw) is first


def test_it_never_decides_what_a_token_may_do():
    gate = Gate()
    assert gate.open(token(scope="a")).scopes == {"a"}
    assert gate.open(token(scope="b")).scopes == {"b"}


def test_a_token_with_the_same_beginning_is_another_token():
    gate = Gate()
    raw = token()
    gate.open(raw)
    with pytest.raises(InvalidToken):
        gate.open(raw[:-4] + b"AAAA")


def test_distinct_tokens_stay_within_bounds():
    cache = TokenCache(1000)
    gate = Gate()
    verified, keys = gate.open(token()), gate.issuer.keys.held.keys
    for number in range(100_000):
        cache.keep(b"%d" % number, verified, gate.issuer, keys, Now(NOW, 1000), 0)
    assert len(cache) == 1000
    assert cache.find(b"99999", Now(NOW, 1000)) is verified
    assert cache.find(b"0", Now(NOW, 1000)) is None


def test_many_threads_share_it():
    server = ResourceServer(API, Issuer(ISSUER, jwks=jwks()), clock=Time().clock, token_cache=8)
    tokens = [token(jti=str(number)) for number in range(40)]
    wrong = []

    def use():
        for _ in range(20):
            for number, raw in enumerate(tokens):
                if run(server.authenticate(bearer_request(raw))).token_id != str(number):
                    wrong.append(number)

    threads = [threading.Thread(target=use) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server._verified) == 8


@pytest.mark.parametrize("size", [-1, 1.5, None, True])
def test_its_size_is_a_number_of_tokens(size):
    with pytest.raises(ConfigurationError, match="token_cache"):
        ResourceServer(API, Issuer(ISSUER, jwks=jwks()), token_cache=size)


@pytest.mark.parametrize(("size", "kept"), [(0, ()), (2, (2, 3))])
def test_a_bounded_cache_keeps_what_was_used_last(size, kept):
    cache = BoundedCache(size)
    for value in (1, 2, 3, 4):
        cache.put(value, value)
        cache.get(2)
    cache.drop(4)
    cache.drop("never there")
    cache.replace("never there", 5)
    cache.put(3, 3)
    assert tuple(sorted(cache.values())) == kept
    assert len(cache) == len(kept)


@pytest.mark.parametrize("size", [0, 2])
def test_looking_and_replacing_is_no_use(size):
    cache = BoundedCache(size)
    cache.put("old", 1)
    cache.put("new", 2)
    assert cache.peek("old") == (1 if size else None)
    cache.replace("old", 3)
    assert cache.values() == ((3, 2) if size else ())
    cache.put("newest", 4)
    assert cache.peek("old") is None
    assert cache.get("new") == (2 if size else None)


def test_only_verified_tokens_have_their_headers_remembered():
    gate = Gate(token_cache=0)
    KNOWN_HEADERS.clear()
    gate.open(token())
    known = dict(KNOWN_HEADERS)
    assert len(known) == 1
    for number in range(MAX_KNOWN_HEADERS + 1):
        with pytest.raises(InvalidToken, match="signature"):
            gate.open(compact(header(key(), number=number), claims(), lambda _: bytes(256)))
    assert known == KNOWN_HEADERS
    for number in range(MAX_KNOWN_HEADERS + 1):
        gate.open(token(head={"number": number}))
    assert 0 < len(KNOWN_HEADERS) <= MAX_KNOWN_HEADERS
