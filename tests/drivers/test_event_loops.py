"""Event loops other than asyncio's are refused with words that say so, at the first request."""

import asyncio

import pytest
import trio
from tokens import API, resource_server, token

from ticketgate import Issuer, ResourceServer, averify, awarm_up, verify
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.drivers import aio
from ticketgate.errors import ConfigurationError

NAMED = "needs an asyncio event loop .*trio is not"


@pytest.mark.parametrize("keys", ["static", "fetched"])
def test_trio_is_refused(issuer, keys):
    server = resource_server() if keys == "static" else ResourceServer(API, Issuer(issuer.url))
    raw = token() if keys == "static" else issuer.token()

    async def main():
        await averify(server, raw, driver=aio.Driver())

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=NAMED):
            trio.run(main)
    assert verify(server, raw).subject == "alice"


def test_a_driver_that_ran_on_asyncio_is_refused_too(issuer):
    driver = aio.Driver()
    asyncio.run(averify(resource_server(), token(), driver=driver))

    async def main():
        await awarm_up(ResourceServer(API, Issuer(issuer.url)), driver=driver)

    with pytest.raises(ConfigurationError, match=NAMED):
        trio.run(main)


def test_the_first_request_to_a_gate_says_so(issuer):
    gate = AccessTokenMiddleware(None, ResourceServer(API, Issuer(issuer.url)), driver=aio.Driver())
    headers = [(b"authorization", f"Bearer {issuer.token()}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}

    async def main():
        await gate(scope, None, None)

    with pytest.raises(ConfigurationError, match=NAMED):
        trio.run(main)
