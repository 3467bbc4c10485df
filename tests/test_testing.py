"""What ticketgate brings for the tests of others."""

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ticketgate import scope, verify
from ticketgate.errors import ConfigurationError
from ticketgate.starlette import AccessTokenMiddleware, requires
from ticketgate.testing import BREAKS


@pytest.fixture
def client(issuer):
    async def orders(request):
        return JSONResponse({"for": request.user.token.subject})

    app = Starlette(routes=[Route("/orders", requires(scope("orders:read"))(orders))])
    return TestClient(AccessTokenMiddleware(app, issuer.server("https://api.example")))


def test_a_good_token_opens(client, issuer):
    answer = client.get("/orders", headers=issuer.bearer(scope="orders:read", sub="bob", roles=["clerk"]))
    assert isinstance(answer, httpx2.Response)
    assert (answer.status_code, answer.json()) == (200, {"for": "bob"})
    assert client.get("/orders", headers=issuer.bearer()).status_code == 403
    assert client.get("/orders").status_code == 401


@pytest.mark.parametrize("break_", BREAKS)
def test_every_broken_token_is_refused(client, issuer, break_):
    answer = client.get("/orders", headers=issuer.bearer(scope="orders:read", break_=break_))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


def test_another_way_to_break_is_an_error(issuer):
    with pytest.raises(ConfigurationError, match="alg_none"):
        issuer.token(break_="somehow")


def test_time_can_pass(client, issuer):
    bearer = issuer.bearer(scope="orders:read", lifetime=60)
    assert client.get("/orders", headers=bearer).status_code == 200
    issuer.clock.advance(61)
    assert client.get("/orders", headers=bearer).status_code == 401


def test_keys_can_change(client, issuer):
    old = issuer.bearer(scope="orders:read")
    assert client.get("/orders", headers=old).status_code == 200
    issuer.rotate(keep=True)
    assert client.get("/orders", headers=old).status_code == 200
    issuer.rotate()
    assert client.get("/orders", headers=old).status_code == 401
    assert client.get("/orders", headers=issuer.bearer(scope="orders:read")).status_code == 200


def test_an_issuer_can_be_out(client, issuer):
    bearer = issuer.bearer(scope="orders:read")
    assert client.get("/orders", headers=bearer).status_code == 200
    issuer.outage()
    assert client.get("/orders", headers=bearer).status_code == 503
    issuer.outage(False)
    assert client.get("/orders", headers=bearer).status_code == 200


def test_it_works_without_a_framework(issuer):
    server = issuer.server(["https://api.example", "https://alias.example"])
    assert verify(server, issuer.token(scope="a b")).scopes == {"a", "b"}
