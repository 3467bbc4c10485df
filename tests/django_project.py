"""A Django project with users and sessions, inside of the test process: `serving` answers its requests.

Its users are alice and bob; bob is the one who is signed in with a session.
"""

import atexit
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from tokens import resource_server, token

from ticketgate import scope

GATE = "ticketgate.django.AccessTokenMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
CORS = "corsheaders.middleware.CorsMiddleware"
AUTHENTICATION = "ticketgate.rest_framework.AccessTokenAuthentication"
ALONE = {"MIDDLEWARE": [SESSION, AUTH]}

server = resource_server()
folder = Path(tempfile.mkdtemp(prefix="ticketgate-tests-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)
BASIC = {"SERVER": server, "PUBLIC": ["/public", "/open/*"]}
settings.configure(
    SECRET_KEY="opens nothing",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db")}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "corsheaders",
        "rest_framework",
        "drf_spectacular",
        "ticketgate.django.TicketgateConfig",
    ],
    MIDDLEWARE=[GATE, SESSION, AUTH],
    CORS_ALLOW_ALL_ORIGINS=True,
    CORS_URLS_REGEX="^/cors/",
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [AUTHENTICATION],
        "DEFAULT_PERMISSION_CLASSES": ["ticketgate.rest_framework.HasAccessToken"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
        "DEFAULT_THROTTLE_RATES": {"user": "100/day"},
    },
    TICKETGATE=BASIC,
)
os.environ.pop("DJANGO_SETTINGS_MODULE", None)

import django  # noqa: E402  settings come first

django.setup()

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction  # noqa: E402
from django.contrib.auth.mixins import UserPassesTestMixin  # noqa: E402
from django.contrib.auth.models import AnonymousUser, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402
from django.test.utils import override_settings  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from rest_framework.decorators import api_view, permission_classes  # noqa: E402
from rest_framework.permissions import AllowAny, BasePermission  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.throttling import UserRateThrottle  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from ticketgate import errors, rest_framework  # noqa: E402
from ticketgate.django import AccessTokenMiddleware, access_token, requires  # noqa: E402

call_command("migrate", verbosity=0, run_syncdb=True)
ALICE, BOB = (User.objects.create_user(name) for name in ("alice", "bob"))
MALLORY = User.objects.create_user("mallory", is_active=False)
connections.close_all()


def by_query(token):
    return User.objects.get(username=token.subject)


async def by_query_async(token):
    return await User.objects.aget(username=token.subject)


def returns_awaitable(token):
    return by_query_async(token)


class ByQuery:
    async def __call__(self, token):
        return await by_query_async(token)


class Subclass(AccessTokenMiddleware):
    pass


def bearer(**claims):
    return {"Authorization": f"Bearer {token(**claims).decode()}"}


def sub(request):
    return getattr(access_token(request), "subject", None)


def whoami(request):
    users = [str(request.user), str(async_to_sync(request.auser)())]
    return JsonResponse({"sub": sub(request), "users": users})


async def whoami_async(request):
    user = await request.auser()
    return JsonResponse({"sub": sub(request), "users": [str(user), str(request.user)]})


class WhoAmI(View):
    def get(self, request):
        return whoami(request)


class WhoAmIAsync(View):
    async def get(self, request):
        return await whoami_async(request)


class WhoAmIFramework(APIView):
    throttle_classes = [UserRateThrottle]  # noqa: RUF012

    def get(self, request):
        assert request.auth in (access_token(request), None)
        users = [str(request.user), str(request._request.user), str(async_to_sync(request.auser)())]
        return Response({"sub": sub(request), "users": sorted({*users})})


def changes_path(get_response):
    """A middleware that takes another path from a header, as some proxies' helpers do."""
    if iscoroutinefunction(get_response):

        async def change_async(request):
            request.path_info = request.headers.get("X-Path", request.path_info)
            request.method = request.headers.get("X-Method", request.method)
            return await get_response(request)

        return markcoroutinefunction(change_async)

    def change(request):
        request.path_info = request.headers.get("X-Path", request.path_info)
        request.method = request.headers.get("X-Method", request.method)
        return get_response(request)

    return change


changes_path.async_capable = True


def remembers_user(get_response):
    """A middleware that is no async one and looks at the user before the view does."""

    def remember(request):
        seen = str(request.user)
        response = get_response(request)
        response["X-Seen"] = seen
        return response

    return remember


@csrf_exempt
@requires(scope("read"))
def exempt_above(request):
    return HttpResponse("done")


@requires(scope("read"))
@csrf_exempt
def exempt_below(request):
    return HttpResponse("done")


@cache_page(60)
@requires(scope("read"))
def cached(request):
    return HttpResponse(sub(request))


class Mine(APIView):
    permission_classes = [AllowAny]  # noqa: RUF012

    def get(self, request):
        return Response(str(sub(request)))


class Theirs(Mine):
    permission_classes = [rest_framework.requires()]  # noqa: RUF012


def unaware(view):
    """A decorator that knows nothing of async views, but marks what it returns as its author was told to."""

    def inner(request):
        return view(request)

    return markcoroutinefunction(inner)


def show(request):
    return HttpResponse("shown")


async def show_async(request):
    return HttpResponse("shown")


class Async(View):
    async def get(self, request):
        return await show_async(request)


@method_decorator(requires(scope("read")), name="dispatch")
class AsyncByDispatch(Async):
    pass


class AsyncByMethod(View):
    @method_decorator(requires(scope("read")))
    async def get(self, request):
        return await show_async(request)


class AsyncByOwnDispatch(Async):
    @requires(scope("read"))
    def dispatch(self, request):
        return super().dispatch(request)


@method_decorator(requires(fresh_within=0), name="dispatch")
class AsyncFresh(Async):
    pass


class AsyncCallable:
    async def __call__(self, request):
        return await show_async(request)


@requires(scope("read"))
@api_view()
@permission_classes([AllowAny])
def above_api_view(request):
    return Response("shown")


@api_view()
@permission_classes([AllowAny])
@requires(scope("read"))
def below_api_view(request):
    return Response("shown")


class Misused(BasePermission):
    @requires(scope("read"))
    def has_permission(self, request, view):
        return True


@method_decorator(requires(scope("read")), name="has_permission")
class MisusedByDecorator(BasePermission):
    def has_permission(self, request, view):
        return True


class Ran(APIView):
    permission_classes = [AllowAny]  # noqa: RUF012

    def get(self, request):
        return Response("ran")


class CheckedByGuard(Ran):
    @requires(scope("read"))
    def check_permissions(self, request):
        return super().check_permissions(request)


class BegunByGuard(Ran):
    @requires(scope("read"))
    def initial(self, request):
        return super().initial(request)


class SetUpByGuard(View):
    @requires(scope("read"))
    def setup(self, request):
        return super().setup(request)

    def get(self, request):
        return HttpResponse("ran")


class TestedByGuard(UserPassesTestMixin, View):
    @requires(scope("read"))
    def test_func(self):
        return True

    def get(self, request):
        return HttpResponse("ran")


class Raised(APIView):
    permission_classes = [AllowAny]  # noqa: RUF012

    def get(self, request):
        raise ERRORS[request.GET["error"]]


class RaisedWithoutAuthentication(Raised):
    authentication_classes = []  # noqa: RUF012


ERRORS = {
    "denied": errors.AccessDenied(),
    "scope": errors.InsufficientScope(("x",)),
    "invalid": errors.InvalidToken("inactive"),
    "anonymous": errors.NoCredentials(),
    "request": errors.InvalidRequest("token"),
    "issuer": errors.IssuerUnavailable("away", retry_after=7),
    "fault": errors.InternalFault("broken"),
    "other": ValueError("what only the log may say"),
}


def raises(request):
    raise ERRORS[request.GET["error"]]


async def raises_async(request):
    raise ERRORS[request.GET["error"]]


class RaisesAsync(View):
    async def get(self, request):
        raise ERRORS[request.GET["error"]]


class Orders(APIView):
    permission_classes = [rest_framework.requires(scope("read") | scope("admin"))]  # noqa: RUF012

    def get(self, request) -> Response:
        return Response("shown")

    def options(self, request):
        return Response("ran")


def method_of(request):
    return HttpResponse(f"ran {request.method}")


urlpatterns = [
    path("sync", whoami),
    path("async", whoami_async),
    path("class", WhoAmI.as_view()),
    path("class-async", WhoAmIAsync.as_view()),
    path("drf", WhoAmIFramework.as_view()),
    path("public", whoami),
    path("open/async", whoami_async),
    path("exempt-above", exempt_above),
    path("exempt-below", exempt_below),
    path("cached", cached),
    path("cached-drf-open", cache_page(60)(Mine.as_view())),
    path("cached-drf", cache_page(60)(Theirs.as_view())),
    path("drf-open", Mine.as_view()),
    path("by-dispatch", AsyncByDispatch.as_view()),
    path("by-method", AsyncByMethod.as_view()),
    path("by-own-dispatch", AsyncByOwnDispatch.as_view()),
    path("by-as-view", requires(scope("read"))(Async.as_view())),
    path("by-unaware", requires(scope("read"))(unaware(show_async))),
    path("by-callable", requires(scope("read"))(AsyncCallable())),
    path("fresh", AsyncFresh.as_view()),
    path("above", above_api_view),
    path("below", below_api_view),
    path("raises", raises),
    path("raises-async", raises_async),
    path("raises-class", RaisesAsync.as_view()),
    path("raises-drf", Raised.as_view()),
    path("raises-drf-open", RaisedWithoutAuthentication.as_view()),
    path("guarded/drf-permission", Ran.as_view(permission_classes=[Misused])),
    path("guarded/drf-decorated", Ran.as_view(permission_classes=[MisusedByDecorator])),
    path("guarded/drf-check", CheckedByGuard.as_view()),
    path("guarded/drf-initial", BegunByGuard.as_view()),
    path("guarded/setup", SetUpByGuard.as_view()),
    path("guarded/test", TestedByGuard.as_view()),
    path("orders", Orders.as_view()),
    path("cors/orders", method_of),
    path("elsewhere/orders", method_of),
]


@contextmanager
def serving(kind, **changes):
    """Sends requests to the project as ``kind``, "wsgi" or "asgi", of server would; bob's cookie with ``signed_in``."""
    with override_settings(**changes):
        yield lambda path, headers=None, **options: ask(kind, path, headers or {}, **options)
    connections.close_all()


def ask(kind, path, headers, *, method="GET", signed_in=False, data=b""):
    made = (Client if kind == "wsgi" else AsyncClient)(raise_request_exception=False)
    if signed_in:
        made.force_login(BOB)
    options = {"headers": headers, "data": data, "content_type": "application/octet-stream"}
    if kind == "wsgi":
        return made.generic(method, path, **options)
    return async_to_sync(answer_of)(made, method, path, options)


async def answer_of(made, method, path, options):
    return await made.generic(method, path, **options)


def told(answer):
    """Status, the one challenge without realm, and the body of an answer."""
    challenge = answer.headers.get("WWW-Authenticate", "").replace('Bearer realm="https://api.example"', "")
    return answer.status_code, challenge.removeprefix(", "), json.loads(answer.content)


__all__ = ["AnonymousUser"]
