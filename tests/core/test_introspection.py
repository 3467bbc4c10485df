"""Opaque tokens: what an issuer's answers are worth, how long they are remembered, and who is never asked."""

import base64
import codecs
import json
import logging
from dataclasses import replace

import pytest
from flows import World, reply, run
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey, RSAKey
from opaque import BASIC, ENDPOINT, GOOD, JWKS, OPENID, RFC8414, Gate
from tokens import ABSENT, API, ISSUER, NOW, Time, claims, jwks, key, token, without_absent

from ticketgate import (
    BearerToken,
    ClientSecretBasic,
    ClientSecretPost,
    Introspection,
    Issuer,
    MutualTls,
    PrivateKeyJwt,
    ResourceServer,
)
from ticketgate.core.flow import Certificate, Once, WaitingFor
from ticketgate.core.request import bearer_request
from ticketgate.core.signing_key import sign_jwt
from ticketgate.errors import (
    AccessDenied,
    ConfigurationError,
    InternalFault,
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
)


@pytest.mark.requirement("RFC7662-2.1-a", "RFC7662-2.1-b", "RFC7662-2.1-c", "RFC7662-2.2-b")
def test_an_active_token_opens():
    gate = Gate()
    access = gate.open()
    assert (access.kind, access.subject, access.client_id, access.issuer) == (
        "opaque",
        "alice",
        "app",
        ISSUER,
    )
    assert (access.scopes, access.audience, access.expires_at) == ({"orders:read"}, (API,), NOW + 300)
    assert (access.token_id, access.issued_at, access.header) == (None, None, {})
    (request,) = gate.world.requests
    assert (request.method, request.url) == ("POST", ENDPOINT)
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert gate.form() == {"token": "opaque", "token_type_hint": "access_token"}


def test_odd_characters_arrive_as_they_are():
    gate = Gate()
    gate.answers["a+b/c~d=="] = GOOD
    assert gate.open("a+b/c~d==").subject == "alice"


def test_groups_roles_and_entitlements_come_along():
    gate = Gate()
    gate.answers["opaque"] = GOOD | {"roles": [{"value": "clerk"}], "groups": ["ops"], "entitlements": "x"}
    access = gate.open()
    assert (access.roles, access.groups, access.entitlements) == ({"clerk"}, {"ops"}, {"x"})


@pytest.mark.requirement("RFC7662-2.2-d", "RFC7662-2.2-e", "RFC7662-2.2-f", "RFC7662-2.2-g", "RFC7662-2.2-h")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"active": False}, "inactive"),
        ({"active": False, "sub": 1}, "inactive"),
        ({"aud": ABSENT}, "audience"),
        ({"aud": "https://other.example"}, "audience"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"iss": ""}, "issuer"),
        ({"exp": NOW - 30}, "expired"),
        ({"nbf": NOW + 31}, "not_yet_valid"),
        ({"iat": NOW + 31}, "not_yet_valid"),
        ({"sub": ABSENT, "client_id": ABSENT}, "claim"),
        ({"sub": None, "client_id": ""}, "claim"),
        ({"sub": None, "client_id": None}, "claim"),
        ({"sub": "", "client_id": ABSENT}, "claim"),
        ({"aud": None}, "audience"),
        ({"token_type": "refresh_token"}, "type"),
        ({"token_type": "DPoP"}, "type"),
        ({"token_type": ""}, "type"),
        ({"token_type": "id_token"}, "type"),
        ({"token_use": "id"}, "type"),
        ({"nonce": "x"}, "type"),
        ({"cnf": {"jkt": "x"}}, "binding"),
    ],
)
def test_an_answer_is_checked_like_a_jwt(changes, reason):
    gate = Gate()
    gate.answers["opaque"] = without_absent(GOOD | changes)
    with pytest.raises(InvalidToken, match=reason):
        gate.open()


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [API, 1]},
        {"exp": "soon"},
        {"iat": True},
        {"sub": 5},
        {"exp": 10**400},
        {"nbf": 10**400},
        {"iat": -(10**400)},
        {"cnf": "x"},
        {"aud": 1.5},
        {"aud": {}},
        {"sub": 1.5},
        {"client_id": []},
        {"iss": 1},
        {"token_type": 1},
        {"exp": str(NOW + 300)},
    ],
)
def test_members_of_another_kind_are_the_endpoints_fault(changes):
    gate = Gate()
    gate.answers["opaque"] = GOOD | changes
    with pytest.raises(IssuerUnavailable):
        gate.open()
    gate.answers["opaque"] = GOOD
    assert gate.open().subject == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ABSENT},
        {"iss": ISSUER, "aud": ["x", API], "nbf": NOW, "iat": NOW, "token_type": "bearer"},
        {"token_type": "access_token"},
        {"sub": ABSENT},
        {"sub": None},
        {"sub": ""},
        dict.fromkeys(
            ("iss", "exp", "nbf", "iat", "jti", "scope", "token_type", "cnf", "nonce", "token_use", "act")
        ),
        {"client_id": ABSENT},
        {"exp": NOW - 29},
    ],
)
def test_what_may_be_left_out_may_be_left_out(changes):
    gate = Gate()
    gate.answers["opaque"] = without_absent(GOOD | changes)
    assert gate.open().kind == "opaque"


def test_a_token_of_a_client_alone_has_no_subject():
    gate = Gate()
    gate.answers["opaque"] = without_absent(GOOD | {"sub": ABSENT})
    access = gate.open()
    assert (access.subject, access.client_id) == (None, "app")


def test_a_missing_audience_can_be_accepted(caplog):
    gate = Gate(accept_missing_audience=True)
    assert "accept_missing_audience" in caplog.text
    gate.answers["opaque"] = without_absent(GOOD | {"aud": ABSENT})
    assert gate.open().audience == ()
    gate.answers["other"] = GOOD | {"aud": "x"}
    with pytest.raises(InvalidToken, match="audience"):
        gate.open("other")


@pytest.mark.requirement("RFC7662-2.3-c", "RFC7662-2.3-d")
@pytest.mark.parametrize(
    "answer",
    [
        reply({}, 400), reply({}, 401), reply({}, 403), reply({}, 404), reply({}, 405), reply({}, 500),
        reply(GOOD, 201), reply(GOOD, 302), reply(b""), reply(b"<html>"), reply([GOOD]), reply("active"),
        {}, {"active": "true"}, {"active": 1}, {"active": None}, {"active": 0}, {"active": [True]},
        reply(b'{"active": true, "active": true}'), reply(b'{"active": true, "x": NaN}'),
        reply(b'{"active": true, "x": ' + b"[" * 100 + b"]" * 100 + b"}"),
    ],
)  # fmt: skip
def test_whatever_else_comes_is_not_the_clients_fault(answer):
    gate = Gate()
    gate.answers["opaque"] = answer
    with pytest.raises(IssuerUnavailable) as unavailable:
        gate.open()
    assert gate.server.answer(unavailable.value).status == 503


@pytest.mark.parametrize(
    ("status", "hint"), [(400, "says 400 for a JWT"), (401, "refused our own"), (404, "no intro")]
)
def test_the_log_names_the_likely_cause_and_no_secret(status, hint, caplog):
    gate = Gate()
    gate.answers["opaque"] = reply({}, status)
    for _ in range(5):
        with pytest.raises(IssuerUnavailable):
            gate.open()
    assert hint in caplog.text
    assert "opaque" not in caplog.text
    assert "secret" not in caplog.text
    assert len(gate.world.requests) == 5  # an endpoint that answers is not dead


@pytest.mark.parametrize(
    "raw",
    [token(exp=0), token(aud="x"), token(signing=key("RS256", "stranger")), token(head={"typ": "JWT"}),
     token(head={"alg": "none"}), token()[:-5], b".".join([token().split(b".")[0]] * 5)],
)  # fmt: skip
def test_a_jwt_is_judged_here_and_never_sent_out(raw):
    gate = Gate()
    with pytest.raises(InvalidToken):
        gate.open(raw)
    assert ENDPOINT not in gate.world.asked


@pytest.mark.parametrize("raw", ["a b", "é", 'a"b', "a,b", "x" * 20_000, "=", ""])
def test_junk_never_leaves_the_process(raw):
    gate = Gate()
    with pytest.raises(InvalidRequest):
        gate.open(raw)
    assert gate.world.asked == []


@pytest.mark.parametrize("raw", ["a.b.c", "eyJ9.e30.x", "W10.e30.x", "." * 4, "a.b", "a.b.c.d", "e30.e30.x"])
def test_what_is_no_jwt_is_asked_about(raw):
    gate = Gate()
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open(raw)
    assert gate.world.asked == [ENDPOINT]


def test_without_introspection_an_opaque_token_is_malformed():
    server = ResourceServer(API, Issuer(ISSUER, jwks=jwks()), clock=Time().clock)
    with pytest.raises(InvalidToken, match="malformed"):
        run(server.authenticate(bearer_request("opaque")))


def test_good_jwts_still_open_without_asking():
    gate = Gate()
    assert gate.open(token()).kind == "jwt"
    assert gate.world.asked == [JWKS]


@pytest.mark.requirement("RFC7662-2.2-l", "RFC7662-4-f", "RFC7662-4-h")
def test_answers_are_remembered_for_a_while():
    gate = Gate()
    first = gate.open()
    gate.time.advance(59)
    assert gate.open() is first
    gate.time.advance(1)
    assert gate.open() is not first
    assert len(gate.world.asked) == 2


@pytest.mark.parametrize("leeway", [0, 30])
def test_an_answer_is_never_used_beyond_the_end_of_the_token(leeway):
    gate = Gate(leeway=leeway)
    gate.answers["opaque"] = GOOD | {"exp": NOW + 20}
    gate.open()
    gate.time.wall = NOW + 20 + leeway - 0.001
    gate.open()
    gate.time.wall = NOW + 20 + leeway
    with pytest.raises(InvalidToken, match="expired"):
        gate.open()


def test_refusals_are_remembered_for_less():
    gate = Gate()
    for _ in range(5):
        with pytest.raises(InvalidToken, match="inactive"):
            gate.open("unknown")
    assert len(gate.world.asked) == 1
    gate.answers["unknown"] = GOOD
    gate.time.advance(10)
    assert gate.open("unknown").subject == "alice"


def test_a_flood_pushes_no_good_token_out():
    gate = Gate(cache_size=10)
    first = gate.open()
    for number in range(100):
        with pytest.raises(InvalidToken):
            gate.open(f"junk{number}")
    assert gate.open() is first


def test_a_cache_can_be_switched_off():
    gate = Gate(cache_ttl=0, negative_ttl=0)
    for _ in range(3):
        gate.open()
        with pytest.raises(InvalidToken):
            gate.open("unknown")
    assert len(gate.world.asked) == 6


def test_two_servers_with_one_issuer_share_no_answers():
    gate = Gate()
    gate.open()
    other = ResourceServer("https://other.example", gate.issuer, clock=gate.time.clock)
    with pytest.raises(InvalidToken, match="audience"):
        gate.world.run(other.authenticate(bearer_request("opaque")))


def test_where_as_many_wait_as_may_only_tokens_that_were_never_active_are_turned_away():
    gate = Gate(cache_ttl=10)
    gate.open()
    gate.world.full = {WaitingFor.QUESTION}
    with pytest.raises(IssuerUnavailable) as unavailable:
        gate.open("junk")
    assert unavailable.value.retry_after == 1
    gate.time.advance(11)
    assert gate.open().subject == "alice"
    assert len(gate.world.requests) == 2


def test_remembered_answers_never_change():
    gate = Gate()
    with pytest.raises(TypeError):
        gate.open().claims["scope"] = "everything"


def test_a_dead_endpoint_is_left_alone_and_then_tried_by_one():
    gate = Gate()
    gate.open()
    del gate.world.pages[ENDPOINT]
    gate.world.requests.clear()
    for number in range(10):
        with pytest.raises(IssuerUnavailable):
            gate.open(f"new{number}")
    assert len(gate.world.requests) == 3
    assert gate.open().subject == "alice"  # what is remembered goes on
    gate.time.advance(2.5)
    for number in range(5):
        with pytest.raises(IssuerUnavailable):
            gate.open(f"new{number}")
    assert len(gate.world.requests) == 4
    gate.world.pages[ENDPOINT] = gate.answer
    gate.time.advance(5)
    gate.answers["new1"] = GOOD
    assert gate.open("new1").subject == "alice"
    with pytest.raises(InvalidToken):
        gate.open("new2")


def test_an_endpoint_that_asks_to_be_left_alone_is():
    gate = Gate()
    gate.answers["opaque"] = reply({}, 503, retry_after="60")
    for _ in range(3):
        with pytest.raises(IssuerUnavailable) as closed:
            gate.open()
        assert closed.value.retry_after == 60
    assert len(gate.world.requests) == 1
    gate.time.advance(61)
    gate.answers["opaque"] = GOOD
    assert gate.open().subject == "alice"


@pytest.mark.parametrize(
    ("first", "second", "asked"),
    [
        ({"introspection_endpoint": ENDPOINT}, None, [RFC8414]),
        ({}, {"introspection_endpoint": ENDPOINT}, [RFC8414, OPENID]),
        (None, {"introspection_endpoint": ENDPOINT}, [RFC8414, OPENID]),
        (
            {"introspection_endpoint": "http://as.example/x"},
            {"introspection_endpoint": ENDPOINT},
            [RFC8414, OPENID],
        ),
    ],
)
def test_the_endpoint_stands_in_the_metadata(first, second, asked):
    gate = Gate(endpoint=None)
    for place, document in ((RFC8414, first), (OPENID, second)):
        if document is not None:
            gate.world.pages[place] = {"issuer": ISSUER, **document}
    gate.open()
    assert gate.world.asked == [*asked, ENDPOINT]
    gate.answers["another"] = GOOD
    gate.open("another")
    assert gate.world.asked[-1] == ENDPOINT
    assert gate.world.asked.count(asked[-1]) == 1


def test_an_endpoint_that_is_nowhere_is_an_outage():
    gate = Gate(endpoint=None)
    gate.world.pages[RFC8414] = {"issuer": ISSUER}
    with pytest.raises(IssuerUnavailable):
        gate.open()


OTHER = Issuer("https://other.example", introspection=Introspection("https://other.example/i", auth=BASIC))


def test_several_issuers_are_asked_in_order():
    gate = Gate(others=[OTHER])
    gate.world.pages["https://other.example/i"] = GOOD
    assert gate.open("theirs").issuer == "https://other.example"
    assert gate.world.asked == [ENDPOINT, "https://other.example/i"]
    gate.world.requests.clear()
    assert gate.open("opaque").issuer == ISSUER
    assert gate.open("theirs").issuer == "https://other.example"
    assert gate.world.asked == [ENDPOINT]


def test_one_issuer_that_is_silent_leaves_it_undecided():
    gate = Gate(others=[OTHER])
    with pytest.raises(IssuerUnavailable):
        gate.open("unknown")


def test_the_refusal_that_says_most_is_told():
    gate = Gate(others=[OTHER])
    gate.world.pages["https://other.example/i"] = GOOD | {"exp": NOW - 60}
    with pytest.raises(InvalidToken, match="expired"):
        gate.open("unknown")


@pytest.mark.requirement("RFC6749-2.3.1-a")
def test_basic_is_encoded_before_it_is_encoded():
    gate = Gate(auth=ClientSecretBasic("an id:é", "p%s+w"))
    gate.open()
    scheme, _, value = gate.world.requests[-1].headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(value)) == ("Basic", b"an+id%3A%C3%A9:p%25s%2Bw")


def test_the_secret_can_stand_in_the_form():
    gate = Gate(auth=ClientSecretPost("api", "s&cret"))
    gate.open()
    assert gate.form()["client_id"] == "api"
    assert gate.form()["client_secret"] == "s&cret"
    assert "Authorization" not in gate.world.requests[-1].headers


@pytest.mark.parametrize("given", ["tok", lambda: "tok"])
def test_a_token_of_our_own(given):
    gate = Gate(auth=BearerToken(given))
    gate.open()
    assert gate.world.requests[-1].headers["Authorization"] == "Bearer tok"


def part(jwt, number):
    return json.loads(base64.urlsafe_b64decode(jwt.split(".")[number] + "=="))


PRIVATE = key("ES256").key.as_dict(private=True)


@pytest.mark.requirement("RFC7523-2.2-a", "RFC7523-3-a")
@pytest.mark.parametrize(
    "auth",
    [
        PrivateKeyJwt("api", PRIVATE | {"kid": "mine"}),
        PrivateKeyJwt("api", key("ES256").key.as_pem(private=True), kid="mine"),
        PrivateKeyJwt("api", key("ES256").key.as_pem(private=True).decode(), kid="mine"),
        PrivateKeyJwt("api", key("ES256").sign, algorithm="ES256", kid="mine"),
    ],
)
def test_an_assertion_proves_who_we_are(auth):
    gate = Gate(auth=auth)
    gate.open()
    first = gate.form()
    assert first["client_id"] == "api"
    assert first["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assertion = first["client_assertion"]
    assert part(assertion, 0) == {"typ": "client-authentication+jwt", "alg": "ES256", "kid": "mine"}
    claims = part(assertion, 1)
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("api", "api", ISSUER)
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 60)
    message, _, signature = assertion.encode().rpartition(b".")
    ((found,),) = [Issuer("https://x.example", jwks=jwks(key("ES256"))).keys.held.keys.keys]
    assert found.verify(message, base64.urlsafe_b64decode(signature + b"=="))
    gate.answers["another"] = GOOD
    gate.open("another")
    assert part(gate.form()["client_assertion"], 1)["jti"] != claims["jti"]


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES384", "EdDSA", "Ed25519"])
def test_every_algorithm_signs_assertions(algorithm):
    jwk = key(algorithm).key.as_dict(private=True) | {"alg": algorithm}
    gate = Gate(auth=PrivateKeyJwt("api", jwk))
    gate.open()
    assert part(gate.form()["client_assertion"], 0)["alg"] == algorithm


def test_mutual_tls_shows_its_certificate_at_the_right_address():
    gate = Gate(endpoint=None, auth=MutualTls("api", "/cert.pem", "/key.pem"))
    other = "https://mtls.as.example/introspect"
    metadata = {"issuer": ISSUER, "introspection_endpoint": ENDPOINT}
    gate.world.pages |= {
        RFC8414: metadata | {"mtls_endpoint_aliases": {"introspection_endpoint": other}},
        other: GOOD,
    }
    gate.open()
    request = gate.world.requests[-1]
    assert (request.url, request.connection.certificate) == (other, Certificate("/cert.pem", "/key.pem"))
    assert gate.form()["client_id"] == "api"


@pytest.mark.parametrize("aliases", [None, [], {}, {"introspection_endpoint": None}])
def test_mutual_tls_without_an_address_of_its_own(aliases):
    gate = Gate(endpoint=None, auth=MutualTls("api", "/cert.pem", "/key.pem"))
    metadata = {"issuer": ISSUER, "introspection_endpoint": ENDPOINT}
    gate.world.pages[RFC8414] = metadata | {"mtls_endpoint_aliases": aliases}
    gate.open()
    assert gate.world.requests[-1].url == ENDPOINT


@pytest.mark.parametrize(
    "auth", [BASIC, ClientSecretPost("api", "secret"), BearerToken("secret"), PrivateKeyJwt("api", PRIVATE)]
)
def test_nothing_shows_a_secret(auth):
    gate = Gate(auth=auth)
    gate.open()
    shown = repr(auth) + repr(gate.world.requests[-1]) + repr(gate.issuer.introspection)
    assert "secret" not in shown
    assert PRIVATE["d"] not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Introspection(auth=None),
        lambda: Introspection(auth=("id", "secret")),
        lambda: Introspection(auth=BASIC, introspect="never"),
        lambda: Introspection(auth=BASIC, cache_ttl=-1),
        lambda: Introspection(auth=BASIC, cache_ttl=float("nan")),
        lambda: Introspection(auth=BASIC, negative_ttl=float("inf")),
        lambda: Introspection(auth=BASIC, timeout=float("nan")),
        lambda: Introspection(auth=BASIC, timeout=True),
        lambda: Introspection(auth=BASIC, timeout="5"),
        lambda: Introspection(auth=BASIC, cache_size=1.5),
        lambda: Introspection(auth=BASIC, max_waiting=float("nan")),
        lambda: Introspection(auth=BASIC, max_concurrency=0),
        lambda: Introspection(auth=BASIC, timeout=0),
        lambda: Gate(endpoint="http://as.example/introspect"),
        lambda: ClientSecretBasic("", "x"),
        lambda: ClientSecretPost("x", ""),
        lambda: MutualTls("x", "", "y"),
        lambda: PrivateKeyJwt("", PRIVATE),
        lambda: PrivateKeyJwt("x", key("ES256").sign),
        lambda: PrivateKeyJwt("x", PRIVATE, lifetime=0),
        lambda: PrivateKeyJwt("x", PRIVATE, lifetime=3600),
        lambda: PrivateKeyJwt("x", PRIVATE, algorithm="RS256"),
        lambda: PrivateKeyJwt("x", PRIVATE, algorithm="HS256"),
        lambda: PrivateKeyJwt("x", key("ES256").public_jwk()),
        lambda: PrivateKeyJwt("x", {"kty": "oct", "k": "AAAA"}),
        lambda: PrivateKeyJwt("x", {"kty": "RSA"}),
        lambda: PrivateKeyJwt("x", "no pem"),
        lambda: PrivateKeyJwt("x", OKPKey.generate_key("Ed448").as_dict(private=True), algorithm="EdDSA"),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


@pytest.mark.filterwarnings("ignore:Key size")
def test_a_weak_key_signs_nothing():
    with pytest.raises(ConfigurationError, match="2048 bits"):
        PrivateKeyJwt("x", RSAKey.generate_key(1024).as_dict(private=True))


def test_requirements_hold_for_opaque_tokens_too():
    from ticketgate import role, scope

    access = Gate().open()
    scope("orders:read").check(access)
    with pytest.raises(AccessDenied):
        role("clerk").check(access)


def test_a_token_and_its_answer_stand_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    gate = Gate()
    gate.open()
    with pytest.raises(InvalidToken) as refused:
        gate.open("unknown-token")
    gate.server.answer(refused.value)
    assert "inactive" in caplog.text
    assert "unknown-token" not in caplog.text


def test_where_too_many_wait_for_opaque_issuer_nothing_is_decided():
    gate = Gate()
    gate.server = ResourceServer(
        API, gate.issuer, opaque_issuer=lambda raw: gate.issuer, clock=gate.time.clock
    )
    gate.open()
    gate.time.advance(60)
    gate.world.lanes.clear()
    gate.open()
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open("new")
    assert [lane.width for lane in gate.world.lanes] == [20, 20, 15, 15]
    gate.world.has_no_place = True
    with pytest.raises(IssuerUnavailable, match="opaque_issuer was not asked") as unavailable:
        gate.open("newer")
    assert unavailable.value.retry_after == 1


def test_what_proves_who_we_are_is_made_within_the_place_of_the_question():
    gate = Gate(auth=BearerToken(lambda: made.append(len(gate.world.lanes)) or "ours"))
    made = []
    gate.open()
    assert made == [1]
    gate.world.has_no_place = True
    with pytest.raises(IssuerUnavailable):
        gate.open("new")
    assert made == [1]


def test_every_token_can_be_asked_about():
    gate = Gate(introspect="always")
    raw = token().decode()
    gate.answers[raw] = GOOD
    first = gate.open(raw)
    assert first.kind == "jwt"
    assert gate.open(raw) is first
    assert gate.world.asked == [JWKS, ENDPOINT]
    gate.time.advance(60)
    gate.answers[raw] = {"active": False}
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open(raw)
    with pytest.raises(InvalidToken, match="expired"):
        gate.open(token(exp=0))
    gate.open("opaque")
    assert gate.world.asked.count(ENDPOINT) == 3


def test_where_every_token_is_asked_about_an_outage_lets_nobody_in():
    gate = Gate(introspect="always")
    del gate.world.pages[ENDPOINT]
    with pytest.raises(IssuerUnavailable):
        gate.open(token())


def confirmed(gate, raw, within):
    access = gate.open(raw)
    gate.world.run(gate.server.confirm(bearer_request(raw), access, within))


@pytest.mark.parametrize(("waited", "questions"), [(6, 1), (7, 2)])
def test_an_answer_is_as_old_as_its_question(waited, questions):
    def slowly(request):
        gate.time.advance(4)
        return reply(GOOD)

    gate = Gate()
    gate.world.pages[ENDPOINT] = slowly
    access = gate.open()
    gate.time.advance(waited - 4)
    gate.world.run(gate.server.confirm(bearer_request("opaque"), access, 6))
    assert gate.world.asked.count(ENDPOINT) == questions


def test_an_answer_is_remembered_from_its_question_on():
    gate = Gate(cache_ttl=10)
    gate.world.pages[ENDPOINT] = lambda request: gate.time.advance(4) or reply(GOOD)
    gate.open()
    gate.time.advance(6)
    gate.open()
    assert gate.world.asked.count(ENDPOINT) == 2


@pytest.mark.parametrize(("ago", "outcome"), [(5, "alice"), (6, "inactive")])
def test_a_question_of_long_ago_is_not_joined(ago, outcome):
    class Joined(World):
        """Whoever asks meets a run that began a while ago, when the token was still active."""

        def _answer(self, effect):
            if not isinstance(effect, Once) or self.joined:
                return super()._answer(effect)
            self.joined = True
            gate.time.advance(-ago)
            answer = self.run(effect.flow())
            gate.time.advance(ago)
            gate.answers["opaque"] = {"active": False}
            return answer

    gate = Gate()
    access = gate.open()
    gate.time.advance(100)
    world = Joined(gate.world.pages)
    world.joined = False
    confirming = gate.server.confirm(bearer_request("opaque"), access, 5)
    if outcome == "inactive":
        with pytest.raises(InvalidToken, match=outcome):
            world.run(confirming)
    else:
        world.run(confirming)
    assert world.asked.count(ENDPOINT) == (2 if outcome == "inactive" else 1)


def test_a_token_can_be_confirmed():
    gate = Gate()
    raw = token().decode()
    gate.answers[raw] = GOOD
    confirmed(gate, raw, 10)
    gate.time.advance(10)
    confirmed(gate, raw, 10)
    assert gate.world.asked.count(ENDPOINT) == 1
    gate.time.advance(1)
    confirmed(gate, raw, 10)
    assert gate.world.asked.count(ENDPOINT) == 2
    gate.answers[raw] = {"active": False}
    gate.time.advance(11)
    with pytest.raises(InvalidToken, match="inactive"):
        confirmed(gate, raw, 10)
    assert gate.open(raw).kind == "jwt"  # where nobody asks, a JWT speaks for itself


def test_an_opaque_token_can_be_confirmed_too():
    gate = Gate()
    confirmed(gate, "opaque", 0)
    gate.time.advance(5)
    confirmed(gate, "opaque", 0)
    assert gate.world.asked.count(ENDPOINT) == 2


def test_confirming_needs_somebody_to_ask(caplog):
    server = ResourceServer(API, Issuer(ISSUER, jwks=jwks()), clock=Time().clock)
    access = run(server.authenticate(bearer_request(token())))
    with pytest.raises(InternalFault):
        run(server.confirm(bearer_request(token()), access, 10))
    assert "introspection=" in caplog.text
    with pytest.raises(InternalFault):
        run(server.confirm(bearer_request(token()), None, 10))


def test_a_function_says_whom_to_ask():
    ours = Issuer(ISSUER, introspection=Introspection(ENDPOINT, auth=BASIC))
    asked = []

    def choose(raw):
        asked.append(raw)
        return {"t": OTHER, "o": ours}.get(raw[0])

    server = ResourceServer(API, ours, OTHER, opaque_issuer=choose, clock=Time().clock)
    world = World({ENDPOINT: GOOD, "https://other.example/i": GOOD})
    for raw, issuer in (
        ("theirs", "https://other.example"),
        ("ours", ISSUER),
        ("theirs", "https://other.example"),
    ):
        assert world.run(server.authenticate(bearer_request(raw))).issuer == issuer
    with pytest.raises(InvalidToken, match="issuer"):
        world.run(server.authenticate(bearer_request("nobodys")))
    assert asked == ["theirs", "ours", "nobodys"]
    assert len(world.asked) == 2


def test_a_function_that_names_a_stranger_is_our_own_fault():
    server = ResourceServer(API, OTHER, opaque_issuer=lambda raw: Issuer(ISSUER), clock=Time().clock)
    with pytest.raises(InternalFault):
        run(server.authenticate(bearer_request("opaque")))


SIGNED = "application/token-introspection+jwt"


def signed(typ="token-introspection+jwt", signing=None, content_type=SIGNED, status=200, wrap=str, **changes):
    claims = {"iss": ISSUER, "aud": "api", "iat": NOW, "token_introspection": GOOD}
    raw = sign_jwt(signing or key(), typ, without_absent(claims | changes))
    return reply(wrap(raw).encode(), status, content_type=content_type)


@pytest.mark.requirement("RFC9701-4-a", "RFC9701-5-a", "RFC9701-5-b", "RFC9701-5-i")
@pytest.mark.parametrize("aud", ["api", ["api"], ["x", "api"]])
def test_a_signed_answer_opens_and_is_kept(aud):
    gate = Gate(expect="jwt")
    answer = gate.answers["opaque"] = signed(aud=aud, content_type=f"{SIGNED}; charset=utf-8")
    access = gate.open()
    assert gate.world.requests[0].headers["Accept"] == SIGNED
    assert (access.subject, access.phantom) == ("alice", answer.body.decode())
    assert "eyJ" not in repr(access)


@pytest.mark.requirement("RFC9701-5-i", "RFC9701-5-j")
@pytest.mark.parametrize(
    "answer",
    [
        reply(GOOD), reply(GOOD, content_type=SIGNED), reply(GOOD, content_type="application/json"),
        signed(content_type="application/json"), signed(content_type="application/jwt"), signed(status=201),
        signed(typ="at+jwt"), signed(typ="JWT"), signed(signing=key("RS256", "stranger")),
        signed(aud="other"), signed(aud=ABSENT), signed(aud=None), signed(aud=[None, 1]), signed(iss="https://x.example"),
        signed(iss=ABSENT), signed(iat=ABSENT), signed(iat=None), signed(iat=NOW + 60), signed(iat="now"),
        signed(iat=10**400), signed(iat=NOW - 91), signed(iat=0), signed(exp=NOW - 30), signed(exp="soon"),
        signed(nbf=NOW + 31), signed(nbf="now"), signed(aud={"a": 1}), signed(aud=[{"a": 1}, ["api"]]),
        signed(token_introspection=ABSENT), signed(token_introspection=[GOOD]),
        signed(token_introspection={"active": "true"}), signed(token_introspection={}),
    ],
)  # fmt: skip
def test_any_other_signed_answer_is_not_the_clients_fault(answer):
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = answer
    with pytest.raises(IssuerUnavailable):
        gate.open()


@pytest.mark.parametrize(
    "changes",
    [{"iat": NOW - 90}, {"iat": NOW + 30}, {"exp": NOW - 29, "nbf": NOW + 30}, {"exp": None, "nbf": None}],
)
def test_a_signed_answer_is_at_most_a_minute_old(changes):
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = signed(**changes)
    assert gate.open().subject == "alice"


@pytest.mark.parametrize("expect", ["jwt", "phantom"])
def test_a_key_that_was_replaced_under_its_id_is_found_for_answers_too(expect):
    def answer(signing):
        if expect == "jwt":
            return signed(signing=signing)
        return reply(token(signing=signing), content_type="application/jwt")

    gate = Gate(expect=expect)
    gate.answers["opaque"] = answer(key())
    gate.open()
    newer = replace(key("RS256", "other"), kid=key().kid)
    gate.world.pages[JWKS] = jwks(newer)
    gate.time.advance(1)
    gate.answers["new"] = answer(newer)
    assert gate.open("new").subject == "alice"


def test_an_old_signed_answer_cannot_be_sent_again(caplog):
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = signed()
    assert gate.open().subject == "alice"
    gate.time.advance(91)
    with pytest.raises(IssuerUnavailable):
        gate.open()
    assert "it was signed 91 seconds ago" in caplog.text


@pytest.mark.parametrize("answer", [GOOD, GOOD | {"scope": ["orders:read"], "nbf": None}])
def test_a_byte_order_mark_before_an_answer_is_skipped(answer):
    gate = Gate()
    gate.answers["opaque"] = reply(codecs.BOM_UTF8 + reply(answer).body)
    assert gate.open().scopes == {"orders:read"}


def test_a_signed_answer_may_be_no():
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = signed(token_introspection={"active": False})
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open()


def test_signed_answers_to_another_name_can_be_accepted():
    gate = Gate(expect="jwt", auth=BearerToken("t"), accept_audience=["other"])
    gate.answers["opaque"] = signed(aud="other")
    assert gate.open().subject == "alice"


def test_without_keys_a_signed_answer_says_nothing():
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = signed()
    del gate.world.pages[JWKS]
    with pytest.raises(IssuerUnavailable):
        gate.open()


@pytest.mark.requirement("RFC9701-8.1-a")
def test_a_signed_answer_is_no_access_token():
    gate = Gate(expect="jwt")
    everything = claims() | {"token_introspection": GOOD, "aud": [API, "api"]}
    with pytest.raises(InvalidToken, match="type"):
        gate.open(sign_jwt(key(), "token-introspection+jwt", everything))


ENCRYPTION = {"EC": ECKey.generate_key("P-256", {"kid": "ours"}), "RSA": RSAKey.generate_key(2048)}


def encrypted(raw, kind="EC", **header):
    algorithms = {"EC": "ECDH-ES", "RSA": "RSA-OAEP"}
    protected = {"alg": algorithms[kind], "enc": "A128GCM", "cty": "JWT", **header}
    return jwe.encrypt_compact(protected, raw, ENCRYPTION[kind], registry=LENIENT)


LENIENT = jwe.JWERegistry(
    algorithms=["ECDH-ES", "RSA-OAEP", "A128GCM", "A128CBC-HS256", "DEF"], strict_check_header=False
)
OUR_KEYS = [ENCRYPTION["EC"].as_dict(private=True), ENCRYPTION["RSA"].as_pem(private=True)]
OUR_KEY, OUR_NAMELESS_KEY = OUR_KEYS[:1], OUR_KEYS[1:]


@pytest.mark.requirement("RFC9701-5-g")
@pytest.mark.parametrize(
    ("keys", "wrap"),
    [
        (OUR_KEY, lambda raw: encrypted(raw)),
        (OUR_KEY, lambda raw: encrypted(raw, kid="ours")),
        (OUR_KEYS, lambda raw: encrypted(raw, kid="ours")),
        (OUR_NAMELESS_KEY, lambda raw: encrypted(raw, "RSA", enc="A128CBC-HS256")),
        (OUR_NAMELESS_KEY, lambda raw: encrypted(raw, "RSA", kid="unknown to a PEM")),
    ],
)
def test_an_encrypted_answer_is_opened(keys, wrap):
    gate = Gate(expect="jwt", decryption_keys=keys)
    gate.answers["opaque"] = signed(wrap=wrap)
    access = gate.open()
    assert access.subject == "alice"
    assert access.phantom.count(".") == 2


@pytest.mark.parametrize(
    ("keys", "wrap"),
    [
        (OUR_KEY, lambda raw: encrypted(raw)[:-3]),
        (OUR_KEY, lambda raw: "x" + encrypted(raw)),
        (OUR_KEY, lambda raw: encrypted(raw, crit=["enc"])),
        (OUR_KEY, lambda raw: encrypted(raw, zip="DEF")),
        (OUR_KEY, lambda raw: encrypted(encrypted(raw))),
        (OUR_KEY, lambda raw: encrypted('{"active": true}')),
        (OUR_KEY, lambda raw: encrypted("")),
        (OUR_KEY, lambda raw: encrypted(raw, kid="theirs")),
        (OUR_KEYS, lambda raw: encrypted(raw)),
        (OUR_KEYS, lambda raw: encrypted(raw, "RSA", kid="theirs")),
        (OUR_KEY, lambda raw: "...."),
        (OUR_KEY, lambda raw: "W10...."),
    ],
)
def test_an_encrypted_answer_that_is_not_right_is_not_the_clients_fault(keys, wrap):
    gate = Gate(expect="jwt", decryption_keys=keys)
    gate.answers["opaque"] = signed(wrap=wrap)
    with pytest.raises(IssuerUnavailable):
        gate.open()


def test_without_keys_of_our_own_an_encrypted_answer_says_nothing():
    gate = Gate(expect="jwt")
    gate.answers["opaque"] = signed(wrap=encrypted)
    with pytest.raises(IssuerUnavailable):
        gate.open()


def phantom(status=200, content_type="application/jwt", **changes):
    return reply(token(**changes), status, content_type=content_type)


def test_a_phantom_token_is_judged_like_any_other_and_kept():
    gate = Gate(expect="phantom")
    answer = gate.answers["opaque"] = phantom(scope="orders:read")
    access = gate.open()
    assert gate.world.requests[0].headers["Accept"] == "application/jwt"
    assert (access.kind, access.subject, access.scopes) == ("opaque", "alice", {"orders:read"})
    assert access.phantom == answer.body.decode()
    gate.answers["gone"] = reply(b"", 204)
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open("gone")


@pytest.mark.parametrize(
    "answer",
    [phantom(exp=0), phantom(aud="x"), phantom(content_type="application/json"), phantom(status=201), reply(GOOD),
     reply({}, 500), phantom(head={"typ": "JWT"}), phantom(signing=key("RS256", "stranger"), head={"kid": key().kid})],
)  # fmt: skip
def test_a_phantom_token_that_is_not_right_is_not_the_clients_fault(answer):
    gate = Gate(expect="phantom")
    gate.answers["opaque"] = answer
    with pytest.raises(IssuerUnavailable):
        gate.open()


@pytest.mark.parametrize(
    "wrong",
    [
        {"expect": "xml"},
        {"expect": "jwt", "auth": BearerToken("t")},
        {"decryption_keys": "pem"},
        {"decryption_keys": ["no pem"]},
        {"decryption_keys": [{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAA"}]},
        {"decryption_keys": [{"kty": "RSA"}]},
        {"decryption_keys": [ENCRYPTION["EC"].as_dict(private=False)]},
        {"decryption_keys": [ENCRYPTION["EC"].as_dict(private=True)] * 11},
    ],
)
def test_what_cannot_be_expected_is_refused_at_once(wrong):
    with pytest.raises(ConfigurationError):
        Introspection(**{"auth": BASIC} | wrong)


def test_decryption_keys_show_nothing():
    assert repr(Introspection(auth=BASIC, decryption_keys=OUR_KEYS).decryption_keys) == "<2 decryption keys>"


@pytest.mark.requirement("DRV-jwks-d")
@pytest.mark.parametrize("asked", ["always", "by a route"])
def test_what_an_issuer_says_of_a_jwt_never_stands_in_for_its_signature(asked):
    gate = Gate(introspect="always" if asked == "always" else "opaque")
    other = key("RS256", "other")
    raw, newer = token().decode(), token(signing=other).decode()
    gate.answers |= {raw: GOOD, newer: GOOD}
    confirmed(gate, raw, 10)
    gate.world.pages[JWKS] = jwks(other)
    gate.time.advance(1)
    gate.open(newer)
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.open(raw)
