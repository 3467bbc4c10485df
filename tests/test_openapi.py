"""What the OpenAPI document tells clients: the scheme, each operation's requirement, and the refusals."""

from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import APIKeyHeader
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from tokens import resource_server

from ticketgate import role, scope
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import AccessTokenMiddleware, install_openapi, requires
from ticketgate.starlette import requires as starlette_requires


def api(**options):
    app = FastAPI(**options)
    router = APIRouter(prefix="/orders", dependencies=[Depends(requires(scope("orders:read")))])

    @app.get("/health")
    async def health(): ...

    @app.get("/me")
    async def me(): ...

    @router.get("/{number}")
    async def order(number: int): ...

    @router.post("/", dependencies=[Depends(requires(scope("orders:write")))])
    async def create(): ...

    @router.delete(
        "/", dependencies=[Depends(requires(scope("admin") | (role("clerk") & scope("orders:delete"))))]
    )
    async def delete(): ...

    @app.get("/roles", dependencies=[Depends(requires(role("clerk") | role("boss")))])
    async def roles(): ...

    @app.get(
        "/keyed",
        dependencies=[Depends(requires(scope("a") | scope("b"))), Depends(APIKeyHeader(name="X-Key"))],
    )
    async def keyed(): ...

    @app.get("/decorated")
    @starlette_requires(scope("decorated"))
    async def decorated(request: Request): ...

    @app.get(
        "/own",
        dependencies=[Depends(requires(scope("a")))],
        responses={401: {"description": "Our own words"}},
    )
    async def own(): ...

    app.include_router(router, prefix="/v1")
    return app


def entries(*scopes, **more):
    return [{"accessToken": list(one), **more} for one in scopes]


REQUIRING = {
    ("/v1/orders/{number}", "get"): entries(["orders:read"]),
    ("/v1/orders/", "post"): entries(["orders:read", "orders:write"]),
    ("/v1/orders/", "delete"): entries(["orders:read", "admin"], ["orders:read", "orders:delete"]),
    ("/roles", "get"): entries([]),
    ("/keyed", "get"): entries(["a"], ["b"], APIKeyHeader=[]),
    ("/decorated", "get"): entries(["decorated"]),
    ("/own", "get"): entries(["a"]),
}


def security(app):
    document = app.openapi()
    return {
        (path, method): operation["security"]
        for path, described in document["paths"].items()
        for method, operation in described.items()
        if "security" in operation
    }


def test_alternatives_stay_alternatives():
    app = api()
    install_openapi(app)
    assert security(app) == REQUIRING


@pytest.mark.parametrize("optional", [False, True])
def test_behind_the_middleware_everything_else_needs_a_token(optional):
    gate = Middleware(AccessTokenMiddleware, server=resource_server(), public=["/health"], optional=optional)
    app = api(middleware=[Middleware(GZipMiddleware), gate])
    install_openapi(app)
    assert security(app) == REQUIRING | {("/me", "get"): [*([{}] if optional else []), {"accessToken": []}]}


def test_an_application_that_is_wrapped():
    app = api()
    install_openapi(GZipMiddleware(AccessTokenMiddleware(app, resource_server(), public=["/health"])))
    assert ("/me", "get") in security(app)
    assert ("/health", "get") not in security(app)


def test_the_scheme_and_the_refusals():
    app = api()
    assert install_openapi(app) is install_openapi(app)
    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["accessToken"] == {"type": "http", "scheme": "bearer", "bearerFormat": "at+jwt"}
    assert schemes["APIKeyHeader"]["type"] == "apiKey"
    responses = document["paths"]["/v1/orders/"]["delete"]["responses"]
    assert "WWW-Authenticate" in responses["401"]["headers"]
    assert "scope orders:delete" in responses["403"]["description"]
    assert "role clerk" in responses["403"]["description"]
    assert "401" not in document["paths"]["/health"]["get"]["responses"]
    assert document["paths"]["/own"]["get"]["responses"]["401"]["description"] == "Our own words"


def test_openid_connect():
    app = api()
    url = "https://as.example/.well-known/openid-configuration"
    install_openapi(app, openid_connect_url=url)
    assert app.openapi()["components"]["securitySchemes"]["accessToken"] == {
        "type": "openIdConnect",
        "openIdConnectUrl": url,
    }


def test_later_routes_are_described_too():
    app = api()
    install_openapi(app)
    first = app.openapi()
    assert app.openapi() is first

    @app.get("/later", dependencies=[Depends(requires(scope("later")))])
    async def later(): ...

    app.openapi_schema = None
    assert security(app)["/later", "get"] == entries(["later"])


def test_the_document_is_served():
    app = api()
    install_openapi(app)
    with serve_asgi(app) as url:
        document = httpx.get(f"{url}/openapi.json").json()
    assert document["paths"]["/roles"]["get"]["security"] == entries([])


def test_requirements_may_be_annotated():
    app = FastAPI()

    @app.get("/")
    async def show(caller: Annotated[object, Depends(requires(scope("a"), role("b")))]): ...

    install_openapi(app)
    assert security(app) == {("/", "get"): entries(["a"])}


def test_only_fastapi_has_such_a_document():
    with pytest.raises(ConfigurationError, match="needs a FastAPI application, not Starlette"):
        install_openapi(Starlette())
