"""Proxies of the environment: who is reached through them, by both drivers and through a proxy that keeps a record."""

import asyncio
from collections import Counter

import pytest
from fault_issuer import FaultIssuer
from tokens import API

from ticketgate import ClientSecretPost, HTTPOptions, Introspection, Issuer, ResourceServer
from ticketgate.core.flow import Connection, FetchFailed, HttpRequest, fetch
from ticketgate.core.request import bearer_request
from ticketgate.drivers import aio
from ticketgate.drivers.proxies import proxy_for

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without proxies, and how to set one."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


class Proxy(FaultIssuer):
    """A forward proxy that answers everything itself; ``hits`` is its record."""

    def page(self, path):
        return {"through": "the proxy"}


@pytest.fixture
def proxy(environment):
    with Proxy() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            environment(name, proxy.url)
        yield proxy


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_what_is_elsewhere_goes_through_the_proxy(run, environment, name):
    with Proxy() as proxy:
        environment(name, proxy.url.removeprefix("http://"))
        got = run(fetch(HttpRequest("GET", "http://as.internal:8080/jwks")))
        assert (got.status, proxy.hits) == (200, {"http://as.internal:8080/jwks": 1})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_never_does(run, proxy, issuer, host):
    """A secret that is sent in plain http, because it cannot leave this machine, does not leave it."""
    url = issuer.url = issuer.url.replace("127.0.0.1", host)
    issuer.active["opaque"] = {"active": True, "iss": url, "sub": "alice", "aud": API}
    for options in (HTTPOptions(), HTTPOptions(proxy=proxy.url)):
        asking = Introspection(auth=ClientSecretPost("api", "secret"))
        server = ResourceServer(API, Issuer(url, introspection=asking, http=options))
        assert run(server.authenticate(bearer_request("opaque"))).subject == "alice"
        assert run(server.authenticate(bearer_request(issuer.token()))).subject == "alice"
    assert proxy.hits == Counter()


@pytest.mark.parametrize(
    "excluded", ["fd00::1", "[fd00::1]", "FD00:0::1", "fd00::/8", "a, fd00::1 ,b", "[fd00::1]:9"]
)
def test_addresses_of_ipv6_can_be_excluded(run, proxy, environment, excluded):
    """They cannot be reached from here, which is the proof that the proxy was not asked to."""
    asked = fetch(HttpRequest("GET", "http://[fd00::1]:9/jwks", timeout=0.3))
    environment("NO_PROXY", excluded)
    with pytest.raises(FetchFailed, match=r"Connect(Error|Timeout)|no complete answer"):
        run(asked)
    assert proxy.hits == Counter()


@pytest.mark.parametrize("other", ["fd00::2", "fe80::/10", "::1", "[fd00::1]:80", "fd00", "10.0.0.0/8"])
def test_those_that_are_not_excluded_go_through_the_proxy(run, proxy, environment, other):
    environment("NO_PROXY", other)
    assert run(fetch(HttpRequest("GET", "http://[fd00::1]:9/jwks"))).status == 200
    assert proxy.hits.total() == 1


def test_a_kept_connection_is_not_shared_by_direct_and_proxied_exchanges(run, proxy, environment):
    def both():
        for excluded in ("", "as.internal", ""):
            environment("NO_PROXY", excluded)
            try:
                yield from fetch(HttpRequest("GET", "http://as.internal:9/", timeout=1, keep_alive=True))
            except FetchFailed:
                assert excluded

    run(both())
    assert proxy.hits == {"http://as.internal:9/": 2}


DIRECT = [
    # NO_PROXY            the URL
    ("*", "https://as.example"),
    ("as.example", "https://as.example"),
    ("as.example", "https://as.example:8443/x"),
    ("AS.Example", "https://as.EXAMPLE./"),
    ("example", "https://as.example"),
    (".example", "https://as.example"),
    (".as.example", "https://as.example"),
    ("as.example:443", "https://as.example"),
    ("as.example:8443", "https://as.example:8443"),
    ("https://as.example", "https://as.example"),
    ("all://as.example", "https://as.example"),
    ("other.example,as.example", "https://as.example"),
    ("192.0.2.0/24", "https://192.0.2.7"),
    ("192.0.2.7", "https://192.0.2.7:8443"),
    ("192.0.2.7:8443", "https://192.0.2.7:8443"),
    ("192.0.2.7", "https://[::ffff:192.0.2.7]"),
    # no NO_PROXY is needed for these
    ("", "http://127.0.0.1"),
    ("", "http://127.9.9.9:8080/x"),
    ("", "http://[::1]:8080"),
    ("", "http://[0:0::1]"),
    ("", "https://[::ffff:127.0.0.1]"),
    ("", "http://LOCALHOST:8080"),
    ("", "https://localhost."),
]
PROXIED = [
    ("", "https://as.example"),
    (",", "https://as.example"),
    (".", "https://as.example"),
    ("s.example", "https://as.example"),
    ("as.example.", "https://bas.example"),
    ("as.example", "https://as.example.attacker.example"),
    ("as.example:444", "https://as.example"),
    ("http://as.example", "https://as.example"),
    ("192.0.2.0/24", "https://192.0.3.7"),
    ("192.0.2", "https://192.0.2.7"),
    ("192.0.2.0/99", "https://192.0.2.7"),
    ("::/0", "https://192.0.2.7"),
    ("", "https://localhost.example"),
    ("", "https://127.0.0.1.example"),
    ("", "https://notlocalhost"),
]


@pytest.mark.parametrize(
    ("excluded", "url", "expected"),
    [(*row, None) for row in DIRECT] + [(*row, "http://proxy:3128") for row in PROXIED],
)
def test_no_proxy_is_read_as_curl_reads_it(environment, excluded, url, expected):
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        environment(name, "proxy:3128")
    environment("NO_PROXY", excluded)
    assert proxy_for(HttpRequest("GET", url)) == expected


def test_a_configured_proxy_is_above_the_environment(environment):
    environment("NO_PROXY", "*")
    configured = Connection(proxy="http://configured:3128")
    assert proxy_for(HttpRequest("GET", "https://as.example", connection=configured)) == configured.proxy
    assert proxy_for(HttpRequest("GET", "https://[::1]", connection=configured)) is None


def test_a_proxy_that_makes_no_sense_is_a_failure_without_its_password(run, environment):
    for proxy in (
        "http://user:can/ary@proxy:1",
        "canary://user:canary@proxy",
        "http://user:canary@proxy:canary",
    ):
        environment("HTTPS_PROXY", proxy)
        with pytest.raises(FetchFailed) as failed:
            run(fetch(HttpRequest("GET", "https://as.example", timeout=1)))
        assert "ary" not in str(failed.value)


def test_an_event_loop_is_used_again(proxy):
    driver = aio.Driver()
    for _ in range(2):
        asyncio.run(driver.run(fetch(HttpRequest("GET", "http://as.internal/", keep_alive=True))))
    assert proxy.hits == {"http://as.internal/": 2}
