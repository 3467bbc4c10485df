"""A Django project in one file: ``wsgi`` for gunicorn, ``asgi`` for uvicorn; its settings come from SITE_SETTINGS."""

import json
import os
from functools import partial

from django.conf import settings
from doors import server as keyed_server

from ticketgate import scope

server = keyed_server()
settings.configure(
    SECRET_KEY="opens nothing",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["ticketgate.django.TicketgateConfig"],
    MIDDLEWARE=json.loads(os.environ.get("SITE_MIDDLEWARE", '["ticketgate.django.AccessTokenMiddleware"]')),
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},  # django.contrib.auth is not installed
    TICKETGATE={
        "SERVER": server,
        "PUBLIC": ["/health", "/é/*"],
        "USER": lambda token: f"user {token.subject}",
    }
    | json.loads(os.environ.get("SITE_SETTINGS", "{}")),
)

import django  # noqa: E402  settings come first
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import include, path, re_path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402
from rest_framework.decorators import api_view, authentication_classes, permission_classes  # noqa: E402
from rest_framework.permissions import IsAuthenticated  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402

from ticketgate import rest_framework  # noqa: E402
from ticketgate.django import access_token, requires  # noqa: E402

django.setup()
needs_read = requires(scope("read"))


def show(request):
    token = access_token(request)
    return JsonResponse(
        {"sub": token.subject if token else None, "user": str(getattr(request, "user", None))}
    )


@needs_read
def orders(request):
    return show(request)


@needs_read
async def orders_async(request):
    return show(request)


class ByMethod(View):
    @needs_read
    def get(self, request):
        return show(request)


@method_decorator(needs_read, name="dispatch")
class ByDispatch(View):
    def get(self, request):
        return show(request)


@requires(fresh_within=0)
def fresh(request):
    return show(request)


@requires(fresh_within=0)
async def fresh_async(request):
    return show(request)


class Framework(APIView):
    authentication_classes = [rest_framework.AccessTokenAuthentication]  # noqa: RUF012  as REST framework has it
    permission_classes = [rest_framework.requires(scope("read"))]  # noqa: RUF012

    def get(self, request):
        user = request.user
        assert request.auth is access_token(request)
        return Response({"sub": request.auth.subject, "user": str(user), "pk": getattr(user, "pk", None)})

    def head(self, request):
        return Response()


class Fresh(Framework):
    permission_classes = [rest_framework.requires(fresh_within=0)]  # noqa: RUF012


class Anybody(Framework):
    permission_classes = [IsAuthenticated]  # noqa: RUF012

    def get(self, request):
        return Response({"perms": request.user.has_perms(["any.thing"])})


@api_view()
@authentication_classes([rest_framework.AccessTokenAuthentication])
@permission_classes([])
@needs_read
def decorated(request):
    return Response({"sub": request.auth.subject})


class Set(ViewSet):
    authentication_classes = [rest_framework.AccessTokenAuthentication]  # noqa: RUF012
    permission_classes = [rest_framework.requires(scope("set"))]  # noqa: RUF012

    def retrieve(self, request, pk):
        return Response()


urlpatterns = [
    path("partial", partial(show)),
    path("set/<int:pk>", Set.as_view({"get": "retrieve"})),
    path("nested/", include([re_path("^x/[0-9]+$", show)])),
    path("drf", Framework.as_view()),
    path("drf/fresh", Fresh.as_view()),
    path("drf/anybody", Anybody.as_view()),
    path("drf/decorated", decorated),
    path("health", show),
    path("é/x", show),
    path("me", show),
    path("orders", orders),
    path("async", orders_async),
    path("method", ByMethod.as_view()),
    path("dispatch", ByDispatch.as_view()),
    path("fresh", fresh),
    path("fresh-async", fresh_async),
]
wsgi, asgi = get_wsgi_application(), get_asgi_application()
