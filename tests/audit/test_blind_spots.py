"""What audits cannot judge from outside is shown as what it is, and strict ones refuse it."""

import functools
from functools import partial

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from flask import Blueprint, Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from tokens import resource_server
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from ticketgate import flask, scope, starlette, wsgi
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit import audit
from ticketgate.fastapi import install, requires
from ticketgate.testing import assert_every_route_is_guarded

SERVER = resource_server()
READ = scope("read")
GATE = Middleware(AccessTokenMiddleware, server=SERVER)
OPTIONAL = Middleware(AccessTokenMiddleware, server=SERVER, optional=True)


def access(app):
    """The access of each row, by path and by what handles it."""
    return {(route.path, route.endpoint.split(".")[-1]): route.access for route in audit(app).routes}


@starlette.requires(READ)
async def orders(request): ...


async def plain(request): ...


def cached(function):
    @functools.wraps(function)
    def wrapper(request):
        return PlainTextResponse("cached")

    return wrapper


class Opaque:
    """An ASGI application that shows no routes."""

    async def __call__(self, scope, receive, send): ...


class GuardedCall:
    @wsgi.requires(READ)
    def __call__(self, environ, start_response): ...


class Wrapping:
    """Middleware that shows what is inside, and may do anything."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, *arguments): ...


class HTTPMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next): ...


async def answering(request, call_next):
    return PlainTextResponse("no route was asked")


class Dispatching(HTTPEndpoint):
    async def dispatch(self): ...

    @starlette.requires(READ)
    async def get(self, request): ...


class Everything(HTTPEndpoint):
    async def dispatch(self): ...


class Socket(WebSocketEndpoint):
    async def dispatch(self): ...


class OwnRoute(BaseRoute):
    path = "/own"


class OwnHandling(Route):
    async def handle(self, scope, receive, send): ...


class OwnRouter(Router):
    async def __call__(self, scope, receive, send): ...

    async def not_found(self, scope, receive, send): ...


class OwnStarlette(Starlette):
    async def __call__(self, scope, receive, send): ...


def default(app):
    routes = Router([Route("/orders", orders)], default=app)
    return Starlette(routes=[Mount("/m", routes)], middleware=[GATE])


ORDERS = (Route("/orders", orders),)


def behind(*middleware, routes=ORDERS):
    return Starlette(routes=routes, middleware=middleware)


INSIDE = "scope read, guarded inside"
UNKNOWN = "any valid token (not understood:"
ANYBODY = "anybody (not understood:"


@pytest.mark.parametrize(
    ("app", "row", "shown"),
    [
        (behind(GATE, routes=[Route("/x", cached(orders))]), ("/x", "orders"), f"{INSIDE} {__name__}.cached"),
        (behind(GATE, routes=[Route("/x", partial(orders))]), ("/x", "orders"), "scope read"),
        (behind(GATE, routes=[Route("/x", Opaque())]), ("/x", "Opaque"), f"{UNKNOWN} application Opaque)"),
        (behind(GATE, routes=[Mount("/x", Opaque())]), ("/x/{path:path}", "Opaque"), f"{UNKNOWN} application Opaque)"),
        (behind(GATE, routes=[Mount("/x", StaticFiles(directory="."))]), ("/x/{path:path}", "StaticFiles"), "any valid token"),
        (behind(GATE, routes=[Mount("/x", Mount("/y", routes=[Route("/z", orders)]))]), ("/x/y/z", "orders"), "scope read"),
        (behind(GATE, routes=[Mount("/x", Wrapping(Opaque()))]), ("/x/{path:path}", "Wrapping"), f"{UNKNOWN} middleware Wrapping)"),
        (default(Opaque()), ("/m/{path:path}", "Opaque"), f"{UNKNOWN} application Opaque)"),
        (default(plain), ("/m/{path:path}", "plain"), f"{UNKNOWN} application plain)"),
        (default(Starlette(routes=[Route("/y", orders)])), ("/m/y", "orders"), "scope read"),
        (behind(GATE, Middleware(HTTPMiddleware)), ("/{path:path}", "HTTPMiddleware"), f"{UNKNOWN} middleware HTTPMiddleware)"),
        (behind(Middleware(HTTPMiddleware), GATE), ("/{path:path}", "HTTPMiddleware"), f"{ANYBODY} middleware HTTPMiddleware)"),
        (behind(OPTIONAL, Middleware(HTTPMiddleware)), ("/{path:path}", "HTTPMiddleware"), f"{ANYBODY} middleware HTTPMiddleware)"),
        (behind(Middleware(BaseHTTPMiddleware, dispatch=answering), GATE), ("/{path:path}", "answering"), f"{ANYBODY} middleware answering)"),
        (BaseHTTPMiddleware(behind(GATE), answering), ("/{path:path}", "answering"), f"{ANYBODY} middleware answering)"),
        (AccessTokenMiddleware(BaseHTTPMiddleware(behind(), answering), SERVER), ("/{path:path}", "answering"), f"{UNKNOWN} middleware answering)"),
        (AccessTokenMiddleware(behind(Middleware(HTTPMiddleware)), SERVER), ("/{path:path}", "HTTPMiddleware"), f"{UNKNOWN} middleware HTTPMiddleware)"),
        (behind(GATE, routes=[Route("/x", orders, middleware=[Middleware(HTTPMiddleware)])]), ("/x", "orders"), f"{INSIDE} HTTPMiddleware"),
        (behind(routes=[Mount("/x", Router([Route("/y", orders)], middleware=[GATE]))]), ("/x/y", "orders"), "scope read"),
        (behind(GATE, routes=[Mount("/x", Router([Route("/y", orders)], middleware=[Middleware(Wrapping)]))]), ("/x/{path:path}", "Wrapping"), f"{UNKNOWN} middleware Wrapping)"),
        (behind(GATE, routes=[Route("/x", Dispatching)]), ("/x", "Dispatching"), f"{UNKNOWN} overridden Dispatching.dispatch)"),
        (behind(GATE, routes=[Route("/x", Everything)]), ("/x", "Everything"), f"{UNKNOWN} overridden Everything.dispatch)"),
        (behind(GATE, routes=[WebSocketRoute("/x", Socket)]), ("/x", "Socket"), f"{UNKNOWN} overridden Socket.dispatch)"),
        (behind(GATE, routes=[Route("/x", Opaque)]), ("/x", "Opaque"), f"{UNKNOWN} application Opaque)"),
        (behind(GATE, routes=[OwnRoute()]), ("/own", "OwnRoute"), f"{UNKNOWN} route OwnRoute)"),
        (behind(GATE, routes=[OwnHandling("/x", orders)]), ("/x", "orders"), f"{INSIDE} OwnHandling.handle"),
        (behind(GATE, routes=[Mount("/x", OwnRouter())]), ("/x/{path:path}", "__call__"), f"{UNKNOWN} overridden OwnRouter.__call__)"),
        (behind(GATE, routes=[Mount("/x", OwnRouter())]), ("/x/{path:path}", "not_found"), f"{UNKNOWN} application OwnRouter.not_found)"),
        (AccessTokenMiddleware(OwnStarlette(), SERVER), ("/{path:path}", "__call__"), f"{UNKNOWN} overridden OwnStarlette.__call__)"),
    ],
)  # fmt: skip
def test_starlette(app, row, shown):
    assert access(app)[row] == shown
    assert audit(app).problems == ()
    if shown in {"scope read", "any valid token"}:
        assert_every_route_is_guarded(app, strict=True)


@pytest.mark.parametrize("middleware", [CORSMiddleware, GZipMiddleware])
def test_middleware_that_is_understood_has_no_row(middleware):
    app = behind(Middleware(middleware), GATE)
    assert access(app) == {("/orders", "orders"): "scope read"}


def test_every_method_of_an_endpoint_with_its_own_dispatch_is_inside_of_it():
    rows = {
        route.methods: route.access for route in audit(behind(GATE, routes=[Route("/x", Dispatching)])).routes
    }
    assert rows["GET",] == f"{INSIDE} Dispatching.dispatch"


@pytest.mark.parametrize(
    "routes",
    [
        [Mount("/x", Opaque())],
        [Route("/x", Everything)],
        [Route("/x", Opaque)],
        [Mount("/x", Router(default=Opaque()))],
        [OwnRoute()],
    ],
)
def test_what_is_not_understood_is_a_problem_where_nothing_closes_it(routes):
    app = behind(OPTIONAL, routes=routes)
    assert ["is neither protected nor public" in problem for problem in audit(app).problems] == [True]


def test_middleware_hides_no_idle_entry():
    app = behind(
        Middleware(HTTPMiddleware), Middleware(AccessTokenMiddleware, server=SERVER, public=["/healht"])
    )
    assert audit(app).problems == ("public entry '/healht' matches no route",)


@pytest.mark.parametrize(
    ("app", "note"),
    [
        (
            behind(GATE, routes=[Route("/x", cached(orders))]),
            f"GET /x is guarded inside {__name__}.cached, which can answer before the guard is asked",
        ),
        (
            behind(Middleware(HTTPMiddleware), GATE),
            "ANY /{path:path} is not understood: middleware HTTPMiddleware can answer it in its own way",
        ),
        (
            behind(GATE, routes=[Mount("/x", Opaque())]),
            "ANY /x/{path:path} is not understood: application Opaque can answer it in its own way",
        ),
    ],
)
def test_strict_refuses_what_cannot_be_judged(app, note):
    assert audit(app).notes == (note,)
    assert audit(app).as_json()["notes"] == [note]
    assert_every_route_is_guarded(app)
    with pytest.raises(AssertionError, match=r"guarded inside|not understood"):
        assert_every_route_is_guarded(app, strict=True)


def test_strict_accepts_middleware_behind_the_gate():
    assert_every_route_is_guarded(behind(GATE, Middleware(HTTPMiddleware)), strict=True)


def test_both_gates_of_a_stack_count():
    inner = behind(
        Middleware(AccessTokenMiddleware, server=SERVER, public=["/x"]), routes=[Route("/x", plain)]
    )
    outer = AccessTokenMiddleware(inner, SERVER, public=["/x"])
    assert access(outer) == {("/x", "plain"): "public"}
    assert access(AccessTokenMiddleware(inner, SERVER)) == {("/x", "plain"): "any valid token"}


class Timed(APIRoute):
    def get_route_handler(self):
        return super().get_route_handler()


def fastapi():
    app = FastAPI(openapi_url=None)
    router = APIRouter(prefix="/router", route_class=Timed)

    @app.middleware("http")
    async def timing(request, call_next): ...

    @router.get("/orders", dependencies=[Depends(requires(READ))])
    async def of_a_router(): ...

    @app.get("/orders", dependencies=[Depends(requires(READ))])
    @cached
    async def decorated(): ...

    app.include_router(router)
    install(app, SERVER)
    return app


def test_fastapi():
    assert access(fastapi()) == {
        ("/{path:path}", "timing"): f"{ANYBODY} middleware fastapi.<locals>.timing)",
        ("/router/orders", "of_a_router"): f"{INSIDE} Timed.get_route_handler",
        ("/orders", "decorated"): "scope read",
    }
    assert audit(fastapi()).problems == ()


def test_frontends_of_fastapi(tmp_path):
    app = FastAPI(openapi_url=None)
    if not hasattr(app, "frontend"):
        pytest.skip("this FastAPI has none")
    app.frontend("/ui", directory=tmp_path, check_dir=False)
    app.frontend("/", directory=tmp_path, check_dir=False)
    assert access(app) == {
        ("/ui/{path:path}", "frontend"): "anybody",
        ("/{path:path}", "frontend"): "anybody",
    }
    assert len(audit(app).problems) == 2


def flask_app(cls=Flask):
    app = cls("api", static_folder=None)

    @app.get("/orders")
    @flask.requires(READ)
    def orders(): ...

    return app


def with_the_extension(app):
    flask.Ticketgate(app, server=SERVER)
    return app


def with_the_middleware(app):
    app.wsgi_app = flask.AccessTokenMiddleware(app.wsgi_app, SERVER)
    return app


class OwnFlask(Flask):
    def wsgi_app(self, environ, start_response): ...

    def dispatch_request(self): ...


class FlaskDispatching(MethodView):
    def dispatch_request(self, **arguments): ...

    @flask.requires(READ)
    def get(self): ...


class GuardedDispatch(MethodView):
    @flask.requires(READ)
    def dispatch_request(self, **arguments): ...

    def get(self): ...


def test_flask_views():
    app = with_the_extension(flask_app())
    guarded = flask.requires(READ)(lambda: None)
    app.add_url_rule("/cached", "cached", cached(guarded))
    app.add_url_rule("/partial", "partial", partial(guarded))
    app.add_url_rule("/object", "object", GuardedCall())
    app.add_url_rule("/dispatching", view_func=FlaskDispatching.as_view("dispatching"))
    app.add_url_rule("/guarded", view_func=GuardedDispatch.as_view("guarded"))
    rows = {(route.methods, route.path): route.access for route in audit(app).routes}
    assert rows == {
        (("GET",), "/orders"): "scope read",
        (("GET",), "/cached"): f"{INSIDE} {__name__}.cached",
        (("GET",), "/partial"): "scope read",
        (("GET",), "/object"): "scope read",
        (("GET",), "/dispatching"): f"{INSIDE} FlaskDispatching.dispatch_request",
        (("ANY",), "/dispatching"): f"{UNKNOWN} overridden FlaskDispatching.dispatch_request)",
        (("GET",), "/guarded"): "scope read",
    }
    assert audit(app).problems == ()


def test_a_flask_rule_without_a_view():
    app = with_the_extension(flask_app())
    app.add_url_rule("/later", "later")
    assert access(app)["/later", "later"] == "any valid token"


def test_hooks_of_flask():
    app = flask_app()
    blueprint = Blueprint("blueprint", __name__)

    @app.before_request
    def early(): ...

    @blueprint.before_request
    def of_a_blueprint(): ...

    app.register_blueprint(blueprint)
    with_the_extension(app)

    @app.before_request
    def late(): ...

    rows = {route.endpoint.split(".")[-1]: route.access for route in audit(app).routes}
    assert rows["late"].startswith(UNKNOWN)
    assert rows["of_a_blueprint"].startswith(UNKNOWN)
    assert "before_request hook" in rows["early"]
    assert audit(app).problems == ()


@pytest.mark.parametrize("guard", [with_the_extension, with_the_middleware])
def test_dispatchers(guard):
    admin, opaque = flask_app(), GuardedCall()
    app = guard(flask_app())
    app.wsgi_app = DispatcherMiddleware(
        app.wsgi_app, {"/admin": admin, "/guarded": with_the_extension(flask_app()), "/opaque": opaque}
    )
    rows = access(app)
    assert rows["/orders", "orders"] == rows["/admin/orders", "orders"] == "scope read"
    assert (
        rows["/opaque/{path:path}", "GuardedCall"] == "scope read (not understood: application GuardedCall)"
    )
    assert audit(app).problems == (
        "GET /admin/orders requires a token, and nothing before it looks for one: every request gets a 503",
        "ANY /opaque/{path:path} requires a token, and nothing before it looks for one: every request gets a 503",
    )


def test_a_gate_before_a_dispatcher_is_before_all_of_it():
    mounted = {"/admin": flask_app(), "/deep": DispatcherMiddleware(flask_app(), {"/er": flask_app()})}
    app = wsgi.AccessTokenMiddleware(DispatcherMiddleware(flask_app(), mounted), SERVER, public=["/admin/*"])
    rows = access(app)
    assert rows["/orders", "orders"] == rows["/deep/orders", "orders"] == rows["/deep/er/orders", "orders"]
    assert rows["/admin/orders", "orders"] == "public"


def test_wsgi_middleware_and_what_flask_applications_replace():
    app = OwnFlask("api", static_folder=None)
    app.wsgi_app = ProxyFix(Wrapping(wsgi.AccessTokenMiddleware(app.wsgi_app, SERVER)))
    assert access(app) == {
        ("/{path:path}", "Wrapping"): f"{ANYBODY} middleware Wrapping)",
        ("/<path:path>", "wsgi_app"): f"{UNKNOWN} overridden OwnFlask.wsgi_app)",
        ("/<path:path>", "dispatch_request"): f"{UNKNOWN} overridden OwnFlask.dispatch_request)",
    }


class OwnGate(AccessTokenMiddleware):
    async def __call__(self, scope, receive, send): ...


class OwnOpening(flask.AccessTokenMiddleware):
    def is_open(self, environ):
        return True


class Configured(AccessTokenMiddleware):
    """Our gate with options of one's own."""

    def __init__(self, app):
        super().__init__(app, SERVER, public=["/health"])


class OwnStack(Starlette):
    def build_middleware_stack(self): ...


class OwnMount(Mount):
    async def handle(self, scope, receive, send): ...


class OwnCall(Flask):
    def __call__(self, environ, start_response): ...


def replaced_stack(make):
    app = behind(GATE, Middleware(Wrapping))
    app.middleware_stack = make(app)
    return app


def own_builder():
    app = behind(GATE)
    app.build_middleware_stack = lambda: app.router
    return app


def opened():
    app = flask_app()
    app.wsgi_app = OwnOpening(app.wsgi_app, SERVER)
    return app


def debugged():
    app = with_the_middleware(flask_app())
    app.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=True)
    return app


@pytest.mark.parametrize(
    ("app", "unknown"),
    [
        (OwnGate(behind(), SERVER), "overridden OwnGate.__call__"),
        (behind(Middleware(OwnGate, server=SERVER)), "overridden OwnGate.__call__"),
        (behind(OPTIONAL, routes=[OwnMount("/m", routes=ORDERS)]), "overridden OwnMount.handle"),
        (OwnStack(routes=ORDERS, middleware=[GATE]), "overridden OwnStack.build_middleware_stack"),
        (own_builder(), "replaced middleware_stack"),
        (replaced_stack(lambda app: app.router), "replaced middleware_stack"),
        (replaced_stack(lambda app: Wrapping(app.build_middleware_stack())), "replaced middleware_stack"),
        (replaced_stack(lambda app: behind().build_middleware_stack()), "replaced middleware_stack"),
        (with_the_extension(flask_app(OwnCall)), "overridden OwnCall.__call__"),
        (opened(), "overridden OwnOpening.is_open"),
        (debugged(), "middleware DebuggedApplication"),
    ],
)
def test_what_takes_the_place_of_a_gate_has_a_row(app, unknown):
    assert unknown in [route.not_understood for route in audit(app).routes]
    with pytest.raises(AssertionError, match="not understood"):
        assert_every_route_is_guarded(app, strict=True)


def test_a_gate_of_ones_own_around_one_route():
    route = Route("/x", orders, middleware=[Middleware(OwnGate, server=SERVER)])
    assert access(behind(routes=[route]))["/x", "orders"] == f"{INSIDE} OwnGate.__call__"


@pytest.mark.parametrize("make", [behind, lambda *given: FastAPI(openapi_url=None, middleware=given)])
@pytest.mark.parametrize("between", [[], [Middleware(CORSMiddleware)], [Middleware(lambda app: app)]])
def test_a_stack_that_was_built_as_usual_has_no_row(make, between):
    app = make(Middleware(Configured), *between)
    app.middleware_stack = app.build_middleware_stack()
    names = [route.not_understood for route in audit(app).routes]
    assert not any("middleware_stack" in name or "Configured" in name for name in names)


def test_methods_that_a_class_view_answers_itself():
    class View(MethodView):
        @flask.requires(READ)
        def get(self): ...

        def head(self): ...

        def options(self): ...

    app = Flask("api", static_folder=None)
    flask.Ticketgate(app, server=SERVER, optional=True)
    app.add_url_rule("/x", view_func=View.as_view("x"))
    assert {route.methods: route.access for route in audit(app).routes} == {
        ("GET",): "scope read",
        ("HEAD",): "anybody",
        ("OPTIONS",): "anybody",
    }


@pytest.mark.parametrize(
    ("instead", "shown"), [(lambda: None, "anybody"), (requires(scope("instead")), "scope instead")]
)
@pytest.mark.parametrize("included", [False, True])
@pytest.mark.parametrize("replaces_outer", [False, True])
def test_dependencies_that_are_overridden_guard_nothing(instead, shown, included, replaces_outer):
    reader = requires(READ)

    def outer(token=Depends(reader)): ...  # noqa: B008

    app, router = FastAPI(openapi_url=None), APIRouter()

    @router.get("/x", dependencies=[Depends(outer)])
    async def show(): ...

    if included:
        app.include_router(router)
    else:
        app.get("/x", dependencies=[Depends(outer)])(show)
    install(app, SERVER)
    assert access(app) == {("/x", "show"): "scope read"}
    app.dependency_overrides[outer if replaces_outer else reader] = instead
    assert access(app) == {("/x", "show"): shown}
    assert bool(audit(app).problems) is (shown == "anybody")
