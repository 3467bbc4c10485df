"""The gate inside a Django project, sync or async.

    INSTALLED_APPS = [..., "ticketgate.django.TicketgateConfig"]
    MIDDLEWARE = ["ticketgate.django.AccessTokenMiddleware", ...]
    TICKETGATE = {"SERVER": "project.gate.server", "PUBLIC": ["/health"]}

    @requires(scope("orders:read"))
    def orders(request): ...           # async views too; class views by method_decorator, or method by method

``SERVER`` is a `ResourceServer` or the dotted path of one; ``PUBLIC``, ``OPTIONAL`` and ``ERROR_BODY`` are as for
`ticketgate.wsgi.AccessTokenMiddleware`; ``USER`` is a function, sync or async, from the access token to a Django
user; ``ACCEPT_PREFLIGHT`` lets CORS preflights through without a token.
"""

from ticketgate.django.apps import TicketgateConfig
from ticketgate.django.middleware import AccessTokenMiddleware, access_token
from ticketgate.django.users import TokenUser
from ticketgate.django.views import requires

__all__ = ["AccessTokenMiddleware", "TicketgateConfig", "TokenUser", "access_token", "requires"]
