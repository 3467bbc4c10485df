"""Whom we trust: where the keys come from, when they are asked for, and what strangers cannot cause."""

import codecs
import logging

import pytest
from flows import World, reply
from tokens import ABSENT, API, ISSUER, Time, as_json, claims, compact, header, jwks, key, token

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.flow import HttpRequest
from ticketgate.core.keys import WantedKey
from ticketgate.core.request import bearer_request
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable
from ticketgate.events import CacheHit, KeyFetchFailed, KeysRefreshed, Refused

RFC8414 = f"{ISSUER}/.well-known/oauth-authorization-server"
OPENID = f"{ISSUER}/.well-known/openid-configuration"
JWKS = f"{ISSUER}/keys"
METADATA = {"issuer": ISSUER, "jwks_uri": JWKS}
NEW = key("RS256", "new")
FAR = 10**10


class Gate:
    """A resource server before an issuer in a small world."""

    def __init__(self, pages=None, issuer=ISSUER, on_event=None, token_cache=0, **options):
        self.time = Time()
        self.world = World({RFC8414: METADATA, JWKS: jwks(key())} if pages is None else pages)
        self.issuer = Issuer(issuer, **options)
        self.server = ResourceServer(
            API, self.issuer, clock=self.time.clock, token_cache=token_cache, on_event=on_event
        )

    def open(self, raw=None):
        return self.world.run(self.server.authenticate(bearer_request(raw or token(exp=FAR))))

    def asked(self):
        """What was asked for since the last time."""
        asked = self.world.asked
        self.world.requests.clear()
        return asked


def test_nothing_is_asked_for_before_a_token_needs_it():
    gate = Gate()
    assert gate.asked() == []
    gate.open()
    assert gate.asked() == [RFC8414, JWKS]
    gate.open()
    assert gate.asked() == []


def test_what_is_asked_for_is_bounded_and_says_what_it_wants():
    gate = Gate(keys=KeyPolicy(timeout=3, max_bytes=1000))
    gate.open()
    accept = "application/jwk-set+json, application/json"
    assert gate.world.requests[-1] == HttpRequest("GET", JWKS, {"Accept": accept}, 3, 1000)


@pytest.mark.requirement("RFC8414-3-a", "RFC8414-3.3-a", "OIDCDISC-4-a")
@pytest.mark.parametrize(
    "first",
    [None, reply({}, 404), reply(b"<html>"), reply([]), {}, METADATA | {"issuer": "https://other.example"},
     METADATA | {"issuer": ISSUER + "/"}, METADATA | {"jwks_uri": "http://as.example/keys"},
     METADATA | {"jwks_uri": None}, METADATA | {"jwks_uri": "//as.example"}, reply(METADATA, 302)],
)  # fmt: skip
def test_the_second_place_is_asked_where_the_first_has_nothing_good(first):
    gate = Gate({RFC8414: first, OPENID: METADATA, JWKS: jwks(key())})
    gate.open()
    assert gate.asked() == [RFC8414, OPENID, JWKS]


def test_a_null_in_the_metadata_is_nothing():
    gate = Gate({RFC8414: METADATA | {"jwks_uri": None}, OPENID: METADATA, JWKS: jwks(key())})
    gate.open()
    gate.world.pages[JWKS] = jwks(key(), NEW)
    gate.time.advance(60)
    gate.asked()
    gate.open(token(signing=NEW, exp=FAR))
    assert gate.asked() == [JWKS]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, b"\r\n"])
def test_a_byte_order_mark_before_what_an_issuer_publishes_is_skipped(mark):
    metadata, keys = reply(METADATA), reply(jwks(key()))
    gate = Gate({RFC8414: reply(mark + metadata.body), JWKS: reply(mark + keys.body)})
    gate.open()
    assert gate.asked() == [RFC8414, JWKS]


@pytest.mark.parametrize("part", ["header", "claims"])
def test_a_byte_order_mark_in_a_token_is_refused(part):
    head, payload = as_json(header(key())), as_json(claims(exp=FAR))
    marked = {"header": (codecs.BOM_UTF8 + head, payload), "claims": (head, codecs.BOM_UTF8 + payload)}
    with pytest.raises(InvalidToken, match="malformed"):
        Gate().open(compact(*marked[part]))


CERTIFIED = [key().public_jwk() | {"x5t": "first"}]
TURNED = [*CERTIFIED, NEW.public_jwk() | {"x5t": "new"}]


def by_certificate(signing, **names):
    return token(signing=signing, exp=FAR, head={"kid": ABSENT, **names})


def test_a_token_may_name_its_certificate_in_place_of_a_key_id():
    gate = Gate({RFC8414: METADATA, JWKS: {"keys": TURNED}})
    gate.open(by_certificate(key(), x5t="first"))
    gate.open(by_certificate(NEW, x5t="new"))
    with pytest.raises(InvalidToken, match="signature"):
        gate.open(by_certificate(NEW, x5t="first"))
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(by_certificate(NEW, x5t="other"))


def test_an_unknown_certificate_is_looked_for_like_an_unknown_key_id():
    gate = Gate({RFC8414: METADATA, JWKS: {"keys": CERTIFIED}})
    gate.open(by_certificate(key(), x5t="first"))
    gate.time.advance(60)
    gate.asked()
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(by_certificate(key(), x5t="junk"))
    gate.world.pages[JWKS] = {"keys": TURNED}
    gate.time.advance(1)
    gate.open(by_certificate(NEW, x5t="new"))  # what was looked for in vain was another one
    assert gate.asked() == [JWKS, JWKS]


def test_a_known_address_needs_no_metadata():
    gate = Gate({JWKS: jwks(key())}, jwks_uri=JWKS)
    gate.open()
    assert gate.asked() == [JWKS]


def test_metadata_may_stand_elsewhere():
    gate = Gate(
        {"https://elsewhere.example/m": METADATA, JWKS: jwks(key())},
        metadata_url="https://elsewhere.example/m",
    )
    gate.open()
    assert gate.asked() == ["https://elsewhere.example/m", JWKS]


def test_static_keys_need_no_network_ever():
    gate = Gate({}, jwks=jwks(key()))
    gate.open()
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(token(signing=NEW))
    gate.time.advance(10**6)
    gate.open()
    assert gate.asked() == []


@pytest.mark.parametrize(
    "raw",
    [b"opaque", token(iss="https://other.example"), token(head={"typ": "JWT"}), token(head={"alg": "HS256"}),
     token(head={"crit": []}), token(aud="x"), token(exp=0), token(sub=None), b"a.b.c"],
)  # fmt: skip
def test_a_token_that_is_bad_anyway_causes_no_request(raw):
    gate = Gate()
    with pytest.raises(InvalidToken):
        gate.open(raw)
    assert gate.asked() == []


def test_an_issuer_that_cannot_be_reached_is_not_the_tokens_fault(caplog):
    gate = Gate({})
    with pytest.raises(IssuerUnavailable) as down:
        gate.open()
    assert down.value.retry_after == 1
    assert gate.asked() == [RFC8414, OPENID]
    assert "nobody answers there" in caplog.text
    with pytest.raises(IssuerUnavailable):
        gate.open()
    assert gate.asked() == []
    gate.world.pages |= {RFC8414: METADATA, JWKS: jwks(key())}
    gate.time.advance(0.6)
    gate.open()
    assert gate.asked() == [RFC8414, JWKS]


def test_keys_are_refreshed_behind_the_back_of_requests():
    gate = Gate()
    gate.open()
    gate.world.pages[JWKS] = jwks(key(), NEW)
    gate.time.advance(0.72 * 600 - 1)
    gate.open()
    assert not gate.world.behind
    gate.asked()
    gate.time.advance(0.16 * 600 + 2)
    gate.open()
    assert gate.asked() == []
    gate.world.catch_up()
    assert gate.asked() == [JWKS]
    gate.open(token(signing=NEW, exp=FAR))
    assert gate.asked() == []


def test_stale_keys_go_on_until_the_hard_limit():
    gate = Gate(keys=KeyPolicy(stale_if_error=100))
    gate.open()
    gate.world.pages.clear()
    gate.time.advance(699)
    gate.open()
    gate.world.catch_up()
    gate.open()
    gate.time.advance(1)
    with pytest.raises(IssuerUnavailable):
        gate.open()


@pytest.mark.parametrize(
    "useless", [{"keys": []}, {"keys": [{"kty": "oct", "k": "AA"}]}, b"<html>", reply({}, 500)]
)
def test_a_useless_answer_keeps_the_keys_there_are(useless):
    gate = Gate()
    gate.open()
    gate.world.pages[JWKS] = useless
    gate.time.advance(590)
    gate.open()
    gate.world.catch_up()
    gate.open()


def test_a_new_key_is_found_on_first_sight_and_an_old_one_forgotten():
    gate = Gate()
    gate.open()
    gate.world.pages[JWKS] = jwks(NEW)
    gate.asked()
    gate.time.advance(1)
    gate.open(token(signing=NEW))
    assert gate.asked() == [JWKS]
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open()


def test_strangers_cannot_make_us_ask_again_and_again():
    gate = Gate()
    gate.open()
    gate.asked()
    for number in range(200):
        gate.time.advance(0.01)
        with pytest.raises(InvalidToken if number < 2 else IssuerUnavailable):
            gate.open(token(head={"kid": f"stranger {number}"}))
    assert gate.asked() == [JWKS, JWKS]


def test_an_unknown_key_while_the_issuer_is_away_is_undecided():
    gate = Gate()
    gate.open()
    gate.world.pages.clear()
    gate.time.advance(1)
    with pytest.raises(IssuerUnavailable):
        gate.open(token(signing=NEW))
    gate.open()


def test_a_kid_with_other_material_replaces_the_old_key():
    gate = Gate()
    gate.open()
    gate.world.pages[JWKS] = {"keys": [NEW.public_jwk() | {"kid": key().kid}]}
    gate.time.advance(590)
    gate.open()
    gate.world.catch_up()
    with pytest.raises(InvalidToken, match="signature"):
        gate.open()
    gate.open(token(signing=NEW, exp=FAR, head={"kid": key().kid}))


def test_an_answer_that_is_older_than_what_we_hold_is_dropped():
    gate = Gate()
    late = gate.issuer.keys._refresh(Surroundings(gate.time.clock))
    next(late)
    gate.time.advance(1)
    gate.open(token())
    held = gate.issuer.keys.held
    late.send(reply(METADATA))
    with pytest.raises(StopIteration):
        late.send(reply(jwks(NEW)))
    assert gate.issuer.keys.held is held


def test_plain_http_is_for_loopback_unless_it_is_asked_for(caplog):
    Issuer("http://127.0.0.1:9000")
    Issuer("http://localhost")
    assert caplog.text == ""
    assert repr(Issuer("http://as.example", insecure_http=True)) == "Issuer('http://as.example')"
    assert "insecure_http" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((None,), {}),
        (("",), {}),
        (("as.example",), {}),
        (("https://",), {}),
        (("https://as.example?x=1",), {}),
        (("https://as.example#x",), {}),
        (("https://user@as.example",), {}),
        (("https://as.example:99999",), {}),
        (("https://as exa.mple",), {}),
        (("http://as.example",), {}),
        (("http://127.0.0.1.example",), {}),
        (("ftp://127.0.0.1",), {}),
        ((ISSUER,), {"jwks_uri": "http://as.example/keys"}),
        ((ISSUER,), {"metadata_url": "file:///etc/passwd"}),
        ((ISSUER,), {"algorithms": "RS256"}),
        ((ISSUER,), {"algorithms": []}),
        ((ISSUER,), {"algorithms": ["none"]}),
        ((ISSUER,), {"algorithms": ["HS256"]}),
        ((ISSUER,), {"token_types": "at+jwt"}),
        ((ISSUER,), {"token_types": []}),
        ((ISSUER,), {"token_types": ["at+jwt;x"]}),
        ((ISSUER,), {"jwks": {}}),
        ((ISSUER,), {"jwks": {"keys": []}}),
        ((ISSUER,), {"jwks": {"keys": [object()]}}),
    ],
)
def test_what_cannot_work_or_is_not_safe_is_refused_at_once(arguments, options):
    with pytest.raises(ConfigurationError):
        Issuer(*arguments, **options)


def test_dropped_keys_are_named_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    gate = Gate({JWKS: {"keys": [key().public_jwk(), {"kty": "oct", "kid": "mac"}]}}, jwks_uri=JWKS)
    gate.open()
    assert "'mac': it is symmetric" in caplog.text
    assert caplog.text.count("holding 1 keys") == 1


@pytest.mark.requirement("RFC9110-13.1.2-a")
def test_an_issuer_that_says_nothing_changed_is_believed():
    gate = Gate()
    gate.world.pages[JWKS] = reply(jwks(key()), etag='"one"', cache_control="max-age=100")
    gate.open()
    held = gate.issuer.keys.held
    gate.world.pages[JWKS] = reply(b"", 304, cache_control="max-age=200")
    gate.time.advance(95)
    gate.open()
    gate.world.catch_up()
    assert gate.world.requests[-1].headers["If-None-Match"] == '"one"'
    renewed = gate.issuer.keys.held
    assert renewed.keys is held.keys
    assert (renewed.etag, renewed.fresh_until) == ('"one"', gate.time.monotonic + 200)


def test_a_304_that_nobody_asked_for_is_a_failure():
    gate = Gate({JWKS: reply(b"", 304)}, jwks_uri=JWKS)
    with pytest.raises(IssuerUnavailable):
        gate.open()


@pytest.mark.parametrize("where", [RFC8414, JWKS])
def test_an_issuer_that_asks_to_be_left_alone_is(where):
    gate = Gate({RFC8414: METADATA, OPENID: reply({}, 429, retry_after="120"), JWKS: jwks(key())})
    gate.world.pages[where] = reply({}, 429, retry_after="120")
    with pytest.raises(IssuerUnavailable) as closed:
        gate.open()
    assert closed.value.retry_after == 120
    gate.asked()
    gate.time.advance(119)
    with pytest.raises(IssuerUnavailable):
        gate.open()
    assert gate.asked() == []
    gate.world.pages |= {RFC8414: METADATA, JWKS: jwks(key())}
    gate.time.advance(2)
    gate.open()


def test_strangers_too_leave_it_alone():
    gate = Gate()
    gate.open()
    gate.asked()
    gate.world.pages[JWKS] = reply({}, 503, retry_after="60")
    for seconds in (1, 1, 50):
        gate.time.advance(seconds)
        with pytest.raises(IssuerUnavailable):
            gate.open(token(signing=NEW))
    assert gate.asked() == [JWKS]


def test_a_kid_that_was_asked_for_in_vain_is_remembered_for_a_cooldown():
    gate = Gate(keys=KeyPolicy(cooldown=30))
    gate.open()
    gate.asked()
    for number in range(100):
        gate.time.advance(0.1)
        with pytest.raises(InvalidToken if number == 0 else IssuerUnavailable):
            gate.open(token(head={"kid": "confused"}))
    assert gate.asked() == [JWKS]
    gate.world.pages[JWKS] = jwks(key(), NEW)
    gate.open(token(signing=NEW))
    assert gate.asked() == [JWKS]


def test_what_is_remembered_is_bounded():
    gate = Gate(keys=KeyPolicy(cooldown=0))
    gate.open()
    for number in range(20):
        gate.time.advance(0.1)
        with pytest.raises(InvalidToken):
            gate.open(token(head={"kid": f"{number}" * (300 if number % 2 else 1)}))
    looks = gate.issuer.keys._looks
    assert len(looks) <= 1
    for number in range(1100):
        looks.remember(WantedKey(str(number), frozenset(), "RS256"), 0)
    assert len(looks) == 1000


def test_a_key_published_during_a_flood_works_within_one_cooldown():
    gate = Gate(keys=KeyPolicy(cooldown=30))
    gate.open()
    accepted = None
    for second in range(60):
        gate.time.advance(1)
        if second == 10:
            gate.world.pages[JWKS] = jwks(key(), NEW)
        for number in range(20):
            with pytest.raises((InvalidToken, IssuerUnavailable)):
                gate.open(token(head={"kid": f"{second}/{number}"}))
        if second > 10 and accepted is None:
            try:
                gate.open(token(signing=NEW))
                accepted = second
            except IssuerUnavailable:  # and never a 401
                pass
    assert accepted is not None
    assert accepted <= 10 + 30
    assert gate.asked().count(JWKS) <= 1 + 2 + 2


def test_a_flood_cannot_hold_up_the_refresh():
    gate = Gate()
    gate.open()
    for number in range(5):
        with pytest.raises((InvalidToken, IssuerUnavailable)):
            gate.open(token(head={"kid": str(number)}, exp=FAR))
        gate.time.advance(0.1)
    gate.world.pages[JWKS] = jwks(NEW)
    gate.time.advance(590)
    gate.open()
    gate.world.catch_up()
    gate.open(token(signing=NEW, exp=FAR))


def test_listeners_hear_of_everything():
    heard = []
    gate = Gate(on_event=heard.append, token_cache=10)
    gate.open()
    gate.open()
    gate.world.pages[JWKS] = jwks(NEW)
    gate.time.advance(590)
    gate.open()
    gate.world.catch_up()
    gate.world.pages.clear()
    gate.time.advance(590)
    gate.open(token(signing=NEW, exp=FAR))
    gate.world.catch_up()
    gate.server.answer(InvalidToken("expired"))
    gate.server.answer(IssuerUnavailable("down"))
    assert heard == [
        KeysRefreshed(ISSUER, (key().kid,), ()),
        CacheHit(ISSUER),
        KeysRefreshed(ISSUER, (NEW.kid,), (key().kid,)),
        KeyFetchFailed(ISSUER, "nobody answers there"),
        Refused(401, "expired"),
        Refused(503, "unavailable"),
    ]


def test_a_listener_that_fails_changes_nothing(caplog):
    gate = Gate(on_event=lambda event: 1 / 0)
    assert gate.open().subject == "alice"
    assert "on_event failed at KeysRefreshed: ZeroDivisionError" in caplog.text


def test_health_tells_how_the_keys_are():
    gate = Gate(keys=KeyPolicy(stale_if_error=100))
    (health,) = gate.server.health()
    assert (health.state, health.keys, health.age, health.next_refresh) == ("unavailable", (), None, 0)
    gate.open()
    gate.time.advance(100)
    (health,) = gate.server.health()
    assert (health.state, health.keys, health.age) == ("fresh", ((key().kid, "RS256"),), 100)
    assert 332 <= health.next_refresh <= 428
    assert health.last_error == ""
    gate.world.pages.clear()
    gate.time.advance(550)
    gate.open()
    gate.world.catch_up()
    (health,) = gate.server.health()
    assert (health.state, health.age) == ("stale", 650)
    assert "nobody answers there" in health.last_error
    gate.time.advance(50)
    assert gate.server.health()[0].state == "unavailable"
    assert gate.asked() == [RFC8414, JWKS, JWKS]


def test_health_of_configured_keys():
    gate = Gate({}, jwks=jwks(key()))
    (health,) = gate.server.health()
    assert (health.state, health.age, health.next_refresh) == ("fresh", None, None)


def test_warming_up_fetches_the_keys():
    gate = Gate()
    gate.world.run(gate.server.warm_up())
    assert gate.asked() == [RFC8414, JWKS]
    gate.open()
    gate.world.run(gate.server.warm_up())
    assert gate.asked() == []


def test_warming_up_in_vain_is_logged_or_raised(caplog):
    gate = Gate({})
    gate.world.run(gate.server.warm_up())
    assert "not ready yet" in caplog.text
    with pytest.raises(IssuerUnavailable):
        gate.world.run(gate.server.warm_up(fail_fast=True))


def test_the_log_tells_of_a_rotation_once_and_in_fields(caplog):
    caplog.set_level(logging.INFO)
    gate = Gate()
    gate.open()
    caplog.clear()
    gate.world.pages[JWKS] = jwks(NEW)
    gate.time.advance(590)
    gate.open()
    gate.world.catch_up()
    (record,) = caplog.records
    assert (record.issuer, record.added, record.removed) == (ISSUER, [NEW.kid], [key().kid])
