"""A request that was admitted without a token is admitted for its path and method only, whatever middleware makes of it."""

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from tokens import resource_server, token

from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.audit import audit
from ticketgate.fastapi import install
from ticketgate.flask import AccessTokenMiddleware as FlaskMiddleware
from ticketgate.flask import Ticketgate
from ticketgate.wsgi import AccessTokenMiddleware as WSGIMiddleware

SERVER = resource_server()
VALID = {"Authorization": f"Bearer {token().decode()}"}
PUBLIC = ["/docs/*"]
MOVES = [
    ("/docs/old/me", {"path": "/me"}, 401),
    ("/docs/old/me", {"path": "/docs/other"}, 200),
    ("/docs/me", {"root_path": "/docs"}, 401),
    ("/docs/x", {}, 200),
    ("/me", {}, 401),
]


class Rewriting:
    def __init__(self, app, changes):
        self.app, self.changes = app, changes

    async def __call__(self, scope, receive, send):
        await self.app({**scope, **self.changes}, receive, send)


def fastapi(changes):
    app = FastAPI(openapi_url=None)

    @app.get("/me")
    async def me():
        return "me"

    @app.get("/docs/{name:path}")
    async def docs(name):
        return "docs"

    app.add_middleware(Rewriting, changes=changes)
    return app


def test_valid_tokens_are_not_looked_at_on_public_paths():
    app = fastapi({"path": "/me"})
    install(app, SERVER)
    client = TestClient(AccessTokenMiddleware(app, SERVER, public=PUBLIC))
    assert client.get("/docs/old/me", headers=VALID).status_code == 401


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize(("path", "changes", "status"), MOVES)
def test_fastapi(path, changes, status, outside):
    app = fastapi(changes)
    if not outside:
        app.add_middleware(AccessTokenMiddleware, server=SERVER, public=PUBLIC)
    install(app, SERVER)
    client = TestClient(AccessTokenMiddleware(app, SERVER, public=PUBLIC) if outside else app)
    assert client.get(path).status_code == status


def test_a_mounted_application_is_where_it_was():
    inner = fastapi({})
    install(inner, SERVER)
    app = Starlette(routes=[Mount("/docs", inner)])
    client = TestClient(AccessTokenMiddleware(app, SERVER, public=PUBLIC))
    assert client.get("/docs/me").json() == "me"


def test_an_application_with_a_root_path_is_where_it_was():
    app = fastapi({})
    app.root_path = "/docs"
    install(app, SERVER)
    client = TestClient(AccessTokenMiddleware(app, SERVER, public=["/me"]))
    assert client.get("/docs/me").json() == "me"


def test_a_gate_further_out_is_asked_again():
    app = fastapi({"path": "/me"})
    install(app, SERVER)
    inner = AccessTokenMiddleware(app, SERVER, optional=True)
    client = TestClient(AccessTokenMiddleware(inner, SERVER, public=PUBLIC))
    assert client.get("/docs/old/me").status_code == 401


def test_anonymous_requests_may_be_moved():
    app = fastapi({"path": "/me"})
    install(app, SERVER)
    client = TestClient(AccessTokenMiddleware(app, SERVER, public=PUBLIC, optional=True))
    assert client.get("/docs/old/me").json() == "me"


class RewritingWSGI:
    def __init__(self, app, **changes):
        self.app, self.changes = app, changes

    def __call__(self, environ, start_response):
        return self.app({**environ, **self.changes}, start_response)


def flask_app():
    app = Flask("api", static_folder=None)
    app.add_url_rule("/me", "me", lambda: "me")
    app.add_url_rule("/docs/<path:name>", "docs", lambda name: "docs")
    return app


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize(
    ("path", "changes", "status"),
    [
        ("/docs/old/me", {"PATH_INFO": "/me"}, 401),
        ("/docs/old/me", {"PATH_INFO": "/docs/other"}, 200),
        ("/docs/x", {"SCRIPT_NAME": "/api"}, 200),
        ("/me", {}, 401),
    ],
)
def test_flask(path, changes, status, extension):
    app = flask_app()
    gate = FlaskMiddleware
    if extension:
        Ticketgate(app, server=SERVER, public=PUBLIC, optional=True)
        gate = WSGIMiddleware
    app.wsgi_app = gate(RewritingWSGI(app.wsgi_app, **changes), SERVER, public=PUBLIC)
    assert app.test_client().get(path).status_code == status


def test_a_flask_request_of_another_method_is_judged_again():
    app = flask_app()
    app.wsgi_app = FlaskMiddleware(
        RewritingWSGI(app.wsgi_app, REQUEST_METHOD="GET"), SERVER, accept_preflight=True
    )
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    assert app.test_client().options("/me", headers=preflight).status_code == 401


def test_an_audit_notes_what_may_rewrite_public_paths():
    """Starlette has no place where a request could be judged again."""
    app = Starlette()
    (note,) = audit(AccessTokenMiddleware(Rewriting(app, {}), SERVER, public=["/health"])).notes
    assert "Rewriting" in note
    assert "rewrite" in note
    assert audit(AccessTokenMiddleware(Rewriting(app, {}), SERVER)).notes == ()
