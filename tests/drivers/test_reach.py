"""Inside and outside addresses, certificates, proxies: how an issuer is reached, by both drivers."""

import asyncio
import logging
import ssl

import httpx
import httpx2
import pytest
from certificates import Authority
from fault_issuer import FaultIssuer
from flows import World, reply
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokens import API, Time, jwks, key, token

from ticketgate import BearerToken, HTTPOptions, Introspection, Issuer, ResourceServer, averify, verify
from ticketgate.core.request import bearer_request
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError, IssuerUnavailable
from ticketgate.token_client import TokenClient

OUTSIDE = "https://login.example"


@pytest.fixture(params=["aio", "blocking"])
def judge(request):
    """Judges a token by a driver of its own; a client may be given for it."""

    def judged(server, raw, module=httpx, **client):
        if request.param == "blocking":
            with module.Client(**client) as given:
                return verify(
                    server, raw, driver=blocking.Driver(given if client or module is httpx2 else None)
                )

        async def run():
            async with module.AsyncClient(**client) as given:
                driver = aio.Driver(given if client or module is httpx2 else None)
                return await averify(server, raw, driver=driver)

        return asyncio.run(run())

    return judged


@pytest.fixture
def inside():
    """An issuer that is known by its outside address and listens inside; its inside address."""
    with FaultIssuer() as issuer:
        address, issuer.url = issuer.url, OUTSIDE
        yield issuer, address


def test_another_origin_is_dialled_and_the_identifier_compared(inside, judge):
    issuer, address = inside
    server = ResourceServer(API, Issuer(OUTSIDE, fetch_from=address + "/"))
    assert judge(server, issuer.token()).issuer == OUTSIDE
    assert set(issuer.hits) == {"/.well-known/oauth-authorization-server", "/jwks"}


def test_introspection_is_dialled_inside_too(inside, judge):
    issuer, address = inside
    issuer.active["opaque"] = {"active": True, "iss": OUTSIDE, "sub": "alice", "aud": API}
    asking = Introspection(auth=BearerToken("ours"))
    server = ResourceServer(API, Issuer(OUTSIDE, fetch_from=address, introspection=asking))
    assert judge(server, "opaque").subject == "alice"
    assert issuer.hits["/introspect"] == 1


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (OUTSIDE + "/", "differs in the trailing slash only: configure Issuer('https://login.example/')"),
        ("http://keycloak.internal", "its issuer is 'http://keycloak.internal', not 'https://login.example'"),
    ],
)
def test_the_metadata_must_be_those_of_the_identifier(inside, told, words, caplog):
    issuer, address = inside
    raw = issuer.token()
    issuer.url = told
    with caplog.at_level(logging.WARNING), pytest.raises(IssuerUnavailable):
        verify(ResourceServer(API, Issuer(OUTSIDE, fetch_from=address)), raw)
    assert words in caplog.text


def run(server, raw, pages):
    world = World(pages)
    world.run(server.authenticate(bearer_request(raw)))
    return world.requests


ELSEWHERE = "https://keys.example/jwks"
METADATA = f"{OUTSIDE}/.well-known/oauth-authorization-server"
SECRET = HTTPOptions(headers={"X-Gateway": "secret", "Accept": "never"})


@pytest.mark.parametrize("jwks_uri", [ELSEWHERE, f"{OUTSIDE}/jwks"])
def test_headers_and_inside_addresses_are_for_the_issuers_own_origin(jwks_uri):
    inner = "https://as.internal:8443"
    dialled = jwks_uri.replace(OUTSIDE, inner)
    pages = {
        METADATA.replace(OUTSIDE, inner): {"issuer": OUTSIDE, "jwks_uri": jwks_uri},
        dialled: reply(jwks(key())),
    }
    issuer = Issuer(OUTSIDE, fetch_from=inner, http=SECRET)
    metadata, keys = run(ResourceServer(API, issuer, clock=Time().clock), token(iss=OUTSIDE), pages)
    assert (metadata.url, metadata.headers["X-Gateway"]) == (METADATA.replace(OUTSIDE, inner), "secret")
    assert keys.url == dialled
    assert ("X-Gateway" in keys.headers) == (jwks_uri != ELSEWHERE)
    assert keys.headers["Accept"] != "never"


def test_headers_also_go_where_keys_were_configured_to_be():
    issuer = Issuer(OUTSIDE, jwks_uri=ELSEWHERE, http=SECRET)
    (keys,) = run(
        ResourceServer(API, issuer, clock=Time().clock), token(iss=OUTSIDE), {ELSEWHERE: reply(jwks(key()))}
    )
    assert keys.headers["X-Gateway"] == "secret"


def test_tokens_of_our_own_are_asked_for_inside(inside):
    issuer, address = inside
    issuer.faults["/token"] = lambda connection: connection.answer(
        b'{"access_token": "t", "token_type": "Bearer", "expires_in": 60}'
    )
    trusted = Issuer(OUTSIDE, fetch_from=address)
    client = TokenClient(trusted, BearerToken("ours"), token_endpoint=f"{OUTSIDE}/token")
    requests = []

    def resource(request):
        requests.append(request.headers["Authorization"])
        return httpx.Response(200)

    with httpx.Client(auth=client.for_resource(API), transport=httpx.MockTransport(resource)) as http:
        assert http.get(f"{API}/items").status_code == 200
    assert requests == ["Bearer t"]
    assert issuer.hits["/token"] == 1


class Proxy(FaultIssuer):
    """A forward proxy, as far as plain http goes, in front of an issuer that no name server knows."""

    def page(self, path):
        return super().page(path.removeprefix(self.url))


def test_a_proxy_is_gone_through(judge):
    with Proxy() as issuer:
        proxy, issuer.url = issuer.url, "http://keycloak.internal:8080"
        options = HTTPOptions(proxy=proxy)
        server = ResourceServer(API, Issuer(issuer.url, http=options, insecure_http=True))
        assert judge(server, issuer.token()).subject == "alice"
        assert issuer.hits["http://keycloak.internal:8080/jwks"] == 1


def test_a_proxy_of_the_environment_is_gone_through_where_none_is_named(judge, monkeypatch):
    with Proxy() as issuer:
        proxy, issuer.url = issuer.url, "http://keycloak.internal:8080"
        monkeypatch.setenv("HTTP_PROXY", proxy)
        server = ResourceServer(API, Issuer(issuer.url, insecure_http=True))
        assert judge(server, issuer.token()).subject == "alice"
        monkeypatch.setenv("NO_PROXY", "keycloak.internal")
        with pytest.raises(IssuerUnavailable):
            judge(ResourceServer(API, Issuer(issuer.url, insecure_http=True)), issuer.token())


def test_an_authority_and_a_certificate_of_ones_own(tmp_path, judge):
    authority = Authority(tmp_path)
    certificate, private = authority.certify("server")
    ca = str(tmp_path / "ca.pem")
    settings = {
        "ssl_certfile": certificate,
        "ssl_keyfile": private,
        "ssl_ca_certs": ca,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }

    async def keys(request):
        return JSONResponse(jwks(key()))

    with serve_asgi(Starlette(routes=[Route("/jwks", keys)]), **settings) as url:
        url = url.replace("http:", "https:")
        raw = token(iss=url)

        def opens(**options):
            issuer = Issuer(url, jwks_uri=f"{url}/jwks", http=HTTPOptions(**options))
            return judge(ResourceServer(API, issuer, clock=Time().clock), raw).subject

        assert opens(ca=ca, certificate=authority.certify("client")) == "alice"
        for options in ({}, {"ca": ca}, {"certificate": authority.certify("client")}):
            with pytest.raises(IssuerUnavailable):
                opens(**options)


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_client_of_ones_own(module, judge):
    with FaultIssuer() as issuer:
        server = ResourceServer(API, Issuer(issuer.url))
        assert judge(server, issuer.token(), module, headers={"X-Ours": "1"}).subject == "alice"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ca": "/nowhere.pem"}, "no file '/nowhere.pem'"),
        ({"certificate": ("/nowhere.pem", "/nowhere.key")}, "no file"),
        ({"certificate": (__file__,)}, "two paths"),
        ({"proxy": "proxy:3128"}, "http or https URL"),
        ({"headers": {"X": "a\nb"}}, "no header field"),
        ({"headers": {"X: Y": "a"}}, "no header field"),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ConfigurationError, match=words):
        HTTPOptions(**options)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://keycloak.internal:8080", "insecure_http=True"),
        ("https://keycloak.internal/auth", "must be an origin"),
        ("keycloak.internal", "no https URL"),
    ],
)
def test_an_inside_address_is_an_origin(address, words):
    with pytest.raises(ConfigurationError, match=words):
        Issuer(OUTSIDE, fetch_from=address)
    assert Issuer(OUTSIDE, fetch_from="http://keycloak.internal:8080", insecure_http=True).insecure_http


def test_secrets_are_not_shown():
    shown = repr(HTTPOptions(proxy="http://user:secret@proxy:3128", headers={"X": "secret"}))
    assert "secret" not in shown
