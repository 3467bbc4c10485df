"""The table of faults: what requests get from both drivers, and how often the issuer is asked.

Every fault happens once while no keys are held, once at the metadata, and once while keys are held.
"""

import asyncio
import logging

import httpx
import pytest
from fault_issuer import FAULTS, KEY_FAULTS, FaultIssuer
from tokens import API, key

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.flow import HttpRequest, fetch
from ticketgate.core.metadata import OPENID, RFC8414
from ticketgate.core.request import bearer_request
from ticketgate.drivers import aio
from ticketgate.errors import IssuerUnavailable

POLICY = KeyPolicy(timeout=0.4, min_ttl=0, cooldown=0)
NEW = key("RS256", "new")


def server_for(issuer, policy=POLICY):
    return ResourceServer(API, Issuer(issuer.url, keys=policy), token_cache=0)


def presented(token):
    return bearer_request(token)


@pytest.mark.requirement("DRV-jwks-e", "RFC7662-2.3-a")
@pytest.mark.parametrize("fault", FAULTS | KEY_FAULTS)
def test_without_keys_requests_get_a_503(issuer, run, fault):
    issuer.faults["/jwks"] = (FAULTS | KEY_FAULTS)[fault]
    server = server_for(issuer)
    with pytest.raises(IssuerUnavailable) as unavailable:
        run(server.authenticate(presented(issuer.token())))
    answer = server.answer(unavailable.value)
    assert answer.status == 503
    assert dict(answer.headers)[b"retry-after"] in {b"1", b"2"}
    assert issuer.hits == {RFC8414: 1, "/jwks": 1}
    with pytest.raises(IssuerUnavailable):
        run(server.authenticate(presented(issuer.token())))
    assert issuer.hits == {RFC8414: 1, "/jwks": 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_where_the_metadata_is_broken_the_other_place_is_asked(issuer, run, fault):
    issuer.faults[RFC8414] = FAULTS[fault]
    token = run(server_for(issuer).authenticate(presented(issuer.token())))
    assert token.issuer == issuer.url
    assert issuer.hits == {RFC8414: 1, OPENID: 1, "/jwks": 1}


@pytest.mark.requirement("DRV-jwks-c", "DRV-jwks-g")
@pytest.mark.parametrize("fault", FAULTS | KEY_FAULTS)
def test_with_keys_nobody_notices_but_the_log(issuer, run, fault, caplog):
    server = server_for(issuer)
    run(server.authenticate(presented(issuer.token())))
    issuer.faults["/jwks"] = (FAULTS | KEY_FAULTS)[fault]
    issuer.hits.clear()
    with pytest.raises(IssuerUnavailable):
        run(server.authenticate(presented(issuer.token(NEW))))
    assert issuer.hits == {"/jwks": 1}
    assert run(server.authenticate(presented(issuer.token()))).issuer == issuer.url
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.issuer == issuer.url
    assert len(warning.getMessage()) < 500


def test_a_redirect_is_never_followed(issuer, run):
    issuer.faults["/jwks"] = FAULTS["a redirect"]
    with pytest.raises(IssuerUnavailable):
        run(server_for(issuer).authenticate(presented(issuer.token())))
    assert "/elsewhere" not in issuer.hits


def test_nobody_listens(run):
    with FaultIssuer() as issuer:
        token = issuer.token()
        server = server_for(issuer)
    with pytest.raises(IssuerUnavailable):
        run(server.authenticate(presented(token)))


def test_the_issuer_comes_back(issuer, run):
    issuer.break_everywhere(FAULTS["500"])
    server = server_for(issuer)
    with pytest.raises(IssuerUnavailable):
        run(server.authenticate(presented(issuer.token())))
    issuer.faults.clear()
    issuer.over.wait(0.6)
    assert run(server.authenticate(presented(issuer.token()))).issuer == issuer.url


def crumbs(count):
    """An answer in ``count`` pieces of one byte, all there at once."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return lambda connection: connection.wfile.write(head + b"1\r\n \r\n" * count + b"0\r\n\r\n")


@pytest.mark.parametrize("count", [4_096, 4_097])
def test_an_answer_in_too_many_pieces_is_no_answer(issuer, run, count, caplog):
    issuer.faults["/jwks"] = crumbs(count)
    server = ResourceServer(API, Issuer(issuer.url))
    with pytest.raises(IssuerUnavailable):
        run(server.authenticate(presented(issuer.token())))
    assert ("more than 4096 pieces" in caplog.text) == (count > 4_096)


def test_pieces_that_are_there_at_once_let_others_in():
    turns = []

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self):
            for _ in range(4_096):
                yield b" "
            turns.append("the last piece")

    async def main():
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Pieces()))
        async with httpx.AsyncClient(transport=transport) as client:
            asked = fetch(HttpRequest("GET", "https://as.example/jwks", timeout=30))
            exchange = asyncio.create_task(aio.Driver(client).run(asked))
            while not exchange.done():
                turns.append("another turn")
                await asyncio.sleep(0)
            return await exchange

    assert len(asyncio.run(main()).body) == 4_096
    assert turns.index("the last piece") >= 4_096 / 32
