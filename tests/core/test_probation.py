"""Tenants and unverified tokens: whoever has no token of a tenant takes nothing from it, and causes little."""

import re

import pytest
from flows import World, reply, run
from tokens import API, Time, claims, compact, header, jwks, key, token

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.flow import WaitingFor
from ticketgate.core.probation import PER_SECOND, QUICK
from ticketgate.core.request import bearer_request
from ticketgate.errors import InternalFault, InvalidToken, IssuerUnavailable

TEMPLATE = "https://login.example/{tenant}/v2.0"
FORGER = key("RS256", "forger")
FAR = 10**10


def name(tenant):
    return TEMPLATE.replace("{tenant}", str(tenant))


class Everybody(dict):
    """What every tenant publishes, without having been made first."""

    def get(self, url, default=None):
        issuer, found, _ = url.partition("/.well-known/openid-configuration")
        if found:
            return {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}
        return reply(jwks(key())) if url.endswith("/jwks") else default


class Gate:
    """A resource server whose tenants are found by a function, which writes down what it was asked."""

    def __init__(self, ours=lambda tenant: True, **options):
        self.time = Time()
        self.world = World()
        self.world.pages = Everybody()
        self.questions = []
        settings = {"issuer_for": self.issuer_for, "token_cache": 0, "clock": self.time.clock} | options
        self.ours = ours
        self.options = {}
        self.server = ResourceServer(API, *settings.pop("issuers", ()), **settings)

    def issuer_for(self, iss):
        self.questions.append(iss)
        return Issuer(iss, **self.options) if self.ours(iss) else None

    def judge(self, raw):
        return self.world.run(self.server.authenticate(bearer_request(raw)))

    def verify(self, *names):
        for iss in names:
            assert self.judge(token(iss=iss, exp=FAR)).issuer == iss

    def forge(self, iss):
        """What becomes of a token that nobody of this issuer signed: the reason of a 401, or the seconds of a 503."""
        self.time.advance(0.0001)
        try:
            self.judge(compact(header(FORGER), claims(iss=iss, exp=FAR), lambda signed: bytes(256)))
        except InvalidToken as refused:
            return refused.reason
        except IssuerUnavailable as unavailable:
            return unavailable.retry_after
        raise AssertionError("it was accepted")


STRANGERS = {WaitingFor.NAME, WaitingFor.FIRST_KEYS}
LIVE = [name("live-1"), name("live-2")]


def listed(**options):
    return Gate(
        issuers=[Issuer.template(TEMPLATE, tenants=["live-1", "live-2", *map(str, range(500))])],
        issuer_for=None,
        **options,
    )


@pytest.mark.parametrize("way", [listed, Gate])
def test_more_known_tenants_than_fit_push_out_none_that_verified_a_token(way):
    gate = way(max_tenants=2)
    gate.verify(*LIVE)
    gate.world.requests.clear()
    for number in range(500):
        gate.forge(name(number))
    assert len(gate.world.requests) <= 3 * (QUICK + PER_SECOND)
    assert len(gate.server.tenants) == 2 + 2
    gate.world.pages = {}  # an outage
    for iss in LIVE:
        assert run(gate.server.authenticate(bearer_request(token(iss=iss)))).issuer == iss


def test_names_that_differ_in_case_cause_little():
    gate = Gate(lambda iss: iss.lower() == name("live-1"), max_tenants=5)
    gate.verify(LIVE[0])
    gate.world.pages = {
        url: gate.world.pages.get(url)
        for url in (f"{LIVE[0]}/jwks", f"{LIVE[0]}/.well-known/openid-configuration")
    }
    gate.world.requests.clear()
    variants = {
        name("".join(c.upper() if number >> i & 1 else c for i, c in enumerate("live-1")))
        for number in range(1, 16)
    }
    for _ in range(20):
        for variant in variants:
            assert gate.forge(variant) in {1, 2}
    assert len(gate.world.requests) <= 3 * (QUICK + PER_SECOND)
    gate.verify(LIVE[0])


def test_no_is_remembered_for_ten_seconds():
    gate = Gate(lambda iss: False)
    assert [gate.forge(name("x")) for _ in range(50)] == ["issuer"] * 50
    assert gate.questions == [name("x")]
    gate.time.advance(9)
    assert gate.forge(name("x")) == "issuer"
    gate.time.advance(1)
    gate.ours = lambda iss: True
    gate.verify(name("x"))
    assert gate.questions == [name("x")] * 2


def test_a_flood_of_names_asks_little_and_takes_nothing_from_those_that_verified_a_token():
    gate = Gate(lambda iss: "live" in iss, max_tenants=2)
    gate.verify(*LIVE)
    outcomes = {gate.forge(name(number)) for number in range(3000)}
    assert outcomes == {"issuer", 1}  # 503 for names that nobody could be asked about, never 401
    assert len(gate.questions) <= 2 + QUICK + PER_SECOND
    gate.world.requests.clear()
    gate.time.advance(61)  # time to ask about the live ones again
    for number in range(3000):
        gate.forge(name(f"later {number}".replace(" ", "-")))
    gate.questions.clear()
    gate.verify(*LIVE)
    assert gate.questions == LIVE
    assert gate.world.requests == []
    gate.time.advance(3600 * 2)  # and their keys are too old
    for number in range(3000):
        gate.forge(name(f"last-{number}"))
    gate.verify(*LIVE)


def test_where_no_more_can_be_asked_a_name_we_do_not_know_is_a_503():
    gate = Gate(lambda iss: "live" in iss)
    for number in range(QUICK):
        assert gate.forge(name(number)) == "issuer"
    with pytest.raises(IssuerUnavailable, match="too many other issuers") as unavailable:
        gate.judge(token(iss=LIVE[0], exp=FAR))
    assert unavailable.value.retry_after == 1
    gate.time.advance(1)
    gate.verify(LIVE[0])


def test_those_that_are_refused_push_out_one_another_only():
    gate = Gate(lambda iss: "live" in iss, max_tenants=3)
    gate.verify(*LIVE)
    gate.forge(name("live-3"))
    held = gate.server.tenants.issuers
    for number in range(2000):
        gate.time.advance(0.1)
        gate.forge(name(number))
    assert gate.server.tenants.issuers == held
    assert len(gate.server.tenants._refused) == 1000


def test_real_tokens_of_many_tenants_use_nothing_up():
    gate = Gate()
    gate.verify(*(name(number) for number in range(3 * QUICK)))
    assert len(gate.server.tenants) == 3 * QUICK


def test_tokens_that_are_not_verified_say_nothing_of_who_is_needed():
    gate = Gate(max_tenants=2)
    gate.verify(*LIVE)
    for _ in range(10):
        gate.forge(LIVE[0])
        gate.server.health()
    gate.time.advance(61)
    gate.forge(LIVE[0])  # which asks about it again
    gate.verify(name("third"))
    assert {issuer.identifier for issuer in gate.server.tenants.issuers} == {LIVE[1], name("third")}


def test_a_tenant_that_was_pushed_out_while_its_token_was_verified_stays():
    gate = Gate(max_tenants=1)
    flow = gate.server.authenticate(bearer_request(token(iss=LIVE[0])))
    effect = next(flow)
    effect = flow.send(gate.world.run(effect.flow()))  # it was found, and now its keys are to be fetched
    gate.forge(LIVE[1])
    assert [issuer.identifier for issuer in gate.server.tenants.issuers] == [LIVE[1]]
    with pytest.raises(StopIteration) as done:
        flow.send(gate.world.run(effect.flow()))
    assert done.value.value.issuer == LIVE[0]
    asked = len(gate.world.requests)
    gate.verify(LIVE[0])
    assert len(gate.world.requests) == asked
    assert len(gate.server.tenants) == 2


def test_a_function_that_fails_is_not_called_again_at_once():
    gate = Gate()
    gate.verify(LIVE[0])
    gate.time.advance(61)

    def broken(iss):
        raise KeyError("database")

    gate.ours = broken
    gate.questions.clear()
    with pytest.raises(InternalFault):
        gate.judge(token(iss=LIVE[0], exp=FAR))
    assert [gate.forge(LIVE[0]) for _ in range(50)] == [1] * 50
    assert len(gate.questions) == 1
    with pytest.raises(
        InternalFault
    ):  # a name that we do not know costs a question each time, within the budget
        gate.judge(token(iss=LIVE[1], exp=FAR))
    gate.ours = lambda iss: True
    gate.time.advance(1)
    gate.verify(LIVE[0])


def test_settings_that_changed_are_no_reason_to_put_a_tenant_on_probation():
    gate = Gate()
    gate.verify(LIVE[0])
    gate.options = {"algorithms": ["RS256", "ES256"]}
    gate.time.advance(61)
    for number in range(2 * QUICK):
        gate.forge(name(number))
    gate.verify(LIVE[0])


def test_a_look_for_an_unknown_key_on_probation_is_paid_for_by_all_on_probation():
    gate = Gate(lambda iss: True)
    for number in range(QUICK // 2):
        assert gate.forge(name(number)) == "unknown_key"
    gate.time.advance(10)  # a hundred more
    gate.world.requests.clear()
    for _ in range(5):
        for number in range(QUICK // 2):
            gate.forge(name(number))
    assert len(gate.world.requests) <= QUICK + PER_SECOND


def test_a_look_that_nobody_pays_for_is_a_503():
    gate = Gate()
    assert gate.forge(LIVE[0]) == "unknown_key"
    for number in range(2 * QUICK):
        gate.forge(name(number))
    gate.world.requests.clear()
    assert gate.forge(LIVE[0]) == 1
    assert gate.world.requests == []


def test_a_tenant_that_is_looked_after_in_the_background_is_paid_for_too():
    gate = Gate()
    assert gate.forge(LIVE[0]) == "unknown_key"
    for number in range(2 * QUICK):
        gate.forge(name(number))
    gate.world.requests.clear()
    gate.time.advance(590)
    for number in range(2 * QUICK):
        gate.forge(name(f"other-{number}"))
    gate.world.behind.clear()
    gate.world.requests.clear()
    gate.forge(LIVE[0])
    gate.world.catch_up()
    assert gate.world.requests == []


def test_where_as_many_wait_as_may_only_those_we_do_not_know_are_turned_away():
    gate = Gate()
    gate.verify(LIVE[0])
    gate.world.full = STRANGERS
    assert gate.forge(LIVE[1]) == 1
    gate.time.advance(61)
    gate.verify(LIVE[0])
    gate.time.advance(7200)
    gate.verify(LIVE[0])
    gate.time.advance(10)
    new = key("RS256", "new")
    gate.world.pages = {f"{LIVE[0]}/jwks": reply(jwks(new))}
    assert gate.judge(token(signing=new, iss=LIVE[0], exp=FAR)).issuer == LIVE[0]
    of_list = listed()
    of_list.world.full = set(WaitingFor)
    with pytest.raises(
        IssuerUnavailable, match="keys of"
    ):  # nobody is asked about it, but its keys are fetched
        of_list.judge(token(iss=LIVE[1]))


def test_a_tenant_in_use_never_waits_for_a_question():
    gate = Gate()
    gate.verify(LIVE[0])
    for times in range(2, 5):
        gate.time.advance(44)
        gate.verify(LIVE[0])
        assert gate.world.behind == []
        gate.time.advance(2)
        gate.verify(LIVE[0])
        assert len(gate.questions) == times - 1
        gate.world.catch_up()
        assert gate.questions == [LIVE[0]] * times
    gate.ours = lambda iss: False
    gate.time.advance(46)
    gate.verify(LIVE[0])
    gate.world.catch_up()
    assert gate.forge(LIVE[0]) == "issuer"


def test_a_question_that_fails_in_the_background_is_asked_again_after_a_second():
    def fail(iss):
        raise ValueError("the database is away")

    gate = Gate()
    gate.verify(LIVE[0])
    gate.ours = fail
    gate.time.advance(46)
    gate.verify(LIVE[0])
    with pytest.raises(ValueError, match="away"):
        gate.world.catch_up()
    gate.world.behind.clear()
    gate.verify(LIVE[0])
    assert gate.world.behind == []
    gate.time.advance(1)
    gate.verify(LIVE[0])
    assert len(gate.world.behind) == 1
    gate.time.advance(14)
    with pytest.raises(InternalFault):
        gate.judge(token(iss=LIVE[0], exp=FAR))


def test_a_tenant_of_a_list_is_not_asked_about_in_the_background():
    gate = listed()
    gate.verify(LIVE[0])
    gate.time.advance(46)
    gate.verify(LIVE[0])
    assert gate.world.behind == []


@pytest.mark.parametrize(
    ("iss", "loopback", "given"),
    [
        ("https://as.example", False, True),
        ("https://as.example:8443/a/b/", False, True),
        ("https://[2001:db8::1]/x", False, True),
        ("http://as.example", False, False),
        ("http://127.0.0.1:9000", False, False),
        ("http://localhost", False, False),
        ("http://127.0.0.1:9000", True, True),
        ("http://[::1]:9000/x", True, True),
        ("http://localhost/x", True, True),
        ("http://as.example", True, False),
        ("http://127.0.0.1.as.example", True, False),
        ("HTTPS://as.example", False, False),
        (" https://as.example", False, False),
        ("https://as.example?", False, False),
        ("https://as.example?x=1", False, False),
        ("https://as.example#", False, False),
        ("https://user@as.example", False, False),
        ("https://as.example\\@127.0.0.1", False, False),
        ("https:/as.example", False, False),
        ("https://", False, False),
        ("https://as.example:0", False, False),
        ("https://as.example/\x00", False, False),
        ("https://as.example/\u00e9", False, False),
        ("https://as.example/" + "a" * 2000, False, False),
        ("ftp://127.0.0.1", True, False),
        ("file:///etc/passwd", True, False),
        ("as.example", True, False),
        ("", True, False),
    ],
)
def test_what_issuer_for_is_given(iss, loopback, given):
    gate = Gate(lambda iss: False, accept_loopback_issuers=loopback)
    assert gate.forge(iss) == "issuer"
    assert gate.questions == [iss] * given


def test_loopback_issuers_are_a_relaxation_that_is_logged(caplog):
    Gate(accept_loopback_issuers=True)
    assert re.findall("accept_loopback_issuers", caplog.text) == ["accept_loopback_issuers"]


FOLDER = "/var/lib/api"


def test_a_tenant_on_probation_leaves_no_file_behind():
    gate = Gate()
    gate.options = {"keys": KeyPolicy(snapshot=FOLDER)}
    for number in range(20):
        assert gate.forge(name(number)) == "unknown_key"
    assert gate.world.files == {}
    gate.verify(name(0))
    gate.world.catch_up()
    assert len(gate.world.files) == 1
    again = Gate()
    again.options, again.world.files, again.world.pages = gate.options, gate.world.files, {}
    again.verify(name(0))  # by what it left, while the issuer is away
    gate.time.advance(590)
    gate.verify(name(0))
    gate.world.catch_up()
    assert len(gate.world.files) == 1


def test_a_file_has_keys_in_it_also_where_nothing_changed_on_probation():
    gate = Gate()
    gate.options = {"keys": KeyPolicy(snapshot=FOLDER)}
    published = reply(jwks(key()), etag='"1"')

    class Etags(Everybody):
        def get(self, url, default=None):
            asked = url.endswith("/jwks") and gate.world.requests[-1].headers.get("If-None-Match")
            found = super().get(url, default)
            return reply(b"", 304) if asked else published if url.endswith("/jwks") else found

    gate.world.pages = Etags()
    assert [gate.forge(name(0)) for _ in range(2)] == ["unknown_key"] * 2
    assert gate.world.requests[-1].headers.get("If-None-Match") == '"1"'
    gate.verify(name(0))
    gate.world.catch_up()
    (written,) = gate.world.files.values()
    assert key().kid.encode() in written
