"""Our errors, raised by a handler: the answer and the log line are those of the gate, in every framework."""

import logging

import pytest
from flask import Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from test_asgi import problem
from test_wsgi import call
from tokens import API, resource_server, token

from ticketgate import flask, starlette, wsgi
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.errors import (
    AccessDenied,
    InsufficientScope,
    InvalidToken,
    IssuerUnavailable,
    OAuthError,
)
from ticketgate.events import Refused

BEARER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
ERRORS = {
    "denied": lambda: AccessDenied(expected="the order's owner"),
    "scope": lambda: InsufficientScope(("orders:write", "orders:read")),
    "token": lambda: InvalidToken("inactive"),
    "issuer": lambda: IssuerUnavailable("the issuer is out", retry_after=7),
}
CHALLENGE = f'Bearer realm="{API}", error="insufficient_scope", error_description='
EXPECTED = {
    "denied": (
        403,
        "insufficient_scope",
        f'{CHALLENGE}"The access token does not grant this operation"',
        None,
    ),
    "scope": (
        403,
        "insufficient_scope",
        f'{CHALLENGE}"The access token lacks a scope that this operation needs", scope="orders:write orders:read"',
        None,
    ),
    "token": (
        401,
        "invalid_token",
        f'Bearer realm="{API}", error="invalid_token", error_description="The access token is invalid"',
        None,
    ),
    "issuer": (503, None, None, "7"),
}
GUARDED = ["/async", "/sync", "/method", "/twice"]
PLAIN = ["/plain-async", "/plain-sync", "/plain-method"]


def fail(name):
    raise ERRORS[name]()


def asgi_routes():
    async def plain_async(request):
        fail(request.query_params["error"])

    def plain_sync(request):
        fail(request.query_params["error"])

    async def guarded_async(request):
        fail(request.query_params["error"])

    def guarded_sync(request):
        fail(request.query_params["error"])

    async def twice(request):
        fail(request.query_params["error"])

    class Guarded(HTTPEndpoint):
        @starlette.requires()
        async def get(self, request):
            fail(request.query_params["error"])

    class Plain(HTTPEndpoint):
        def get(self, request):
            fail(request.query_params["error"])

    return [
        Route("/async", starlette.requires()(guarded_async)),
        Route("/sync", starlette.requires()(guarded_sync)),
        Route("/method", Guarded),
        Route("/twice", starlette.requires()(starlette.requires()(twice))),
        Route("/plain-async", plain_async),
        Route("/plain-sync", plain_sync),
        Route("/plain-method", Plain),
    ]


def of_starlette(**options):
    return TestClient(AccessTokenMiddleware(Starlette(routes=asgi_routes()), resource_server(), **options))


def of_starlette_with_handlers(**options):
    app = Starlette(routes=asgi_routes(), exception_handlers=starlette.exception_handlers)
    return TestClient(AccessTokenMiddleware(app, resource_server(), **options))


def below_a_mount_with_handlers(**options):
    inner = Starlette(routes=asgi_routes(), exception_handlers=starlette.exception_handlers)
    app = AccessTokenMiddleware(inner, resource_server(), **options)
    return TestClient(Starlette(routes=[Mount("/api", app)]), "http://testserver/api")


def flask_app():
    app = Flask("api")

    def view(name, guard, is_async=False):
        def sync():
            fail(flask.request.args["error"])

        async def asynchronous():
            fail(flask.request.args["error"])

        return app.add_url_rule(f"/{name}", name, guard(asynchronous if is_async else sync))

    class Guarded(MethodView):
        @flask.requires()
        async def get(self):
            fail(flask.request.args["error"])

    class Plain(MethodView):
        def get(self):
            fail(flask.request.args["error"])

    view("async", flask.requires(), is_async=True)
    view("sync", flask.requires())
    view("twice", lambda function: flask.requires()(flask.requires()(function)))
    view("plain-async", lambda function: function, is_async=True)
    view("plain-sync", lambda function: function)
    app.add_url_rule("/method", view_func=Guarded.as_view("method"))
    app.add_url_rule("/plain-method", view_func=Plain.as_view("plain-method"))
    return app


def of_flask_extension(**options):
    app = flask_app()
    flask.Ticketgate(app, server=resource_server(), **options)
    return app.test_client()


def of_flask_middleware(**options):
    app = flask_app()
    app.wsgi_app = flask.AccessTokenMiddleware(app.wsgi_app, resource_server(), **options)
    return app.test_client()


def of_flask_behind_a_plain_gate(**options):
    app = flask_app()
    app.wsgi_app = wsgi.AccessTokenMiddleware(app.wsgi_app, resource_server(), **options)
    return app.test_client()


HOSTS = [
    *((make, path) for make in (of_starlette, of_flask_behind_a_plain_gate) for path in GUARDED),
    *(
        (make, path)
        for make in (
            of_starlette_with_handlers,
            below_a_mount_with_handlers,
            of_flask_extension,
            of_flask_middleware,
        )
        for path in (*GUARDED, *PLAIN)
    ),
]


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(("make", "path"), HOSTS)
def test_the_answer_is_that_of_the_gate_and_is_logged_once(make, path, name, caplog):
    caplog.set_level(logging.INFO, "ticketgate")
    answer = make().get(f"{path}?error={name}", headers=BEARER)
    status, error, challenge, retry_after = EXPECTED[name]
    body = answer.get_json() if hasattr(answer, "get_json") else answer.json()
    assert (answer.status_code, body.get("error")) == (status, error)
    assert answer.headers.get("WWW-Authenticate") == challenge
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.headers["Cache-Control"] == "no-store"
    assert len([record for record in caplog.records if record.name == "ticketgate"]) == 1


@pytest.mark.parametrize("make", [of_starlette_with_handlers, of_flask_extension])
@pytest.mark.parametrize("path", ["/async", "/plain-async"])
def test_the_body_may_be_the_applications(make, path):
    answer = make(error_body=problem).get(f"{path}?error=denied", headers=BEARER)
    body = answer.get_json() if hasattr(answer, "get_json") else answer.json()
    assert body == {"title": "insufficient_scope", "status": 403, "reason": "denied"}


def test_a_listener_is_told_once():
    events = []
    app = Starlette(routes=asgi_routes(), exception_handlers=starlette.exception_handlers)
    client = TestClient(AccessTokenMiddleware(app, resource_server(on_event=events.append)))
    client.get("/async?error=denied", headers=BEARER)
    assert events == [Refused(403, "denied")]


@pytest.mark.parametrize("kind", [AccessDenied, OAuthError])
@pytest.mark.parametrize("path", [*GUARDED, *PLAIN])
def test_a_handler_of_the_application_comes_first(kind, path):
    def starlette_handler(request, error):
        return PlainTextResponse(error.reason, 418)

    app = Starlette(routes=asgi_routes(), exception_handlers={kind: starlette_handler})
    answer = TestClient(AccessTokenMiddleware(app, resource_server())).get(
        f"{path}?error=denied", headers=BEARER
    )
    assert (answer.status_code, answer.text) == (418, "denied")

    app = flask_app()
    app.register_error_handler(kind, lambda error: (error.reason, 418))
    flask.Ticketgate(app, server=resource_server())
    answer = app.test_client().get(f"{path}?error=denied", headers=BEARER)
    assert (answer.status_code, answer.text) == (418, "denied")


def test_a_handler_for_every_error_of_flask_is_not_for_ours():
    app = flask_app()
    app.register_error_handler(Exception, lambda error: ("any", 500))
    app.wsgi_app = wsgi.AccessTokenMiddleware(app.wsgi_app, resource_server())
    assert app.test_client().get("/async?error=denied", headers=BEARER).status_code == 403
    assert app.test_client().get("/plain-async?error=denied", headers=BEARER).text == "any"


@pytest.mark.parametrize("handlers", [{}, starlette.exception_handlers])
@pytest.mark.parametrize(("when", "code"), [("before", 403), ("after", 1008), ("closed", 4000)])
def test_websockets_are_refused_or_closed(handlers, when, code):
    async def socket(websocket):
        if when != "before":
            await websocket.accept()
        if when == "closed":
            await websocket.close(4000)
        raise AccessDenied()

    app = Starlette(
        routes=[WebSocketRoute("/", socket if handlers else starlette.requires()(socket))],
        exception_handlers=handlers,
    )
    client = TestClient(AccessTokenMiddleware(app, resource_server()), headers=BEARER)
    with (
        pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)) as ended,
        client.websocket_connect("/") as ws,
    ):
        ws.receive_text()
    assert getattr(ended.value, "status_code", None) or ended.value.code == code


def test_without_a_gate_nobody_knows_the_answer(caplog):
    app = Starlette(routes=asgi_routes(), exception_handlers=starlette.exception_handlers)
    assert TestClient(app).get("/plain-async?error=denied").status_code == 503
    assert "AccessTokenMiddleware" in caplog.text


def failing(environ, start_response):
    fail(environ["QUERY_STRING"])


def started(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    fail(environ["QUERY_STRING"])


def generating(environ, start_response):
    fail(environ["QUERY_STRING"])
    yield b"never"


def guarded(function):
    def app(environ, start_response):
        return function(environ, start_response)

    return wsgi.requires()(app)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("app", [failing, generating])
@pytest.mark.parametrize("guard", [guarded, lambda app: app])
def test_wsgi(name, app, guard, caplog):
    caplog.set_level(logging.INFO, "ticketgate")
    gate = wsgi.AccessTokenMiddleware(guard(app), resource_server())
    status, headers, _ = call(gate, QUERY_STRING=name, HTTP_AUTHORIZATION=BEARER["Authorization"])
    code, _, challenge, retry_after = EXPECTED[name]
    assert (int(status[:3]), headers.get("Www-Authenticate")) == (code, challenge)
    assert headers.get("Retry-After") == retry_after
    assert len(caplog.records) == 1


@pytest.mark.parametrize("guard", [guarded, lambda app: app])
def test_a_wsgi_response_that_was_started_is_replaced_as_the_server_decides(guard):
    starts = []
    gate = wsgi.AccessTokenMiddleware(guard(started), resource_server())
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "denied"}
    environ["HTTP_AUTHORIZATION"] = BEARER["Authorization"]
    _ = list(gate(environ, lambda *arguments: starts.append(arguments)))
    assert [start[0] for start in starts] == ["200 OK", "403 Forbidden"]
    assert starts[1][2][0] is AccessDenied


def test_a_wsgi_generator_is_closed():
    closed = []

    def streaming(environ, start_response):
        start_response("200 OK", [])
        try:
            yield b"first"
            yield b"second"
        finally:
            closed.append(True)

    gate = wsgi.AccessTokenMiddleware(guarded(streaming), resource_server())
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_AUTHORIZATION": BEARER["Authorization"]}
    body = gate(environ, lambda *_: None)
    assert next(body) == b"first"
    body.close()
    assert closed == [True]
