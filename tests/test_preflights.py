"""CORS preflights are admitted only where no handler can run: each host with its own CORS package, in every order.

The handlers here record that they ran.  Without a token none of them may, whatever the request looks like.
"""

import asyncio
import logging
from inspect import signature

import httpx
import pytest
from fastapi import FastAPI
from flask import Blueprint, Flask, request
from flask.views import MethodView
from flask_cors import CORS, cross_origin
from litestar import Litestar, asgi
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from litestar.types import Receive, Scope, Send
from quart import Quart
from quart_cors import cors
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tokens import resource_server, token
from werkzeug.test import EnvironBuilder

from ticketgate import asgi as ticketgate_asgi
from ticketgate import wsgi as ticketgate_wsgi
from ticketgate.flask import Ticketgate

PAGE = "https://app.example"
ASKED = ("Access-Control-Request-Method", "GET")
PREFLIGHT = [("Origin", PAGE), ASKED]
BEARER = ("Authorization", f"Bearer {token().decode()}")
OVERRIDE = "X-HTTP-Method-Override"
NOT_PREFLIGHTS = {
    "no headers": ("OPTIONS", []),
    "no origin": ("OPTIONS", [ASKED]),
    "no method asked for": ("OPTIONS", [("Origin", PAGE)]),
    "an empty origin": ("OPTIONS", [("Origin", ""), ASKED]),
    "two origins": ("OPTIONS", [("Origin", ""), *PREFLIGHT]),
    "a body": ("OPTIONS", [*PREFLIGHT, ("Content-Length", "5")]),
    "a body without a length": ("OPTIONS", [*PREFLIGHT, ("Transfer-Encoding", "chunked")]),
    "lower case": ("options", PREFLIGHT),
    "HEAD": ("HEAD", PREFLIGHT),
    "GET": ("GET", PREFLIGHT),
}
ALLOW = {"allow_origins": [PAGE]}
CORS_LAYER = Middleware(CORSMiddleware, **ALLOW)
METHODS = ["GET", "OPTIONS", "DELETE"]
ran = []


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def gate(app, **options):
    return ticketgate_asgi.AccessTokenMiddleware(app, resource_server(), **options)


GATE = Middleware(gate)


async def handler(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        ran.append(scope["method"])
        await PlainTextResponse("handled")(scope, receive, send)


async def endpoint(request: Request):
    ran.append(request.method)
    return PlainTextResponse("handled")


ROUTES = [Route("/", endpoint, methods=METHODS)]


class Between:
    """Any middleware: this one lets clients choose the method."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        wanted = dict(scope.get("headers", ())).get(OVERRIDE.lower().encode())
        await self.app(scope | {"method": wanted.decode()} if wanted else scope, receive, send)


async def anything(request, call_next):
    ran.append("dispatch")
    return await call_next(request)


class CORSOfSomePaths(CORSMiddleware):
    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


class Lookalike:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


Lookalike.__name__ = Lookalike.__qualname__ = "CORSMiddleware"


class OwnCall(Starlette):
    async def __call__(self, scope, receive, send):
        await handler(scope, receive, send)


class OwnBuild(Starlette):
    def build_middleware_stack(self):
        return Between(super().build_middleware_stack())


def starlette(*middleware, kind=Starlette):
    return kind(routes=ROUTES, middleware=[*middleware])


def added(app, *middleware):
    for one in middleware:
        app.add_middleware(one, **(ALLOW if issubclass(one, CORSMiddleware) else {}))
    return app


def fastapi():
    app = FastAPI()
    app.add_api_route("/", endpoint, methods=METHODS)
    return app


def built(app, wrapped=None):
    """As at start, or as tools that instrument applications leave it."""
    app.middleware_stack = app.build_middleware_stack()
    if wrapped is not None:
        app.middleware_stack = wrapped(app.middleware_stack)
    return app


def instrumented(app):
    usual = app.build_middleware_stack
    app.build_middleware_stack = lambda: Between(usual())
    return app


def litestar(wrapped=None, **options):
    app = Litestar([asgi("/", copy_scope=True)(handler)], openapi_config=None, logging_config=None, **options)
    if wrapped is not None:
        app.asgi_handler = wrapped(app.asgi_handler)
    return app


LITESTAR_CORS = {"cors_config": CORSConfig(**ALLOW)}


def quart():
    app = Quart("api")

    @app.route("/", methods=METHODS)
    async def view():
        ran.append("view")
        return "handled"

    return cors(app, allow_origin=PAGE)


def cors_outside_of_quart():
    return CORSMiddleware(gate(quart()), **ALLOW)


ANSWERED = {
    "CORS alone": lambda: gate(CORSMiddleware(handler, **ALLOW)),
    "listed after the gate": lambda: starlette(GATE, CORS_LAYER),
    "listed before the gate": lambda: starlette(CORS_LAYER, GATE),
    "inside Starlette": lambda: gate(starlette(CORS_LAYER)),
    "inside a Starlette that was built": lambda: gate(built(starlette(CORS_LAYER))),
    "added to Starlette": lambda: gate(added(starlette(), CORSMiddleware)),
    "added last": lambda: gate(added(starlette(), Between, CORSMiddleware)),
    "added to FastAPI": lambda: gate(added(fastapi(), CORSMiddleware)),
    "added to a FastAPI that was built": lambda: gate(built(added(fastapi(), CORSMiddleware))),
    "before an override": lambda: gate(starlette(CORS_LAYER, Middleware(Between))),
    "after an override and the gate": lambda: Between(gate(starlette(CORS_LAYER))),
    "mounted": lambda: Starlette(routes=[Mount("/", gate(starlette(CORS_LAYER)))]),
    "a route's own": lambda: Starlette(
        routes=[Route("/", endpoint, methods=METHODS, middleware=[GATE, CORS_LAYER])]
    ),
    "inside Litestar": lambda: gate(litestar(**LITESTAR_CORS)),
    "Litestar's, the gate inside": lambda: litestar(middleware=[DefineMiddleware(gate)], **LITESTAR_CORS),
    "outside of Quart": cors_outside_of_quart,
}
if "max_body_size" in signature(Starlette).parameters:
    ANSWERED["inside Starlette with its own limit"] = lambda: gate(
        Starlette(routes=ROUTES, middleware=[CORS_LAYER], max_body_size=100)
    )
REFUSED = {
    "no CORS": lambda: gate(handler),
    "no CORS in Starlette": lambda: gate(starlette()),
    "no CORS in a Starlette that was built": lambda: gate(built(starlette())),
    "no CORS in FastAPI": lambda: gate(fastapi()),
    "listed with one between": lambda: starlette(GATE, Middleware(Between), CORS_LAYER),
    "inside with one between": lambda: gate(starlette(Middleware(Between), CORS_LAYER)),
    "added with one between": lambda: gate(added(starlette(), CORSMiddleware, Between)),
    "built with one between": lambda: gate(built(added(fastapi(), CORSMiddleware, Between))),
    "a dispatch function between": lambda: gate(
        starlette(Middleware(BaseHTTPMiddleware, dispatch=anything), CORS_LAYER)
    ),
    "a dispatch function around": lambda: gate(
        built(starlette(CORS_LAYER), lambda app: BaseHTTPMiddleware(app, dispatch=anything))
    ),
    "wrapped after it was built": lambda: gate(built(starlette(CORS_LAYER), Between)),
    "built by a class of its own": lambda: gate(starlette(CORS_LAYER, kind=OwnBuild)),
    "instrumented": lambda: gate(instrumented(added(fastapi(), CORSMiddleware))),
    "called by a class of its own": lambda: gate(starlette(CORS_LAYER, kind=OwnCall)),
    "a subclass": lambda: gate(CORSOfSomePaths(handler, **ALLOW)),
    "a subclass that was added": lambda: gate(added(starlette(), CORSOfSomePaths)),
    "a function that was added": lambda: gate(starlette(Middleware(lambda app: app), CORS_LAYER)),
    "a class of the same name": lambda: gate(Lookalike(handler)),
    "deeper": lambda: gate(Starlette(routes=[Mount("/", CORSMiddleware(handler, **ALLOW))])),
    "behind another gate": lambda: gate(gate(starlette(CORS_LAYER))),
    "no CORS in Litestar": lambda: gate(litestar()),
    "Litestar with one around": lambda: gate(litestar(Between, **LITESTAR_CORS)),
    "quart-cors": lambda: gate(quart()),
}


class Answer:
    """What an application sent for one request."""

    def __init__(self, app, method, headers):
        self.headers, self.has_asked = httpx.Headers(), False
        fields = [(name.lower().encode(), value.encode()) for name, value in headers]
        scope = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "headers": fields}
        scope |= {"path": "/", "raw_path": b"/", "root_path": "", "query_string": b"", "client": None}
        asyncio.run(app(scope | {"server": ("api.example", 80), "extensions": {}}, self.receive, self.send))

    async def receive(self):
        if self.has_asked:
            await asyncio.Event().wait()  # the client stays, and has nothing more to say
        self.has_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.headers = httpx.Headers(message["headers"])


def chosen(method, override):
    return method, [*PREFLIGHT, (OVERRIDE, override)]


@pytest.mark.parametrize("name", ANSWERED)
def test_preflights_are_answered_where_cors_is_next_to_the_gate(name):
    app = ANSWERED[name]()
    for _ in range(2):  # before and after the application built its layers
        answer = Answer(app, "OPTIONS", PREFLIGHT)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) in (
            (200, PAGE),
            (204, PAGE),
        )
    for method, headers in (chosen("OPTIONS", "DELETE"), chosen("POST", "OPTIONS"), *NOT_PREFLIGHTS.values()):
        Answer(app, method, headers)
    assert ran == []


@pytest.mark.parametrize("name", REFUSED)
def test_preflights_are_refused_where_something_else_could_run(name):
    app = REFUSED[name]()
    for method, headers in (("OPTIONS", PREFLIGHT), chosen("OPTIONS", "DELETE"), chosen("POST", "OPTIONS")):
        for _ in range(2):
            assert Answer(app, method, headers).status_code == 401
    assert ran == []
    assert Answer(app, "OPTIONS", [*PREFLIGHT, BEARER]).status_code in (200, 204, 405)


@pytest.mark.parametrize("name", NOT_PREFLIGHTS)
@pytest.mark.parametrize("accepted", [False, True])
def test_what_is_not_a_preflight_is_refused(name, accepted):
    method, headers = NOT_PREFLIGHTS[name]
    app = gate(CORSMiddleware(handler, **ALLOW), accept_preflight=accepted)
    assert (Answer(app, method, headers).status_code, ran) == (401, [])


def test_accepted_preflights_reach_the_application_without_a_token(caplog):
    app = gate(handler, accept_preflight=True)
    for headers in (PREFLIGHT, [*PREFLIGHT, ("Content-Length", "0")], [*PREFLIGHT, BEARER]):
        assert Answer(app, "OPTIONS", headers).status_code == 200
    assert ran == ["OPTIONS"] * 3
    warnings = [record for record in caplog.records if "accept_preflight" in record.message]
    assert [record.levelno for record in warnings] == [logging.WARNING]


def test_quart_cors_answers_accepted_preflights():
    answer = Answer(gate(quart_without_options(), accept_preflight=True), "OPTIONS", PREFLIGHT)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"], ran) == (200, PAGE, [])


def quart_without_options():
    app = Quart("api")

    @app.get("/")
    async def view():
        ran.append("view")
        return "handled"

    return cors(app, allow_origin=PAGE)


@pytest.mark.parametrize(
    "make", [ANSWERED["inside Starlette"], ANSWERED["added to FastAPI"], ANSWERED["inside Litestar"]]
)
def test_cors_inside_the_gate_is_warned_about(make, caplog):
    make()
    assert caplog.text.count("Move it outside") == 1


@pytest.mark.parametrize(
    "name", ["listed before the gate", "Litestar's, the gate inside", "outside of Quart"]
)
def test_where_cors_belongs_browsers_can_read_a_refusal(name, caplog):
    answer = Answer(ANSWERED[name](), "GET", [("Origin", PAGE)])
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, PAGE)
    assert "Move it outside" not in caplog.text


def plain(environ, start_response):
    ran.append(environ["REQUEST_METHOD"])
    start_response("200 OK", [])
    return [b"handled"]


def wsgi(app, method, headers, path="/"):
    """The status of one request without a server."""
    statuses = []
    environ = EnvironBuilder(path=path, method=method).get_environ() | {"REQUEST_METHOD": method}
    names = {name: name.upper().replace("-", "_") for name, _ in headers}
    for name, value in headers:
        environ[names[name] if name == "Content-Length" else f"HTTP_{names[name]}"] = value
    b"".join(app(environ, lambda status, headers: statuses.append(status)))
    return statuses[0]


def test_wsgi_applications_get_no_preflight_unless_they_accept_them(caplog):
    closed = ticketgate_wsgi.AccessTokenMiddleware(plain, resource_server())
    assert (wsgi(closed, "OPTIONS", PREFLIGHT), ran) == ("401 Unauthorized", [])
    assert "accept_preflight" not in caplog.text
    accepting = ticketgate_wsgi.AccessTokenMiddleware(plain, resource_server(), accept_preflight=True)
    assert (wsgi(accepting, "OPTIONS", PREFLIGHT), ran) == ("200 OK", ["OPTIONS"])
    assert caplog.text.count("accept_preflight") == 1


class Methods(MethodView):
    def get(self):
        ran.append("get")
        return "handled"


class OwnOptions(Methods):
    def options(self):
        ran.append("options")
        return "handled"


def flask(**options):
    app = Flask("api", static_folder=None)

    @app.get("/automatic")
    def automatic():
        ran.append("automatic")
        return "handled"

    @app.route("/own", methods=METHODS)
    def own():
        ran.append("own")
        return "handled"

    @app.get("/decorated")
    @cross_origin(origins=[PAGE])
    def decorated():
        ran.append("decorated")
        return "handled"

    app.add_url_rule("/methods", view_func=Methods.as_view("methods"))
    app.add_url_rule("/own-methods", view_func=OwnOptions.as_view("own-methods"))
    CORS(app, origins=[PAGE])
    Ticketgate(app, server=resource_server(), **options)
    return app


FLASK = {  # path: answered by Flask itself, and what runs where preflights are accepted
    "/automatic": (True, []),
    "/methods": (True, []),
    "/own": (False, ["own"]),
    "/own-methods": (False, ["options"]),
    "/decorated": (False, []),
    "/nowhere": (False, []),
}


@pytest.mark.parametrize("path", FLASK)
def test_flask_answers_where_options_are_automatic(path):
    automatic, _ = FLASK[path]
    answer = flask().test_client().options(path, headers=PREFLIGHT)
    assert (answer.status_code, ran) == (200 if automatic else 401, [])
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    if automatic:
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("name", sorted(NOT_PREFLIGHTS.keys() - {"two origins"}))  # servers join them
def test_wsgi_and_flask_refuse_what_is_not_a_preflight(name):
    method, headers = NOT_PREFLIGHTS[name]
    accepting = ticketgate_wsgi.AccessTokenMiddleware(plain, resource_server(), accept_preflight=True)
    assert wsgi(accepting, method, headers) == "401 Unauthorized"
    for accepted in (False, True):
        assert wsgi(flask(accept_preflight=accepted), method, headers, "/automatic") == "401 UNAUTHORIZED"
    assert ran == []


@pytest.mark.parametrize("path", FLASK)
def test_views_get_accepted_preflights(path, caplog):
    app = flask(accept_preflight=True)
    answer = app.test_client().options(path, headers=PREFLIGHT)
    assert (answer.status_code, ran) == (404 if path == "/nowhere" else 200, FLASK[path][1])
    assert caplog.text.count("accept_preflight") == 1


@pytest.mark.parametrize("options", [{"public": ["/*"]}, {"optional": True}])
def test_hooks_answer_where_no_token_is_needed_anyway(options):
    app = flask(**options)
    app.before_request(lambda: ("by a hook", 202))
    assert app.test_client().options("/automatic", headers=PREFLIGHT).status_code == 202


def test_a_hook_that_changes_the_method_does_not_run():
    app = flask()

    @app.before_request
    def override():
        ran.append("hook")
        request.method = request.headers[OVERRIDE]

    answer = app.test_client().options("/automatic", headers=[*PREFLIGHT, (OVERRIDE, "GET")])
    assert (answer.status_code, ran) == (200, [])


def test_middleware_that_changes_the_method_comes_before_the_verdict():
    app = flask()
    inner = app.wsgi_app

    def override(environ, start_response):
        return inner(environ | {"REQUEST_METHOD": environ["HTTP_X_HTTP_METHOD_OVERRIDE"]}, start_response)

    app.wsgi_app = override
    answers = [
        app.test_client().open("/automatic", method=method, headers=[*PREFLIGHT, (OVERRIDE, wanted)])
        for method, wanted in (("OPTIONS", "GET"), ("GET", "OPTIONS"))
    ]
    assert ([answer.status_code for answer in answers], ran) == ([401, 200], [])


def hooks(app):
    """Every kind of hook that runs before a view, of the application and of a blueprint."""
    blueprint = Blueprint("orders", __name__)
    blueprint.before_request(lambda: ran.append("blueprint"))
    blueprint.before_app_request(lambda: ran.append("blueprint, app"))
    blueprint.url_value_preprocessor(lambda endpoint, values: ran.append("blueprint, url"))
    blueprint.add_url_rule("/orders", view_func=lambda: "handled")
    app.register_blueprint(blueprint)
    app.before_request(lambda: ran.append("app"))
    app.url_value_preprocessor(lambda endpoint, values: ran.append("app, url"))


@pytest.mark.parametrize("first", ["hooks", "gate"])
def test_no_hook_runs_without_a_token(first):
    app = Flask("api", static_folder=None)
    if first == "hooks":
        hooks(app)
    Ticketgate(app, server=resource_server())
    if first == "gate":
        hooks(app)
    client = app.test_client()
    for method, headers in (("GET", []), ("OPTIONS", PREFLIGHT), ("GET", [("Authorization", "Bearer x")])):
        assert client.open("/orders", method=method, headers=headers).status_code in (401, 200)
    assert ran == []
    assert client.get("/orders", headers=[BEARER]).status_code == 200
    assert sorted(ran) == ["app", "app, url", "blueprint", "blueprint, app", "blueprint, url"]
