"""The story as a whole: who is told what, and what happens when we are at fault ourselves."""

import logging
import math

import pytest
from flows import run
from tokens import API, ISSUER, NOW, Time, jwks, resource_server, token

from ticketgate import Issuer, ResourceServer
from ticketgate.core.access_token import AccessToken
from ticketgate.core.clock import Clock
from ticketgate.core.credentials import Credentials
from ticketgate.core.jwt import read
from ticketgate.core.metadata import metadata_urls
from ticketgate.core.request import ResourceRequest, bearer_request
from ticketgate.core.requirement import Need, claim, scope
from ticketgate.core.strict_json import FrozenDict
from ticketgate.errors import ConfigurationError, InternalFault, InvalidRequest, InvalidToken

ISSUERS = (Issuer(ISSUER, jwks=jwks()),)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("", *ISSUERS), {}),
        (([], *ISSUERS), {}),
        ((["x", ""], *ISSUERS), {}),
        ((API,), {}),
        ((API, ISSUER), {}),
        ((API, *ISSUERS, *ISSUERS), {}),
        ((API, *ISSUERS), {"leeway": -1}),
        ((API, *ISSUERS), {"leeway": 301}),
        ((API, *ISSUERS), {"realm": ""}),
        ((API, *ISSUERS), {"realm": 'a"b'}),
        ((API, *ISSUERS), {"realm": "a\nb"}),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments, options):
    with pytest.raises((ConfigurationError, TypeError)):
        ResourceServer(*arguments, **options)


@pytest.mark.parametrize("size", [0, -1, 1_023, 65_537, 10**400, 16_384.0, True, "16384", None])
def test_a_limit_for_tokens_that_makes_no_sense_is_refused(size):
    with pytest.raises(ConfigurationError, match="must be between 1024 and 65536 bytes"):
        ResourceServer(API, *ISSUERS, max_token_bytes=size)


@pytest.mark.parametrize(("options", "limit"), [({}, 16_384), ({"max_token_bytes": 1_024}, 1_024)])
def test_tokens_are_bounded(options, limit):
    server = ResourceServer(API, *ISSUERS, clock=Time().clock, **options)
    assert server.max_token_bytes == limit
    about = (limit - len(token())) * 3 // 4
    sizes = {len(raw): raw for raw in (token(pad="x" * size) for size in range(about - 20, about + 10))}
    lengths = [max(size for size in sizes if size <= limit), min(size for size in sizes if size > limit)]
    assert run(server.authenticate(bearer_request(sizes[lengths[0]]))).subject == "alice"
    with pytest.raises(InvalidRequest, match="length") as refused:
        run(server.authenticate(bearer_request(sizes[lengths[1]])))
    assert (refused.value.expected, refused.value.actual) == (limit, lengths[1])


def test_a_longer_token_is_accepted_where_that_was_asked_for():
    raw = token(pad="x" * 30_000)
    server = ResourceServer(API, *ISSUERS, clock=Time().clock, max_token_bytes=65_536)
    assert run(server.authenticate(bearer_request(raw))).subject == "alice"
    with pytest.raises(InvalidRequest, match="length"):
        run(ResourceServer(API, *ISSUERS, clock=Time().clock).authenticate(bearer_request(raw)))


def test_several_audiences_and_a_realm():
    server = ResourceServer([API, "urn:api"], *ISSUERS, realm="orders", clock=Time().clock)
    assert run(server.authenticate(bearer_request(token(aud="urn:api")))).audience == ("urn:api",)
    answer = server.answer(InvalidToken("expired"))
    assert dict(answer.headers)[b"www-authenticate"].startswith(
        b'Bearer realm="orders", error="invalid_token"'
    )


def test_a_fault_of_our_own_is_a_503_and_tells_no_secrets(caplog):
    secret = f"clock stopped at {token().decode()}"

    def broken():
        raise RuntimeError(secret)

    server = ResourceServer(API, *ISSUERS, clock=Clock(broken))
    with pytest.raises(InternalFault) as fault:
        run(server.authenticate(bearer_request(token())))
    answer = server.answer(fault.value)
    assert (answer.status, answer.body) == (503, b"{}")
    assert "unexpected RuntimeError" in caplog.text
    assert "clock stopped" not in caplog.text
    assert token().decode() not in caplog.text


def test_every_refusal_is_logged_once_with_its_reason(caplog):
    caplog.set_level(logging.INFO, "ticketgate")
    server = resource_server()
    server.answer(InvalidToken("audience", expected=[API], actual="x\n" * 500))
    (record,) = caplog.records
    assert (record.levelname, record.name, record.reason) == ("INFO", "ticketgate", "audience")
    assert record.getMessage().startswith(f"refused with 401: audience, expected ['{API}'], actual 'x\\nx\\n")
    assert len(record.getMessage()) < 500


def test_no_repr_shows_a_token():
    raw = token()
    assert "one" not in repr(read(raw))
    assert repr(Credentials(b"bearer", raw)) == "Credentials(scheme=b'bearer')"


@pytest.mark.parametrize("presented", ["é", "\ud800", b"\xff"])
def test_any_text_may_be_presented_as_a_token(presented):
    assert bearer_request(presented).authorization[0].startswith(b"Bearer ")


def test_the_facts_of_a_request_have_defaults():
    assert ResourceRequest() == ResourceRequest("GET", "", (), (), None)


@pytest.mark.requirement("RFC8414-3-a", "RFC8414-3.1-a")
@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        ("https://as.example", ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")),
        ("https://as.example/", ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")),
        ("https://as.example/t/1", (
            "/.well-known/oauth-authorization-server/t/1", "/t/1/.well-known/openid-configuration")),
        ("https://as.example/t/", ("/.well-known/oauth-authorization-server/t", "/t/.well-known/openid-configuration")),
    ],
)  # fmt: skip
def test_where_metadata_stands(issuer, urls):
    assert metadata_urls(issuer) == tuple("https://as.example" + path for path in urls)


@pytest.mark.parametrize(
    "combine", [lambda: scope("a") and scope("b"), lambda: not scope("a"), lambda: bool(scope("a"))]
)
def test_requirements_are_not_combined_with_words(combine):
    with pytest.raises(ConfigurationError, match="combine requirements with"):
        combine()


@pytest.mark.parametrize(
    "wrong",
    [lambda: scope(), lambda: scope("a b"), lambda: scope(1), lambda: claim("", 1), lambda: claim("a", None)],
)
def test_requirements_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


def test_requirements_have_a_size():
    pairs = [scope(f"a{number}") | scope(f"b{number}") for number in range(7)]
    many = pairs[0] & pairs[1] & pairs[2] & pairs[3] & pairs[4] & pairs[5]
    assert len(many.alternatives) == 64
    with pytest.raises(ConfigurationError, match="alternatives"):
        _ = many & pairs[6]


def test_a_requirement_says_what_it_is():
    needed = scope("a") & claim("tenant", "acme") | scope("b")
    assert needed.describe() == "scope a and claim tenant='acme' or scope b"
    assert needed.scopes == ("a", "b")
    assert str(Need("role", "x")) == "role x"


@pytest.mark.parametrize(
    ("claims", "value", "met"),
    [
        ({"level": 1}, 1, True),
        ({"level": True}, 1, False),
        ({"level": 1}, True, False),
        ({"level": 1.0}, 1, False),
        ({"level": [0, 1]}, 1, True),
        ({"level": "1"}, 1, False),
        ({}, 1, False),
    ],
)
def test_claims_are_compared_in_type_too(claims, value, met):
    caller = run(resource_server().authenticate(bearer_request(token(**claims))))
    assert claim("level", value).is_met_by(caller) is met


def test_how_long_a_token_is_still_accepted():
    server = resource_server(leeway=10)
    caller = run(server.authenticate(bearer_request(token(exp=NOW + 60))))
    assert server.remaining_lifetime(caller) == 70
    late = resource_server(leeway=10, clock=Time(NOW + 80).clock)
    assert late.remaining_lifetime(caller) == 0
    endless = AccessToken(FrozenDict({"iss": ISSUER}), FrozenDict({}), "opaque")
    assert server.remaining_lifetime(endless) == math.inf
