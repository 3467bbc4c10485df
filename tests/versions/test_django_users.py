"""Who ``request.user`` is: the token's user, and nobody whom somebody else's session cookie names."""

from itertools import permutations

import pytest
from django_project import (
    ALICE,
    ALONE,
    AUTH,
    BASIC,
    GATE,
    SESSION,
    AnonymousUser,
    ByQuery,
    User,
    bearer,
    by_query,
    by_query_async,
    returns_awaitable,
    serving,
    told,
)
from tokens import ISSUER

from ticketgate import AccessToken, errors
from ticketgate.core.strict_json import FrozenDict
from ticketgate.rest_framework import TokenUser

ORDERS = [order for order in permutations([GATE, SESSION, AUTH]) if order.index(SESSION) < order.index(AUTH)]
PATHS = ["/sync", "/async", "/class", "/class-async", "/drf"]
KINDS = ["wsgi", "asgi"]
FUNCTIONS = {
    "a query": by_query,
    "an async query": by_query_async,
    "a function that returns an awaitable": returns_awaitable,
    "an async object": ByQuery(),
    "a dotted path": "django_project.by_query",
}
of_every_kind = pytest.mark.parametrize("kind", KINDS)


def with_user(function, **more):
    return BASIC | {"USER": function} | more


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(one.rsplit(".")[-1] for one in order))
@pytest.mark.parametrize("path", PATHS)
@of_every_kind
def test_the_token_says_who_it_is_in_every_order_of_middleware(kind, order, path):
    with serving(kind, MIDDLEWARE=order, TICKETGATE=with_user(by_query)) as ask:
        for signed_in in (False, True):
            answer = ask(path, bearer(), signed_in=signed_in)
            assert (answer.status_code, set(answer.json()["users"])) == (200, {"alice"})


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("path", PATHS)
@of_every_kind
def test_functions_may_query_and_may_be_async(kind, function, path):
    with serving(kind, TICKETGATE=with_user(function)) as ask:
        assert set(ask(path, bearer(), signed_in=True).json()["users"]) == {"alice"}


@pytest.mark.parametrize("path", ["/public", "/open/async"])
@of_every_kind
def test_on_public_paths_the_user_is_the_sessions(kind, path):
    with serving(kind, TICKETGATE=with_user(by_query)) as ask:
        for headers in ({}, bearer()):
            assert ask(path, headers).json() == {"sub": None, "users": ["AnonymousUser"] * 2}
        if path == "/public":
            assert ask(path, bearer(), signed_in=True).json() == {"sub": None, "users": ["bob"] * 2}


@of_every_kind
def test_without_a_token_the_user_is_the_sessions(kind):
    with serving(kind, TICKETGATE=with_user(by_query, OPTIONAL=True)) as ask:
        assert ask("/sync", signed_in=True).json() == {"sub": None, "users": ["bob"] * 2}
        assert ask("/sync", bearer(), signed_in=True).json() == {"sub": "alice", "users": ["alice"] * 2}


@of_every_kind
def test_in_rest_framework_without_the_middleware(kind):
    with serving(kind, **ALONE, TICKETGATE=with_user(by_query_async)) as ask:
        assert ask("/drf", bearer(), signed_in=True).json() == {"sub": "alice", "users": ["alice"]}


@pytest.mark.parametrize("middleware", [[GATE, SESSION, AUTH], ALONE["MIDDLEWARE"]])
@of_every_kind
def test_in_rest_framework_without_a_user_function(kind, middleware):
    with serving(kind, MIDDLEWARE=middleware) as ask:
        assert ask("/drf", bearer(), signed_in=True).json() == {"sub": "alice", "users": ["alice"]}


@of_every_kind
def test_other_middleware_sees_the_tokens_user_where_the_gate_came_after_authentication(kind):
    order = [SESSION, AUTH, GATE, "django_project.remembers_user"]
    with serving(kind, MIDDLEWARE=order, TICKETGATE=with_user(by_query)) as ask:
        assert ask("/sync", bearer(), signed_in=True)["X-Seen"] == "alice"


LOGIN = "django.contrib.auth.middleware.LoginRequiredMiddleware"


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(one.rsplit(".")[-1] for one in order))
@pytest.mark.parametrize("path", ["/sync", "/async"])
@of_every_kind
def test_djangos_own_middleware_looks_at_the_tokens_user(kind, order, path):
    with serving(kind, MIDDLEWARE=[*order, LOGIN], TICKETGATE=with_user(by_query)) as ask:
        assert ask(path, bearer()).status_code == 200
    with serving(kind, MIDDLEWARE=[*order, LOGIN]) as ask:
        assert ask(path, bearer()).status_code == 302


def raising(error):
    def function(token):
        raise error

    return function


async def none_async(token):
    return None


DENIED = (
    403,
    'error="insufficient_scope", error_description="The access token does not grant this operation"',
)
OUTCOMES = {
    "nobody": (lambda token: None, DENIED),
    "nobody, async": (none_async, DENIED),
    "nobody by exception": (raising(User.DoesNotExist()), DENIED),
    "an inactive user": (lambda token: User(username="mallory", is_active=False), DENIED),
    "the anonymous user": (lambda token: AnonymousUser(), DENIED),
    "our own error": (
        raising(errors.InsufficientScope(("x",))),
        (
            403,
            'error="insufficient_scope", error_description="The access token lacks a scope that this operation '
            'needs", scope="x"',
        ),
    ),
    "not now": (raising(errors.IssuerUnavailable("away")), (503, "")),
    "a fault": (raising(RuntimeError("eyJhbGciOi")), (503, "")),
    "the end of an iterator": (raising(StopIteration()), (503, "")),
}


@pytest.mark.parametrize("alone", [False, True], ids=["middleware", "alone"])
@pytest.mark.parametrize(("function", "expected"), OUTCOMES.values(), ids=OUTCOMES)
@of_every_kind
def test_where_there_is_no_user_nobody_gets_in(kind, alone, function, expected, caplog):
    more = ALONE if alone else {}
    with serving(kind, TICKETGATE=with_user(function), **more) as ask:
        answer = ask("/drf" if alone else "/sync", bearer(), signed_in=True)
    assert told(answer)[:2] == expected
    assert ("Retry-After" in answer.headers) == (expected[0] == 503)
    assert "eyJhbGciOi" not in caplog.text


@of_every_kind
def test_a_user_without_an_account_is_made_from_the_token(kind):
    with serving(kind, TICKETGATE=with_user(TokenUser)) as ask:
        assert ask("/sync", bearer(), signed_in=True).json()["users"] == ["alice"] * 2


@of_every_kind
def test_django_users_stay_what_they_are(kind):
    with serving(kind, TICKETGATE=with_user(lambda token: ALICE)) as ask:
        assert ask("/drf", bearer()).status_code == 200


SESSION_FIRST = [
    "rest_framework.authentication.SessionAuthentication",
    "ticketgate.rest_framework.AccessTokenAuthentication",
]


@pytest.mark.parametrize("middleware", [[GATE, SESSION, AUTH], ALONE["MIDDLEWARE"]])
@of_every_kind
def test_the_session_of_one_and_the_token_of_another_are_never_mixed(kind, middleware, monkeypatch):
    from django_project import WhoAmIFramework
    from rest_framework.settings import APISettings

    classes = APISettings({"DEFAULT_AUTHENTICATION_CLASSES": SESSION_FIRST}).DEFAULT_AUTHENTICATION_CLASSES
    monkeypatch.setattr(WhoAmIFramework, "authentication_classes", classes)
    with serving(kind, MIDDLEWARE=middleware) as ask:
        assert ask("/drf", bearer()).json()["users"] == ["alice"]
        assert ask("/drf", bearer(), signed_in=True).status_code == 503
    with serving(kind, TICKETGATE=with_user(by_query)) as ask:
        assert ask("/drf", bearer(), signed_in=True).json()["users"] == ["alice"]


CALLERS = {
    "a user": {"sub": "app", "client_id": "web"},
    "a client": {"sub": "app", "client_id": "app"},
    "a user of another issuer": {"sub": "app", "client_id": "web", "iss": "https://other.example"},
    "a user whose name has a space": {"sub": "app x", "client_id": "web"},
    "an issuer whose name has one": {"sub": "x", "client_id": "web", "iss": "https://as.example app"},
    "a token without names": {"jti": "app"},
    "a user with a long name": {"sub": "app" * 1000},
}


def test_every_caller_has_a_key_of_its_own_that_caches_take():
    keys = [
        TokenUser(AccessToken(FrozenDict({"iss": ISSUER} | claims), FrozenDict({}))).pk
        for claims in CALLERS.values()
    ]
    assert len({*keys}) == len(keys)
    assert all(len(one) == 64 and one.isalnum() for one in keys)


def test_the_key_of_a_client_is_the_same_with_and_without_a_subject():
    def key(**claims):
        return TokenUser(AccessToken(FrozenDict({"iss": ISSUER} | claims), FrozenDict({}))).id

    assert key(client_id="app") == key(sub="app", client_id="app") != key(sub="app")
