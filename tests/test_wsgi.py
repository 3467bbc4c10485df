"""What is particular to WSGI: paths as PEP 3333 tells them, bodies, and whose errors are whose."""

import httpx
import pytest
from servers import serve_wsgi
from table import DOWN, DOWN_JWKS
from test_asgi import problem
from tokens import API, ISSUER, jwks, resource_server, token

from ticketgate import Issuer, ResourceServer, scope
from ticketgate.drivers.blocking import Driver
from ticketgate.wsgi import AccessTokenMiddleware, readiness, requires

BEARER = {"Authorization": f"Bearer {token(scope='read').decode()}"}


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    caller = environ["ticketgate.access_token"]
    return [(caller.subject if caller else "nobody").encode()]


class View:
    @requires(scope("write"))
    def __call__(self, environ, start_response):
        return app(environ, start_response)


def guarded(inner=app, **options):
    return AccessTokenMiddleware(inner, resource_server(), **{"public": ["/health", "/é/*"]} | options)


def call(application, **environ):
    """Status, headers and body of one request, in this process."""
    started = []
    base = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": ""}
    body = application(
        base | environ, lambda status, headers, exc_info=None: started.append((status, dict(headers)))
    )
    content = b"".join(body)  # a generator starts its response only now
    return *started[0], content


def test_a_good_token_opens_and_the_application_sees_it():
    with serve_wsgi(guarded()) as url:
        assert httpx.get(url, headers=BEARER).text == "alice"
        assert httpx.get(f"{url}/health", headers={"Authorization": "Bearer x"}).text == "nobody"
        assert httpx.get(f"{url}/é/x").text == "nobody"
        assert httpx.get(f"{url}/é").status_code == 401


def test_public_paths_are_below_the_script_name():
    assert call(guarded(), SCRIPT_NAME="/api", PATH_INFO="/health")[0] == "200 OK"
    assert call(guarded(), SCRIPT_NAME="/health", PATH_INFO="/x")[0] == "401 Unauthorized"


def test_a_callable_object_can_be_guarded():
    status, headers, _ = call(guarded(View()), HTTP_AUTHORIZATION=BEARER["Authorization"])
    assert status == "403 Forbidden"
    assert 'scope="write"' in headers["Www-Authenticate"]


def test_without_the_middleware_nothing_opens(caplog):
    status, headers, _ = call(View())
    assert (status, headers["Retry-After"]) == ("503 Service Unavailable", "1")
    assert "AccessTokenMiddleware" in caplog.text


def test_head_gets_no_body():
    status, headers, body = call(guarded(), REQUEST_METHOD="HEAD")
    assert (status, headers["Content-Length"], body) == ("401 Unauthorized", "2", b"")


def test_an_error_of_the_application_is_its_own():
    def failing(environ, start_response):
        raise KeyError("of the application")

    with pytest.raises(KeyError, match="of the application"):
        call(guarded(failing, public=["/*"]))


def test_the_body_of_an_error_can_be_replaced():
    *_, body = call(guarded(error_body=problem), HTTP_AUTHORIZATION="Bearer x")
    assert body == b'{"title": "invalid_token", "status": 401, "reason": "malformed"}'


def test_optional_lets_anonymous_requests_pass():
    assert call(guarded(optional=True))[2] == b"nobody"


def test_a_driver_can_be_brought_along():
    class Counting(Driver):
        runs = 0

        def run(self, flow):
            Counting.runs += 1
            return super().run(flow)

    call(guarded(driver=Counting()))
    assert Counting.runs == 1


def test_readiness_is_what_the_issuers_say():
    down = ResourceServer(API, Issuer(DOWN, jwks_uri=DOWN_JWKS))
    both = ResourceServer(API, Issuer(DOWN, jwks_uri=DOWN_JWKS), Issuer(ISSUER, jwks=jwks()))
    with serve_wsgi(readiness(down)) as url:
        response = httpx.get(url)
        assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    with serve_wsgi(readiness(both)) as url:
        response = httpx.get(url)
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "issuers": [{"issuer": DOWN, "state": "unavailable"}, {"issuer": ISSUER, "state": "fresh"}],
    }
