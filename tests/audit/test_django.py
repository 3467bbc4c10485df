"""What `audit` finds in Django's and REST framework's views, where no gate stands before them."""

from functools import wraps

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.urls import path
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django_project import ALONE, BASIC, GATE, serving
from rest_framework.authentication import SessionAuthentication
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.permissions import (
    AllowAny,
    DjangoModelPermissionsOrAnonReadOnly,
    IsAuthenticated,
    IsAuthenticatedOrReadOnly,
)
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from ticketgate import django, scope
from ticketgate.audit import audit
from ticketgate.rest_framework import AccessTokenAuthentication, requires

READ, WRITE = scope("read"), scope("write")
PLAIN = "is neither protected nor public"
OPEN = "authenticates by access token, and its permissions let anybody in: add requires(...) to them"
SKIPPED = f"scope read, guarded inside {__name__}.skips"
NOT = "(not understood: overridden"
MIXED_UP = "lists SessionAuthentication before AccessTokenAuthentication: request.user may not be whom the token is about"
NEVER = "requires a token, and nothing before it looks for one: every request gets a 503"


def show(request):
    return HttpResponse()


def view(*permissions, **more):
    members = {"get": lambda self, request: Response(), "permission_classes": list(permissions)}
    return type("Shown", (APIView,), members | more)


class ByFunction(view()):
    def get_permissions(self):
        return [requires(READ)()]


class ByRequest(view()):
    def get_permissions(self):
        return [requires(READ)()] if self.request.method == "GET" else []


def skips(view):
    @wraps(view)
    def answer(*args):
        return HttpResponse("open")

    return answer


def passes(*args, **kwargs):
    """A method that leaves out what the framework does."""


class Lax(requires(READ)):
    def has_permission(self, request, view):
        return True


class LaxAuthentication(AccessTokenAuthentication):
    def authenticate(self, request):
        return "anybody", None


def class_view(**members):
    return type(
        "Plain", (View,), {"get": django.requires(READ)(lambda self, request: show(request))} | members
    )


class OwnRule(IsAuthenticated):
    def has_permission(self, request, view):
        return True


@api_view()
@permission_classes([AllowAny])
@django.requires(READ)
def below(request):
    return Response()


@api_view()
@permission_classes([requires(READ)])
def listed(request):
    return Response()


@django.requires(READ)
@api_view()
@permission_classes([AllowAny])
def above(request):
    return Response()


@api_view()
@permission_classes([AllowAny])
def open_function(request):
    return Response()


SESSIONS = {"authentication_classes": [SessionAuthentication]}
SECOND = {"authentication_classes": [SessionAuthentication, AccessTokenAuthentication]}
BOTH = {"authentication_classes": [AccessTokenAuthentication, SessionAuthentication]}
VIEWS = {
    "a function": (show, "anybody", PLAIN),
    "a guarded function": (django.requires(READ)(show), "scope read", NEVER),
    "an exempt one": (csrf_exempt(django.requires(READ)(show)), "scope read", NEVER),
    "requires": (view(requires(READ)).as_view(), "scope read", None),
    "two of them": (view(requires(READ), requires(WRITE)).as_view(), "scope read and scope write", None),
    "joined by &": (view(IsAuthenticated & requires(READ)).as_view(), "scope read", None),
    "joined by |": (view(AllowAny | requires(READ)).as_view(), "anybody", PLAIN),
    "the default": (view(*APIView.permission_classes).as_view(), "any valid token", None),
    "authenticated": (view(IsAuthenticated).as_view(), "any valid token", None),
    "authenticated, also by session": (view(IsAuthenticated, **BOTH).as_view(), "anybody", PLAIN),
    "authenticated by session": (view(IsAuthenticated, **SESSIONS).as_view(), "anybody", PLAIN),
    "read only": (view(IsAuthenticatedOrReadOnly).as_view(), "anybody", PLAIN),
    "read only models": (view(DjangoModelPermissionsOrAnonReadOnly).as_view(), "anybody", PLAIN),
    "a rule of its own": (view(OwnRule).as_view(), "anybody", PLAIN),
    "anybody": (view(AllowAny).as_view(), "anybody", OPEN),
    "no permissions": (view().as_view(), "anybody", OPEN),
    "anybody by session": (view(AllowAny, **SESSIONS).as_view(), "anybody", PLAIN),
    "opened by as_view": (view(requires(READ)).as_view(permission_classes=[AllowAny]), "anybody", OPEN),
    "closed by as_view": (view(AllowAny).as_view(permission_classes=[requires(READ)]), "scope read", None),
    "get_permissions": (ByFunction.as_view(), f"anybody {NOT} ByFunction.get_permissions)", PLAIN),
    "get_permissions by request": (ByRequest.as_view(), f"anybody {NOT} ByRequest.get_permissions)", PLAIN),
    "a rule in the place of ours": (view(Lax).as_view(), f"anybody {NOT} Lax.has_permission)", PLAIN),
    "a subclass that leaves ours": (view(type("Same", (requires(READ),), {})).as_view(), "scope read", None),
    "authenticated in another way": (
        view(IsAuthenticated, authentication_classes=[LaxAuthentication]).as_view(),
        "anybody",
        PLAIN,
    ),
    "another class first": (view(requires(READ), **SECOND).as_view(), "scope read", MIXED_UP),
    "skipped": (skips(django.requires(READ)(show)), SKIPPED, NEVER),
    "a skipped method": (
        class_view(get=skips(django.requires(READ)(show))).as_view(),
        SKIPPED,
        NEVER,
    ),
    "a skipped view": (
        skips(view(requires(READ)).as_view()),
        SKIPPED,
        None,
    ),
    "below @api_view": (below, "scope read", None),
    "above @api_view": (above, "scope read", None),
    "listed": (listed, "scope read", None),
    "an open function": (open_function, "anybody", OPEN),
}


def routes(*patterns, **changes):
    with serving("wsgi", **ALONE | changes, ROOT_URLCONF=patterns):
        return audit(WSGIHandler())


@pytest.mark.parametrize(("shown", "access", "problem"), VIEWS.values(), ids=VIEWS)
def test_what_a_view_needs(shown, access, problem):
    found = routes(path("x", shown))
    assert {route.access for route in found.routes} == {access}
    assert [one.partition("/x ")[2] for one in found.problems if "public entry" not in one] == [
        problem
    ] * bool(problem)


@pytest.mark.parametrize(
    "name",
    [
        "setup",
        "dispatch",
        "initialize_request",
        "initial",
        "get_authenticators",
        "perform_authentication",
        "check_permissions",
    ],
)
def test_methods_that_decide_whether_a_guard_is_asked_are_named(name):
    (row,) = routes(path("x", view(requires(READ), **{name: passes}).as_view())).routes
    assert row.access == f"scope read, guarded inside Shown.{name}"
    assert row.notes
    (guarded,) = routes(path("x", view(AllowAny, **{name: django.requires(READ)(passes)}).as_view())).routes
    assert guarded.access == "scope read"


def test_other_methods_of_class_views_have_rows_of_their_own():
    def access(**members):
        found = routes(path("x", class_view(**members).as_view()))
        return {row.name: row.access for row in found.routes}

    by_class = {"GET /x": "scope read"}
    assert access() == by_class
    assert access(options=show) == by_class | {"OPTIONS /x": "anybody"}
    assert access(options=django.requires(WRITE)(show)) == by_class | {"OPTIONS /x": "scope write"}
    unknown = f"anybody {NOT} Plain.http_method_not_allowed)"
    assert access(http_method_not_allowed=show) == by_class | {"ANY /x": unknown}
    inside = "scope read, guarded inside Plain.setup"
    assert access(setup=passes) == {"GET /x": inside}


def test_the_actions_of_a_view_set_have_permissions_of_their_own():
    class Orders(ViewSet):
        permission_classes = (requires(READ),)

        def list(self, request): ...

        @action(detail=False, permission_classes=[AllowAny])
        def open(self, request): ...

        @action(detail=False, methods=["post"], permission_classes=[requires(WRITE)])
        def write(self, request): ...

    router = SimpleRouter()
    router.register("orders", Orders, basename="orders")
    found = {route.path: route.access for route in routes(*router.urls).routes}
    assert found == {"/orders/": "scope read", "/orders/open/": "anybody", "/orders/write/": "scope write"}


def test_behind_the_gate_nothing_is_open():
    found = routes(path("x", view(AllowAny).as_view()), MIDDLEWARE=[GATE])
    assert {route.access for route in found.routes} == {"any valid token"}
    subclassed = routes(path("x", show), MIDDLEWARE=["django_project.Subclass"])
    assert {route.access for route in subclassed.routes} == {"any valid token"}


def test_a_cache_before_the_gate_is_a_problem():
    caches = [f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")]
    said = "ANY /<path:path> FetchFromCacheMiddleware answers before any token is looked at, also for expired ones"
    assert said in routes(path("x", show), MIDDLEWARE=[*caches, GATE]).problems
    assert said in routes(path("x", show), MIDDLEWARE=caches).problems
    around = routes(path("x", show), MIDDLEWARE=[caches[0], GATE, caches[1]])
    assert said not in around.problems


def test_public_views_may_be_open():
    found = routes(path("public", view(AllowAny).as_view()), path("open/x", show), TICKETGATE=BASIC)
    assert found.problems == ()
