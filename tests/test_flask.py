"""The Flask extension: views, blueprints and class views, under waitress and gunicorn."""

import asyncio
import os
import sys
from functools import partial, wraps
from pathlib import Path

import httpx
import pytest
from doors import server as keyed_server
from fault_issuer import FaultIssuer
from flask import Blueprint, Flask
from flask.views import MethodView
from servers import free_port, serve_wsgi, start
from table import KEYS
from tokens import API, resource_server, token

from ticketgate import ClientSecretBasic, Introspection, Issuer, ResourceServer, scope
from ticketgate.errors import ConfigurationError
from ticketgate.flask import AccessTokenMiddleware, Ticketgate, access_token, requires

READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}


class View(MethodView):
    @requires(scope("read"))
    def get(self):
        return {"sub": access_token.subject}


class Decorated(MethodView):
    decorators = [requires(scope("read"))]  # noqa: RUF012  as Flask has it

    def get(self):
        return {"sub": access_token.subject}


def views():
    app = Flask("api")
    blueprint = Blueprint("orders", __name__, url_prefix="/blueprint")

    @app.get("/health")
    def health():
        return {"anonymous": not access_token}

    @app.get("/orders")
    @requires(scope("read"))
    def orders():
        return {"sub": access_token.subject}

    @app.get("/any")
    @requires()
    def any_token():
        return {"sub": access_token.subject}

    @blueprint.get("/")
    @requires(scope("read"))
    def of_a_blueprint():
        return {"sub": access_token.subject}

    app.add_url_rule("/view", view_func=View.as_view("view"))
    app.add_url_rule("/decorated", view_func=Decorated.as_view("decorated"))
    app.register_blueprint(blueprint)
    return app


def by_extension():
    app = views()
    Ticketgate(app, server=resource_server(), public=["/health"])
    return app


def by_init_app():
    app = views()
    Ticketgate(public=["/health"]).init_app(app, resource_server())
    return app


def by_middleware():
    app = views()
    app.wsgi_app = AccessTokenMiddleware(app.wsgi_app, resource_server(), public=["/health"])
    return app


def for_gunicorn():
    app = views()
    Ticketgate(app, server=keyed_server(), public=["/health"])
    return app


def check(url):
    for path in ("/orders", "/view", "/decorated", "/blueprint/"):
        answers = [httpx.get(url + path, headers=headers) for headers in (READER, STRANGER, {})]
        assert [answer.status_code for answer in answers] == [200, 403, 401]
        assert answers[0].json() == {"sub": "alice"}
        assert 'scope="read"' in answers[1].headers["WWW-Authenticate"]
        assert answers[2].headers["WWW-Authenticate"] == f'Bearer realm="{API}"'
        assert answers[2].headers["Cache-Control"] == "no-store"
    assert httpx.get(f"{url}/any", headers=STRANGER).status_code == 200
    assert httpx.get(f"{url}/health").json() == {"anonymous": True}
    assert httpx.get(f"{url}/nowhere").status_code == 401
    assert httpx.head(f"{url}/orders", headers=STRANGER).content == b""
    twice = [("Authorization", READER["Authorization"])] * 2
    assert httpx.get(f"{url}/orders", headers=twice).status_code == 400


@pytest.mark.parametrize("make", [by_extension, by_init_app, by_middleware])
def test_under_waitress(make):
    with serve_wsgi(make()) as url:
        check(url)


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_under_gunicorn(worker):
    import json

    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", worker, "--threads", "4"]
    env = os.environ | {"TICKETGATE_TEST_KEYS": json.dumps(KEYS)}
    command += ["--no-control-socket", "test_flask:for_gunicorn()"]
    with start(command, port=port, cwd=Path(__file__).parent, env=env) as url:
        check(url)


def test_without_the_extension_nothing_opens(caplog):
    with serve_wsgi(views()) as url:
        assert httpx.get(f"{url}/orders", headers=READER).status_code == 503
    assert "AccessTokenMiddleware" in caplog.text


async def asynchronous():
    await asyncio.sleep(0)
    return {"sub": access_token.subject}


class Asynchronous(MethodView):
    @requires(scope("read"))
    async def get(self):
        return await asynchronous()


def decorated(view):
    """As decorators for async views do: they await what they are given."""

    @wraps(view)
    async def wrapper(*args, **kwargs):
        return await view(*args, **kwargs)

    return wrapper


def with_async_views():
    app = Flask("api")
    confirming = requires(scope("read"), fresh_within=60)

    async def confirmed():
        return await asynchronous()

    async def below_a_decorator():
        return await asynchronous()

    async def for_a_partial(number):
        return {"number": number} | await asynchronous()

    class Whole(MethodView):
        decorators = [requires(scope("read"))]  # noqa: RUF012  as Flask has it

        async def get(self):
            return await asynchronous()

    app.add_url_rule("/function", view_func=requires(scope("read"))(asynchronous))
    app.add_url_rule("/confirmed", view_func=confirming(confirmed))
    app.add_url_rule("/decorated", view_func=decorated(requires(scope("read"))(below_a_decorator)))
    app.add_url_rule("/partial", "partial", requires(scope("read"))(partial(for_a_partial, 1)))
    app.add_url_rule("/method", view_func=Asynchronous.as_view("method"))
    app.add_url_rule("/whole", view_func=Whole.as_view("whole"))
    return app


@pytest.mark.parametrize("path", ["/function", "/decorated", "/partial", "/method", "/whole"])
def test_async_views(path):
    app = with_async_views()
    Ticketgate(app, server=resource_server())
    with serve_wsgi(app) as url:
        answers = [httpx.get(url + path, headers=headers) for headers in (READER, STRANGER, {})]
    assert [answer.status_code for answer in answers] == [200, 403, 401]
    assert answers[0].json()["sub"] == "alice"
    assert 'scope="read"' in answers[1].headers["WWW-Authenticate"]


def test_an_async_view_whose_token_is_confirmed():
    app = with_async_views()
    Ticketgate(app, server=resource_server())
    assert app.test_client().get("/confirmed", headers=STRANGER).status_code == 403
    with FaultIssuer() as issuer:
        introspection = Introspection(auth=ClientSecretBasic("api", "secret"), negative_ttl=0)
        app = with_async_views()
        Ticketgate(app, server=ResourceServer(API, Issuer(issuer.url, introspection=introspection)))
        raw = issuer.token(scope="read")
        issuer.active[raw] = {"active": True, "sub": "alice", "aud": API, "scope": "read"}
        bearer = {"Authorization": f"Bearer {raw}"}
        assert app.test_client().get("/confirmed", headers=bearer).status_code == 200
        other = issuer.token(scope="read", jti="other")
        bearer = {"Authorization": f"Bearer {other}"}
        assert app.test_client().get("/confirmed", headers=bearer).status_code == 401


def test_an_extension_without_a_server_is_refused():
    with pytest.raises(ConfigurationError, match="server"):
        Ticketgate(Flask("api"))
