"""A Django project behind the gate, as its users run it: gunicorn for WSGI, uvicorn for ASGI."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from servers import PATIENCE, free_port, start
from table import DOWN, KEYS
from tokens import API, ISSUER, NOW, token

HERE = Path(__file__).parents[1]
READER = {"Authorization": f"Bearer {token(scope='read').decode()}"}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}


ALONE = {"SITE_MIDDLEWARE": "[]"}


def environment(*more, **settings):
    ours = {"TICKETGATE_TEST_KEYS": json.dumps(KEYS), "SITE_SETTINGS": json.dumps(settings)}
    return {**os.environ, **ours, **(more[0] if more else {})}


@contextmanager
def serving(kind, *more, **settings):
    """The project's address, once the worker has loaded it: gunicorn listens before that."""
    port = free_port()
    command = {
        "wsgi": [
            "-m",
            "gunicorn",
            "-b",
            f"127.0.0.1:{port}",
            "-k",
            "gthread",
            "--no-control-socket",
            "django_site:wsgi",
        ],
        "asgi": [
            "-m",
            "uvicorn",
            "--port",
            str(port),
            "--log-level",
            "warning",
            "--lifespan",
            "off",
            "django_site:asgi",
        ],
    }[kind]
    with start([sys.executable, *command], port=port, cwd=HERE, env=environment(*more, **settings)) as url:
        httpx.get(f"{url}/health", timeout=PATIENCE)
        yield url


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def url(request):
    with serving(request.param) as url:
        yield url


@pytest.mark.parametrize("path", ["/orders", "/async", "/method", "/dispatch"])
def test_views_are_guarded(url, path):
    answers = [httpx.get(url + path, headers=headers) for headers in (READER, STRANGER, {})]
    assert [answer.status_code for answer in answers] == [200, 403, 401]
    assert answers[0].json() == {"sub": "alice", "user": "user alice"}
    assert 'scope="read"' in answers[1].headers["WWW-Authenticate"]
    assert answers[2].headers["WWW-Authenticate"] == f'Bearer realm="{API}"'
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers[1:])


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ([("Authorization", "Bearer")], 400, "invalid_request"),
        ([("Authorization", READER["Authorization"])] * 2, 400, "invalid_request"),
        ([("Authorization", f"Bearer {token(exp=NOW - 60).decode()}")], 401, "invalid_token"),
        ([("Authorization", f"Bearer {token(iss=DOWN).decode()}")], 503, None),
    ],
)
def test_refusals(url, headers, status, error):
    answer = httpx.get(f"{url}/me", headers=headers)
    assert (answer.status_code, answer.json().get("error")) == (status, error)
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_public_paths_are_open_and_preflights_are_not(url):
    for path in ("/health", "/é/x"):
        assert httpx.get(url + path, headers={"Authorization": "Bearer x"}).json()["sub"] is None
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    assert httpx.options(f"{url}/me", headers=preflight).status_code == 401
    assert httpx.options(f"{url}/me").status_code == 401
    assert httpx.head(f"{url}/me").content == b""


@pytest.mark.parametrize("path", ["/fresh", "/fresh-async"])
def test_confirming_needs_somebody_to_ask(url, path):
    assert httpx.get(url + path, headers=READER).status_code == 503


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_optional(kind):
    with serving(kind, OPTIONAL=True) as url:
        assert httpx.get(f"{url}/me").json() == {"sub": None, "user": "None"}
        assert httpx.get(f"{url}/me", headers={"Authorization": "Bearer x"}).status_code == 401
        assert httpx.get(f"{url}/orders").status_code == 401


GOOD = '{"SERVER": "django_site.server"}'
THERE = ["ticketgate.django.AccessTokenMiddleware"]
MISTAKES = [
    (GOOD, THERE, "[]"),
    (GOOD, [], "ticketgate.W001"),
    ("None", THERE, "settings need TICKETGATE"),
    ("{}", THERE, "is a ResourceServer"),
    ('{"SERVER": "nowhere.server"}', THERE, "cannot be imported"),
    ('{"SERVER": "django_site.server", "PUBLIC": "/health"}', THERE, "public must be a list"),
    ('{"SERVER": "django_site.server", "PUBIC": []}', THERE, "unknown members PUBIC"),
]
CHECK = """
import django_site
from django.conf import settings
from django.core.checks import run_checks
for settings.TICKETGATE, settings.MIDDLEWARE in {cases}:
    print([(one.id, one.msg) for one in run_checks(tags=["security"]) if "ticketgate" in one.id])
"""


def script(source, *more, **settings):
    """What a process of the project prints that runs ``source``."""
    command, env = [sys.executable, "-c", source], environment(*more, **settings)
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_system_check_explains_mistakes():
    cases = ", ".join(f"({settings}, {middleware!r})" for settings, middleware, _ in MISTAKES)
    lines = script(CHECK.format(cases=f"[{cases}]"))
    assert len(lines) == len(MISTAKES)
    for line, (*_, expected) in zip(lines, MISTAKES, strict=True):
        assert expected in line


@pytest.fixture(scope="module", params=["behind the middleware", "alone"])
def framework(request):
    if request.param == "alone":
        with serving("wsgi", ALONE, USER=None) as url:
            yield url
    else:
        with serving("asgi") as url:
            yield url


def test_rest_framework_knows_the_caller(framework):
    answer = httpx.get(f"{framework}/drf", headers=READER)
    assert answer.status_code == 200
    mapped = {"sub": "alice", "user": "user alice", "pk": None}
    own = {
        "sub": "alice",
        "user": "alice",
        "pk": sha256(f'["{ISSUER}", "sub", "alice"]'.encode()).hexdigest(),
    }
    assert answer.json() in (mapped, own)
    assert httpx.get(f"{framework}/drf/decorated", headers=READER).json() == {"sub": "alice"}


@pytest.mark.parametrize(
    ("path", "headers", "status", "error"),
    [
        ("/drf", {}, 401, None),
        ("/drf/decorated", {}, 401, None),
        ("/drf/anybody", {}, 401, None),
        ("/drf", {"Authorization": "Bearer"}, 400, "invalid_request"),
        ("/drf", {"Authorization": "Bearer x"}, 401, "invalid_token"),
        ("/drf/anybody", {"Authorization": "Bearer x"}, 401, "invalid_token"),
        ("/drf", STRANGER, 403, "insufficient_scope"),
        ("/drf/decorated", STRANGER, 403, "insufficient_scope"),
    ],
)
def test_rest_framework_refuses_with_our_challenge(framework, path, headers, status, error):
    answer = httpx.get(framework + path, headers=headers)
    assert answer.status_code == status
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith(f'Bearer realm="{API}"')
    assert ("error=" in challenge) == (error is not None)
    assert answer.headers["Cache-Control"] == "no-store"
    assert error is None or answer.json()["error"] == error


def test_rest_framework_cannot_decide(framework):
    down = {"Authorization": f"Bearer {token(iss=DOWN).decode()}"}
    answers = httpx.get(f"{framework}/drf", headers=down), httpx.get(f"{framework}/drf/fresh", headers=READER)
    for answer in answers:
        assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (503, False)
        assert (int(answer.headers["Retry-After"]) > 0, answer.headers["Cache-Control"]) == (True, "no-store")


def test_a_caller_by_token_has_none_of_djangos_permissions():
    with serving("wsgi", ALONE, USER=None) as url:
        assert httpx.get(f"{url}/drf/anybody", headers=READER).json() == {"perms": False}


OVERRIDDEN = """
import django_site
from django.test.utils import override_settings
from ticketgate.django.settings import current_settings
print(current_settings().optional)
with override_settings(TICKETGATE={'SERVER': django_site.server, 'OPTIONAL': True}, DEBUG=True):
    print(current_settings().optional)
"""
WITHOUT = """
import django_site
from django.test import RequestFactory
print(django_site.orders(RequestFactory().get('/orders')).status_code)
"""


def test_overridden_settings_are_read_anew():
    assert script(OVERRIDDEN) == ["False", "True"]


def test_without_the_middleware_nothing_opens():
    assert script(WITHOUT) == ["503"]


OUTER = "https://outer.example"
BEHIND = """
import django_site, httpx
from ticketgate import ResourceServer
from ticketgate.wsgi import AccessTokenMiddleware
from tokens import Time
outer = ResourceServer({outer!r}, *django_site.server.issuers.values(), clock=Time().clock)
transport = httpx.WSGITransport(AccessTokenMiddleware(django_site.wsgi, outer))
with httpx.Client(transport=transport, base_url="http://localhost") as client:
    for token in {tokens}:
        answer = client.get("/drf", headers={{"Authorization": "Bearer " + token}})
        print(answer.status_code, answer.headers.get("WWW-Authenticate", "").partition(",")[0])
"""


def test_rest_framework_behind_the_gate_of_another_server_judges_by_itself():
    tokens = [token(aud=audience, scope="read").decode() for audience in (OUTER, API, [OUTER, API])]
    assert script(BEHIND.format(outer=OUTER, tokens=tokens), ALONE, USER=None) == [
        f'401 Bearer realm="{API}"',
        f'401 Bearer realm="{OUTER}"',
        "200 ",
    ]
