"""``requires(..., fresh_within=...)`` has the issuer confirm a token, through ASGI and WSGI."""

import httpx
import pytest
from fault_issuer import FAULTS, FaultIssuer
from servers import serve_asgi, serve_wsgi
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tokens import API

from ticketgate import ClientSecretBasic, Introspection, Issuer, ResourceServer, scope
from ticketgate import starlette as ticketgate_starlette
from ticketgate import wsgi as ticketgate_wsgi


@pytest.fixture
def issuer():
    with FaultIssuer() as issuer:
        yield issuer


def asgi(server):
    async def relaxed(request):
        return PlainTextResponse("open")

    async def guarded(request):
        return PlainTextResponse("open")

    def plain(request):
        return PlainTextResponse("open")

    strict = ticketgate_starlette.requires(scope("pay"), fresh_within=0)
    routes = [Route("/relaxed", relaxed), Route("/strict", strict(guarded)), Route("/plain", strict(plain))]
    return serve_asgi(ticketgate_starlette.AccessTokenMiddleware(Starlette(routes=routes), server))


def wsgi(server):
    def relaxed(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"open"]

    strict = ticketgate_wsgi.requires(scope("pay"), fresh_within=0)(relaxed)

    def app(environ, start_response):
        return (relaxed if environ["PATH_INFO"] == "/relaxed" else strict)(environ, start_response)

    return serve_wsgi(ticketgate_wsgi.AccessTokenMiddleware(app, server))


@pytest.mark.parametrize("serve", [asgi, wsgi])
def test_a_revoked_jwt_still_opens_what_does_not_ask(issuer, serve):
    introspection = Introspection(auth=ClientSecretBasic("api", "secret"), negative_ttl=0)
    server = ResourceServer(API, Issuer(issuer.url, introspection=introspection))
    token, other = issuer.token(scope="pay"), issuer.token(jti="another")
    issuer.active |= {raw: {"active": True, "sub": "alice", "aud": API} for raw in (token, other)}

    with serve(server) as url:

        def get(path, raw=token):
            return httpx.get(url + path, headers={"Authorization": f"Bearer {raw}"})

        paths = ["/relaxed", "/strict", "/plain"]
        assert [get(path).status_code for path in paths] == [200, 200, 200]
        assert issuer.hits["/introspect"] == 2
        assert get("/strict", other).json()["error"] == "insufficient_scope"
        assert issuer.hits["/introspect"] == 2
        issuer.active.clear()
        refused = get("/strict")
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")
        assert [get(path).status_code for path in paths] == [200, 401, 401]
        issuer.faults["/introspect"] = FAULTS["500"]
        assert [get(path).status_code for path in paths] == [200, 503, 503]
