"""Tokens for outgoing calls: fetched once, kept while they are good, and sent nowhere else."""

import asyncio
import io
import json
from base64 import b64encode, urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qs, quote_plus

import httpx
import pytest
from fault_issuer import FaultIssuer
from flows import World, reply
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route
from tokens import API, ISSUER, NOW, Time, key, token

from ticketgate import (
    BearerToken,
    ClientSecretBasic,
    ClientSecretPost,
    HTTPOptions,
    Issuer,
    MutualTls,
    PrivateKeyJwt,
    ResourceServer,
    scope,
)
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.core.flow import Cause, FetchFailed
from ticketgate.core.signing_key import SigningKey
from ticketgate.errors import ConfigurationError, IssuerUnavailable, TokenRefused
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import AssertionIssuer
from ticketgate.issuing.clients import Client
from ticketgate.issuing.server import AuthorizationServer
from ticketgate.issuing.starlette import authorization_server_app
from ticketgate.starlette import requires
from ticketgate.token_client import TokenClient

NEXT = "https://next.example"
ENDPOINT = f"{ISSUER}/token"
SECRET = "a-secret-that-opens-nothing-real"
BASIC = ClientSecretBasic("orders", SECRET)


class Caller:
    """A token client before a token endpoint that numbers its tokens."""

    def __init__(self, answer=None, auth=BASIC, **options):
        self.time = Time()
        self.count = 0
        self.answer = {"token_type": "Bearer", "expires_in": 100} if answer is None else answer
        self.world = World({ENDPOINT: self.give})
        issuer = Issuer(ISSUER, http=options.pop("http", HTTPOptions()))
        options = {"token_endpoint": ENDPOINT} | options
        self.client = TokenClient(issuer, auth, clock=self.time.clock, **options)

    def give(self, request):
        self.count += 1
        if not isinstance(self.answer, dict):
            return self.answer
        return reply({"access_token": f"token-{self.count}"} | self.answer)

    def get(self, grant=None):
        return self.world.run(self.client.token(grant or self.client.client_credentials(NEXT, "a b")))

    def form(self):
        return {name: value[0] for name, value in parse_qs(self.world.requests[-1].body.decode()).items()}


@pytest.mark.requirement("RFC6749-4.4-a", "RFC8707-2-a")
def test_client_credentials_are_asked_for_once():
    caller = Caller()
    assert [caller.get() for _ in range(3)] == ["token-1"] * 3
    assert caller.form() == {"grant_type": "client_credentials", "resource": NEXT, "scope": "a b"}
    assert caller.world.requests[-1].headers["Authorization"].startswith("Basic ")
    assert caller.get(caller.client.client_credentials(NEXT, "a")) == "token-2"
    assert caller.get(caller.client.client_credentials("https://other.example", "a b")) == "token-3"


def test_a_token_is_renewed_ahead_of_its_end():
    caller = Caller()
    caller.get()
    caller.time.advance(81)
    assert caller.get() == "token-1"
    assert caller.count == 1
    caller.world.catch_up()
    assert caller.get() == "token-2"
    caller.time.advance(100)
    assert caller.get() == "token-3"


@pytest.mark.parametrize(
    "expires_in", [None, True, -5, "-5", "", "1e3", "NaN", "Infinity", "\u0663", [100], {}]
)
def test_a_token_that_does_not_say_how_long_it_lives_is_used_once(expires_in):
    caller = Caller({"token_type": "bearer", "expires_in": expires_in})
    assert [caller.get(), caller.get()] == ["token-1", "token-2"]


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (100, 100), ("3599", 3_599), ("0003599", 3_599), ("86399", 86_399), ("123456", 86_400),
        (10**400, 86_400), ("9" * 5_000, 86_400), (1e300, 86_400),
    ],
)  # fmt: skip
def test_a_token_is_used_for_as_long_as_it_says_and_a_day_at_most(expires_in, seconds):
    caller = Caller({"token_type": "bearer", "expires_in": expires_in})
    assert caller.get() == "token-1"
    caller.time.advance(seconds - 1)
    assert caller.get() == "token-1"
    caller.time.advance(1)
    assert caller.get() == "token-2"


def test_a_token_ends_by_the_wall_clock_too():
    caller = Caller()
    caller.get()
    caller.time.wall += 100  # the machine was suspended, and its monotonic clock with it
    assert caller.get() == "token-2"


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_keeps_its_code(status):
    caller = Caller(reply({"error": "invalid_target", "error_description": "no"}, status))
    with pytest.raises(TokenRefused, match="invalid_target: no") as refused:
        caller.get()
    assert refused.value.error == "invalid_target"


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({"error": "no\r\nSet-Cookie: x", "error_description": "a\u202eb\x1b[2J"},
         "unknown: a\\u202eb\\x1b[2J"),
        ({"error": "x" * 64, "error_description": "y" * 10_000}, f"{'x' * 64}: {'y' * 300}"),
        ({"error": "x" * 65}, "unknown"),
        ({"error": {"a": 1}, "error_description": ["b"]}, "unknown"),
        ({}, "unknown"),
        ({"error": "", "error_description": "it's \\ \"quoted\""}, 'unknown: it\'s \\ "quoted"'),
    ],
)  # fmt: skip
def test_the_words_of_a_refusal_are_escaped_and_cut(members, shown):
    caller = Caller(reply(members, 400))
    for _ in range(2):  # the second time by heart
        with pytest.raises(TokenRefused, match=r".") as refused:
            caller.get()
        assert str(refused.value) == shown


LEFT_OUT = "(its words are left out: they may repeat a secret that was sent)"
AUTHS = {
    "basic": lambda secret: ClientSecretBasic("orders", secret),
    "post": lambda secret: ClientSecretPost("orders", secret),
    "bearer": BearerToken,
    "subject": None,
    "header": None,
}


def refused(secret, place, members, **parameters):
    """What is said of ``members``, where the request has ``secret`` in this ``place``."""
    make = AUTHS[place] or (lambda _: ClientSecretPost("orders", "nothing"))
    http = HTTPOptions(headers={"X-Key": secret} if place == "header" else {})
    caller = Caller(reply(members, 400), make(secret), http=http)
    grant = caller.client.exchanged(secret if place == "subject" else "opaque", NEXT, parameters=parameters)
    with pytest.raises(TokenRefused, match=r".") as failed:
        caller.get(grant)
    return str(failed.value)


CANARY = "canary~3f/9a+0Zk"


@pytest.mark.parametrize("place", AUTHS)
@pytest.mark.parametrize(
    "words",
    [
        CANARY, CANARY.upper(), CANARY[:6], CANARY[4:10], CANARY[-6:], quote_plus(CANARY), quote_plus(CANARY)[:16],
        quote_plus(quote_plus(CANARY)), quote_plus(CANARY).lower(), CANARY.encode().hex(), CANARY.encode().hex().upper(),
        *(encode(b"orders:"[:length] + CANARY.encode() + b"}").decode()
          for encode in (b64encode, urlsafe_b64encode) for length in range(4)),
        b64encode(f"orders:{quote_plus(CANARY)}".encode()).decode(),
    ],
)  # fmt: skip
def test_a_refusal_does_not_quote_what_was_sent(place, words):
    if words == b64encode(f"orders:{quote_plus(CANARY)}".encode()).decode():
        place = "basic"
    members = {"error": "e", "error_description": f"bad secret {words} or so"}
    assert refused(CANARY, place, members, tenant="cana") == f"e: {LEFT_OUT}"
    if words.isalnum():
        assert refused(CANARY, place, {"error": words}) == "unknown"


@pytest.mark.parametrize(
    ("secret", "members", "shown"),
    [
        ("client-secret", {"error": "invalid_client"}, "invalid_client"),
        ("client-secret", {"error": "invalid_clients"}, "unknown"),
        (
            "prod",
            {"error": "invalid_client", "error_description": "not in prod"},
            f"invalid_client: {LEFT_OUT}",
        ),
        ("a b", {"error": "e", "error_description": "a b c"}, "e: a b c"),
        ("abcdefgh", {"error": "e", "error_description": "abcde cdefg orders"}, "e: abcde cdefg orders"),
        ("two words", {"error": "e", "error_description": "two wo"}, f"e: {LEFT_OUT}"),
        ("\u20ac" * 6, {"error": "e", "error_description": "\u20ac" * 6}, f"e: {LEFT_OUT}"),
    ],
)
def test_what_is_shown_of_a_refusal(secret, members, shown):
    assert refused(secret, "post", members) == shown


@pytest.mark.parametrize("header", ["Basic", "Basic ?", "Basic YQ", "basic " + b64encode(b"\xff").decode()])
def test_a_header_that_is_not_quite_basic_is_a_secret_too(header):
    caller = Caller(
        reply({"error": "e", "error_description": f"I got {header} as it is"}, 400),
        http=HTTPOptions(headers={"Authorization": header}),
        auth=ClientSecretPost("orders", SECRET),
    )
    with pytest.raises(TokenRefused, match=r"^e"):
        caller.get()


def test_long_tokens_are_looked_through_once():
    words = {"error": "e", "error_description": "b" * 300}
    assert refused("a" * 200_000, "subject", words) == f"e: {'b' * 300}"


@pytest.mark.requirement("RFC8693-2.2.1-a")
@pytest.mark.parametrize(
    "answer",
    [
        reply({}, 500), reply({}, 302), reply(b"<html>"), reply(b"<html>", 400), reply([]), {"token_type": "N_A"},
        {"token_type": "DPoP"}, {}, {"token_type": "Bearer", "access_token": ""},
        {"token_type": "Bearer", "access_token": 1}, {"token_type": "Bearer", "access_token": "a b"},
        {"token_type": "Bearer", "access_token": "a\r\nb"},
    ],
)  # fmt: skip
def test_whatever_else_comes_is_an_outage(answer):
    caller = Caller(answer)
    with pytest.raises(IssuerUnavailable):
        caller.get()


def test_the_endpoint_stands_in_the_metadata():
    caller = Caller(token_endpoint=None)
    with pytest.raises(IssuerUnavailable):
        caller.get()
    caller.time.advance(1)
    metadata = {
        "issuer": ISSUER,
        "token_endpoint": ENDPOINT,
        "mtls_endpoint_aliases": {"token_endpoint": f"{ISSUER}/m"},
    }
    caller.world.pages |= {f"{ISSUER}/.well-known/openid-configuration": metadata, f"{ISSUER}/m": caller.give}
    assert caller.get() == "token-1"
    other = Caller(token_endpoint=None, auth=MutualTls("orders", "/c.pem", "/k.pem"))
    other.world.pages |= caller.world.pages
    other.get()
    assert other.world.requests[-1].url == f"{ISSUER}/m"


@pytest.mark.requirement("RFC8693-2.1-a", "RFC8693-2.1-b")
def test_a_callers_token_is_exchanged_and_outlives_nothing():
    caller = Caller({"token_type": "Bearer", "expires_in": 1000})
    subject = token(exp=NOW + 50).decode()
    grant = caller.client.exchanged(subject, NEXT, "a", audience="next", actor_token="actor")
    assert caller.get(grant) == "token-1"
    form = caller.form()
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert (form["subject_token"], form["actor_token"], form["audience"]) == (subject, "actor", "next")
    assert (
        form["subject_token_type"]
        == form["actor_token_type"]
        == "urn:ietf:params:oauth:token-type:access_token"
    )
    caller.time.advance(49)
    assert caller.get(grant) == "token-1"
    caller.world.behind.clear()
    caller.time.advance(1)
    with pytest.raises(TokenRefused, match="has expired"):
        caller.get(grant)
    assert caller.get(caller.client.exchanged(token(jti="x").decode(), NEXT, "a")) == "token-2"
    assert subject not in repr(grant)


@pytest.mark.parametrize(("left", "asked"), [(-100, 0), (0, 0), (1, 1)])
def test_what_has_expired_is_not_exchanged(left, asked):
    caller = Caller()
    expired = token(exp=int(NOW) + left).decode()
    for grant in (caller.client.exchanged(expired, NEXT), caller.client.vouched(NEXT, assertion=expired)):
        before = caller.count
        for _ in range(3):
            with suppress(TokenRefused):
                assert caller.get(grant).startswith("token-")
        assert caller.count == before + asked
    if not asked:
        with pytest.raises(TokenRefused, match="invalid_grant: what the token would be made of has expired"):
            caller.get(grant)


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
@pytest.mark.parametrize(
    ("expires_in", "left", "took", "error"),
    [
        (2, 60, 1, None),
        (2, 60, 2, IssuerUnavailable),
        (2, 60, 4, IssuerUnavailable),
        (100, 5, 5, TokenRefused),
        (None, 5, 4, None),
        (None, 5, 5, TokenRefused),
    ],
)
def test_a_token_that_was_over_before_it_came_is_not_given_out(clock, expires_in, left, took, error):
    caller = Caller({"token_type": "Bearer", "expires_in": expires_in})

    def late(request):
        if clock == "wall":
            caller.time.wall += took
        else:
            caller.time.advance(took)
        return caller.give(request)

    caller.world.pages[ENDPOINT] = late
    grant = caller.client.exchanged(token(exp=int(NOW) + left).decode(), NEXT)
    if error is None:
        assert caller.get(grant) == "token-1"
        return
    for _ in range(3):
        with pytest.raises(error, match=r"over before it came|has expired"):
            caller.get(grant)
    assert caller.count == 1


def test_an_opaque_token_is_exchanged_too():
    caller = Caller()
    grant = caller.client.exchanged("opaque", NEXT)
    assert [caller.get(grant), caller.get(grant)] == ["token-1", "token-1"]


def test_a_given_assertion_and_one_that_is_made():
    caller = Caller()
    raw = token(exp=NOW + 60).decode()
    assert caller.get(caller.client.vouched(NEXT, assertion=raw)) == "token-1"
    assert caller.form()["assertion"] == raw
    private = key("ES256").key.as_dict(private=True)
    grant = caller.client.vouched(NEXT, key=private, issuer="https://partner.example", subject="alice")
    assert [caller.get(grant), caller.get(grant)] == ["token-2", "token-2"]
    assert (
        caller.get(caller.client.vouched(NEXT, key=private, issuer="https://partner.example", subject="bob"))
        == "token-3"
    )
    assert private["d"] not in repr(grant)
    for wrong in ({}, {"key": private}, {"subject": "alice"}):
        with pytest.raises(ConfigurationError, match="an assertion, or a key and a subject"):
            caller.client.vouched(NEXT, **wrong)


def test_keys_are_told_apart_by_themselves_and_not_by_their_ids():
    caller = Caller()
    first, second = (
        SigningKey.generate("ES256").key.as_dict(private=True) | {"kid": "same"} for _ in range(2)
    )
    tokens = [
        caller.get(caller.client.vouched(NEXT, key=key, subject="alice"))
        for key in (first, second, first | {"kid": "another"}, second)
    ]
    assert tokens == ["token-1", "token-2", "token-1", "token-2"]


def test_audience_and_parameters_are_sent_and_told_apart():
    caller = Caller()
    ask = caller.client.client_credentials
    grants = [
        ask(NEXT),
        ask(audience=NEXT),
        ask(audience="other"),
        ask(audience=NEXT, parameters={"organization": "acme"}),
        ask(audience=NEXT, parameters={"organization": "acme\n"}),
        caller.client.exchanged("subject", parameters={"organization": "acme"}),
        caller.client.vouched(assertion="a", audience=NEXT, parameters={"organization": "acme"}),
    ]
    assert [caller.get(grant) for grant in grants] == [f"token-{number}" for number in range(1, 8)]
    assert caller.form() == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "a",
        "audience": NEXT,
        "organization": "acme",
    }


@pytest.mark.parametrize(
    "name",
    [
        "grant_type", "resource", "scope", "audience", "client_id", "client_secret", "client_assertion",
        "client_assertion_type", "assertion", "subject_token", "subject_token_type", "actor_token",
        "actor_token_type", "",
    ],
)  # fmt: skip
def test_parameters_replace_nothing(name):
    client = Caller().client
    for ask in (
        client.client_credentials,
        partial(client.exchanged, "t"),
        partial(client.vouched, assertion="a"),
    ):
        with pytest.raises(ConfigurationError, match="is written by the token client itself"):
            ask(parameters={name: "x"})
    with pytest.raises(ConfigurationError, match="'more' must be a string"):
        client.client_credentials(parameters={"more": 1})


OUTAGE = reply({}, 500)
GOOD = {"token_type": "Bearer", "expires_in": 100}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OUTAGE, IssuerUnavailable),
        (reply(b"<html>"), IssuerUnavailable),
        (reply({"error": "temporarily_unavailable"}, 400), IssuerUnavailable),
        (reply({"error": "server_error"}, 400), IssuerUnavailable),
        (reply({"error": "invalid_client"}, 401), TokenRefused),
        (reply({"error": "invalid_grant"}, 400), TokenRefused),
    ],
)
def test_what_failed_is_not_asked_for_again_at_once(answer, error):
    caller = Caller(answer)
    for asked, pause in ((1, 0.6), (2, 1.2), (3, 2.3), (4, 0)):
        for _ in range(50):
            with pytest.raises(error, match=r".") as failed:
                caller.get()
            assert failed.value.retry_after >= 1
        assert caller.count == asked
        caller.time.advance(pause)
    caller.answer = GOOD
    caller.time.advance(60)
    assert caller.get() == "token-5"
    caller.answer = answer
    caller.time.advance(100)
    for _ in range(2):
        with pytest.raises(error, match=r"."):
            caller.get()
    caller.time.advance(0.6)  # a success ended the back-off: it begins with half a second again
    caller.answer = GOOD
    assert caller.get() == "token-7"


@pytest.mark.parametrize("status", [503, 429, 500, 400])
def test_a_retry_after_is_obeyed(status):
    caller = Caller(reply({"error": "invalid_grant"}, status, retry_after="120"))
    with pytest.raises((IssuerUnavailable, TokenRefused), match=r"."):
        caller.get()
    caller.answer = GOOD
    caller.time.advance(119)
    with pytest.raises((IssuerUnavailable, TokenRefused), match=r".") as failed:
        caller.get()
    assert failed.value.retry_after == 1
    caller.time.advance(1)
    assert caller.get() == "token-2"


@pytest.mark.parametrize("answer", [OUTAGE, reply({"error": "invalid_client"}, 401)])
def test_a_good_token_is_used_while_it_cannot_be_renewed(answer):
    caller = Caller()
    caller.get()
    caller.answer = answer
    caller.time.advance(80)
    for _ in range(100):
        assert caller.get() == "token-1"
        caller.world.catch_up()
    assert caller.count == 2
    caller.time.advance(0.6)
    for _ in range(100):
        assert caller.get() == "token-1"
        caller.world.catch_up()
    assert caller.count == 3
    caller.time.advance(19.4)
    with pytest.raises((IssuerUnavailable, TokenRefused), match=r"."):
        caller.get()


def many(caller, count):
    """How often the endpoint is asked by ``count`` grants for different tokens."""
    before = caller.count
    for number in range(count):
        with suppress(IssuerUnavailable, TokenRefused):
            caller.get(caller.client.exchanged(f"{before}-{number}", NEXT))
    return caller.count - before


def no_answer(cause):
    """A page that fails in this way."""

    def page(request):
        raise FetchFailed("nothing", cause=cause)

    return page


nobody = no_answer(Cause.CONNECTION)

PROVOKED = {
    "a reset, a time-out, no HTTP, too much": no_answer(Cause.EXCHANGE),
    "our own limits": no_answer(Cause.LIMIT),
    "no JSON": lambda request: reply(b"<html>"),
    "invalid_client": lambda request: reply({"error": "invalid_client"}, 401, retry_after="3600"),
    "invalid_grant": lambda request: reply({"error": "invalid_grant"}, 400, retry_after="3600"),
    **{
        f"{status}, Retry-After {pause}": lambda request, status=status, pause=pause: reply(
            {}, status, **({"retry_after": pause} if pause else {})
        )
        for status in (429, 500, 502, 503, 504)
        for pause in ("", "3600")
    },
}


def poisoned(caller, failing):
    """Have the endpoint fail for grants that say "poison", and answer the others."""
    caller.world.pages[ENDPOINT] = lambda request: (
        failing(request) if b"poison" in request.body else caller.give(request)
    )


def poison(caller, count):
    """How many requests go out for ``count`` grants that fail for reasons of their own."""
    before = len(caller.world.requests)
    for number in range(count):
        with suppress(IssuerUnavailable, TokenRefused):
            caller.get(caller.client.exchanged(f"poison-{before}-{number}", NEXT))
    return len(caller.world.requests) - before


@pytest.mark.parametrize("failing", PROVOKED.values(), ids=PROVOKED)
def test_what_one_grant_provokes_holds_back_no_other(failing):
    caller = Caller()
    poisoned(caller, failing)
    for number in range(5):
        assert poison(caller, 5) == 5
        assert caller.get(caller.client.exchanged(f"good-{number}", NEXT)) == f"token-{number + 1}"


@pytest.mark.parametrize("metadata", [False, True])
def test_a_server_that_cannot_be_reached_holds_all_back(metadata):
    caller = Caller(token_endpoint=None if metadata else ENDPOINT)
    addresses = (*caller.client._issuer.metadata.whereabouts.metadata_urls, ENDPOINT)
    caller.world.pages |= dict.fromkeys(addresses, nobody)
    many(caller, 3)
    asked = len(caller.world.requests)
    many(caller, 20)
    assert len(caller.world.requests) == asked


@pytest.mark.parametrize("failing", PROVOKED.values(), ids=PROVOKED)
def test_the_trial_of_a_grant_that_fails_by_itself_ends_the_wait(failing):
    caller = Caller()
    caller.world.pages[ENDPOINT] = nobody
    assert many(caller, 20) == 0
    poisoned(caller, failing)
    with pytest.raises(IssuerUnavailable):
        caller.get()
    caller.time.advance(30)
    assert poison(caller, 1) == 1
    assert caller.get() == "token-1"


def test_one_request_tries_an_endpoint_that_was_left_alone():
    caller = Caller()
    caller.world.pages[ENDPOINT] = nobody
    many(caller, 20)
    assert len(caller.world.requests) == 3
    caller.time.advance(3)
    waiting = caller.client.token(caller.client.exchanged("a"))
    run = next(waiting).flow()
    next(run)  # a request is on its way, so nobody else sends one
    many(caller, 20)
    assert len(caller.world.requests) == 3
    with pytest.raises(StopIteration):
        run.send(reply({"access_token": "good"} | GOOD))
    caller.world.pages[ENDPOINT] = caller.give
    assert many(caller, 20) == 20


def test_failures_take_a_bounded_space_and_push_no_token_out():
    caller = Caller(cache_size=1)
    good = caller.client.client_credentials(NEXT)
    assert caller.get(good) == "token-1"
    caller.answer = reply({"error": "invalid_grant"}, 400)
    assert many(caller, 1_200) == 1_200
    assert len(caller.client._attempts._failed) == 1_000
    assert caller.get(good) == "token-1"


def test_who_asked_while_a_token_arrived_is_given_it():
    caller = Caller()
    late = caller.client.token(caller.client.client_credentials(NEXT))
    run = next(late).flow
    assert caller.get(caller.client.client_credentials(NEXT)) == "token-1"
    assert caller.world.run(run()).token == "token-1"
    assert caller.count == 1


def test_a_failure_is_shared_by_all_who_wait():
    with FaultIssuer() as issuer:
        issuer.faults["/token"] = lambda connection: (connection.pause(0.3), connection.answer(b"{}", 500))
        client = TokenClient(issuer.url, BASIC, token_endpoint=f"{issuer.url}/token")
        grant = client.client_credentials(NEXT)

        def ask(_):
            with pytest.raises(IssuerUnavailable, match="answered 500") as failed:
                client.get(grant)
            return failed.value

        with ThreadPoolExecutor(8) as pool:
            errors = list(pool.map(ask, range(8)))
        assert len({id(error) for error in errors}) == 8
        assert issuer.hits["/token"] == 1

        async def main():
            other = TokenClient(issuer.url, BASIC, token_endpoint=f"{issuer.url}/token")
            grant = other.client_credentials(NEXT)
            return await asyncio.gather(*(other.aget(grant) for _ in range(8)), return_exceptions=True)

        errors = asyncio.run(main())
        assert len({id(error) for error in errors}) == 8
        assert issuer.hits["/token"] == 2


async def later_with(secret):
    return secret


def test_a_broken_configuration_is_no_outage():
    async def later():
        return "token"

    client = TokenClient(ISSUER, BearerToken(later), token_endpoint=ENDPOINT)
    with pytest.raises(ConfigurationError, match=r"<locals>\.later is async: .* asyncio only"):
        client.get(client.client_credentials(NEXT))
    held = TokenClient(ISSUER, BearerToken(partial(later_with, CANARY)), token_endpoint=ENDPOINT)
    with pytest.raises(ConfigurationError, match=r"^partial is async"):
        held.get(held.client_credentials(NEXT))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TokenClient("http://as.example", BASIC),
        lambda: TokenClient(ISSUER, None),
        lambda: TokenClient(ISSUER, BASIC, token_endpoint="http://as.example/token"),
        lambda: TokenClient(ISSUER, BASIC).for_resource("http://next.example"),
        lambda: TokenClient(ISSUER, BASIC).for_resource("next"),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


@pytest.fixture(scope="module")
def world():
    """A real issuer and a real API behind a gate: their addresses, and the keys that vouch."""
    partner, own = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    places = {}

    async def late(scope, receive, send):
        await places["app"](scope, receive, send)

    with serve_asgi(late) as issuer, serve_asgi(late_api(places)) as api:
        tokens = AccessTokenIssuer(issuer, SigningKey.generate("ES256"), resources=api)
        places["app"] = authorization_server_app(
            AuthorizationServer(
                tokens,
                clients=[
                    Client("orders", SECRET, frozenset({"read"})),
                    Client("keyed", scopes=frozenset({"read"}), jwks={"keys": [own.public_jwk()]}),
                ],
                assertion_issuers=[
                    AssertionIssuer(
                        "https://partner.example",
                        jwks={"keys": [partner.public_jwk()]},
                        scopes=frozenset({"read"}),
                        accept_any_subject=True,
                    )
                ],
            )
        )
        places["api"] = guarded_api(issuer, api)
        yield issuer, api, partner.private_jwk(), own.private_jwk()


def late_api(places):
    async def app(scope, receive, send):
        await places["api"](scope, receive, send)

    return app


def guarded_api(issuer, api):
    async def show(request):
        return JSONResponse({"sub": request.user.token.subject})

    async def away(request):
        return RedirectResponse("https://attacker.example/")

    routes = [Route("/", requires(scope("read"))(show)), Route("/away", away)]
    return AccessTokenMiddleware(Starlette(routes=routes), ResourceServer(api, Issuer(issuer)))


@pytest.mark.parametrize("way", ["basic", "post", "key"])
def test_an_httpx_client_calls_the_next_api(world, way):
    issuer, api, _, own = world
    auth = {
        "basic": BASIC,
        "post": ClientSecretPost("orders", SECRET),
        "key": PrivateKeyJwt("keyed", own),
    }[way]
    client = TokenClient(issuer, auth)
    expected = {"sub": "keyed" if way == "key" else "orders"}
    with httpx.Client(auth=client.for_resource(api, "read")) as http:
        assert [http.get(api).json() for _ in range(2)] == [expected] * 2

    async def main():
        async with httpx.AsyncClient(auth=client.for_resource(api, "read")) as http:
            return (await http.get(api)).json()

    assert asyncio.run(main()) == expected


def test_somebody_vouched_for_calls_the_next_api(world):
    issuer, api, partner, _ = world
    client = TokenClient(issuer, BASIC)
    grant = client.vouched(api, "read", key=partner, issuer="https://partner.example", subject="alice")
    assert httpx.get(api, auth=client.for_resource(api, grant=grant)).json() == {"sub": "alice"}


def test_tokens_go_nowhere_else(world):
    issuer, api, *_ = world
    auth = TokenClient(issuer, BASIC).for_resource(api, "read")
    for other in ("http://127.0.0.1:1/", "https://attacker.example/"):
        with pytest.raises(ConfigurationError, match="nowhere else"):
            httpx.get(other, auth=auth)
    with pytest.raises((ConfigurationError, httpx.ConnectError)) as failed:
        httpx.get(f"{api}/away", auth=auth, follow_redirects=True)
    assert "Authorization" not in getattr(failed.value, "request", httpx.Request("GET", api)).headers


def test_a_refused_token_is_replaced_once(world):
    issuer, api, *_ = world
    time = Time()
    client = TokenClient(issuer, BASIC, clock=time.clock)
    grant = client.client_credentials(api, "read")
    good = client.get(grant)

    def spoil():
        time.advance(31)
        client.get(grant)
        client._kept.put(grant.digest, replace(client._kept.get(grant.digest), token="stale"))

    spoil()
    assert client.get(grant) == "stale"
    assert httpx.get(api, auth=client.for_resource(api, "read")).status_code == 200
    assert client.get(grant) not in {"stale", good}

    async def main():
        spoil()
        async with httpx.AsyncClient() as http:
            return await http.get(api, auth=client.for_resource(api, "read"))

    assert asyncio.run(main()).status_code == 200
    no_scope = client.for_resource(api)
    assert httpx.get(api, auth=no_scope).status_code == 403


class Resource(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """An API that refuses every token, or those in ``refused``, and remembers what it was sent."""

    def __init__(self, refused=None):
        self.requests = []
        self.refused = refused

    def handle_request(self, request):
        return self.answer(request, b"".join(request.stream))

    async def handle_async_request(self, request):
        return self.answer(request, b"".join([chunk async for chunk in request.stream]))

    def answer(self, request, body):
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.requests.append((token, body))
        return httpx.Response(401 if self.refused is None or token in self.refused else 200)


@pytest.fixture
def numbered():
    """A token client whose tokens are numbered, by a real endpoint and a clock that is moved by hand."""
    with FaultIssuer() as issuer:

        def give(connection):
            name = f"token-{issuer.hits['/token']}"
            body = {"access_token": name, "token_type": "Bearer", "expires_in": 3600}
            connection.answer(json.dumps(body).encode())

        issuer.faults["/token"] = give
        time = Time()
        yield TokenClient(issuer.url, BASIC, token_endpoint=f"{issuer.url}/token", clock=time.clock), time


def test_a_resource_that_refuses_every_token_does_not_have_one_made_for_each_request(numbered):
    client, time = numbered
    resource = Resource()
    with httpx.Client(auth=client.for_resource(API), transport=resource) as http:
        assert [http.get(API).status_code for _ in range(10)] == [401] * 10
        assert {token for token, _ in resource.requests} == {"token-1", "token-2"}
        assert len(resource.requests) == 11
        time.advance(30)
        http.get(API)
    assert [token for token, _ in resource.requests[-2:]] == ["token-2", "token-3"]


def chunks():
    yield b"a"
    yield b"b"


async def achunks():
    yield b"a"
    yield b"b"


@pytest.mark.parametrize(
    "body",
    [
        {"content": lambda: chunks()},
        {"content": lambda: io.BytesIO(b"ab")},
        {"files": lambda: {"file": ("name", io.BytesIO(b"ab"))}},
    ],
)
def test_a_streamed_body_is_not_sent_twice_and_its_401_returned(numbered, body):
    client, _ = numbered
    resource = Resource(refused={"token-1"})
    ((name, make),) = body.items()
    with httpx.Client(auth=client.for_resource(API), transport=resource) as http:
        assert http.post(API, **{name: make()}).status_code == 401
        assert len(resource.requests) == 1
        assert http.post(API, **{name: make()}).status_code == 200
    assert b"ab" in resource.requests[-1][1]


@pytest.mark.parametrize(
    ("resource", "url", "same"),
    [
        ("https://stock.example", "https://stock.example:443/", True),
        ("https://stock.example:443", "https://stock.example/", True),
        ("https://stock.example", "https://stock.example:0/", False),
        ("https://stock.example", "https://stock.example:8443/", False),
        ("http://127.0.0.1", "http://127.0.0.1:0/", False),
    ],
)
def test_a_port_is_part_of_an_origin(numbered, resource, url, same):
    client, _ = numbered
    auth = client.for_resource(resource)
    flow = auth.sync_auth_flow(httpx.Request("GET", url))
    if same:
        assert "Authorization" in next(flow).headers
        return
    with pytest.raises(ConfigurationError, match="goes nowhere else"):
        next(flow)


def test_a_streamed_body_is_not_sent_twice_under_asyncio(numbered):
    client, _ = numbered
    resource = Resource(refused={"token-1"})

    async def main():
        async with httpx.AsyncClient(auth=client.for_resource(API), transport=resource) as http:
            first = await http.post(API, content=achunks())
            second = await http.post(API, content=achunks())
            return first.status_code, second.status_code

    assert asyncio.run(main()) == (401, 200)
    assert [token for token, _ in resource.requests] == ["token-1", "token-2"]


def test_a_body_at_hand_is_sent_again(numbered):
    client, _ = numbered
    resource = Resource(refused={"token-1"})
    with httpx.Client(auth=client.for_resource(API), transport=resource) as http:
        assert http.post(API, json={"a": 1}).status_code == 200
    assert resource.requests == [("token-1", b'{"a":1}'), ("token-2", b'{"a":1}')]


def test_a_refused_token_request_never_falls_back(world):
    issuer, api, *_ = world
    wrong = TokenClient(issuer, ClientSecretBasic("orders", "wrong"))
    with pytest.raises(TokenRefused, match="invalid_client"):
        httpx.get(api, auth=wrong.for_resource(api, "read"))
