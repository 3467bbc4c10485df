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
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokens import API, resource_server

from ticketgate import Issuer, ResourceServer, role, scope
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import (
    AccessTokenMiddleware,
    install,
    install_openapi,
    install_swagger_login,
    requires,
)
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


def test_an_operation_some_of_whose_paths_are_public_needs_no_token_there():
    gate = Middleware(AccessTokenMiddleware, server=resource_server(), public=["/static/*"])
    app = FastAPI(middleware=[gate])
    app.add_api_route("/{bucket}/{name}/raw", lambda: None)
    app.add_api_route("/other/{name}", lambda: None)
    install_openapi(app)
    assert security(app) == {
        ("/{bucket}/{name}/raw", "get"): [{}, {"accessToken": []}],
        ("/other/{name}", "get"): [{"accessToken": []}],
    }


def test_an_application_that_is_wrapped():
    app = api()
    install_openapi(GZipMiddleware(AccessTokenMiddleware(app, resource_server(), public=["/health"])))
    assert ("/me", "get") in security(app)
    assert ("/health", "get") not in security(app)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ({"public": ["/me"]}, {}, [{"accessToken": []}]),
        ({}, {"public": ["/me"]}, [{"accessToken": []}]),
        ({"public": ["/me"]}, {"public": ["/me"]}, None),
        ({"optional": True}, {}, [{"accessToken": []}]),
        ({"optional": True}, {"optional": True}, [{}, {"accessToken": []}]),
    ],
)
def test_every_gate_counts(outer, inner, expected):
    server = resource_server()
    app = api(middleware=[Middleware(AccessTokenMiddleware, server=server, **inner)])
    install_openapi(AccessTokenMiddleware(app, server, **outer))
    assert security(app).get(("/me", "get")) == expected


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


DOCS = ["/openapi.json", "/docs", "/docs/*"]


def issuer_publishing(pages):
    """An authorization server's metadata, and how often they were asked for."""
    asked = []

    async def publish(request):
        asked.append(request.url.path)
        base = str(request.base_url).rstrip("/")
        return JSONResponse({"issuer": base} | {name: base + path for name, path in pages.items()})

    return Starlette(routes=[Route("/.well-known/openid-configuration", publish)]), asked


def login(issuer_url, **options):
    app = api()
    install(app, ResourceServer(API, Issuer(issuer_url)))
    install_swagger_login(app, client_id="docs", scopes=["orders:read"], **options)
    return app


def test_swagger_ui_signs_in_at_the_endpoints_of_the_metadata(tmp_path):
    (tmp_path / "swagger-ui.css").write_text("/* ours */")
    issuer, asked = issuer_publishing({"authorization_endpoint": "/authorize", "token_endpoint": "/token"})
    with serve_asgi(issuer) as issuer_url:
        app = login(issuer_url, assets=tmp_path, parameters={"resource": API})
        with serve_asgi(app, root_path="/v2") as url:
            documents = [httpx.get(f"{url}/openapi.json").json() for _ in range(3)]
            page = httpx.get(f"{url}/docs").text
            assert httpx.get(f"{url}/docs/assets/swagger-ui.css").text == "/* ours */"
            assert "oauth2" in httpx.get(f"{url}/docs/oauth2-redirect").text
    scheme = documents[0]["components"]["securitySchemes"]["accessToken"]
    flow = scheme["flows"]["authorizationCode"]
    assert (scheme["type"], flow["authorizationUrl"]) == ("oauth2", f"{issuer_url}/authorize")
    assert flow["tokenUrl"] == f"{issuer_url}/token"
    assert {"orders:read", "orders:delete", "decorated"} <= flow["scopes"].keys()
    assert len(asked) == 1
    assert documents[0]["servers"] == [{"url": "/v2"}]
    for part in (
        '"clientId": "docs"',
        '"usePkceWithAuthorizationCodeGrant": true',
        API,
        "/v2/docs/assets/swagger-ui",
    ):
        assert part in page


def test_while_the_issuer_cannot_be_asked_there_is_a_field_for_tokens(caplog):
    issuer, asked = issuer_publishing({"token_endpoint": "/token"})
    with serve_asgi(issuer) as issuer_url, serve_asgi(login(issuer_url)) as url:
        for _ in range(3):
            document = httpx.get(f"{url}/openapi.json").json()
            assert document["components"]["securitySchemes"]["accessToken"]["type"] == "http"
        assert "swagger-ui" in httpx.get(f"{url}/docs").text
    assert len(asked) == 1
    assert "no login in Swagger UI yet" in caplog.text


def test_docs_behind_the_gate_must_be_public(caplog):
    server = resource_server()
    closed = api(middleware=[Middleware(AccessTokenMiddleware, server=server, public=["/docs"])])
    install_swagger_login(closed, client_id="docs")
    assert "add /openapi.json, /docs/oauth2-redirect to public" in caplog.text
    caplog.clear()
    install_swagger_login(AccessTokenMiddleware(api(), server, public=DOCS), client_id="docs")
    assert caplog.text == ""


def test_it_must_be_clear_which_issuer_and_where():
    with pytest.raises(ConfigurationError, match="0 issuers are known here"):
        install_swagger_login(api(), client_id="docs")
    app = api()
    two = Issuer("https://as.example"), Issuer("https://other.example")
    install(app, ResourceServer(API, *two))
    with pytest.raises(ConfigurationError, match="2 issuers are known here"):
        install_swagger_login(app, client_id="docs")
    install_swagger_login(app, client_id="docs", issuer=two[1])
    with pytest.raises(ConfigurationError, match="docs_url"):
        install_swagger_login(api(docs_url=None), client_id="docs", issuer=two[0])
