"""Introspection over real HTTP with both drivers: the table of faults, sharing, lanes and kept connections."""

import asyncio
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from certificates import Authority
from fault_issuer import FAULTS, slow
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokens import API

from ticketgate import (
    BearerToken,
    ClientSecretBasic,
    Introspection,
    Issuer,
    MutualTls,
    ResourceServer,
    averify,
    verify,
)
from ticketgate.core.flow import Certificate, call
from ticketgate.core.metadata import RFC8414
from ticketgate.core.request import bearer_request
from ticketgate.drivers import aio, blocking
from ticketgate.drivers.http import tls_context
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable

BASIC = ClientSecretBasic("api", "secret")
GOOD = {"active": True, "sub": "alice", "client_id": "app", "aud": API}


def server_for(issuer, **options):
    introspection = Introspection(auth=options.pop("auth", BASIC), **{"timeout": 0.4} | options)
    return ResourceServer(API, Issuer(issuer.url, introspection=introspection))


def test_an_opaque_token_opens(issuer, run):
    issuer.active["opaque"] = GOOD
    server = server_for(issuer)
    for _ in range(3):
        assert run(server.authenticate(bearer_request("opaque"))).kind == "opaque"
    with pytest.raises(InvalidToken, match="inactive"):
        run(server.authenticate(bearer_request("other")))
    assert issuer.hits == {RFC8414: 1, "/introspect": 2}


@pytest.mark.requirement("RFC7662-2.3-c", "RFC7662-2.3-d")
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_a_503_and_cached_tokens_go_on(issuer, run, fault, caplog):
    issuer.active |= {"opaque": GOOD, "another": GOOD}
    server = server_for(issuer)
    run(server.authenticate(bearer_request("opaque")))
    issuer.faults["/introspect"] = FAULTS[fault]
    with pytest.raises(IssuerUnavailable) as unavailable:
        run(server.authenticate(bearer_request("another")))
    answer = server.answer(unavailable.value)
    assert (answer.status, b"retry-after" in dict(answer.headers)) == (503, True)
    assert issuer.hits == {RFC8414: 1, "/introspect": 2}
    assert run(server.authenticate(bearer_request("opaque"))).subject == "alice"
    assert "another" not in caplog.text


@pytest.mark.requirement("RFC7662-4-i")
def test_tasks_share_one_question(issuer):
    issuer.active["opaque"] = GOOD
    issuer.faults["/introspect"] = slow(0.1)
    server = server_for(issuer)

    async def main():
        return await asyncio.gather(*(averify(server, "opaque") for _ in range(200)))

    assert len(asyncio.run(main())) == 200
    assert issuer.hits["/introspect"] == 1


@pytest.mark.requirement("RFC7662-4-i")
def test_threads_share_one_question(issuer):
    issuer.active["opaque"] = GOOD
    issuer.faults["/introspect"] = slow(0.1)
    server, driver = server_for(issuer), blocking.Driver(max_waiting=32)
    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(lambda _: verify(server, "opaque", driver=driver), range(200)))) == 200
    assert issuer.hits["/introspect"] == 1


class Crowd:
    """How many are in at the same time, and how many were at most."""

    def __init__(self):
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, connection):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        connection.pause(0.1)
        with self.lock:
            self.now -= 1
        connection.answer(connection.body())


@pytest.mark.parametrize("kind", ["aio", "blocking"])
def test_few_questions_run_at_once_and_few_wait(issuer, kind):
    issuer.active |= {f"t{number}": GOOD for number in range(40)}
    server = server_for(issuer, max_concurrency=4, max_waiting=8, timeout=5)
    run = verify if kind == "blocking" else lambda server, token: asyncio.run(averify(server, token))
    run(server, "t0")
    crowd = issuer.faults["/introspect"] = Crowd()

    def one(number):
        try:
            return verify(server, f"t{number}").subject
        except IssuerUnavailable:
            return None

    async def main():
        async def one(number):
            try:
                return (await averify(server, f"t{number}")).subject
            except IssuerUnavailable:
                return None

        return await asyncio.gather(*(one(number) for number in range(1, 40)))

    if kind == "blocking":
        with ThreadPoolExecutor(39) as pool:
            done = list(pool.map(one, range(1, 40)))
    else:
        done = asyncio.run(main())
    assert crowd.most <= 4
    assert done.count("alice") >= 4
    assert done.count(None) >= 1


def test_connections_are_kept():
    callers = set()

    async def introspect(request):
        callers.add(request.client.port)
        return JSONResponse(GOOD)

    with serve_asgi(Starlette(routes=[Route("/introspect", introspect, methods=["POST"])])) as url:
        introspection = Introspection(f"{url}/introspect", auth=BASIC, cache_ttl=0)
        server = ResourceServer(API, Issuer(url, introspection=introspection))

        async def main():
            for _ in range(5):
                await averify(server, "opaque")

        asyncio.run(main())
        assert len(callers) == 1
        driver = blocking.Driver()
        for _ in range(5):
            verify(server, "opaque", driver=driver)
        assert len(callers) == 2


def test_functions_of_the_user_may_be_async_under_asyncio_only(issuer):
    issuer.active["opaque"] = GOOD

    async def fetch_token():
        await asyncio.sleep(0)
        return "tok"

    server = server_for(issuer, auth=BearerToken(fetch_token))
    assert asyncio.run(averify(server, "opaque")).subject == "alice"

    def asking():
        return (yield from call(fetch_token))

    with pytest.raises(ConfigurationError, match="asyncio only"):
        blocking.Driver().run(asking())
    assert blocking.Driver().run(call(lambda a, b: a + b, 1, 2)) == 3
    with pytest.raises(ConfigurationError, match="asyncio only"):
        blocking.Driver().run(call(lambda: Waitable()))


class Waitable:
    def __await__(self):
        yield


def test_a_client_certificate_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError):
        tls_context(Certificate(str(tmp_path / "none.pem"), str(tmp_path / "none.key")))


@pytest.mark.requirement("RFC8705-2-a", "RFC7662-4-d")
@pytest.mark.parametrize("kind", ["aio", "blocking"])
def test_mutual_tls_with_a_real_server(tmp_path, monkeypatch, kind):
    authority = Authority(tmp_path)
    certificate, key = authority.certify("server")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls_context.cache_clear()

    async def introspect(request):
        return JSONResponse(GOOD)

    settings = {
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "ssl_ca_certs": str(tmp_path / "ca.pem"),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }
    with serve_asgi(
        Starlette(routes=[Route("/introspect", introspect, methods=["POST"])]), **settings
    ) as url:
        url = url.replace("http:", "https:")

        def opens(auth):
            introspection = Introspection(f"{url}/introspect", auth=auth)
            server = ResourceServer(API, Issuer(url, introspection=introspection))
            if kind == "blocking":
                return verify(server, "opaque", driver=blocking.Driver())
            return asyncio.run(averify(server, "opaque", driver=aio.Driver()))

        assert opens(MutualTls("api", *authority.certify("client"))).subject == "alice"
        with pytest.raises(IssuerUnavailable):
            opens(BASIC)
    tls_context.cache_clear()
