"""Tokens for outgoing calls: fetched once, kept while they are good, and sent nowhere else."""

import asyncio
from urllib.parse import parse_qs

import httpx
import pytest
from flows import World, reply
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route
from tokens import ISSUER, NOW, Time, key, token

from ticketgate import (
    ClientSecretBasic,
    ClientSecretPost,
    Issuer,
    MutualTls,
    PrivateKeyJwt,
    ResourceServer,
    scope,
)
from ticketgate.asgi import AccessTokenMiddleware
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
        options = {"token_endpoint": ENDPOINT} | options
        self.client = TokenClient(ISSUER, auth, clock=self.time.clock, **options)

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


@pytest.mark.parametrize("expires_in", [None, "100", True, -5])
def test_a_token_that_does_not_say_how_long_it_lives_is_used_once(expires_in):
    caller = Caller({"token_type": "bearer", "expires_in": expires_in})
    assert [caller.get(), caller.get()] == ["token-1", "token-2"]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_keeps_its_code(status):
    caller = Caller(reply({"error": "invalid_target", "error_description": "no"}, status))
    with pytest.raises(TokenRefused, match="invalid_target: no") as refused:
        caller.get()
    assert refused.value.error == "invalid_target"


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
    assert caller.get(grant) == "token-2"
    assert caller.get(caller.client.exchanged(token(jti="x").decode(), NEXT, "a")) == "token-3"
    assert subject not in repr(grant)


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
        with pytest.raises(ConfigurationError):
            caller.client.vouched(NEXT, **wrong)


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
    client = TokenClient(issuer, BASIC)
    grant = client.client_credentials(api, "read")
    good = client.get(grant)
    digest = next(iter(client._kept._entries))
    client._kept.put(digest, client._kept.get(digest)._replace(token="stale"))
    assert client.get(grant) == "stale"
    assert httpx.get(api, auth=client.for_resource(api, "read")).status_code == 200
    assert client.get(grant) not in {"stale", good}

    async def main():
        client._kept.put(digest, client._kept.get(digest)._replace(token="stale"))
        async with httpx.AsyncClient() as http:
            return await http.get(api, auth=client.for_resource(api, "read"))

    assert asyncio.run(main()).status_code == 200
    no_scope = client.for_resource(api)
    assert httpx.get(api, auth=no_scope).status_code == 403


def test_a_refused_token_request_never_falls_back(world):
    issuer, api, *_ = world
    wrong = TokenClient(issuer, ClientSecretBasic("orders", "wrong"))
    with pytest.raises(TokenRefused, match="invalid_client"):
        httpx.get(api, auth=wrong.for_resource(api, "read"))
