"""Views of every kind behind ``requires``, what they may raise, and what middleware and caches make of requests."""

import json

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.core.cache import cache
from django.core.checks import run_checks
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.wsgi import WSGIHandler
from django.test import AsyncRequestFactory
from django_project import ALONE, AUTH, AUTHENTICATION, BASIC, CORS, GATE, SESSION, bearer, serving, told
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings

from ticketgate import scope
from ticketgate.audit import audit
from ticketgate.django import requires
from ticketgate.errors import ConfigurationError
from ticketgate.rest_framework import requires as permission

KINDS = ["wsgi", "asgi"]
LACKS_READ = (
    'error="insufficient_scope", error_description="The access token lacks a scope that this operation needs", '
    'scope="read"'
)
CACHES = [
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]
AUTHENTICATED = (
    "drf-permission",
    "drf-decorated",
    "drf-check",
)  # by REST framework, before the guard is asked
NOT_VIEWS = (*AUTHENTICATED, "drf-initial", "setup", "test")
HAVE_ANSWERS = {
    True: (*AUTHENTICATED, "setup"),
    False: AUTHENTICATED,
}  # REST framework answers for "drf-initial"
PASS = {True: NOT_VIEWS[:-1], False: AUTHENTICATED}  # "test" has no request to look at
PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path",
    [
        "/by-dispatch",
        "/by-method",
        "/by-own-dispatch",
        "/by-as-view",
        "/by-unaware",
        "/by-callable",
        "/above",
        "/below",
    ],
)
def test_views_are_guarded_however_they_are_decorated(kind, path):
    with serving(kind) as ask:
        answers = [ask(path, headers) for headers in (bearer(scope="read"), bearer(), {})]
        assert [answer.status_code for answer in answers] == [200, 403, 401]
        assert b"shown" in answers[0].content
        assert told(answers[1])[1] == LACKS_READ


@pytest.mark.parametrize("kind", KINDS)
def test_other_methods_of_async_class_views_are_answered_too(kind):
    with serving(kind) as ask:
        for method, status in (("POST", 405), ("OPTIONS", 200)):
            assert ask("/by-dispatch", bearer(scope="read"), method=method).status_code == status
            assert ask("/by-dispatch", bearer(), method=method).status_code == 403


@pytest.mark.parametrize("kind", KINDS)
def test_async_class_views_can_have_tokens_confirmed(kind):
    with serving(kind) as ask:
        assert told(ask("/fresh", bearer()))[0] == 503  # this issuer has no introspection


def test_classes_are_not_guarded_as_functions_are():
    with pytest.raises(ConfigurationError, match="method_decorator"):
        requires()(type("Admin", (), {}))
    with pytest.raises(ConfigurationError, match="permission_classes"):
        permission(scope("read"))(print)


def test_what_is_called_without_a_request_is_refused():
    with pytest.raises(PermissionDenied, match="refused"):
        requires()(lambda: "open")()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("middleware", [[GATE], []], ids=["behind the gate", "alone"])
@pytest.mark.parametrize("name", NOT_VIEWS)
def test_what_is_not_a_view_refuses_by_raising(kind, middleware, name):
    path = f"/guarded/{name}"
    with serving(kind, MIDDLEWARE=[*middleware, SESSION, AUTH]) as ask:
        refused, anonymous, good = (ask(path, headers) for headers in (bearer(), {}, bearer(scope="read")))
    assert b"ran" not in refused.content + anonymous.content
    if name in HAVE_ANSWERS[bool(middleware)]:
        assert told(refused)[:2] == (403, LACKS_READ)
    assert (good.status_code == 200) is (name in PASS[bool(middleware)])


def test_an_async_function_may_be_called_like_a_method_of_views():
    async def options(request):
        return request

    assert iscoroutinefunction(requires(scope("read"))(options))


@pytest.mark.parametrize("path", ["/exempt-above", "/exempt-below"])
def test_the_csrf_exemption_works_on_either_side(path):
    middleware = [GATE, "django.middleware.csrf.CsrfViewMiddleware"]
    with serving("wsgi", MIDDLEWARE=middleware) as ask:
        assert ask(path, bearer(scope="read"), method="POST").status_code == 200
        assert ask(path, bearer(), method="POST").status_code == 403


RAISED = {
    "denied": (
        403,
        'error="insufficient_scope", error_description="The access token does not grant this operation"',
    ),
    "scope": (403, LACKS_READ.replace("read", "x")),
    "invalid": (401, 'error="invalid_token", error_description="The access token is invalid"'),
    "anonymous": (401, ""),
    "request": (
        400,
        'error="invalid_request", error_description="The Authorization header must be one set of well-formed '
        'credentials"',
    ),
    "issuer": (503, ""),
    "fault": (503, ""),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize(
    "path", ["/raises", "/raises-async", "/raises-class", "/raises-drf", "/raises-drf-open", "alone"]
)
def test_views_may_raise_our_errors(kind, path, error):
    more = ALONE if path == "alone" else {}
    with serving(kind, **more) as ask:
        answer = ask(f"{'/raises-drf' if more else path}?error={error}", bearer())
    status, challenge, body = told(answer)
    assert (status, challenge) == RAISED[error]
    assert body.get("error") == (challenge.split('"')[1] if challenge else None)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.get("Retry-After") == {"issuer": "7", "fault": "1"}.get(error)
    assert ("WWW-Authenticate" in answer.headers) == (status != 503)


@pytest.mark.parametrize("path", ["/raises", "/raises-drf"])
def test_other_exceptions_are_djangos_as_before(path):
    with serving("wsgi") as ask:
        answer = ask(f"{path}?error=other", bearer())
    assert (answer.status_code, b"only the log" in answer.content) == (500, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("order", "path", "status"),
    [
        ([CORS, GATE], "/cors/orders", 200),
        ([CORS, GATE], "/elsewhere/orders", 401),
        ([GATE, CORS], "/cors/orders", 401),
        ([GATE, CORS], "/elsewhere/orders", 401),
        ([GATE], "/elsewhere/orders", 401),
    ],
)
def test_preflights_reach_no_view(kind, order, path, status):
    with serving(kind, MIDDLEWARE=order) as ask:
        answer = ask(path, PREFLIGHT, method="OPTIONS")
        assert (answer.status_code, b"ran" in answer.content) == (status, False)
        refused = ask("/cors/orders", {"Origin": "https://app.example"})
        assert refused.status_code == 401
        assert ("Access-Control-Allow-Origin" in refused.headers) == (order[0] == CORS)


@pytest.mark.parametrize("kind", KINDS)
def test_preflights_are_accepted_where_the_settings_say_so(kind, caplog):
    with serving(kind, MIDDLEWARE=[GATE, CORS], TICKETGATE=BASIC | {"ACCEPT_PREFLIGHT": True}) as ask:
        assert ask("/cors/orders", PREFLIGHT, method="OPTIONS").content == b""
        assert ask("/elsewhere/orders", PREFLIGHT, method="OPTIONS").content == b"ran OPTIONS"
        assert ask("/orders", PREFLIGHT, method="OPTIONS").status_code == 401  # its permissions need a token
        for headers, method, data in (
            ({"Origin": "https://app.example"}, "OPTIONS", b""),
            ({"Access-Control-Request-Method": "POST"}, "OPTIONS", b""),
            (PREFLIGHT, "OPTIONS", b"body"),
            (PREFLIGHT | {"Transfer-Encoding": "chunked"}, "OPTIONS", b""),
            (PREFLIGHT, "HEAD", b""),
        ):
            assert ask("/elsewhere/orders", headers, method=method, data=data).status_code == 401
    assert caplog.text.count("ACCEPT_PREFLIGHT") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preflight", [False, True])
def test_middleware_that_changes_a_request_opens_nothing(kind, preflight):
    order = [GATE, "django_project.changes_path"]
    with serving(kind, MIDDLEWARE=order, TICKETGATE=BASIC | {"ACCEPT_PREFLIGHT": preflight}) as ask:
        changes = [{"X-Path": "/elsewhere/orders"}, {"X-Path": "/open/../elsewhere/orders"}]
        for change in changes:
            assert ask("/public", change).status_code in (401, 404)
            assert ask("/public", change | bearer()).status_code in (200, 404)
        assert ask("/elsewhere/orders", {"X-Path": "/public"}).status_code == 401
        answer = ask("/elsewhere/orders", PREFLIGHT | {"X-Method": "POST"}, method="OPTIONS")
        assert answer.status_code == 401


PUBLIC = {
    "/public": 200,
    "/open/async": 200,
    "/open/../orders": 401,
    "/open/%2e%2e/orders": 401,
    "/open//orders": 401,
    "/open/%2F..%2Forders": 401,
    "/public/": 401,
    "/PUBLIC": 401,
    "/public%00": 401,
    "/open/x/..%5c..%5corders": 401,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_are_those_that_django_routes(kind, path):
    with serving(kind, MIDDLEWARE=[GATE, SESSION, AUTH]) as ask:
        assert ask(path).status_code == PUBLIC[path]


@pytest.mark.parametrize("root", ["/api", "/public", "/open", "/open/", "/"])
@pytest.mark.parametrize("path", ["/orders", "/public/orders", "/open/orders", "/open/public", "/api/orders"])
def test_no_root_path_opens_a_closed_route(root, path):
    """Which paths are public is decided by what the root path leaves of them, as Django's router sees it."""
    with serving("asgi"):
        handler = ASGIHandler()
        for whole in (path, root + path, root * 2 + path):
            scope = AsyncRequestFactory()._base_scope(path=whole, method="GET") | {"root_path": root}
            request = ASGIRequest(scope | {"headers": [], "query_string": b""}, None)
            answer = async_to_sync(handler.get_response_async)(request)
            is_public = request.path_info == "/public" or request.path_info.startswith("/open/")
            assert answer.status_code == 401 or is_public
            assert answer.status_code == 200 or request.path_info != "/public"


@pytest.mark.parametrize("whole_site", [False, True])
def test_a_cached_response_is_for_the_same_token_only(whole_site):
    cache.clear()
    order = [CACHES[0], GATE, CACHES[1]] if whole_site else [GATE]
    with serving("wsgi", MIDDLEWARE=order) as ask:
        assert ask("/cached", bearer(scope="read")).content == b"alice"
        assert ask("/cached", bearer()).status_code == 403
        assert ask("/cached", bearer(scope="read", sub="bob")).content == b"bob"


@pytest.mark.parametrize("middleware", [[], [GATE]], ids=["alone", "behind the gate"])
def test_rest_framework_says_that_the_token_decides_before_any_cache_sees_the_response(middleware):
    cache.clear()
    changes = {"MIDDLEWARE": [*middleware, SESSION, AUTH], "TICKETGATE": BASIC | {"OPTIONAL": True}}
    with serving("wsgi", **changes) as ask:
        for path in ("/cached-drf-open", "/cached-drf"):
            answers = [ask(path, headers) for headers in ({}, bearer(), bearer(sub="bob"), {}, bearer())]
            first = b'"None"' if path.endswith("open") else answers[0].content
            told = [first, b'"alice"', b'"bob"', first, b'"alice"']
            assert [answer.content for answer in answers] == told
        assert answers[0].status_code == answers[3].status_code == 401
    with serving("wsgi", **ALONE) as ask:
        for headers in ({}, bearer()):
            assert "Authorization" in ask("/drf-open", headers)["Vary"]


@pytest.mark.parametrize("kind", KINDS)
def test_caches_elsewhere_are_told_that_the_token_decides(kind):
    with serving(kind) as ask:
        assert ask("/cors/orders", bearer())["Vary"] == "Authorization"
        assert "Authorization" in ask("/drf", bearer())["Vary"]
        assert "Vary" not in ask("/open/nothing").headers
    with serving(kind, TICKETGATE=BASIC | {"OPTIONAL": True}) as ask:
        assert ask("/cors/orders")["Vary"] == "Authorization"


def test_throttling_tells_callers_apart():
    cache.clear()
    with serving("wsgi") as ask:
        assert ask("/drf", bearer()).status_code == 200
    (key,) = cache._cache
    assert " " not in key
    assert len(key) < 200


CHECKS = {
    "as documented": ({}, []),
    "USER as documented": (
        {"MIDDLEWARE": [SESSION, AUTH, GATE, "django_project.remembers_user"], "USER": len},
        [],
    ),
    "USER, Django's own middleware": ({"MIDDLEWARE": [GATE, SESSION, AUTH], "USER": len}, []),
    "USER, another after it": (
        {"MIDDLEWARE": [GATE, SESSION, AUTH, "django_project.remembers_user"], "USER": len},
        ["W003"],
    ),
    "USER, another between": (
        {"MIDDLEWARE": [SESSION, AUTH, "django_project.remembers_user", GATE], "USER": len},
        ["W003"],
    ),
    "no USER": ({"MIDDLEWARE": [GATE, SESSION, AUTH, "django_project.remembers_user"]}, []),
    "no contrib.auth": ({"MIDDLEWARE": [GATE, "django_project.remembers_user"], "USER": len}, []),
    "CORS before": ({"MIDDLEWARE": [CORS, GATE]}, []),
    "CORS after": ({"MIDDLEWARE": [GATE, CORS]}, ["W002"]),
    "a cache before": ({"MIDDLEWARE": [*CACHES, GATE]}, ["E002"]),
    "a cache around": ({"MIDDLEWARE": [CACHES[0], GATE, CACHES[1]]}, []),
    "alone, behind a cache": ({"MIDDLEWARE": CACHES}, ["E002"]),
    "a subclass of the gate": ({"MIDDLEWARE": ["django_project.Subclass", CORS]}, ["W002"]),
    "missing middleware is Django's to report": ({"MIDDLEWARE": [GATE, "nowhere.Middleware"]}, []),
    "alone, closed": (ALONE, []),
    "alone, open": (ALONE | {"PERMISSION": ["rest_framework.permissions.AllowAny"]}, ["W004"]),
    "alone, no permissions": (ALONE | {"PERMISSION": []}, ["W004"]),
    "alone, REST framework's default": (ALONE | {"PERMISSION": None}, ["W004"]),
    "nothing": (ALONE | {"AUTHENTICATION": []}, ["W001"]),
    "sessions first": (
        {"AUTHENTICATION": ["rest_framework.authentication.SessionAuthentication", "ours"]},
        ["W005"],
    ),
    "sessions last": (
        {"AUTHENTICATION": ["ours", "rest_framework.authentication.SessionAuthentication"]},
        [],
    ),
    "USER is no function": ({"USER": 1}, ["E001"]),
    "a switch from the environment": ({"ACCEPT_PREFLIGHT": "False"}, ["E001"]),
    "another one": ({"OPTIONAL": 0}, ["E001"]),
}


@pytest.mark.parametrize(("given", "expected"), CHECKS.values(), ids=CHECKS)
def test_the_system_check(given, expected, monkeypatch):
    framework = dict(settings.REST_FRAMEWORK)
    for name in ("AUTHENTICATION", "PERMISSION"):
        if name in given:
            framework[f"DEFAULT_{name}_CLASSES"] = [
                AUTHENTICATION if one == "ours" else one for one in given[name] or ()
            ]
            if given[name] is None:
                del framework[f"DEFAULT_{name}_CLASSES"]
    ours = {name: given[name] for name in ("USER", "ACCEPT_PREFLIGHT", "OPTIONAL") if name in given}
    monkeypatch.setattr(settings, "REST_FRAMEWORK", framework)
    monkeypatch.setattr(settings, "TICKETGATE", BASIC | ours)
    monkeypatch.setattr(settings, "MIDDLEWARE", given.get("MIDDLEWARE", [GATE, SESSION, AUTH]))
    found = [one for one in run_checks(tags=["security"]) if one.id.startswith("ticketgate.")]
    assert [one.id.removeprefix("ticketgate.") for one in found] == expected
    assert all(one.hint for one in found if one.id.startswith("ticketgate.W"))


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        ((5, 2, 0), True),
        ((5, 2, 14), True),
        ((5, 2, 15), False),
        ((6, 0, 0), True),
        ((6, 0, 5), True),
        ((6, 0, 6), False),
        ((6, 1, 0), False),
    ],
)
def test_releases_of_django_whose_caches_mix_up_tokens(version, warned, monkeypatch):
    monkeypatch.setattr("ticketgate.django.checks.VERSION", (*version, "final", 0))
    found = [one.id for one in run_checks(tags=["security"])]
    assert ("ticketgate.W006" in found) is warned


SCHEMAS = {"3.0.3": [{"accessToken": []}], "3.1.0": [{"accessToken": ["read"]}, {"accessToken": ["admin"]}]}


@pytest.mark.parametrize("version", SCHEMAS)
def test_drf_spectacular_knows_our_scheme(version, capsys):
    with patched_settings({"OAS_VERSION": version}):
        document = json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))
    assert document["components"]["securitySchemes"] == {
        "accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "at+jwt"}
    }
    assert document["paths"]["/orders"]["get"]["security"] == SCHEMAS[version]
    assert document["paths"]["/drf"]["get"]["security"] == [{"accessToken": []}]
    assert "could not resolve authenticator" not in capsys.readouterr().err


def test_the_audit_sees_what_guards_a_view():

    with serving("wsgi"):
        access = {
            route.path: route.access
            for route in audit(WSGIHandler()).routes
            if "GET" in route.methods or "ANY" in route.methods
        }
    for path in (
        "/exempt-above",
        "/exempt-below",
        "/above",
        "/below",
        "/by-dispatch",
        "/by-method",
        "/by-own-dispatch",
    ):
        assert access[path] == "scope read"
    assert access["/drf"] == access["/sync"] == "any valid token"
