"""A small API of ours behind either middleware, and the keys by which it is known to authorization servers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from joserfc.jwk import ECKey
from servers import serve_asgi, serve_wsgi
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ticketgate import AccessToken, Issuer, KeyPolicy, ResourceServer, group, role, scope
from ticketgate import asgi as ticketgate_asgi
from ticketgate import starlette as ticketgate_starlette
from ticketgate import wsgi as ticketgate_wsgi

PROTECTED = {
    "/whoami": (),
    "/orders": (scope("orders:read"),),
    "/orders/new": (scope("orders:read", "orders:write"),),
    "/desk": (role("clerk") & group("ops"),),
    "/vault": (role("director"),),
}
RS_KEYS = {
    "sign": ECKey.generate_key("P-256", {"kid": "rs", "alg": "ES256", "use": "sig"}),
    "decrypt": ECKey.generate_key("P-256", {"kid": "rs-enc", "alg": "ECDH-ES", "use": "enc"}),
}
RS_PUBLIC = {"keys": [key.as_dict(private=False) for key in RS_KEYS.values()]}


def client_for(host: str, issuer: str, **policy: float) -> Iterator[httpx.Client]:
    trusted = Issuer(issuer, keys=KeyPolicy(**policy))
    with api_of(host, ResourceServer("https://api.example", trusted, leeway=0)) as client:
        yield client


@contextmanager
def api_of(host: str, server: ResourceServer) -> Iterator[httpx.Client]:
    """A client for the API behind ``server``, as ``asgi`` or ``wsgi``."""
    serving = serve_asgi(asgi_api(server)) if host == "asgi" else serve_wsgi(wsgi_api(server))
    with serving as url, httpx.Client(base_url=url) as client:
        yield client


def facts(token: AccessToken) -> dict[str, Any]:
    """What the API learned of its caller."""
    return {
        "issuer": token.issuer,
        "audience": token.audience,
        "subject": token.subject,
        "client_id": token.client_id,
        "scopes": sorted(token.scopes),
        "groups": sorted(token.groups),
        "roles": sorted(token.roles),
        "entitlements": sorted(token.entitlements),
        "lifetime": token.expires_at - token.issued_at if token.expires_at and token.issued_at else None,
    }


def asgi_api(server: ResourceServer) -> Any:
    async def health(request):
        return PlainTextResponse("well")

    async def show(request):
        assert request.user.token is request.scope["ticketgate.access_token"]
        return JSONResponse(facts(request.user.token))

    routes = [Route(path, ticketgate_starlette.requires(*needed)(show)) for path, needed in PROTECTED.items()]
    app = Starlette(routes=[Route("/health", health), *routes])
    return ticketgate_asgi.AccessTokenMiddleware(app, server, public=["/health"])


def wsgi_api(server: ResourceServer) -> Any:
    def respond(start_response, content_type, text):
        start_response("200 OK", [("Content-Type", content_type)])
        return [text.encode()]

    def health(environ, start_response):
        return respond(start_response, "text/plain", "well")

    def show(environ, start_response):
        token = environ["ticketgate.access_token"]
        return respond(start_response, "application/json", json.dumps(facts(token)))

    routes = {path: ticketgate_wsgi.requires(*needed)(show) for path, needed in PROTECTED.items()}
    routes["/health"] = health

    def app(environ, start_response):
        return routes[environ["PATH_INFO"]](environ, start_response)

    return ticketgate_wsgi.AccessTokenMiddleware(app, server, public=["/health"])
