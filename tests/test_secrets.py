"""Secrets are not shown: not by the repr of an object, not in a log record, not in a traceback.

What is meant: whatever prints an *object* (``repr``, ``str``, ``format``, ``pprint``, a container around it, and so every
error report that shows local variables) does not print a secret in it.  The attribute that holds the secret of course
gives it to whoever asks for it by its name: `ClientSecretBasic("id", "secret").client_secret` is the secret, and so is
what ``vars`` or ``dataclasses.asdict`` make of it.

Every class of the package that has a repr of its own is built here with canaries, or is in `SHOWS_NO_SECRET`; a new one
that is in neither fails.  A class without one shows its name and nothing else.
"""

import ast
import asyncio
import importlib
import logging
import pprint
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from fault_issuer import FaultIssuer
from flows import reply
from tokens import API, ISSUER, NOW, compact, header, key, resource_server, token

from ticketgate import (
    BearerToken,
    ClientSecretBasic,
    ClientSecretPost,
    HTTPOptions,
    Introspection,
    Issuer,
    PrivateKeyJwt,
    ResourceServer,
)
from ticketgate.core.flow import FetchFailed, HttpRequest, fetch
from ticketgate.core.request import bearer_request
from ticketgate.core.signing_key import SigningKey
from ticketgate.core.strict_json import FrozenDict
from ticketgate.drivers import aio, blocking
from ticketgate.token_client import TokenClient

(ROOT,) = map(Path, find_spec("ticketgate").submodule_search_locations)
CANARY = "canary~3f/9a+0Zk"
RAW = CANARY.encode()
HIDDEN = FrozenDict({"iss": ISSUER, "sub": CANARY, "aud": API, "exp": NOW, "secret": CANARY})


def forms(secret: str) -> Iterator[str]:
    """How ``secret`` may look: as it is, URL-encoded, hexadecimal, or in base64 at any place of a longer text."""
    raw = secret.encode()
    yield from {secret, quote(secret, safe=""), quote_plus(secret), raw.hex()}
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            encoded = encode(b"x" * before + raw).decode().rstrip("=")
            yield encoded[4 if before else 0 : -2]


def leaks(text: str, *secrets: str) -> list[str]:
    return [form for secret in secrets for form in forms(secret) if form in text]


@pytest.mark.parametrize(
    "text",
    [
        f"x{CANARY}y", quote(CANARY, safe=""), RAW.hex(),
        *(encode(b"x" * before + RAW + b"y" * after).decode()
          for encode in (b64encode, urlsafe_b64encode) for before in range(4) for after in range(4)),
    ],
)  # fmt: skip
def test_a_leak_is_noticed_in_any_form(text):
    assert leaks(text, CANARY)
    assert not leaks("canary~", CANARY)


# The classes of the package


def has_own_repr(node: ast.ClassDef) -> bool:
    """Whether objects of the class show more than its name: by a repr of their own, or an inherited one."""
    decorated = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    inherited = {ast.unparse(base).partition("[")[0] for base in node.bases} - PLAIN_BASES
    own = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
    return decorated or bool(inherited) or not own.isdisjoint({"__repr__", "__str__", "__format__"})


PLAIN_BASES = {
    "Generic",
    "Protocol",
    "AppConfig",
    "BaseAuthentication",
    "BasePermission",
    "KeySource",
    "httpx.Auth",
}


@cache
def classes() -> dict[str, str]:
    """The module of each class that has a repr of its own, by the last part of its module's name and its own."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("ticketgate", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and has_own_repr(node):
                found[f"{path.stem}.{node.name}"] = module
    return found


def made(name: str, *args: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(classes()[name]), name.partition(".")[2])(*args, **options)


def access_token() -> Any:
    return made("access_token.AccessToken", HIDDEN, HIDDEN, "opaque", CANARY)


def http_options() -> HTTPOptions:
    return HTTPOptions(proxy=f"http://user:{CANARY.replace('/', '')}@proxy:1", headers={"X-Key": CANARY})


def connection() -> Any:
    return made("flow.Connection", None, None, f"http://user:{CANARY}@proxy:3128")


def request() -> HttpRequest:
    headers = {"Authorization": f"Basic {b64encode(RAW).decode()}"}
    return HttpRequest("POST", API, headers, body=b"s=" + RAW, connection=connection())


def signing_key() -> SigningKey:
    return SigningKey.load(private_jwk())


def private_jwk() -> dict[str, Any]:
    return key("ES256").private_jwk() | {"kid": "ours"}


def marked_keys() -> dict[str, Any]:
    """A key set that holds something we do not know of: it may be as secret as anything."""
    return {"keys": [key("ES256").public_jwk() | {"note": CANARY}]}


def issuer() -> Issuer:
    asking = Introspection(auth=ClientSecretPost("api", CANARY), decryption_keys=[private_jwk()])
    return Issuer(ISSUER, introspection=asking, http=http_options(), jwks={"keys": [key().public_jwk()]})


def template() -> Any:
    return Issuer.template("https://as.example/{tenant}", tenants=["acme"], http=http_options())


def grant() -> Any:
    client = TokenClient(ISSUER, ClientSecretBasic("api", CANARY))
    return client.exchanged(CANARY, API, actor_token=CANARY, parameters={"api_key": CANARY})


def with_key(name: str) -> Any:
    from ticketgate.core.grants import Assertion

    return {
        "keys.Ring": lambda: made("keys.Ring", signing_key(), (signing_key(),), ()),
        "grants.Assertion": lambda: Assertion(signing_key(), ISSUER, "alice"),
        "grants.Grant": lambda: TokenClient(ISSUER, BearerToken("")).vouched(key=private_jwk(), subject="a"),
    }[name]()


CASES: dict[str, Callable[[], Any]] = {
    "access_token.AccessToken": access_token,
    "aio.Run": lambda: made("aio.Run", finished_task(), 1),
    "assertions.AssertionIssuer": lambda: made("assertions.AssertionIssuer", ISSUER, marked_keys()),
    "asgi.Caller": lambda: made("asgi.Caller", access_token()),
    "blocking.Run": lambda: made("blocking.Run", finished_future(), 1),
    "client_auth.BearerToken": lambda: BearerToken(CANARY),
    "client_auth.ClientSecretBasic": lambda: ClientSecretBasic("api", CANARY),
    "client_auth.ClientSecretPost": lambda: ClientSecretPost("api", CANARY),
    "client_auth.MutualTls": lambda: made("client_auth.MutualTls", "api", "/c.pem", f"/{CANARY}"),
    "client_auth.PrivateKeyJwt": lambda: PrivateKeyJwt("api", private_jwk()),
    "client_auth.Proof": lambda: made("client_auth.Proof", {"Authorization": CANARY}, {"secret": CANARY}),
    "clients.Client": lambda: made("clients.Client", "api", CANARY * 4, jwks=marked_keys()),
    "clients.Login": lambda: made("clients.Login", "api", CANARY, by_header=True),
    "credentials.Credentials": lambda: made("credentials.Credentials", b"bearer", RAW),
    "errors.TokenRefused": lambda: made("errors.TokenRefused", "invalid_client"),
    "flow.Alone": lambda: made("flow.Alone", "/path", partial(print, CANARY), 5),
    "flow.Call": lambda: made("flow.Call", partial(print, CANARY), (RAW,)),
    "flow.Certificate": lambda: made("flow.Certificate", "/c.pem", f"/{CANARY}"),
    "flow.Connection": connection,
    "flow.Fetch": lambda: made("flow.Fetch", request()),
    "flow.FetchFailed": lambda: FetchFailed("answered 500", reply({"token": CANARY}, x=CANARY)),
    "flow.HttpRequest": request,
    "flow.Within": lambda: made("flow.Within", None, 5, partial(print, RAW)),
    "flow.Once": lambda: made("flow.Once", ("name", RAW), partial(print, RAW)),
    "flow.Reply": lambda: reply({"access_token": CANARY}, set_cookie=CANARY),
    "flow.Save": lambda: made("flow.Save", "/path", RAW),
    "gate.Gate": lambda: made("gate.Gate", ResourceServer(API, issuer()), None),
    "grants.Assertion": lambda: with_key("grants.Assertion"),
    "grants.Grant": grant,
    "http_options.HTTPOptions": http_options,
    "http_options.Whereabouts": lambda: made("http_options.Whereabouts", ISSUER, http=http_options()),
    "introspection.Answer": lambda: made("introspection.Answer", access_token(), "", 0.0, 0.0, 0.0),
    "introspection.Question": lambda: made("introspection.Question", b"name", False, 0.0),
    "introspection.Introspection": lambda: issuer().introspection,
    "issuer.Issuer": issuer,
    "jwe.DecryptionKeys": lambda: made("jwe.DecryptionKeys", [private_jwk()]),
    "jwt.UnverifiedJWT": lambda: made("jwt.UnverifiedJWT", FrozenDict(alg="RS256"), HIDDEN, RAW, RAW),
    "keys.Ring": lambda: with_key("keys.Ring"),
    "messages.Answer": lambda: made("messages.Answer", 302, (("Location", f"/?code={CANARY}"),), RAW),
    "messages.EndpointRequest": lambda: made(
        "messages.EndpointRequest", authorization=(RAW,), body=RAW, query=RAW
    ),
    "request.ResourceRequest": lambda: made(
        "request.ResourceRequest", "GET", f"https://api.example/?t={CANARY}", (b"Bearer " + RAW,), (RAW,), RAW
    ),
    "signing_key.SigningKey": signing_key,
    "subprotocol.OfferedToken": lambda: made("subprotocol.OfferedToken", "bearer", (), (RAW,)),
    "tenants.IssuerTemplate": template,
    "tenants.Tenant": lambda: made("tenants.Tenant", issuer(), 0.0),
    "token_answer.IssuedToken": lambda: made("token_answer.IssuedToken", CANARY, 60),
    "token_cache.Verified": lambda: made("token_cache.Verified", access_token(), 0.0, 0.0, issuer(), None),
    "token_client.Kept": lambda: made("token_client.Kept", CANARY, 0, 0, 0),
}

SHOWS_NO_SECRET = {
    # values without secrets: settings, times, names, counts, public keys, what routes declare
    "attempts.Attempt", "attempts.Failure", "authorization_codes.Authorization",
    "authorization_endpoint.AuthorizationRequest", "authorization_endpoint.User", "browser_clients.BrowserClient", "aio.Place", "blocking.Wait", "asgi.Granted", "challenge.Answer",
    "claims.Rules", "client.TokenRequest", "clock.Clock", "clock.Now", "settings.Settings", "spectacular.AccessTokenScheme", "events.CacheHit",
    "events.KeyFetchFailed", "events.KeysRefreshed", "events.Refused", "files.Place", "flow.Lane", "flow.Load", "flow.WaitingFor",
    "guards.Protection", "placement.Misplaced", "requirement.Declaration", "layers.Mounted", "layers.Peeled", "flask.AccessTokenMiddleware", "circuit.OwnQuestion", "circuit.Pause", "flow.Cause", "keys.WantedKey", "key_source.Question", "x5c.NamedKey",
    "freshness.Age", "freshness.Backoff", "freshness.Budget", "freshness.Duty", "freshness.Held",
    "freshness.KeyPolicy", "health.IssuerHealth", "introspection.Unavailable", "introspection._Settings", "jwk.Fit",
    "jwk.Key", "requirement.Need", "requirement.Requirement", "routes.Audit", "routes.Door", "routes.GuardedRoute",
    "servers.Addresses", "shared.Deadline", "snapshot.Snapshot", "surroundings.Surroundings", "token_endpoint.Wish",
    "tour.Verdict",
    # errors, whose words are fixed, for operators, or escaped and cut
    "authorization_endpoint.ErrorRedirect", "client.NoToken", "errors.AccessDenied", "errors.CannotDecide", "flow.TooManyWaiting",
    "errors.ConfigurationError", "errors.InsufficientScope", "errors.InternalFault", "errors.InvalidRequest",
    "errors.InvalidToken", "errors.IssuerUnavailable", "errors.NoCredentials", "errors.OAuthError",
    "fastapi.Refused", "jwk.UnusableKey", "messages.Refusal", "middleware.NotAView", "rest_framework.Refused", "starlette.RaisedRefusal", "starlette.RefusalHeaders", "servers.CannotStart",
    # what its user prints on purpose
    "users.TokenUser", "strict_json.FrozenDict",
}  # fmt: skip


def finished_task() -> Any:
    async def main() -> Any:
        return asyncio.ensure_future(asyncio.sleep(0, CANARY))

    with asyncio.Runner() as runner:
        task = runner.run(main())
        runner.run(asyncio.sleep(0))
        return task


def finished_future() -> Any:
    future = blocking.Future()
    future.set_result(CANARY)
    return future


def shown(value: Any) -> str:
    ways = [
        repr,
        str,
        format,
        pprint.pformat,
        lambda it: f"{it!r} {it!s} {[it]} { ({1: it}) }",
        lambda it: "%s %r" % (it, it),  # noqa: UP031
    ]
    return "\n".join(way(value) for way in ways)


def test_every_class_with_a_repr_of_its_own_is_here():
    listed = CASES.keys() | SHOWS_NO_SECRET
    known = classes().keys()
    assert known - listed == set(), "build it with canaries in CASES, or list it in SHOWS_NO_SECRET"
    assert listed - known == set(), "there is no such class any more"
    assert CASES.keys() & SHOWS_NO_SECRET == set()


@pytest.mark.parametrize("name", CASES)
def test_no_class_shows_a_secret(name):
    value = CASES[name]()
    assert type(value).__name__ == name.partition(".")[2]
    secrets = CANARY, CANARY.replace("/", ""), private_jwk()["d"]
    assert leaks(shown(value), *secrets) == []


def test_grants_with_a_key_show_no_secret():
    assert leaks(shown(with_key("grants.Grant")), private_jwk()["d"]) == []


# Messages about a broken configuration

PASSWORD = "canary-3f9a0Zk"
TOKEN_CLIENT = TokenClient(ISSUER, BearerToken("x"))
ADDRESSES: dict[str, Callable[[Any], Any]] = {
    "issuer": lambda url: Issuer(url),
    "issuer that is given as it is": lambda url: ResourceServer(API, url),
    "issuer_for": lambda url: blocking.Driver().run(
        ResourceServer(API, issuer_for=lambda iss: url).authenticate(bearer_request(token()))
    ),
    "template": lambda url: Issuer.template(url, tenants=["acme"]),
    "jwks_uri": lambda url: Issuer(ISSUER, jwks_uri=url),
    "fetch_from": lambda url: Issuer(ISSUER, fetch_from=url),
    "introspection": lambda url: ResourceServer(
        API, Issuer(ISSUER, introspection=Introspection(url, auth=BearerToken("x")))
    ),
    "token client": lambda url: TokenClient(url, BearerToken("x")),
    "token_endpoint": lambda url: TokenClient(ISSUER, BearerToken("x"), token_endpoint=url),
    "resource": TOKEN_CLIENT.for_resource,
    "proxy": lambda url: HTTPOptions(proxy=url.replace("https", "socks5")),
    "access token issuer": lambda url: importlib.import_module(
        "ticketgate.issuing.access_token_issuer"
    ).AccessTokenIssuer(url, SigningKey.generate("ES256"), resources=API),
}


@pytest.mark.parametrize("place", ADDRESSES)
@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{PASSWORD}@as.example/{{tenant}}",
        f"https://{PASSWORD}@as.example",
        f"https://user:{PASSWORD}/{PASSWORD}@as.example",
        f"https://user:{PASSWORD}@@as.example",
        f"user:{PASSWORD}@as.example",
        f"//user:{PASSWORD}@as.example",
        f"http://user:'{PASSWORD}\"\n@as.example",
    ],
)
def test_a_url_in_a_message_shows_no_password(watched, place, url):
    watched(lambda: ADDRESSES[place](url))
    assert leaks(watched.raised.rpartition("Error: ")[2], PASSWORD) == []


# Logs and tracebacks


class Watched:
    """What was logged, with everything that a record carries, and what was raised."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "ticketgate")
        caplog.set_level(logging.DEBUG, "asyncio")
        self._caplog = caplog
        self.raised = ""

    def __call__(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception:
            self.raised += traceback.format_exc()
        else:
            raise AssertionError("nothing went wrong")

    @property
    def text(self) -> str:
        records = [f"{record.getMessage()} {vars(record)}" for record in self._caplog.records]
        return "\n".join([self.raised, *records])


@pytest.fixture
def watched(caplog):
    return Watched(caplog)


@pytest.fixture(params=["aio", "blocking"])
def run(request):
    if request.param == "blocking":
        return blocking.Driver().run
    return lambda flow: asyncio.run(aio.Driver().run(flow), debug=True)


def echo(connection):
    """A server that answers with what it was sent."""
    connection.answer(str(connection.form).encode(), 500, X_Echo=CANARY)


def quoting(connection):
    words = " and ".join(connection.form.values())
    body = f'{{"error": "invalid_grant", "error_description": "I got {words}"}}'
    connection.answer(body.encode(), 400)


def redirecting(connection):
    connection.answer(b"", 302, Location=f"/?token={CANARY}")


AUTHS = {
    "basic": ClientSecretBasic("api", CANARY),
    "post": ClientSecretPost("api", CANARY),
    "bearer": BearerToken(CANARY),
    "a header that cannot be sent": BearerToken(f"{CANARY}\n"),
    "a header in no ASCII": BearerToken(f"\u20ac{CANARY}"),
    "a function that raises": BearerToken(lambda: {}[f"{CANARY}"[:0]]),
}


@pytest.mark.parametrize("auth", AUTHS)
@pytest.mark.parametrize("answer", [echo, quoting, redirecting])
def test_a_failing_token_endpoint_leaks_nothing(run, watched, auth, answer):
    with FaultIssuer() as issuer:
        issuer.faults["/token"] = answer
        client = TokenClient(issuer.url, AUTHS[auth], token_endpoint=f"{issuer.url}/token")
        grant = client.exchanged(CANARY, API, parameters={"api_key": CANARY})
        for _ in range(2):
            watched(lambda: run(client.token(grant)))
    assert leaks(watched.text, CANARY) == []


@pytest.mark.parametrize("auth", AUTHS)
@pytest.mark.parametrize("answer", [echo, quoting, redirecting])
def test_failing_introspection_leaks_nothing(run, watched, auth, answer):
    with FaultIssuer() as issuer:
        issuer.faults["/introspect"] = answer
        server = ResourceServer(API, Issuer(issuer.url, introspection=Introspection(auth=AUTHS[auth])))

        def judge():
            try:
                run(server.authenticate(bearer_request(CANARY)))
            except Exception as error:
                server.answer(error)
                raise

        watched(judge)
    assert leaks(watched.text, CANARY) == []


@pytest.mark.parametrize(
    "proxy", [f"http://user:{CANARY.replace('/', '')}@127.0.0.1:9", "http://user:c/3f9a0Zk@proxy:1"]
)
def test_a_proxy_that_is_not_there_leaks_no_password(run, watched, monkeypatch, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    watched(lambda: run(fetch(HttpRequest("GET", "https://as.internal:9/", timeout=2))))
    assert leaks(watched.text, CANARY.replace("/", ""), "3f9a0Zk") == []


JWK = key("RS256").private_jwk()


@pytest.mark.parametrize(
    "source",
    [
        JWK | {"d": CANARY}, JWK | {"p": CANARY}, JWK | {"n": CANARY}, JWK | {"d": 1, "k": CANARY},
        {"kty": "oct", "k": CANARY}, {"kty": "EC", "crv": "P-256", "x": CANARY, "y": CANARY, "d": CANARY},
        {"kty": "OKP", "crv": "Ed25519", "x": CANARY, "d": CANARY}, {"d": CANARY},
        f"-----BEGIN PRIVATE KEY-----\n{b64encode(RAW * 9).decode()}\n-----END PRIVATE KEY-----", CANARY, RAW,
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_loaded_leaks_nothing(watched, source):
    watched(lambda: SigningKey.load(source))
    watched(lambda: PrivateKeyJwt("api", source))
    watched(lambda: ResourceServer(API, issuer(), decryption_keys=[source]))
    watched(lambda: TokenClient(ISSUER, BearerToken("x")).vouched(key=source, subject="alice"))
    assert leaks(watched.text, CANARY, JWK["d"], JWK["p"]) == []


BAD_TOKENS = {
    "another issuer": token(iss="https://x.example", secret=CANARY),
    "expired": token(exp=1, secret=CANARY),
    "another audience": token(aud="x", secret=CANARY),
    "no JSON": compact(header(key()), b'{"secret": "' + RAW + b'"'),
    "a name twice": compact(header(key()), b'{"secret": "' + RAW + b'", "secret": 1}'),
    "no UTF-8": compact(header(key()), b'{"secret": "' + RAW + b'\xff"}'),
    "another signature": compact(header(key()), HIDDEN, lambda _: RAW * 16),
    "not a token": RAW,
    "two tokens": RAW + b" " + RAW,
    "too long": RAW * 2_000,
    "five parts": b".".join([token().split(b".")[0], RAW, RAW, RAW, RAW]),
}


@pytest.mark.parametrize("bad", BAD_TOKENS)
def test_a_refused_token_leaks_nothing(watched, bad):
    server = resource_server(decryption_keys=[private_jwk()])

    def judge():
        try:
            blocking.Driver().run(server.authenticate(bearer_request(BAD_TOKENS[bad])))
        except Exception as error:
            server.answer(error)
            raise

    watched(judge)
    assert leaks(watched.text, CANARY) == []
    assert BAD_TOKENS[bad].decode() not in watched.text


def test_the_debug_mode_of_asyncio_shows_no_token(caplog):
    """It logs tasks that took long, with their results."""
    caplog.set_level(logging.DEBUG, "asyncio")
    with FaultIssuer() as issuer:
        body = b'{"access_token": "' + RAW + b'", "token_type": "Bearer", "expires_in": 60}'
        issuer.faults["/token"] = lambda connection: connection.answer(body)
        client = TokenClient(issuer.url, BearerToken("ours"), token_endpoint=f"{issuer.url}/token")

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 0
            assert await client.aget(client.client_credentials(API)) == CANARY

        asyncio.run(main(), debug=True)
    assert "result=" in caplog.text
    assert leaks(caplog.text, CANARY) == []
