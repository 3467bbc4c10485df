"""Why there is no answer: what no client can bring about is told from what its token may have caused."""

import asyncio
import errno
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from certificates import Authority
from fault_issuer import FAULTS, slow
from servers import serve_asgi
from starlette.applications import Starlette
from tokens import API, key

from ticketgate import (
    ClientSecretBasic,
    Introspection,
    Issuer,
    PrivateKeyJwt,
    ResourceServer,
    averify,
    verify,
)
from ticketgate.core.flow import Cause, FetchFailed, HttpRequest, Lane, fetch, within
from ticketgate.drivers import aio, blocking
from ticketgate.drivers.http import failed
from ticketgate.errors import IssuerUnavailable

GOOD = {"active": True, "sub": "alice", "client_id": "app", "aud": API}


def cause_of(run, request):
    with pytest.raises(FetchFailed) as failure:
        run(fetch(request))
    return failure.value.cause


@pytest.fixture
def silent():
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_where_nobody_listens(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert cause_of(run, HttpRequest("GET", f"http://127.0.0.1:{port}/")) is Cause.CONNECTION


def test_a_server_that_says_nothing_when_tls_begins(run, silent):
    assert cause_of(run, HttpRequest("GET", f"https://127.0.0.1:{silent}/", timeout=0.5)) is Cause.CONNECTION


def test_a_certificate_that_nobody_trusts(run, tmp_path):
    certificate, key = Authority(tmp_path).certify("server")
    with serve_asgi(Starlette(), ssl_certfile=certificate, ssl_keyfile=key) as url:
        request = HttpRequest("GET", url.replace("http:", "https:"))
        assert cause_of(run, request) is Cause.CONNECTION


def test_a_server_that_does_not_answer(run, silent):
    assert cause_of(run, HttpRequest("GET", f"http://127.0.0.1:{silent}/", timeout=0.3)) is Cause.EXCHANGE


@pytest.mark.parametrize(
    "fault", ["a reset", "no HTTP", "half", "too much", "a gzip bomb", "a dripping body"]
)
def test_an_answer_that_cannot_be_used(run, issuer, fault):
    issuer.faults["/jwks"] = FAULTS[fault]
    assert cause_of(run, HttpRequest("GET", f"{issuer.url}/jwks", timeout=0.4)) is Cause.EXCHANGE


EMFILE = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("error", "why", "cause"),
    [
        (httpx.ConnectError("x"), EMFILE, Cause.LIMIT),
        (httpx.ConnectError("x"), ExceptionGroup("all", [OSError(errno.ECONNREFUSED, "x"), EMFILE]), Cause.LIMIT),
        (httpx.ConnectError("x"), OSError(errno.ECONNREFUSED, "x"), Cause.CONNECTION),
        (httpx.ConnectError("x"), None, Cause.CONNECTION),
        (httpx.ConnectTimeout("x"), None, Cause.CONNECTION),
        (httpx.ProxyError("x"), None, Cause.CONNECTION),
        (httpx.PoolTimeout("x"), None, Cause.LIMIT),
        (httpx.ReadTimeout("x"), None, Cause.EXCHANGE),
        (httpx.RemoteProtocolError("x"), None, Cause.EXCHANGE),
        (FetchFailed("x", cause=Cause.LIMIT), None, Cause.LIMIT),
    ],
)  # fmt: skip
def test_errors_of_the_http_client(error, why, cause):
    error.__cause__ = why
    assert failed(error).cause is cause


def many(kind, calls):
    """The results of ``calls`` (pairs of a flow and a delay) on one driver at the same time; exceptions too."""
    if kind == "blocking":
        driver = blocking.Driver()

        def one(flow, delay):
            threading.Event().wait(delay)
            try:
                return driver.run(flow)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(lambda call: one(*call), calls))

    async def main():
        driver = aio.Driver()

        async def one(flow, delay):
            await asyncio.sleep(delay)
            return await driver.run(flow)

        return await asyncio.gather(*(one(*call) for call in calls), return_exceptions=True)

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["aio", "blocking"])
@pytest.mark.parametrize("inside", [None, Lane("everybody", 1, 5)])
def test_a_time_that_ran_out_while_waiting_is_our_own_limit(kind, inside, issuer):
    issuer.faults["/jwks"] = slow(5)
    lane = Lane("some", 1 if inside is None else 2, 1, inside)
    request = HttpRequest("GET", f"{issuer.url}/jwks", timeout=0.6)
    first, second, third, *_ = many(
        kind, [(within(lane, 0.6, partial(fetch, request)), delay) for delay in (0, 0.2, 0.4, 0.4)]
    )
    assert (first.cause, second.cause, third.cause) == (Cause.EXCHANGE, Cause.LIMIT, Cause.LIMIT)


@pytest.mark.parametrize("kind", ["aio", "blocking"])
def test_slow_questions_about_new_tokens_leave_places_for_known_ones(kind, issuer):
    introspection = Introspection(
        auth=ClientSecretBasic("api", "secret"), cache_ttl=0, max_concurrency=4, max_waiting=8, timeout=2
    )
    server = ResourceServer(API, Issuer(issuer.url, introspection=introspection))
    issuer.active["known"] = GOOD
    crowded, over = threading.Event(), threading.Event()

    def introspect(connection):
        if connection.form["token"] != "known":
            if issuer.hits["/introspect"] >= 4:  # the first was about the known one
                crowded.set()
            over.wait(1)
        connection.answer(connection.body())

    issuer.faults["/introspect"] = introspect

    def threads():
        driver = blocking.Driver()
        assert verify(server, "known", driver=driver).subject == "alice"
        with ThreadPoolExecutor(30) as pool:
            odd = [pool.submit(verify, server, f"odd{number}", driver=driver) for number in range(29)]
            assert crowded.wait(5)
            try:
                assert verify(server, "known", driver=driver).subject == "alice"
            finally:
                over.set()
        return [one.exception() for one in odd]

    async def tasks():
        driver = aio.Driver()
        await averify(server, "known", driver=driver)
        odd = [asyncio.ensure_future(averify(server, f"odd{n}", driver=driver)) for n in range(29)]
        assert await asyncio.to_thread(crowded.wait, 5)
        try:
            assert (await averify(server, "known", driver=driver)).subject == "alice"
        finally:
            over.set()
        return await asyncio.gather(*odd, return_exceptions=True)

    outcomes = threads() if kind == "blocking" else asyncio.run(tasks())
    assert any(isinstance(outcome, IssuerUnavailable) for outcome in outcomes)


def held_up(first, last, result):
    """A function that is held up from its ``first`` call to its ``last``; how often it was called; two events."""
    calls, crowded, over = [], threading.Event(), threading.Event()

    def function(argument):
        calls.append(argument)
        number = len(calls)
        if number == last:
            crowded.set()
        if first <= number <= last:
            assert over.wait(20)
        return result(argument)

    return function, calls, crowded, over


def signing(url):
    function, *rest = held_up(2, 4, key("ES256").sign)
    auth = PrivateKeyJwt("api", function, algorithm="ES256", kid="k")
    introspection = Introspection(auth=auth, cache_ttl=0, max_concurrency=4, max_waiting=40)
    return ResourceServer(API, Issuer(url, introspection=introspection)), *rest


def choosing(url):
    introspection = Introspection(auth=ClientSecretBasic("api", "secret"), cache_ttl=0)
    chosen = Issuer(url, introspection=introspection)
    function, *rest = held_up(2, 16, lambda raw: chosen)
    return ResourceServer(API, chosen, opaque_issuer=function), *rest


@pytest.mark.parametrize("kind", ["aio", "blocking"])
@pytest.mark.parametrize("made", [signing, choosing])
def test_slow_functions_of_the_user_leave_places_for_known_tokens(kind, made, issuer):
    server, calls, crowded, over = made(issuer.url)
    issuer.active["known"] = GOOD

    async def tasks():
        driver = aio.Driver()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await averify(server, "known", driver=driver)
        odd = [asyncio.ensure_future(averify(server, f"odd{n}", driver=driver)) for n in range(29)]
        try:
            assert await asyncio.wait_for(asyncio.to_thread(crowded.wait, 5), 10)
            before = len(calls)
            assert (await averify(server, "known", driver=driver)).subject == "alice"
            return len(calls) - before
        finally:
            over.set()
            await asyncio.gather(*odd, return_exceptions=True)

    def threads():
        driver = blocking.Driver()
        verify(server, "known", driver=driver)
        with ThreadPoolExecutor(29) as pool:
            for number in range(29):
                pool.submit(verify, server, f"odd{number}", driver=driver)
            try:
                assert crowded.wait(5)
                before = len(calls)
                assert verify(server, "known", driver=driver).subject == "alice"
                return len(calls) - before
            finally:
                over.set()

    assert (threads() if kind == "blocking" else asyncio.run(tasks())) == 1
