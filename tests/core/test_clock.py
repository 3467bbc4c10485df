"""The clock: looked up when it is read, so that what replaces it in ``time`` is noticed."""

import subprocess
import sys

from ticketgate.core.clock import Clock, Now

FROZEN = """
from ticketgate import Issuer, ResourceServer, verify
from ticketgate.core.clock import Clock
from ticketgate.errors import InvalidToken
from ticketgate.testing import LocalIssuer

before = Clock()
local = LocalIssuer()
jwks = local.keys.jwks()
server = ResourceServer("https://api.example", Issuer(local.identifier, jwks=jwks), leeway=0)

from freezegun import freeze_time

with freeze_time("2031-01-01", tick=False) as frozen:
    token = local.token(aud="https://api.example", lifetime=60)
    assert before.read() == (before.wall(), before.monotonic())
    assert before.wall() == 1924992000, before.wall()
    print(verify(server, token).subject)
    frozen.tick(61)
    assert before.read().wall == 1924992061
    try:
        verify(server, token)
    except InvalidToken as error:
        print(error.reason)
print(before.wall() < 1924992000)
"""


def test_freezegun_freezes_it():
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["alice", "expired", "True"], "")


def test_what_is_given_is_read():
    clock = Clock(lambda: 1.0, lambda: 2.0)
    assert clock.read() == Now(clock.wall(), clock.monotonic()) == (1, 2)
    assert Clock(wall=lambda: 3.0).read().wall == 3
    assert Clock(monotonic=lambda: 4.0).read().monotonic == 4


def test_the_usual_ones_go_on():
    clock = Clock()
    first, second = clock.read(), clock.read()
    assert first.wall > 1_700_000_000
    assert first.monotonic <= second.monotonic <= clock.monotonic()
    assert first.wall - 1 <= clock.wall()
