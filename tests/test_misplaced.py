"""``@requires`` above the route decorator: every framework refuses the endpoint and names it, and no other one."""

import functools
from functools import partial

import pytest
from fastapi import APIRouter, Depends, FastAPI
from flask import Blueprint, Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from tokens import resource_server, token

from ticketgate import scope
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit import audit
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import install
from ticketgate.fastapi import requires as dependency
from ticketgate.flask import AccessTokenMiddleware as FlaskMiddleware
from ticketgate.flask import Ticketgate
from ticketgate.flask import requires as flask_requires
from ticketgate.starlette import requires
from ticketgate.wsgi import AccessTokenMiddleware as WSGIMiddleware

SERVER = resource_server()
READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}
GATE = Middleware(AccessTokenMiddleware, server=SERVER)
NAMED = "was registered without its guard: move @requires below the route decorator"
needs_read = requires(scope("read"))
flask_needs_read = flask_requires(scope("read"))


def endpoint():
    """A new function each time: a mark is for one function."""

    async def orders(request):
        return PlainTextResponse("orders")

    return orders


def unguarded():
    """An endpoint whose guard is never called."""
    orders = endpoint()
    _ = needs_read(orders)
    return orders


def wrapped(function):
    @functools.wraps(function)
    async def wrapper(request):
        return await function(request)

    return wrapper


def unguarded_class():
    class Orders(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse("orders")

    _ = needs_read(Orders.get)
    return Orders


class Controller:
    async def orders(self, request):
        return PlainTextResponse("orders")

    _ = needs_read(orders)


def unguarded_socket():
    async def socket(websocket):
        await websocket.accept()

    _ = needs_read(socket)
    return socket


def in_the_stack(*routes):
    return Starlette(routes=[*routes, Route("/guarded", needs_read(endpoint()))], middleware=[GATE])


def outside(*routes):
    app = Starlette(routes=[*routes, Route("/guarded", needs_read(endpoint()))])
    return AccessTokenMiddleware(GZipMiddleware(app), SERVER)


def below_a_mount(*routes):
    inner = Router([*routes, Route("/guarded", needs_read(endpoint()))])
    return AccessTokenMiddleware(
        Starlette(routes=[Mount("/api", Mount("/v1", GZipMiddleware(inner)))]), SERVER
    )


@pytest.mark.parametrize(
    ("make", "prefix"),
    [(in_the_stack, ""), (outside, ""), (below_a_mount, "/api/v1")],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize(
    "misplaced",
    [
        unguarded(),
        wrapped(unguarded()),
        partial(unguarded()),
        needs_read(unguarded()),
        unguarded_class(),
        Controller().orders,
    ],
    ids=["function", "decorated", "partial", "one guard of two", "class endpoint", "bound method"],
)
def test_starlette(make, prefix, misplaced, caplog):
    if getattr(misplaced, "__name__", "") == "orders" and hasattr(misplaced, "__wrapped__"):
        _ = needs_read(misplaced)  # the second guard, which is above the route decorator
    app = make(Route("/orders", misplaced), Route("/orders", needs_read(endpoint()), methods=["POST"]))
    client = TestClient(app)
    answer = client.get(f"{prefix}/orders", headers=READER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert NAMED in caplog.text
    assert "orders" in caplog.text.lower()
    assert client.get(f"{prefix}/orders").status_code == 401
    assert client.get(f"{prefix}/guarded", headers=READER).text == "orders"
    assert client.get(f"{prefix}/guarded", headers=STRANGER).status_code == 403
    if not isinstance(misplaced, type):  # whose route takes every method
        assert client.post(f"{prefix}/orders", headers=READER).text == "orders"
    assert any(NAMED in problem for problem in audit(app).problems)


def test_the_mark_of_starlette_is_heeded_wherever_the_route_is():
    routers = [
        Route("/middleware", unguarded(), middleware=[Middleware(GZipMiddleware)]),
        Host("other.example", Router([Route("/host", unguarded())])),
        Mount("/mount", routes=[Route("/x", unguarded())], middleware=[Middleware(GZipMiddleware)]),
    ]
    client = TestClient(in_the_stack(*routers), headers=READER)
    assert client.get("/middleware").status_code == 503
    assert client.get("/host", headers={"Host": "other.example"}).status_code == 503
    assert client.get("/host").status_code == 404
    assert client.get("/mount/x").status_code == 503
    assert client.get("/mount/y").status_code == 404


def test_a_websocket_is_refused_before_it_is_accepted():
    client = TestClient(in_the_stack(WebSocketRoute("/ws", unguarded_socket())), headers=READER)
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/ws"):
        pass
    assert refused.value.status_code == 503


def test_no_public_path_is_open_by_a_misplaced_guard():
    app = AccessTokenMiddleware(Starlette(routes=[Route("/orders", unguarded())]), SERVER, public=["/orders"])
    assert TestClient(app).get("/orders").status_code == 503
    assert NAMED in str(audit(app).problems)


def test_routes_that_come_later_are_looked_at_too():
    app = in_the_stack()
    with TestClient(app, headers=READER) as client:
        assert client.get("/orders").status_code == 404
        app.router.routes.append(Route("/orders", unguarded()))
        assert client.get("/orders").status_code == 503


def test_routes_are_only_looked_at_when_their_number_changed(monkeypatch):
    app = in_the_stack()
    looked = []
    placement = "ticketgate.placement.protection_of"
    from ticketgate.core.guards import protection_of

    monkeypatch.setattr(placement, lambda operation: looked.append(operation) or protection_of(operation))
    with TestClient(app, headers=READER) as client:
        at_start = len(looked)
        assert at_start > 0
        for _ in range(3):
            client.get("/guarded")
        assert len(looked) == at_start


@pytest.mark.parametrize(
    "app", [Route("/orders", unguarded()), Mount("/orders", routes=[Route("/", unguarded())])]
)
def test_a_route_may_be_the_application(app):
    path = "/orders" if isinstance(app, Route) else "/orders/"
    assert TestClient(AccessTokenMiddleware(app, SERVER), headers=READER).get(path).status_code == 503


def test_applications_without_routes_are_left_alone():
    async def app(scope, receive, send):
        await PlainTextResponse("open")(scope, receive, send)

    assert TestClient(AccessTokenMiddleware(app, SERVER), headers=READER).get("/").text == "open"


def fastapi(**options):
    app = FastAPI(openapi_url=None, **options)
    router = APIRouter(prefix="/router")

    @needs_read
    @app.get("/orders")
    async def orders(): ...

    @needs_read
    @router.get("/orders")
    async def of_a_router(): ...

    @app.get("/fine", dependencies=[Depends(dependency(scope("read")))])
    async def fine():
        return "fine"

    app.include_router(router, prefix="/v1")
    app.mount("/sub", Starlette(routes=[Route("/orders", unguarded())]))
    return app


def installed():
    app = fastapi()
    install(app, SERVER)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    return app


def with_a_root_path():
    app = fastapi()
    app.root_path = "/api"
    return AccessTokenMiddleware(app, SERVER)


@pytest.mark.parametrize(
    ("app", "prefix"),
    [
        (installed(), ""),
        (fastapi(middleware=[GATE]), ""),
        (AccessTokenMiddleware(fastapi(), SERVER), ""),
        (with_a_root_path(), "/api"),
    ],
    ids=["install", "in the stack", "outside", "root path"],
)
def test_fastapi(app, prefix, caplog):
    client = TestClient(app, f"http://testserver{prefix}", headers=READER)
    for path, name in (
        ("/orders", "orders"),
        ("/v1/router/orders", "of_a_router"),
        ("/sub/orders", "orders"),
    ):
        caplog.clear()
        assert client.get(path).status_code == 503
        assert f"{name} {NAMED}" in caplog.text
    assert client.get("/fine").json() == "fine"


def test_a_browser_can_read_what_install_refuses():
    answer = TestClient(installed()).get("/orders", headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (503, "*")


def test_install_twice_adds_one_middleware():
    app = installed()
    install(app, SERVER)
    assert [entry.cls.__name__ for entry in app.user_middleware].count("PlacementMiddleware") == 1


@pytest.mark.parametrize(
    "decorate",
    [
        lambda app, guard, orders: guard(app.get("/orders")(orders)),
        lambda app, guard, orders: app.get("/orders")(guard(orders)),
        lambda app, guard, orders: guard(orders),
    ],
    ids=["above", "below", "alone"],
)
def test_a_dependency_is_not_a_decorator(decorate):
    with pytest.raises(ConfigurationError, match=r"dependencies=\[Depends\(requires"):
        decorate(FastAPI(), dependency(scope("read")), endpoint())


def test_requires_without_parentheses_is_noticed():
    for decorator in (requires, flask_requires, dependency):
        with pytest.raises(ConfigurationError, match="no requirement"):
            decorator(endpoint())


class Orders(MethodView):
    def get(self):
        return "orders"

    _ = flask_needs_read(get)


def flask_app():
    app = Flask("api")
    blueprint = Blueprint("blueprint", __name__, url_prefix="/blueprint")

    @flask_needs_read
    @app.get("/orders")
    def orders():
        return "orders"

    @app.get("/fine")
    @flask_needs_read
    def fine():
        return "fine"

    @flask_needs_read
    @blueprint.get("/orders")
    def of_a_blueprint():
        return "orders"

    def rule():
        return "orders"

    app.add_url_rule("/rule", view_func=rule)
    _ = flask_needs_read(rule)
    app.add_url_rule("/partial", "partial", partial(rule))
    whole = type("Whole", (MethodView,), {"get": lambda self: "orders"}).as_view("whole")
    app.add_url_rule("/whole", view_func=whole)
    _ = flask_needs_read(whole)
    app.add_url_rule("/class", view_func=Orders.as_view("class"))
    app.register_blueprint(blueprint)
    return app


def by_extension():
    app = flask_app()
    Ticketgate(app, server=SERVER, public=["/rule"])
    return app


def by_middleware():
    app = flask_app()
    app.wsgi_app = FlaskMiddleware(app.wsgi_app, SERVER, public=["/rule"])
    return app


@pytest.mark.parametrize("make", [by_extension, by_middleware])
def test_flask(make, caplog):
    client = make().test_client()
    for path in ("/orders", "/blueprint/orders", "/rule", "/partial", "/whole", "/class"):
        caplog.clear()
        answer = client.get(path, headers=READER)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert NAMED in caplog.text
    assert client.get("/rule").status_code == 503
    assert client.get("/orders").status_code == 401
    assert client.get("/fine", headers=READER).text == "fine"
    assert client.get("/nowhere", headers=READER).status_code == 404


def test_flask_audit_names_each_of_them():
    problems = [problem for problem in audit(by_extension()).problems if NAMED in problem]
    assert len(problems) == 6


def test_a_plain_wsgi_gate_leaves_flask_alone():
    """It knows no frameworks: the audit finds what is misplaced, requests are not looked at."""
    app = flask_app()
    app.wsgi_app = WSGIMiddleware(app.wsgi_app, SERVER)
    assert app.test_client().get("/orders", headers=READER).text == "orders"
    assert any(NAMED in problem for problem in audit(app).problems)


def test_a_flask_view_class_cannot_be_guarded_as_a_whole():
    with pytest.raises(ConfigurationError, match=r"in Orders write decorators = \[requires\(\.\.\.\)\]"):
        flask_needs_read(Orders)


class Querying(HTTPEndpoint):
    async def query(self, request):
        return PlainTextResponse("orders")

    _ = needs_read(query)


class NotAllowed(HTTPEndpoint):
    @needs_read
    async def get(self, request):
        return PlainTextResponse("orders")

    async def method_not_allowed(self, request):
        return PlainTextResponse("orders")


def test_every_method_of_a_class_is_looked_at(caplog):
    client = TestClient(outside(Route("/orders", Querying)), headers=READER)
    assert client.request("QUERY", "/orders").status_code == 503
    assert f"Querying {NAMED}" in caplog.text


def test_an_audit_lists_queries_and_what_answers_other_methods():
    unguarded_query = type("Open", (HTTPEndpoint,), {"query": endpoint()})
    routes = [Route("/query", unguarded_query), Route("/other", NotAllowed)]
    found = {
        row.name: row.access
        for row in audit(AccessTokenMiddleware(Starlette(routes=routes), SERVER, optional=True)).routes
    }
    assert found == {"QUERY /query": "anybody", "GET /other": "scope read", "ANY /other": "anybody"}


def add_to_a_mount(app, inner, router, route):
    inner.router.routes.append(route)


def add_to_an_included_router(app, inner, router, route):
    router.add_route(route.path.replace("mount", "router"), route.endpoint)


def replace(app, inner, router, route):
    app.router.routes[0] = Route("/replaced", route.endpoint)


def replace_all(app, inner, router, route):
    app.router.routes = [Route("/replaced", route.endpoint), *app.router.routes[1:]]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (add_to_a_mount, "/mount/orders"),
        (add_to_an_included_router, "/router/orders"),
        (replace, "/replaced"),
        (replace_all, "/replaced"),
    ],
)
def test_what_changes_after_the_first_request_is_noticed(change, path):
    app, inner, router = FastAPI(openapi_url=None), Starlette(), APIRouter()
    app.add_route("/replaced", endpoint())
    app.mount("/mount", inner)
    app.include_router(router, prefix="/router")
    client = TestClient(AccessTokenMiddleware(app, SERVER), headers=READER)
    assert client.get("/replaced").text == "orders"
    change(app, inner, router, Route("/orders", unguarded()))
    assert client.get(path).status_code == 503


def test_a_replaced_flask_view_is_noticed():
    app = flask_app()
    Ticketgate(app, server=SERVER)
    client = app.test_client()
    assert client.get("/fine", headers=READER).text == "fine"

    def replaced():
        return "replaced"

    app.view_functions["fine"] = replaced
    _ = flask_needs_read(replaced)
    assert client.get("/fine", headers=READER).status_code == 503


def test_a_bound_method_is_noticed():
    class Plain:
        async def orders(self, request):
            return PlainTextResponse("orders")

    controller = Plain()
    _ = needs_read(controller.orders)
    client = TestClient(outside(Route("/orders", controller.orders)), headers=READER)
    assert client.get("/orders").status_code == 503
