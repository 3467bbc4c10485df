"""An issuer that can misbehave, and both drivers."""

import asyncio

import pytest
from fault_issuer import FaultIssuer

from ticketgate.drivers import aio, blocking


@pytest.fixture
def issuer():
    with FaultIssuer() as issuer:
        yield issuer


@pytest.fixture(params=["aio", "blocking"])
def run(request):
    """Runs a flow to its end, each time on an event loop of its own or on this thread."""
    if request.param == "blocking":
        return blocking.Driver().run
    return lambda flow: asyncio.run(aio.Driver().run(flow))
