import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

from ticketgate import Issuer, ResourceServer, role, scope

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))

if not settings.configured:  # a project has these in its settings.py
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "api.example"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["ticketgate.django.TicketgateConfig", "rest_framework"],
        TICKETGATE={"SERVER": f"{__name__}.server", "PUBLIC": ["/health"]},
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["ticketgate.rest_framework.AccessTokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["ticketgate.rest_framework.HasAccessToken"],
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
            "UNAUTHENTICATED_USER": None,  # where django.contrib.auth is not installed
        },
    )

application = get_wsgi_application()

from rest_framework.decorators import api_view, authentication_classes, permission_classes  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from ticketgate.rest_framework import requires  # noqa: E402


@api_view()
@authentication_classes([])
@permission_classes([])
def health(request):
    return Response("well")


@api_view()  # any valid token: the default permission
def me(request):
    return Response({"sub": request.auth.subject})  # request.auth is the token, request.user its user


class Orders(APIView):
    permission_classes = [requires(scope("orders:read"))]  # noqa: RUF012

    def get(self, request):
        return Response({"sub": request.auth.subject})


class Admin(APIView):
    permission_classes = [requires(role("admin"))]  # noqa: RUF012

    def get(self, request):
        return Response({"sub": request.auth.subject})


urlpatterns = [
    path("health", health),
    path("me", me),
    path("orders", Orders.as_view()),
    path("admin", Admin.as_view()),
]
