import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views import View

from ticketgate import Issuer, ResourceServer, role, scope
from ticketgate.django import access_token, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))

if not settings.configured:  # a project has these in its settings.py
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "api.example"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["ticketgate.django.TicketgateConfig"],
        MIDDLEWARE=["ticketgate.django.AccessTokenMiddleware"],
        TICKETGATE={"SERVER": f"{__name__}.server", "PUBLIC": ["/health"]},
    )


def health(request):
    return HttpResponse("well")


async def me(request):
    return JsonResponse({"sub": access_token(request).subject})


@requires(scope("orders:read"))
def orders(request):
    return JsonResponse({"sub": access_token(request).subject})


class Admin(View):
    @requires(role("admin"))
    def get(self, request):
        return JsonResponse({"sub": access_token(request).subject})


urlpatterns = [
    path("health", health),
    path("me", me),
    path("orders", orders),
    path("admin", Admin.as_view()),
]
application, asgi_application = get_wsgi_application(), get_asgi_application()
