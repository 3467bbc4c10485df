"""Tenants that many ask for at once: by threads and by tasks, the keys of each are fetched once."""

import asyncio
import threading
from collections import Counter

from ticketgate import Issuer, ResourceServer, averify, verify
from ticketgate.drivers import aio, blocking

API = "https://api.example"
MANY = 30


def test_threads_share_one_issuer_and_one_fetch(issuer):
    issuer.faults["/jwks"] = lambda connection: (connection.pause(0.2), connection.answer(connection.body()))

    def issuer_for(iss):
        return Issuer(iss) if iss == issuer.url else None

    server = ResourceServer(API, issuer_for=issuer_for, token_cache=0, accept_loopback_issuers=True)
    driver, raw, subjects = blocking.Driver(max_waiting=MANY), issuer.token(), []
    together = threading.Barrier(MANY)

    def judge():
        together.wait(20)
        subjects.append(verify(server, raw, driver=driver).subject)

    threads = [threading.Thread(target=judge) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert subjects == ["alice"] * MANY
    assert issuer.hits["/jwks"] == 1
    assert len(server.tenants) == 1


def test_tasks_share_one_look_up_and_one_fetch(issuer):
    asked = Counter()

    async def issuer_for(iss):
        asked[iss] += 1
        await asyncio.sleep(0.05)
        return Issuer(iss) if iss == issuer.url else None

    server = ResourceServer(API, issuer_for=issuer_for, token_cache=0, accept_loopback_issuers=True)
    raw, driver = issuer.token(), aio.Driver()

    async def all_at_once():
        return await asyncio.gather(*(averify(server, raw, driver=driver) for _ in range(MANY)))

    assert {caller.subject for caller in asyncio.run(all_at_once())} == {"alice"}
    assert (asked[issuer.url], issuer.hits["/jwks"]) == (1, 1)
