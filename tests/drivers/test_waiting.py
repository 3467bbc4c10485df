"""How many requests may wait for a key or a tenant that we have not seen yet, and that the others are served."""

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fault_issuer import FaultIssuer
from servers import free_port, start, until
from tokens import API, key, token

from ticketgate import ClientSecretBasic, Introspection, Issuer, KeyPolicy, ResourceServer, averify, verify
from ticketgate.core.flow import WaitingFor
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable

TESTS = Path(__file__).parent.parent
FORGER = key("RS256", "forger")
LONG = KeyPolicy(timeout=30)


@pytest.fixture
def held_up(issuer):
    """An issuer that answers for its keys only after ``release`` is set; it is, at the end."""
    release = threading.Event()

    def wait(connection):
        release.wait(30)
        connection.answer(connection.body())

    def hold_up():
        issuer.faults["/jwks"] = wait
        issuer.hits.clear()
        return release

    yield hold_up
    release.set()


def unknown(issuer, number):
    return issuer.token(FORGER, head={"kid": f"unknown {number}"})


def stranger(number):
    now = int(time.time())
    return token(signing=FORGER, iss=f"https://stranger-{number}.example", iat=now, exp=now + 300)


def outcome(judge):
    try:
        return judge().subject
    except InvalidToken:
        return 401
    except IssuerUnavailable as unavailable:
        return 503, unavailable.retry_after


def waiting_in(driver, kind):
    return driver._in_this_process()._waiting[kind]


def named(issuer):
    return ResourceServer(API, Issuer(issuer.url, keys=LONG), token_cache=0)


def found(issuer):
    return ResourceServer(
        API,
        issuer_for=lambda iss: Issuer(iss, keys=LONG),
        token_cache=0,
        accept_loopback_issuers=True,
    )


def test_threads_beyond_the_limit_do_not_wait_for_an_unknown_key(issuer, held_up):
    server, driver = named(issuer), blocking.Driver(max_waiting=2)
    verify(server, issuer.token(), driver=driver)
    release = held_up()
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(outcome, lambda n=n: verify(server, unknown(issuer, n), driver=driver))
            for n in range(2)
        ]
        until(lambda: waiting_in(driver, WaitingFor.LOOK) == 2 and issuer.hits["/jwks"] == 1, "two wait")
        assert outcome(lambda: verify(server, unknown(issuer, 3), driver=driver)) == (503, 1)
        assert outcome(lambda: verify(server, issuer.token(), driver=driver)) == "alice"
        assert not any(one.done() for one in waiting)
        release.set()
        assert {one.result(20) for one in waiting} <= {401, (503, 30)}
    assert outcome(lambda: verify(server, unknown(issuer, 4), driver=driver)) in {401, (503, 30)}


def test_threads_beyond_the_limit_do_not_wait_for_a_cold_tenant(issuer, held_up):
    server, driver = found(issuer), blocking.Driver(max_waiting=1)
    release = held_up()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcome, lambda: verify(server, issuer.token(), driver=driver))
        until(lambda: issuer.hits["/jwks"] == 1, "the first waits")
        assert outcome(lambda: verify(server, issuer.token(), driver=driver)) == (503, 1)
        release.set()
        assert first.result(20) == "alice"
    assert outcome(lambda: verify(server, issuer.token(), driver=driver)) == "alice"


def test_threads_all_wait_for_the_first_keys_of_a_named_issuer(issuer, held_up):
    server, driver = named(issuer), blocking.Driver(max_waiting=1)
    release = held_up()
    together = threading.Barrier(9)

    def judge():
        together.wait(20)
        return outcome(lambda: verify(server, issuer.token(), driver=driver))

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(judge) for _ in range(8)]
        together.wait(20)
        until(lambda: issuer.hits["/jwks"] == 1, "they wait")
        release.set()
        assert [one.result(20) for one in waiting] == ["alice"] * 8


def test_an_issuer_that_hangs_holds_few_of_the_threads_that_serve_another(issuer, held_up):
    with FaultIssuer() as other:
        server = ResourceServer(API, Issuer(issuer.url, keys=LONG), Issuer(other.url), token_cache=0)
        driver = blocking.Driver(max_waiting=2)
        release = held_up()
        with ThreadPoolExecutor(3) as pool:
            forged = [
                pool.submit(outcome, lambda n=n: verify(server, unknown(issuer, n), driver=driver))
                for n in range(8)
            ]
            assert pool.submit(outcome, lambda: verify(server, other.token(), driver=driver)).result(20) == (
                503,
                1,
            )
            until(lambda: sum(one.done() for one in forged) == 6, "all but two are answered")
            release.set()
        assert outcome(lambda: verify(server, other.token(), driver=driver)) == "alice"


@pytest.mark.parametrize("raw", ["junk-{}", "always-the-same"])
def test_junk_that_must_be_asked_about_holds_few_threads(issuer, raw):
    release = threading.Event()

    def wait(connection):
        release.wait(30)
        connection.answer(connection.body())

    introspection = Introspection(auth=ClientSecretBasic("api", "secret"), timeout=30, cache_ttl=0.01)
    server = ResourceServer(API, Issuer(issuer.url, introspection=introspection), token_cache=0)
    driver = blocking.Driver(max_waiting=2)
    issuer.active["good"] = {"active": True, "sub": "alice", "aud": API}
    for known in (issuer.token(), "good"):
        assert outcome(lambda known=known: verify(server, known, driver=driver)) == "alice"
    issuer.faults["/introspect"] = lambda connection: (
        connection.answer(connection.body()) if connection.form["token"] == "good" else wait(connection)
    )
    with ThreadPoolExecutor(3) as pool:
        junk = [
            pool.submit(outcome, lambda n=n: verify(server, raw.format(n), driver=driver)) for n in range(8)
        ]
        until(lambda: sum(one.done() for one in junk) == 6, "all but two are answered")
        assert {one.result() for one in junk if one.done()} == {(503, 1)}
        for known in (issuer.token(), "good"):
            judged = pool.submit(outcome, lambda known=known: verify(server, known, driver=driver))
            assert judged.result(20) == "alice"
        release.set()
    assert outcome(lambda: verify(server, raw.format(9), driver=driver)) == 401


def test_unknown_names_leave_a_verified_tenant_its_places(issuer):
    release = threading.Event()

    def issuer_for(iss):
        if iss != issuer.url:
            release.wait(30)
            return None
        return Issuer(iss, keys=LONG)

    server = ResourceServer(API, issuer_for=issuer_for, token_cache=0, accept_loopback_issuers=True)
    driver = blocking.Driver(max_waiting=2)
    assert outcome(lambda: verify(server, issuer.token(), driver=driver)) == "alice"
    issuer.keys = [key("RS256", "new")]
    with ThreadPoolExecutor(2) as pool:
        strangers = [
            pool.submit(outcome, lambda n=n: verify(server, stranger(n), driver=driver)) for n in range(2)
        ]
        until(lambda: waiting_in(driver, WaitingFor.NAME) == 2, "two strangers wait")
        assert outcome(lambda: verify(server, stranger(2), driver=driver)) == (503, 1)
        assert outcome(lambda: verify(server, issuer.token(), driver=driver)) == "alice"
        release.set()
        assert [one.result(20) for one in strangers] == [401] * 2


@pytest.mark.parametrize("kind", ["an unknown key", "a cold tenant"])
def test_tasks_beyond_the_limit_do_not_wait(issuer, held_up, kind):
    driver = aio.Driver(max_waiting=2)
    server = named(issuer) if kind == "an unknown key" else found(issuer)

    async def judged(raw):
        try:
            return (await averify(server, raw, driver=driver)).subject
        except InvalidToken:
            return 401
        except IssuerUnavailable as unavailable:
            return 503, unavailable.retry_after

    async def main():
        if kind == "an unknown key":
            assert await judged(issuer.token()) == "alice"
        release = held_up()
        waiting = [asyncio.create_task(judged(unknown(issuer, number))) for number in range(2)]
        await asyncio.to_thread(until, lambda: issuer.hits["/jwks"] == 1, "two wait")
        assert await judged(unknown(issuer, 3)) == (503, 1)
        if kind == "an unknown key":
            assert await judged(issuer.token()) == "alice"
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()  # whoever leaves makes room
        await asyncio.wait(waiting[:1])
        waiting.append(asyncio.create_task(judged(unknown(issuer, 4))))
        await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(*waiting[1:])

    assert set(asyncio.run(main())) <= {401, (503, 30)}


@pytest.mark.parametrize("driver", [aio.Driver, blocking.Driver])
@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_a_limit_is_a_number_of_requests(driver, count):
    with pytest.raises(ConfigurationError, match="max_waiting"):
        driver(max_waiting=count)


def test_a_threaded_server_answers_tokens_by_known_keys_while_others_wait(issuer, held_up):
    """gunicorn, one process of eight threads: a flood of unknown key ids, and an issuer that is slow."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread", "--workers", "1"]
    command += ["--threads", "8", "--no-control-socket", "preloaded:application"]
    env = os.environ | {"ISSUER": issuer.url, "TIMEOUT": "30"}
    happened = []

    def ask(raw):
        answer = httpx.get(url, headers={"Authorization": f"Bearer {raw}"}, timeout=20)
        return answer.status_code

    def flood(number):
        happened.append(("unknown", ask(unknown(issuer, number))))

    with start(command, port=port, cwd=TESTS, env=env) as url, ThreadPoolExecutor(32) as pool:
        assert ask(issuer.token()) == 200  # it holds the keys
        release = held_up()
        waiting = [pool.submit(flood, number) for number in range(32)]
        until(lambda: len(happened) == 28, "all but four are answered")
        for number in range(20):
            happened.append(("known", ask(issuer.token(jti=str(number)))))
        assert issuer.hits["/jwks"] == 1
        happened.append("the issuer answers")
        release.set()
        for one in waiting:
            one.result(20)
    at = happened.index("the issuer answers")
    assert happened[:28] == [("unknown", 503)] * 28
    assert happened[28:at] == [("known", 200)] * 20
    assert len(happened[at + 1 :]) == 4
    assert {status for _, status in happened[at + 1 :]} <= {401, 503}
