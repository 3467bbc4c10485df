"""What `audit` finds in applications of every framework, and what it calls a problem."""

from unittest.mock import Mock

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from flask import Blueprint, Flask
from flask.views import MethodView, View
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from tokens import ISSUER, jwks, resource_server

from ticketgate import (
    ClientSecretBasic,
    Introspection,
    Issuer,
    ResourceServer,
    claim,
    flask,
    role,
    scope,
    starlette,
    wsgi,
)
from ticketgate.asgi import AccessTokenMiddleware, readiness
from ticketgate.audit import audit
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import install, requires
from ticketgate.testing import assert_every_route_is_guarded

SERVER = resource_server()
READ = scope("read")


def found(app):
    return {(",".join(route.methods), route.path): route.access for route in audit(app).routes}


def guarded(*needed):
    @starlette.requires(*needed)
    async def endpoint(request):
        return PlainTextResponse("open")

    return endpoint


async def plain(request):
    return PlainTextResponse("open")


class Endpoint(HTTPEndpoint):
    @starlette.requires(READ)
    async def get(self, request): ...

    async def post(self, request): ...


class Socket(WebSocketEndpoint):
    @starlette.requires(role("clerk"))
    async def on_connect(self, websocket): ...


ROUTES = [
    Route("/health", plain),
    Route("/orders/{number:int}", guarded(READ), methods=["GET", "DELETE"]),
    Route("/any", guarded()),
    Route("/endpoint", Endpoint),
    Route("/ready", readiness(SERVER)),
    WebSocketRoute("/ws", guarded(READ)),
    WebSocketRoute("/socket", Socket),
    Mount("/static", StaticFiles(directory=".")),
    Mount("/v1", routes=[Mount("/deep", Starlette(routes=[Route("/x", plain)]))]),
    Host("api.example", Router([Route("/hosted", plain)])),
]
STARLETTE = {
    ("GET", "/health"): "public",
    ("DELETE,GET", "/orders/{number:int}"): "scope read",
    ("GET", "/any"): "any valid token",
    ("GET", "/endpoint"): "scope read",
    ("POST", "/endpoint"): "any valid token",
    ("ANY", "/ready"): "public",
    ("WEBSOCKET", "/ws"): "scope read",
    ("WEBSOCKET", "/socket"): "role clerk",
    ("ANY", "/static/{path:path}"): "public",
    ("GET", "/v1/deep/x"): "any valid token",
    ("GET", "/hosted"): "any valid token",
}
PUBLIC = ["/health", "/ready", "/static/*"]


def in_the_stack(**options):
    return Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(GZipMiddleware),
            Middleware(AccessTokenMiddleware, server=SERVER, public=PUBLIC, **options),
        ],
    )


@pytest.mark.parametrize(
    "app",
    [in_the_stack(), GZipMiddleware(AccessTokenMiddleware(Starlette(routes=ROUTES), SERVER, public=PUBLIC))],
)
def test_starlette(app):
    assert found(app) == STARLETTE
    assert audit(app).problems == ()


def test_without_a_gate_everything_is_open_or_broken():
    assert set(audit(Starlette(routes=ROUTES[:3])).problems) == {
        "GET /health is neither protected nor public",
        "DELETE,GET /orders/{number:int} requires a token, and nothing before it looks for one: every request gets a 503",
        "GET /any requires a token, and nothing before it looks for one: every request gets a 503",
    }


def test_a_gate_before_one_route_alone():
    gate = Middleware(AccessTokenMiddleware, server=SERVER)
    routes = [
        Route("/x", guarded(READ), middleware=[Middleware(GZipMiddleware), gate]),
        Mount("/m", routes=[Route("/y", plain)], middleware=[gate]),
        Route("/z", plain),
    ]
    app = Starlette(routes=routes)
    assert set(found(app).values()) == {"scope read", "any valid token", "anybody"}
    assert audit(app).problems == ("GET /z is neither protected nor public",)


def test_an_optional_gate_protects_nothing_by_itself():
    problems = audit(in_the_stack(optional=True)).problems
    assert "POST /endpoint is neither protected nor public" in problems
    assert not any("/orders" in problem for problem in problems)


def test_a_gate_below_a_mount():
    inner = AccessTokenMiddleware(
        Starlette(routes=[Route("/x", plain), Route("/open", plain)]), SERVER, public=["/open"]
    )
    app = Starlette(routes=[Mount("/api", inner)])
    assert found(app) == {("GET", "/api/x"): "any valid token", ("GET", "/api/open"): "public"}
    assert audit(app).problems == ()


@pytest.mark.parametrize(
    ("public", "shown"),
    [
        (["/static/*"], "any valid token, public below /static"),
        (["/static/index"], "any valid token, public at /static/index"),
        (["/static/*", "/docs/a"], "any valid token, public below /static and at /docs/a"),
        (["/*"], "public"),
        (["/static"], "any valid token"),
    ],
)
def test_a_route_some_of_whose_paths_are_public(public, shown):
    inner = Starlette(routes=[Route("/{bucket}/{name}", plain)])
    assert found(AccessTokenMiddleware(inner, SERVER, public=public)) == {("GET", "/{bucket}/{name}"): shown}
    closed = AccessTokenMiddleware(AccessTokenMiddleware(inner, SERVER), SERVER, public=public)
    assert found(closed) == {("GET", "/{bucket}/{name}"): "any valid token"}


@pytest.mark.parametrize(
    ("public", "idle"),
    [
        (["/health"], []),
        (["/orders/1"], []),
        (["/static/*"], []),
        (["/static/app.js"], []),
        (["/v1/*"], []),
        (["/healht"], ["/healht"]),
        (["/orders"], ["/orders"]),
        (["/health/*"], ["/health/*"]),
    ],
)
def test_public_entries_that_match_nothing(public, idle):
    app = AccessTokenMiddleware(Starlette(routes=ROUTES), SERVER, public=[*PUBLIC, *public])
    assert audit(app).problems == tuple(f"public entry {entry!r} matches no route" for entry in idle)


@pytest.mark.parametrize(
    ("needed", "why"),
    [
        (claim("iss", ISSUER), ""),
        (claim("iss", "https://stranger.example"), "no issuer here is 'https://stranger.example'"),
        (claim("sub", "a") & claim("sub", "b"), "sub cannot be 'a' and 'b' at once"),
        (claim("client_id", 1), "client_id is always a string"),
        (claim("client_id", 1) | READ, ""),
        (claim("tenant", "a") & claim("tenant", "b"), ""),
    ],
)
def test_requirements_that_can_never_be_met(needed, why):
    app = AccessTokenMiddleware(Starlette(routes=[Route("/x", guarded(needed))]), SERVER)
    assert audit(app).problems == ((f"GET /x can never be called: {why}",) if why else ())


def test_a_public_path_that_requires_something():
    app = AccessTokenMiddleware(Starlette(routes=[Route("/x", guarded(READ))]), SERVER, public=["/x"])
    (problem,) = audit(app).problems
    assert problem.startswith("GET /x is public, where no token is looked at")


def fastapi(**options):
    app = FastAPI(openapi_url=None, **options)
    router = APIRouter(prefix="/orders", dependencies=[Depends(requires(READ))])

    @app.get("/health")
    async def health(): ...

    @router.get("/")
    async def orders(): ...

    @router.post("/", dependencies=[Depends(requires(role("clerk")))])
    async def create(): ...

    @app.websocket("/ws", dependencies=[Depends(requires(scope("live")))])
    async def live(websocket: WebSocket): ...

    app.include_router(router, prefix="/v1")
    app.mount("/static", StaticFiles(directory="."))
    return app


FASTAPI = {
    ("GET", "/health"): "public",
    ("GET", "/v1/orders/"): "scope read",
    ("POST", "/v1/orders/"): "scope read and role clerk",
    ("WEBSOCKET", "/ws"): "scope live",
    ("ANY", "/static/{path:path}"): "public",
}


def test_fastapi_with_and_without_the_middleware():
    public = ["/health", "/static/*"]
    gated = fastapi(middleware=[Middleware(AccessTokenMiddleware, server=SERVER, public=public)])
    alone = fastapi()
    install(alone, SERVER, public=public)
    for app in (gated, alone):
        assert found(app) == FASTAPI
        assert_every_route_is_guarded(app)
    bare = fastapi()
    assert len(audit(bare).problems) == 5
    install(bare, SERVER)
    with pytest.raises(AssertionError, match="GET /health is neither protected nor public"):
        assert_every_route_is_guarded(bare)


def test_a_dependency_may_name_its_server():
    app = FastAPI(openapi_url=None)

    @app.get("/x", dependencies=[Depends(requires(READ, server=SERVER))])
    async def show(): ...

    assert audit(app).problems == ()


class Method(MethodView):
    @flask.requires(READ)
    def get(self): ...

    def post(self): ...


class Whole(View):
    methods = ["GET"]  # noqa: RUF012  as Flask has it
    decorators = [flask.requires(role("clerk"))]  # noqa: RUF012

    def dispatch_request(self): ...


class Dispatched(View):
    @flask.requires(scope("dispatched"))
    def dispatch_request(self): ...


def flask_app():
    app = Flask("api")
    blueprint = Blueprint("orders", __name__, url_prefix="/orders")

    @app.get("/health")
    def health(): ...

    @blueprint.get("/<path:rest>")
    @flask.requires(READ)
    def orders(rest): ...

    app.add_url_rule("/method", view_func=Method.as_view("method"))
    app.add_url_rule("/whole", view_func=Whole.as_view("whole"))
    app.add_url_rule("/dispatched", view_func=Dispatched.as_view("dispatched"))
    app.register_blueprint(blueprint)
    return app


FLASK = {
    ("GET", "/static/<path:filename>"): "public",
    ("GET", "/health"): "public",
    ("GET", "/orders/<path:rest>"): "scope read",
    ("GET", "/method"): "scope read",
    ("POST", "/method"): "any valid token",
    ("GET", "/whole"): "role clerk",
    ("GET", "/dispatched"): "scope dispatched",
}


def by_extension(app, **options):
    flask.Ticketgate(app, server=SERVER, **options)
    return app


def by_middleware(app, **options):
    app.wsgi_app = wsgi.AccessTokenMiddleware(app.wsgi_app, SERVER, **options)
    return app


def from_outside(app, **options):
    return wsgi.AccessTokenMiddleware(app, SERVER, **options)


@pytest.mark.parametrize("guard", [by_extension, by_middleware, from_outside])
def test_flask(guard):
    app = guard(flask_app(), public=["/health", "/static/app.css"])
    assert found(app) == FLASK | {
        ("GET", "/static/<path:filename>"): "any valid token, public at /static/app.css"
    }
    assert audit(app).problems == ()
    assert found(guard(flask_app(), public=["/health", "/static/*"])) == FLASK
    assert "GET /health is neither protected nor public" in audit(flask_app()).problems


@pytest.mark.parametrize(
    "app", [object(), Mock(), lambda environ, start_response: [], AccessTokenMiddleware(plain, SERVER)]
)
def test_other_applications_have_no_routes_that_can_be_seen(app):
    with pytest.raises(ConfigurationError, match="is no Starlette, FastAPI, Flask or Django application"):
        audit(app)


OTHER = ResourceServer("https://other.example", Issuer("https://other-as.example", jwks=jwks()))
SAME_ISSUER = ResourceServer("https://other.example", Issuer(ISSUER, jwks=jwks()))
TENANTS = ResourceServer("https://other.example", issuer_for=lambda iss: None)
UNREACHABLE = (
    "GET /m/x can never be called: https://api.example and https://other.example must all accept its token,"
    " and they have no issuer in common"
)


def by_a_gate(server, **options):
    inner = AccessTokenMiddleware(Starlette(routes=[Route("/x", plain)]), server, **options)
    return Starlette(routes=[Mount("/m", inner)])


def by_a_gate_in_the_stack(server, **options):
    gate = Middleware(AccessTokenMiddleware, server=server, **options)
    return Starlette(routes=[Mount("/m", Starlette(routes=[Route("/x", guarded(READ))], middleware=[gate]))])


def by_a_dependency(server):
    app, inner = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    inner.get("/x", dependencies=[Depends(requires(server=server))])(plain)
    app.mount("/m", inner)
    return app


def by_a_state(server):
    app, inner = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    inner.get("/x", dependencies=[Depends(requires(READ))])(plain)
    install(inner, server)
    app.mount("/m", inner)
    return app


@pytest.mark.parametrize("made", [by_a_gate, by_a_gate_in_the_stack, by_a_dependency, by_a_state])
@pytest.mark.parametrize(
    ("inner", "public", "expected"),
    [
        (OTHER, [], (UNREACHABLE,)),
        (OTHER, ["/m/*"], ()),
        (SAME_ISSUER, [], ()),
        (TENANTS, [], ()),
        (SERVER, [], ()),
    ],
)
def test_an_outer_gate_may_make_an_inner_one_unreachable(made, inner, public, expected):
    gated = AccessTokenMiddleware(made(inner), SERVER, public=public)
    in_the_stack = made(inner)
    in_the_stack.add_middleware(AccessTokenMiddleware, server=SERVER, public=public)
    nested = AccessTokenMiddleware(gated, SERVER, public=public)
    for app in (gated, in_the_stack, nested):
        assert audit(app).problems == expected
        assert [route.access for route in audit(app).routes] != ["public"]


def test_opaque_tokens_may_be_accepted_by_servers_without_a_common_issuer():
    asking = [
        ResourceServer(
            f"https://{name}.example",
            Issuer(
                f"https://{name}-as.example",
                introspection=Introspection(auth=ClientSecretBasic("a", "b" * 32)),
            ),
        )
        for name in ("one", "two")
    ]
    assert audit(AccessTokenMiddleware(by_a_gate(asking[1]), asking[0])).problems == ()
    assert len(audit(AccessTokenMiddleware(by_a_gate(asking[1]), SERVER)).problems) == 1


def test_flask_behind_the_gate_of_another_server():
    app = Flask("api", static_folder=None)
    app.add_url_rule("/x", "x", flask.requires(READ)(lambda: ""))
    flask.Ticketgate(app, server=OTHER)
    (problem,) = audit(wsgi.AccessTokenMiddleware(app, SERVER)).problems
    assert problem == UNREACHABLE.replace("/m/x", "/x")


@pytest.mark.parametrize(
    ("public_for", "expected"),
    [("outer", False), ("inner", True), ("both", True)],
)
def test_what_is_public_for_the_server_that_decides_can_never_be_met(public_for, expected):
    paths = {name: ["/m/x"] if public_for in (name, "both") else [] for name in ("outer", "inner")}
    inner = by_a_gate_in_the_stack(SAME_ISSUER, public=["/x"] if paths["inner"] else [])
    problems = audit(AccessTokenMiddleware(inner, SERVER, public=paths["outer"])).problems
    assert [problem.partition(",")[0] for problem in problems] == ["GET /m/x is public"] * expected


def test_a_public_gate_of_the_server_that_a_dependency_names():
    for server, count in ((SERVER, 1), (OTHER, 0)):
        problems = audit(AccessTokenMiddleware(by_a_dependency(server), SERVER, public=["/m/x"])).problems
        assert [problem.partition(",")[0] for problem in problems] == ["GET /m/x is public"] * count


def test_a_declaration_that_a_guarded_operation_is_public():
    app = by_a_state(SERVER)
    install(app, public=["/m/x"])
    assert audit(app).problems[0].startswith("GET /m/x is public, where")


def test_a_decorator_passes_over_the_server_of_the_application():
    app = FastAPI(openapi_url=None)
    app.get("/x")(guarded(READ))
    install(app, SAME_ISSUER)
    (problem,) = audit(AccessTokenMiddleware(app, SERVER)).problems
    assert "has a decorator that uses the gate around the application" in problem
    (problem,) = audit(app).problems
    assert problem.endswith("every request gets a 503")


def test_routers_belong_to_the_application_that_they_are_mounted_in():
    app, router = FastAPI(openapi_url=None), APIRouter()
    router.get("/x", dependencies=[Depends(requires(claim("iss", "https://other-as.example")))])(plain)
    app.mount("/m", router)
    app.mount("/n", AccessTokenMiddleware(router, SERVER))
    install(app, OTHER)
    (problem,) = audit(app).problems
    assert problem.startswith("GET /n/x can never be called: no issuer here is")
