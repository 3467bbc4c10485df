"""The authorization server as an ASGI application: what is no request for it, and who goes away."""

import asyncio
import logging

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from tokens import API

from ticketgate.core.signing_key import SigningKey
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.server import AuthorizationServer
from ticketgate.issuing.starlette import authorization_server_app

ISSUER = "https://as.example/auth"


def mounted():
    tokens = AccessTokenIssuer(ISSUER, SigningKey.generate("ES256"), resources=API)
    return authorization_server_app(AuthorizationServer(tokens))


def answers(app, scope, *received):
    """What ``app`` sends."""
    sent, messages = [], iter(received)

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope | {"headers": [], "query_string": b"", "root_path": ""}, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/auth/token", "/auth/jwks", "/elsewhere"])
@pytest.mark.parametrize("outer", [False, True])
def test_a_websocket_is_refused_before_it_opens(path, outer):
    app = Starlette(routes=[Mount("/auth", mounted()), Mount("/", mounted())]) if outer else mounted()
    scope = {"type": "websocket", "path": path, "subprotocols": []}
    sent = answers(app, scope, {"type": "websocket.connect"})
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_a_client_that_goes_away_in_its_body_is_no_fault_of_ours(caplog):
    caplog.set_level(logging.INFO)
    scope = {"type": "http", "method": "POST", "path": "/auth/token"}
    part = {"type": "http.request", "body": b"grant_type=", "more_body": True}
    assert answers(mounted(), scope, part, {"type": "http.disconnect"}) == []
    assert [record for record in caplog.records if record.name.startswith("ticketgate")] == []


def test_whole_requests_are_answered():
    scope = {"type": "http", "method": "POST", "path": "/auth/token"}
    part = {"type": "http.request", "body": b"grant_type=x", "more_body": False}
    assert answers(mounted(), scope, part)[0]["status"] == 400
    assert answers(mounted(), scope | {"path": "/auth/nothing"}, part)[0]["status"] == 404
