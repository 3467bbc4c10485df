"""Where metadata may send us, and our secrets: to https, to where the issuer is itself, and not to our own machine."""

import pytest
from flows import World, reply
from tokens import API, ISSUER, Time, jwks, key, token

from ticketgate import (
    ClientSecretBasic,
    HTTPOptions,
    Introspection,
    Issuer,
    KeyPolicy,
    MutualTls,
    ResourceServer,
)
from ticketgate.core.flow import FetchFailed, HttpRequest
from ticketgate.core.http_options import Whereabouts
from ticketgate.core.request import bearer_request
from ticketgate.core.web_address import same_origin
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable
from ticketgate.token_client import TokenClient

OURS = "http://localhost:6379/keys"
LOCAL = "http://127.0.0.1:9000"
INSIDE = "https://keycloak.internal"
TENANT = "https://login.example/acme"
FAR = 10**10


@pytest.mark.parametrize(
    ("issuer", "options", "url", "named", "confined"),
    [
        # issuer, its options, where its metadata send us: whether we go there for a named issuer, for a found one
        (ISSUER, {}, f"{ISSUER}/keys", True, True),
        (ISSUER, {}, "https://AS.example:443/keys", True, True),
        (ISSUER, {}, "https://as.example:8443/keys", True, False),
        (ISSUER, {}, "https://keys.example/keys", True, False),
        (ISSUER, {}, "https://127.0.0.1/keys", True, False),
        (ISSUER, {}, "http://as.example/keys", False, False),
        (ISSUER, {}, "http://localhost:9000/keys", False, False),
        (ISSUER, {}, "http://127.0.0.1/keys", False, False),
        (ISSUER, {}, "http://[::1]/keys", False, False),
        (ISSUER, {}, "https://as.example\\@evil.example/keys", False, False),
        (ISSUER, {}, "https://user:secret@as.example/keys", False, False),
        (ISSUER, {}, "ftp://as.example/keys", False, False),
        (ISSUER, {}, "//as.example/keys", False, False),
        (ISSUER, {}, 7, False, False),
        (ISSUER, {}, ["https://as.example"], False, False),
        (ISSUER, {"fetch_from": INSIDE}, f"{INSIDE}/keys", True, True),
        (ISSUER, {"fetch_from": LOCAL}, f"{LOCAL}/keys", True, True),
        (ISSUER, {"fetch_from": LOCAL}, "http://127.0.0.1:9001/keys", False, False),
        (ISSUER, {"insecure_http": True}, "http://keys.internal/keys", True, False),
        (ISSUER, {"insecure_http": True}, "http://localhost/keys", True, False),
        ("https://localhost:8443", {}, "http://localhost:9000/keys", False, False),
        (LOCAL, {}, f"{LOCAL}/keys", True, True),
        (LOCAL, {}, "http://localhost:9000/keys", True, False),
        (LOCAL, {}, "https://keys.example/keys", True, False),
        (LOCAL, {}, "http://as.example/keys", False, False),
        ("a partner", {}, "http://localhost:9000/keys", False, False),
        ("a partner", {}, "https://keys.example/keys", True, False),
    ],
)
def test_where_metadata_may_send_us(issuer, options, url, named, confined):
    assert (not Whereabouts(issuer, **options).objection(url)) is named
    assert (not Whereabouts(issuer, **options, confined=True).objection(url)) is confined


class Gate:
    def __init__(self, *issuers, pages, **options):
        self.time = Time()
        self.world = World(pages)
        self.server = ResourceServer(API, *issuers, clock=self.time.clock, token_cache=0, **options)

    def judge(self, raw):
        return self.world.run(self.server.authenticate(bearer_request(raw)))

    def is_unavailable(self, raw):
        with pytest.raises(IssuerUnavailable):
            self.judge(raw)
        return True


def published(issuer, **members):
    document = {"issuer": issuer, "jwks_uri": f"{issuer}/keys"} | members
    return {f"{issuer}/.well-known/openid-configuration": document, f"{issuer}/keys": reply(jwks(key()))}


def test_keys_on_our_own_machine_are_none_of_the_issuers_business(caplog):
    gate = Gate(Issuer(ISSUER), pages=published(ISSUER, jwks_uri=OURS) | {OURS: jwks(key())})
    assert gate.is_unavailable(token())
    assert OURS not in gate.world.asked
    assert (
        f"its jwks_uri '{OURS}' is not used: it is plain http on loopback, and the issuer is not"
        in caplog.text
    )
    assert "configure Issuer(jwks_uri=...) or Issuer(fetch_from=...)" in caplog.text
    configured = Gate(Issuer(ISSUER, jwks_uri=OURS), pages={OURS: jwks(key())})
    assert configured.judge(token()).subject == "alice"


def test_a_look_for_new_keys_does_not_go_there_either():
    """The first document names an address that is not used, the second a good one: a look takes the good one too."""
    first = f"{ISSUER}/.well-known/oauth-authorization-server"
    pages = published(ISSUER) | {first: {"issuer": ISSUER, "jwks_uri": OURS}}
    gate = Gate(Issuer(ISSUER), pages=pages)
    assert gate.judge(token(exp=FAR)).subject == "alice"
    gate.time.advance(1)
    gate.world.requests.clear()
    with pytest.raises(InvalidToken, match="unknown_key"):
        gate.judge(token(signing=key("RS256", "unknown"), exp=FAR))
    assert gate.world.asked == [f"{ISSUER}/keys"]


def test_metadata_from_a_snapshot_are_no_better():
    policy = KeyPolicy(snapshot="/var/lib/api")
    gate = Gate(Issuer(ISSUER, keys=policy), pages=published(ISSUER))
    gate.judge(token(exp=FAR))
    ((path, raw),) = gate.world.files.items()
    again = Gate(Issuer(ISSUER, keys=policy), pages=published(ISSUER) | {OURS: jwks(key())})
    again.world.files[path] = raw.replace(f"{ISSUER}/keys".encode(), OURS.encode())
    assert again.judge(token(exp=FAR)).subject == "alice"
    again.time.advance(1)
    with pytest.raises((InvalidToken, IssuerUnavailable)):
        again.judge(token(signing=key("RS256", "unknown"), exp=FAR))
    assert OURS not in again.world.asked


def template(**options):
    return [Issuer.template("https://login.example/{tenant}", tenants=["acme"], **options)], {}


def function(**options):
    return [], {"issuer_for": lambda iss: Issuer(iss, **options) if iss == TENANT else None}


ELSEWHERE = "https://keys.example/keys"


@pytest.mark.parametrize("way", [template, function])
@pytest.mark.parametrize(
    ("options", "good"),
    [({}, False), ({"jwks_uri": ELSEWHERE}, True), ({"fetch_from": "https://keys.example"}, True)],
)
def test_metadata_of_issuers_that_were_found_stay_on_their_origin(way, options, good, caplog):
    issuers, settings = way(**options)
    pages = published(TENANT, jwks_uri=ELSEWHERE) | {ELSEWHERE: jwks(key())}
    pages |= (
        {
            "https://keys.example/acme/.well-known/openid-configuration": pages.pop(
                f"{TENANT}/.well-known/openid-configuration"
            )
        }
        if "fetch_from" in options
        else {}
    )
    gate = Gate(*issuers, pages=pages, **settings)
    if good:
        assert gate.judge(token(iss=TENANT)).issuer == TENANT
        return
    assert gate.is_unavailable(token(iss=TENANT))
    assert ELSEWHERE not in gate.world.asked
    assert "it is not on the origin of the issuer, which was found by a template or issuer_for" in caplog.text
    assert "configure Issuer(jwks_uri=...)" in caplog.text


def test_an_issuer_that_is_named_elsewhere_is_not_confined_there():
    """The same object: given by name to one resource server, and returned by a function to another."""
    issuer = Issuer(TENANT)
    pages = published(TENANT, jwks_uri=ELSEWHERE) | {ELSEWHERE: jwks(key())}
    found = Gate(issuer_for=lambda iss: issuer, pages=pages)
    named = Gate(issuer, pages=pages)
    for _ in range(2):
        assert found.is_unavailable(token(iss=TENANT))
        assert named.judge(token(iss=TENANT)).issuer == TENANT


@pytest.mark.parametrize(
    "members",
    [
        {"introspection_endpoint": OURS},
        {"introspection_endpoint": f"{ISSUER}/i", "mtls_endpoint_aliases": {"introspection_endpoint": OURS}},
    ],
)
def test_our_secret_is_not_sent_to_our_own_machine(members, caplog):
    auth = (
        MutualTls("api", "/cert.pem", "/key.pem") if len(members) > 1 else ClientSecretBasic("api", "secret")
    )
    active = {"active": True, "sub": "alice", "aud": API}
    asked = {OURS: active, f"{ISSUER}/i": active}
    gate = Gate(
        Issuer(ISSUER, introspection=Introspection(auth=auth)), pages=published(ISSUER, **members) | asked
    )
    assert gate.is_unavailable(b"opaque")
    assert not set(gate.world.asked) & set(asked)
    assert "configure Introspection(endpoint=...)" in caplog.text


def test_tokens_of_our_own_are_not_asked_for_there():
    client = TokenClient(ISSUER, ClientSecretBasic("api", "secret"), clock=Time().clock)
    world = World(
        published(ISSUER, token_endpoint=OURS) | {OURS: {"access_token": "t", "token_type": "Bearer"}}
    )
    with pytest.raises(IssuerUnavailable, match=r"configure TokenClient\(token_endpoint=...\)"):
        world.run(client.token(client.client_credentials()))
    assert OURS not in world.asked


def test_an_endpoint_that_nothing_configures_is_refused_too():
    metadata = Issuer(ISSUER).metadata
    world = World(published(ISSUER, authorization_endpoint="javascript:alert(1)"))
    with pytest.raises(FetchFailed, match=r"authorization_endpoint 'javascript.*not an https URL"):
        world.run(metadata.address("authorization_endpoint", 0))


@pytest.mark.parametrize(
    ("url", "fetch_from", "proxied"),
    [
        ("https://as.example/keys", None, True),
        ("http://as.internal/keys", None, True),
        ("http://127.0.0.1:9000/keys", None, False),
        ("http://localhost/keys", None, False),
        ("https://[::1]/keys", None, False),
        ("https://as.example/keys", "http://127.0.0.1:8080", False),
        ("http://127.0.0.1/keys", "https://as.internal", True),
    ],
)
def test_what_is_on_this_machine_does_not_leave_it_through_a_proxy(url, fetch_from, proxied):
    proxy = "http://proxy.internal:3128"
    issuer = url.removesuffix("/keys")
    where = Whereabouts(issuer, fetch_from=fetch_from, http=HTTPOptions(proxy=proxy))
    assert where.reach(HttpRequest("GET", url)).connection.proxy == (proxy if proxied else None)


@pytest.mark.parametrize(
    "proxy",
    ["ftp://proxy.internal", "socks5://proxy.internal:1080", "proxy:3128", "http://", "http://a\\b", 7],
)
def test_what_is_not_a_proxy(proxy):
    with pytest.raises(ConfigurationError, match="proxy"):
        HTTPOptions(proxy=proxy)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example", "https://a.example/x", True),
        ("https://a.example", "https://A.example:443", True),
        ("http://a.example:80", "http://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://b.example", False),
        ("not a URL", "not a URL", False),
    ],
)
def test_origins(one, other, same):
    assert same_origin(one, other) is same
