"""Many issuers in one gate: whom a token is judged by, what never crosses, and what strangers cannot cause."""

import asyncio

import pytest
from flows import World, reply
from tokens import API, NOW, Time, jwks, key, token

from ticketgate import ClientSecretBasic, Introspection, Issuer, KeyPolicy, ResourceServer, averify
from ticketgate.core.health import readiness_answer
from ticketgate.core.request import bearer_request
from ticketgate.core.tenants import Tenants
from ticketgate.drivers import blocking
from ticketgate.errors import ConfigurationError, InternalFault, InvalidToken, IssuerUnavailable

ONE, TWO = "https://one.example", "https://two.example"
TEMPLATE = "https://login.example/{tenant}/v2.0"
ACME = "https://login.example/acme/v2.0"
KIDS = {ONE: key("RS256", "same kid"), TWO: key("ES256", "same kid")}
ASKING = Introspection("https://as.example/introspect", auth=ClientSecretBasic("id", "secret"))


def pages(*identifiers, signing=None):
    """What such issuers publish."""
    found = {}
    for name in identifiers:
        found[f"{name}/.well-known/openid-configuration"] = {"issuer": name, "jwks_uri": f"{name}/jwks"}
        found[f"{name}/jwks"] = reply(jwks(signing or key()))
    return found


class Gate:
    def __init__(self, *issuers, published=(), **options):
        self.time = Time()
        self.world = World(pages(*published))
        self.server = ResourceServer(API, *issuers, clock=self.time.clock, **options)

    def open(self, iss, **changes):
        raw = token(iss=iss, exp=NOW + 3600, **changes)
        return self.world.run(self.server.authenticate(bearer_request(raw)))

    def refuses(self, iss, **changes):
        with pytest.raises(InvalidToken) as refused:
            self.open(iss, **changes)
        return refused.value.reason


def both(**options):
    return [Issuer(name, jwks=jwks(signing), **options) for name, signing in KIDS.items()]


@pytest.mark.requirement("RFC8725-3.8-a", "DRV-multi-issuer-b")
@pytest.mark.parametrize("token_cache", [0, 100])
def test_the_same_key_id_in_two_issuers_never_crosses(token_cache):
    gate = Gate(*both(), token_cache=token_cache)
    for name, other in ((ONE, TWO), (TWO, ONE)):
        assert gate.open(name, signing=KIDS[name]).issuer == name
        assert gate.refuses(name, signing=KIDS[other]) in {"signature", "unknown_key"}
        assert gate.open(other, signing=KIDS[other]).issuer == other


def test_the_same_key_in_two_issuers_vouches_for_each_by_its_own_rules():
    shared = jwks(key())
    gate = Gate(Issuer(ONE, jwks=shared), Issuer(TWO, jwks=shared, token_types=["application/other+jwt"]))
    assert gate.open(ONE).issuer == ONE
    assert gate.refuses(TWO) == "type"
    assert gate.open(TWO, head={"typ": "other+jwt"}).issuer == TWO
    assert gate.refuses(ONE, head={"typ": "other+jwt"}) == "type"


def test_each_issuer_has_algorithms_of_its_own():
    shared = jwks(key(), key("ES256"))
    gate = Gate(
        Issuer(ONE, jwks=shared, algorithms=["RS256"]), Issuer(TWO, jwks=shared, algorithms=["ES256"])
    )
    assert gate.open(ONE).issuer == ONE
    assert gate.refuses(ONE, signing=key("ES256")) == "algorithm"
    assert gate.open(TWO, signing=key("ES256")).issuer == TWO


def test_one_issuer_that_is_away_takes_nothing_from_the_other():
    gate = Gate(Issuer(ONE), Issuer(TWO), published=[TWO])
    with pytest.raises(IssuerUnavailable):
        gate.open(ONE)
    assert gate.open(TWO).issuer == TWO
    assert {health.issuer: health.state for health in gate.server.health()} == {
        ONE: "unavailable",
        TWO: "fresh",
    }


def by_list(**options):
    return [Issuer.template(TEMPLATE, tenants=["acme", "globex"], **options)], {}


def by_function(**options):
    return [Issuer.template(TEMPLATE, tenants=lambda tenant: tenant in {"acme", "globex"}, **options)], {}


def by_issuer_for(**options):
    known = {ACME, ACME.replace("acme", "globex")}
    return [], {"issuer_for": lambda iss: Issuer(iss, **options) if iss in known else None}


@pytest.mark.requirement("DRV-multi-issuer-a")
@pytest.mark.parametrize("way", [by_list, by_function, by_issuer_for])
def test_tenants_are_found_by_iss_and_strangers_cause_no_fetch(way):
    issuers, options = way()
    gate = Gate(*issuers, published=[ACME], **options)
    assert gate.open(ACME).issuer == ACME
    asked = len(gate.world.asked)
    assert gate.open(ACME, jti="another").issuer == ACME
    for stranger in (
        "https://login.example/stranger/v2.0",
        "https://login.example/acme/v2.0/",
        "https://login.example/acme/v2.0#",
        "https://login.example/acme/v1.0",
        "https://login.example//v2.0",
        "https://login.example/../v2.0",
        "https://login.example/a/b/v2.0",
        "https://login.example/acme%2f/v2.0",
        "https://login.example/v2.0",
        "https://login.examplf/acme/v2.0",
        "javascript:acme",
        "https://login.example/" + "a" * 3000 + "/v2.0",
        "",
        1,
        None,
    ):
        assert gate.refuses(stranger) in {"issuer", "claim"}
    assert len(gate.world.asked) == asked
    with pytest.raises(IssuerUnavailable):  # a tenant of ours, who publishes nothing
        gate.open(ACME.replace("acme", "globex"))
    assert [health.state for health in gate.server.health()] == ["fresh", "unavailable"]


def test_readiness_is_about_issuers_that_are_named():
    gate = Gate(*by_list()[0], published=[])
    assert readiness_answer(gate.server.health(named_only=True)).status == 200
    with pytest.raises(IssuerUnavailable):
        gate.open(ACME)
    assert readiness_answer(gate.server.health(named_only=True)).status == 200
    beside = Gate(Issuer(ONE), *by_list()[0], published=[ACME])
    beside.open(ACME)
    answer = readiness_answer(beside.server.health(named_only=True))
    assert (answer.status, b"acme" in answer.body) == (503, False)


def test_templates_stand_beside_issuers_that_are_named():
    gate = Gate(Issuer(ONE, jwks=jwks(key())), *by_list()[0], published=[ACME])
    assert (gate.open(ONE).issuer, gate.open(ACME).issuer) == (ONE, ACME)
    assert gate.refuses(TWO) == "issuer"


def test_several_templates_stand_beside_each_other():
    other = "https://other.example/acme"
    gate = Gate(
        *by_list()[0],
        Issuer.template("https://other.example/{tenant}", tenants=lambda tenant: tenant == "acme"),
        published=[ACME, other],
    )
    assert (gate.open(ACME).issuer, gate.open(other).issuer) == (ACME, other)
    assert gate.refuses("https://other.example/globex") == "issuer"


def test_the_number_of_tenants_is_bounded():
    names = [f"https://login.example/t{number}/v2.0" for number in range(5)]
    gate = Gate(
        Issuer.template(TEMPLATE, tenants=lambda tenant: True), published=names, max_tenants=3, token_cache=0
    )
    for name in names:
        gate.open(name)
    assert len(gate.server.tenants) == 3
    before = len(gate.world.asked)
    gate.open(names[4])
    assert len(gate.world.asked) == before  # held
    gate.open(names[0])
    assert len(gate.world.asked) > before  # was let go


def test_whoever_is_no_tenant_any_more_is_asked_about_within_a_minute():
    tenants = {"acme"}
    gate = Gate(
        Issuer.template(TEMPLATE, tenants=lambda tenant: tenant in tenants), published=[ACME], token_cache=0
    )
    gate.open(ACME)
    tenants.clear()
    gate.time.advance(59)
    gate.open(ACME)
    gate.time.advance(2)
    assert gate.refuses(ACME) == "issuer"
    assert len(gate.server.tenants) == 0
    tenants.add("acme")
    assert gate.refuses(ACME) == "issuer"
    gate.time.advance(10)
    assert gate.open(ACME).issuer == ACME


def test_an_issuer_that_is_made_anew_keeps_its_keys_unless_its_settings_changed():
    settings = {"algorithms": ["RS256"]}
    gate = Gate(issuer_for=lambda iss: Issuer(iss, **settings), published=[ACME], token_cache=0)
    gate.open(ACME)
    (first,) = gate.server.tenants.issuers
    gate.time.advance(61)
    gate.open(ACME)
    assert gate.server.tenants.issuers == (first,)
    settings["algorithms"] = ["ES256"]
    gate.time.advance(61)
    assert gate.refuses(ACME) == "algorithm"
    assert gate.server.tenants.issuers != (first,)


def test_functions_may_be_async_under_asyncio_only():
    async def known(iss):
        await asyncio.sleep(0)
        return Issuer(iss, jwks=jwks(key())) if iss == ACME else None

    async def ours(tenant):
        return tenant == "acme"

    for server in (
        ResourceServer(API, issuer_for=known, clock=Time().clock),
        ResourceServer(API, Issuer.template(TEMPLATE, tenants=ours, jwks=jwks(key())), clock=Time().clock),
    ):
        assert asyncio.run(averify(server, token(iss=ACME))).issuer == ACME
        with pytest.raises(InvalidToken):
            asyncio.run(averify(server, token(iss=ONE)))
    fresh = ResourceServer(API, issuer_for=known, clock=Time().clock)
    with pytest.raises(InternalFault):
        blocking.Driver().run(fresh.authenticate(bearer_request(token(iss=ACME))))


@pytest.mark.parametrize(
    "found",
    [Issuer(ONE), Issuer(ACME + "/"), "https://login.example/acme/v2.0", Issuer(ACME, introspection=ASKING)],
)
def test_what_issuer_for_must_not_return_opens_nothing(found, caplog):
    server = ResourceServer(API, issuer_for=lambda iss: found, clock=Time().clock)
    with pytest.raises(InternalFault):
        blocking.Driver().run(server.authenticate(bearer_request(token(iss=ACME))))
    assert "ConfigurationError" in caplog.text


def test_a_function_that_fails_is_our_fault():
    def broken(iss):
        raise KeyError("database")

    server = ResourceServer(API, issuer_for=broken, clock=Time().clock)
    with pytest.raises(InternalFault):
        blocking.Driver().run(server.authenticate(bearer_request(token(iss=ACME))))


@pytest.mark.parametrize(
    ("template", "options"),
    [
        ("https://login.example/v2.0", {"tenants": []}),
        ("https://{tenant}.example/v2.0", {"tenants": []}),
        ("https://login.example/{tenant}/{tenant}", {"tenants": []}),
        ("http://login.example/{tenant}", {"tenants": []}),
        (1, {"tenants": []}),
        (TEMPLATE, {"tenants": "acme"}),
        (TEMPLATE, {"tenants": None}),
        (TEMPLATE, {"tenants": [], "introspection": ASKING}),
        (TEMPLATE, {"tenants": [], "algorithms": ["none"]}),
    ],
)
def test_templates_that_cannot_work(template, options):
    with pytest.raises(ConfigurationError):
        Issuer.template(template, **options)


@pytest.mark.parametrize(
    ("issuers", "options"),
    [
        ((Issuer(ONE),), {"issuer_for": Issuer}),
        (by_list()[0], {"issuer_for": Issuer}),
        ((), {"issuer_for": Issuer, "max_tenants": 0}),
        ((ONE,), {}),
    ],
)
def test_servers_that_cannot_work(issuers, options):
    with pytest.raises(ConfigurationError):
        ResourceServer(API, *issuers, **options)


def test_a_template_shows_what_it_is():
    assert repr(by_list()[0][0]) == f"Issuer.template({TEMPLATE!r})"


def test_policies_are_for_every_tenant_alike():
    issuers, _ = by_list(keys=KeyPolicy(min_ttl=1, default_ttl=5))
    gate = Gate(*issuers, published=[ACME], token_cache=0)
    gate.open(ACME)
    (issuer,) = gate.server.tenants.issuers
    assert issuer.keys.held.fresh_until == gate.time.monotonic + 5


def test_nothing_is_held_where_nothing_was_found():
    assert len(Tenants((), None, 3)) == 0
    assert World().run(Tenants((), None, 3).named(ACME, 0)) is None
