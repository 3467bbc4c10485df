"""A Django project in one file: ``wsgi`` for gunicorn, ``asgi`` for uvicorn; its settings come from SITE_SETTINGS."""

import json
import os

from django.conf import settings
from doors import server as keyed_server

from ticketgate import scope

server = keyed_server()
settings.configure(
    SECRET_KEY="opens nothing",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["ticketgate.django.TicketgateConfig"],
    MIDDLEWARE=["ticketgate.django.AccessTokenMiddleware"],
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
from django.urls import path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402

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


urlpatterns = [
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
