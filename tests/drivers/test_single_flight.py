"""What many need at once is fetched once: by tasks, by threads, across loops, forks, cancellations and ends."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import httpx2
import pytest
import uvloop
from fault_issuer import FAULTS, slow
from servers import free_port, start, until
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tokens import API, key

from ticketgate import Issuer, KeyPolicy, ResourceServer, averify, awarm_up, verify, warm_up
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.core.flow import FetchFailed, HttpRequest, Once, call, fetch, once
from ticketgate.core.metadata import OPENID, RFC8414
from ticketgate.drivers import aio, blocking
from ticketgate.drivers.shared import Deadline
from ticketgate.errors import InvalidToken, IssuerUnavailable

TESTS = Path(__file__).parent.parent
ONE_EACH = {RFC8414: 1, "/jwks": 1}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def server(issuer):
    return ResourceServer(API, Issuer(issuer.url), token_cache=0)


@pytest.fixture(params=LOOPS)
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main)

    return run


@pytest.mark.requirement("DRV-jwks-b")
def test_tasks_share_one_fetch(issuer, server, run):
    issuer.faults["/jwks"] = slow(0.2)

    async def main():
        return await asyncio.gather(*(averify(server, issuer.token()) for _ in range(200)))

    assert len(run(main())) == 200
    assert issuer.hits == ONE_EACH


@pytest.mark.requirement("DRV-jwks-b")
def test_threads_share_one_fetch(issuer, server):
    issuer.faults["/jwks"] = slow(0.2)
    barrier = threading.Barrier(32)

    def one(_):
        barrier.wait(10)
        return [verify(server, issuer.token()) for _ in range(7)]

    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(one, range(32)))) == 32
    assert issuer.hits == ONE_EACH


def test_threads_share_one_failure(issuer, server):
    issuer.break_everywhere(slow(0.2))
    issuer.faults["/jwks"] = FAULTS["500"]
    barrier = threading.Barrier(16)

    def one(_):
        barrier.wait(10)
        with pytest.raises(IssuerUnavailable):
            verify(server, issuer.token())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(16)))
    assert issuer.hits == ONE_EACH


@pytest.mark.parametrize("cancelled", [1, 50])
def test_who_stops_waiting_takes_nothing_from_the_others(issuer, server, run, cancelled):
    issuer.faults["/jwks"] = slow(0.2)

    async def main():
        tasks = [asyncio.create_task(averify(server, issuer.token())) for _ in range(50)]
        await asyncio.sleep(0.1)
        for task in tasks[:cancelled]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.3)
        return [type(result).__name__ for result in done]

    assert run(main()) == ["CancelledError"] * cancelled + ["AccessToken"] * (50 - cancelled)
    assert issuer.hits == ONE_EACH
    assert server.health()[0].state == "fresh"


def test_a_shared_run_belongs_to_nobodys_context(issuer, server, run):
    """A deadline of the first who asks must not become everybody's."""
    issuer.faults["/jwks"] = slow(0.3)

    async def main():
        async def impatient():
            async with asyncio.timeout(0.1):
                await averify(server, issuer.token())

        first = asyncio.create_task(impatient())
        second = asyncio.create_task(averify(server, issuer.token()))
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = run(main())
    assert isinstance(first, TimeoutError)
    assert second.subject == "alice"


def test_several_loops_in_a_row_share_the_keys(issuer, server, run):
    for _ in range(3):
        assert run(averify(server, issuer.token())).subject == "alice"
    assert issuer.hits == ONE_EACH


def test_loops_at_the_same_time_do_not_cross(issuer):
    issuer.faults["/jwks"] = slow(0.2)
    server = ResourceServer(API, Issuer(issuer.url), token_cache=0)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: asyncio.run(averify(server, issuer.token())), range(4)))
    assert len(done) == 4
    assert 1 <= issuer.hits["/jwks"] <= 4


def test_the_test_client_of_starlette_works(issuer, server):
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(request.user.display_name))])
    for _ in range(2):
        with TestClient(AccessTokenMiddleware(app, server)) as client:
            assert client.get("/", headers={"Authorization": f"Bearer {issuer.token()}"}).text == "alice"
            assert client.get("/").status_code == 401
    assert issuer.hits == ONE_EACH


def test_keys_are_refreshed_in_the_background_of_both_drivers(issuer, run):
    server = ResourceServer(API, Issuer(issuer.url, keys=KeyPolicy(default_ttl=0, min_ttl=0)), token_cache=0)
    verify(server, issuer.token())
    issuer.faults["/jwks"] = slow(0.2)

    async def main():
        await averify(server, issuer.token())
        await asyncio.to_thread(until, lambda: issuer.hits["/jwks"] == 2, "the refresh has begun")

    run(main())
    verify(server, issuer.token())
    issuer.over.wait(0.1)
    assert issuer.hits["/jwks"] >= 2
    assert issuer.hits[RFC8414] == 1


async def verify_and_go_on(server, raw, driver):
    """Verify, and go on until a refresh in the background has asked: a loop that ends before would leave warnings."""
    verified = await averify(server, raw, driver=driver)
    await asyncio.sleep(0.1)
    return verified


def test_stale_keys_are_refreshed_where_each_call_has_an_event_loop_of_its_own(issuer, run):
    """The end of a loop cancels what runs in the background: the next caller waits for it, once."""
    policy = KeyPolicy(default_ttl=0, min_ttl=0)
    server, driver = ResourceServer(API, Issuer(issuer.url, keys=policy), token_cache=0), aio.Driver()
    good = issuer.token()
    run(verify_and_go_on(server, good, driver))
    issuer.faults["/jwks"] = slow(0.5)
    held = server.issuers[issuer.url].keys.held
    run(verify_and_go_on(server, good, driver))
    assert server.issuers[issuer.url].keys.held is held
    run(verify_and_go_on(server, good, driver))
    assert server.issuers[issuer.url].keys.held is not held


def test_stale_keys_are_not_waited_for_again_where_the_issuer_takes_too_long(issuer, run):
    policy = KeyPolicy(default_ttl=0, min_ttl=0, timeout=0.2)
    server, driver = ResourceServer(API, Issuer(issuer.url, keys=policy), token_cache=0), aio.Driver()
    good = issuer.token()
    run(verify_and_go_on(server, good, driver))
    issuer.faults["/jwks"] = slow(5)
    for _ in range(2):
        assert run(verify_and_go_on(server, good, driver)).subject == "alice"
    assert server.health()[0].last_error
    asked = issuer.hits["/jwks"]
    assert run(verify_and_go_on(server, good, driver)).subject == "alice"
    assert issuer.hits["/jwks"] == asked


def test_stale_keys_are_not_waited_for_on_a_loop_that_goes_on(issuer, run):
    policy = KeyPolicy(default_ttl=0, min_ttl=0)
    server, driver = ResourceServer(API, Issuer(issuer.url, keys=policy), token_cache=0), aio.Driver()

    async def main():
        await averify(server, issuer.token(), driver=driver)
        issuer.faults["/jwks"] = slow(5)
        for _ in range(3):
            async with asyncio.timeout(3):
                await averify(server, issuer.token(), driver=driver)
        await asyncio.sleep(0.1)
        return len(driver._on_this_loop().running)

    assert run(main()) == 1


def test_warming_up_by_both_drivers(issuer, server, run):
    warm_up(server)
    run(awarm_up(server))
    assert issuer.hits == ONE_EACH
    down = ResourceServer(API, Issuer(issuer.url + "/nothing"))
    run(awarm_up(down))
    with pytest.raises(IssuerUnavailable):
        warm_up(down, fail_fast=True)


def script(issuer, source, *options):
    """What a new interpreter prints that runs ``source``; it must end well and complain about nothing."""
    env = os.environ | {"ISSUER": issuer.url, "TOKEN": issuer.token()}
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", source],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


PREPARE = """
import asyncio, os, threading
from ticketgate import *
from ticketgate.drivers import aio, blocking
from ticketgate.drivers.shared import Deadline
server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))
"""


def test_the_end_of_a_loop_during_a_fetch_is_quiet(issuer):
    issuer.faults["/jwks"] = slow(5)
    source = PREPARE + "async def main():\n" + (
        "    asyncio.get_running_loop().slow_callback_duration = 60  # httpx is loaded here\n"
        "    task = asyncio.create_task(averify(server, os.environ['TOKEN']))\n"
        "    await asyncio.sleep(0.2)\n"
        "asyncio.run(main(), debug=True)\n"
        "print('ended')"
    )  # fmt: skip
    assert script(issuer, source) == "ended"


def test_the_end_of_a_process_during_a_fetch_is_quiet(issuer):
    issuer.faults["/jwks"] = slow(5)
    source = PREPARE + (
        "import time\n"
        "threading.Thread(target=verify, args=(server, os.environ['TOKEN']), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "print('ended')"
    )
    assert script(issuer, source) == "ended"


def test_building_everything_starts_nothing(issuer):
    source = PREPARE + (
        "from ticketgate.asgi import AccessTokenMiddleware as A\n"
        "from ticketgate.wsgi import AccessTokenMiddleware as W\n"
        "A(None, server, driver=aio.Driver()); W(None, server, driver=blocking.Driver()); A(None, server)\n"
        "print(threading.active_count(), len(os.listdir('/proc/self/fd')))"
    )
    threads, files = script(issuer, source).split()
    assert (threads, issuer.hits) == ("1", {})
    assert files == script(issuer, "import os; print(len(os.listdir('/proc/self/fd')))")


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["gthread", "sync"])
def test_keys_survive_a_fork(issuer, worker):
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", worker, "--workers", "2"]
    command += ["--threads", "4", "--preload", "--no-control-socket", "preloaded:application"]
    env = os.environ | {"ISSUER": issuer.url}
    with start(command, port=port, cwd=TESTS, env=env) as url:
        assert issuer.hits == ONE_EACH
        bearer = {"Authorization": f"Bearer {issuer.token()}"}
        pids = {httpx.get(url, headers=bearer).raise_for_status().text for _ in range(20)}
        issuer.keys.insert(0, key("RS256", "new"))
        newer = {"Authorization": f"Bearer {issuer.token()}"}
        for _ in range(20):
            httpx.get(url, headers=newer).raise_for_status()
    assert pids
    assert issuer.hits["/jwks"] <= 1 + 2
    assert issuer.hits[RFC8414] == 1


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_client_can_be_brought_along(issuer, server, run, library):
    async def main():
        async with library.AsyncClient() as client:
            return await averify(server, issuer.token(), driver=aio.Driver(client))

    assert run(main()).subject == "alice"
    other = ResourceServer(API, Issuer(issuer.url))
    with library.Client() as client:
        assert verify(other, issuer.token(), driver=blocking.Driver(client)).subject == "alice"
        assert not client.is_closed


def raising(error: Exception) -> Callable[[], object]:
    def flow():
        raise error
        yield

    return flow


@pytest.mark.parametrize("error", [ValueError("with a secret"), FetchFailed("down")])
def test_what_a_shared_run_raises_reaches_who_waits(run, error, caplog):
    def waiting():
        yield from once("name", after_a_fetch(error))

    def after_a_fetch(error):
        def flow():
            try:
                yield from fetch(HttpRequest("GET", "http://127.0.0.1:9/", timeout=1))
            except FetchFailed:
                raise error from None

        return flow

    with pytest.raises(type(error)):
        run(aio.Driver().run(waiting()))
    with pytest.raises(type(error)):
        blocking.Driver().run(waiting())
    assert "secret" not in caplog.text
    assert ("a shared run ended with ValueError" in caplog.text) == isinstance(error, ValueError)


def test_what_needs_nothing_is_not_a_task(run):
    def nothing():
        return 7
        yield

    def waiting():
        return (yield from once("name", nothing))

    assert run(aio.Driver().run(waiting())) == 7
    assert blocking.Driver().run(waiting()) == 7


def test_an_interrupt_of_the_leading_thread_sets_the_others_free():
    driver = blocking.Driver()
    entered, go = threading.Event(), threading.Event()

    def interrupted():
        entered.set()
        go.wait(5)
        raise KeyboardInterrupt
        yield

    def waiting():
        yield from once("name", interrupted)

    def lead():
        with pytest.raises(KeyboardInterrupt):
            driver.run(waiting())

    def follow():
        with pytest.raises(FetchFailed, match="interrupted"):
            driver.run(waiting())

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(lead)
        entered.wait(5)
        follower = pool.submit(follow)
        threading.Event().wait(0.1)
        go.set()
        leader.result(5)
        follower.result(5)


@pytest.fixture
def no_threads(monkeypatch):
    """While it is set, the machine has no more threads for us."""
    full, start = threading.Event(), threading.Thread.start

    def refuse(thread):
        if thread.name == "ticketgate" and full.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return full


def test_a_thread_that_cannot_be_started_leaves_no_run_behind(no_threads, caplog):
    driver = blocking.Driver()

    def seven():
        return 7
        yield

    def asking(wait):
        return (yield Once("name", seven, wait))

    no_threads.set()
    assert driver.run(asking(wait=False)) is None
    assert driver._in_this_process()._running == {}
    assert "a shared run ended with RuntimeError" in caplog.text
    assert driver.run(asking(wait=True)) == 7


def test_held_keys_serve_where_no_thread_can_be_started(issuer, no_threads):
    server = ResourceServer(API, Issuer(issuer.url, keys=KeyPolicy(default_ttl=0, min_ttl=0)), token_cache=0)
    verify(server, issuer.token())
    no_threads.set()
    assert verify(server, issuer.token()).subject == "alice"
    with pytest.raises(IssuerUnavailable):
        verify(ResourceServer(API, Issuer(issuer.url)), issuer.token())
    no_threads.clear()
    verify(server, issuer.token())
    until(lambda: issuer.hits["/jwks"] == 2, "the keys are refreshed")


def test_nobody_waits_longer_for_a_run_than_it_may_take():
    driver, over = blocking.Driver(), threading.Event()

    def asking(lifetime, wait=True):
        return (yield Once("name", counted([], lambda: over.wait(10)), wait, lifetime))

    driver.run(asking(60, wait=False))
    with pytest.raises(FetchFailed, match=r"no result within 0\.05 seconds"):
        driver.run(asking(0.05))
    over.set()


def test_ten_thousand_strange_keys_cost_three_fetches(issuer, server):
    strange = [issuer.token(head={"kid": str(number)}) for number in range(300)]
    verify(server, issuer.token())
    for number in range(10_000):
        with pytest.raises((InvalidToken, IssuerUnavailable)):
            verify(server, strange[number % 300])
    assert issuer.hits["/jwks"] <= 3
    assert issuer.hits[RFC8414] == 1
    assert OPENID not in issuer.hits


def counted(runs, stuck):
    """A flow that waits for ``stuck``, a fetch that does not end, the first time it runs, and counts its runs."""

    def flow():
        runs.append(len(runs) + 1)
        number = runs[-1]
        if number == 1:
            yield from call(stuck)
        return number

    return flow


@pytest.mark.parametrize("wait", [True, False])
def test_a_run_past_its_deadline_is_not_joined_by_tasks(run, wait):
    driver, runs = aio.Driver(), []

    async def main():
        over = asyncio.Event()

        def asking(lifetime):
            flow = counted(runs, over.wait)
            yield Once("name", flow, wait, lifetime)
            return (yield Once("name", flow, True, lifetime))

        def waiting(lifetime):
            return (yield Once("name", counted(runs, over.wait), lifetime=lifetime))

        first = asyncio.create_task(driver.run(asking(0.05) if not wait else waiting(0.05)))
        await asyncio.sleep(0.01)
        assert runs == [1]
        await asyncio.sleep(0.06)  # as after a thaw
        assert await driver.run(waiting(60)) == 2
        over.set()
        await first
        assert await driver.run(waiting(60)) == runs[-1] == len(runs)

    run(main())
    assert len(runs) == 3


@pytest.mark.parametrize("wait", [True, False])
def test_a_run_past_its_deadline_is_not_joined_by_threads(wait):
    driver, runs, over = blocking.Driver(), [], threading.Event()

    def waiting(lifetime, wait=True):
        return (yield Once("name", counted(runs, lambda: over.wait(10)), wait, lifetime))

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(driver.run, waiting(0.05, wait))
        until(lambda: runs == [1], "the first run has begun")
        threading.Event().wait(0.06)
        assert driver.run(waiting(60)) == 2
        over.set()
        assert first.result(5) == (1 if wait else None)
    assert driver.run(waiting(60)) == 3


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_a_run_is_over_by_either_clock(monkeypatch, clock):
    deadline = Deadline.after(10)
    assert not deadline.has_passed
    now = getattr(time, clock)()
    monkeypatch.setattr(time, clock, lambda: now + 11)
    assert deadline.has_passed


def test_a_run_within_its_deadline_is_joined_while_one_past_it_goes_on(run):
    driver, runs = aio.Driver(), []

    async def main():
        gates = [asyncio.Event(), asyncio.Event()]

        def asking(lifetime):
            def flow():
                runs.append(len(runs))
                number = runs[-1]
                yield from call(gates[number].wait)
                return number

            return (yield Once("name", flow, lifetime=lifetime))

        old = asyncio.create_task(driver.run(asking(0)))
        await asyncio.sleep(0.01)
        new = [asyncio.create_task(driver.run(asking(60))) for _ in range(3)]
        await asyncio.sleep(0.01)
        gates[0].set()
        assert await old == 0
        late = asyncio.create_task(driver.run(asking(60)))
        await asyncio.sleep(0.01)
        gates[1].set()
        assert await asyncio.gather(*new, late) == [1] * 4

    run(main())


FORKS = """
import time, warnings
warnings.simplefilter("ignore")  # that forking beside threads is dangerous is what this is about
owners = [server._verified._entries, blocking.ONE_AT_A_TIME]
locks = [owner._lock if hasattr(owner, "_lock") else owner.lock for owner in owners]
verify(server, os.environ["TOKEN"])
held, over = threading.Event(), threading.Event()
def hold():
    [lock.acquire() for lock in locks]
    held.set()
    over.wait(30)
    [lock.release() for lock in locks]
thread = threading.Thread(target=hold)
thread.start()
held.wait(10)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(10)
    blocking.default_driver.cache_clear()
    os._exit(7 if verify(server, os.environ["TOKEN"]).subject == "alice" else 1)
_, status = os.waitpid(child, 0)
over.set()
thread.join(10)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_while_another_thread_is_served_leaves_a_child_that_serves(issuer):
    assert script(issuer, PREPARE + FORKS) == "7"


TOGETHER = """
import threading
from ticketgate.drivers import blocking
barrier, found = threading.Barrier(8), set()
def one():
    barrier.wait(10)
    found.add(blocking.default_driver())
threads = [threading.Thread(target=one) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join(10) for thread in threads]
print(len(found))
"""


def test_threads_that_come_together_share_one_driver(issuer):
    assert script(issuer, TOGETHER) == "1"
