"""ticketgate: the gate in front of your API, an OAuth 2 resource server for ASGI and WSGI applications.

from ticketgate import Issuer, ResourceServer, scope
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.starlette import requires

server = ResourceServer("https://api.example", Issuer("https://as.example"))
app = AccessTokenMiddleware(app, server, public=["/health"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ticketgate import errors
from ticketgate.core.access_token import AccessToken
from ticketgate.core.freshness import KeyPolicy
from ticketgate.core.http_options import HTTPOptions
from ticketgate.core.issuer import Issuer
from ticketgate.core.request import ResourceRequest
from ticketgate.core.requirement import Requirement, claim, entitlement, group, role, scope
from ticketgate.core.server import ResourceServer

if TYPE_CHECKING:
    from ticketgate.core.client_auth import (
        BearerToken,
        ClientSecretBasic,
        ClientSecretPost,
        MutualTls,
        PrivateKeyJwt,
    )
    from ticketgate.core.introspection import Introspection
    from ticketgate.drivers.aio import averify, awarm_up
    from ticketgate.drivers.blocking import verify, warm_up

__all__ = [
    "AccessToken",
    "BearerToken",
    "ClientSecretBasic",
    "ClientSecretPost",
    "HTTPOptions",
    "Introspection",
    "Issuer",
    "KeyPolicy",
    "MutualTls",
    "PrivateKeyJwt",
    "Requirement",
    "ResourceRequest",
    "ResourceServer",
    "averify",
    "awarm_up",
    "claim",
    "entitlement",
    "errors",
    "group",
    "role",
    "scope",
    "verify",
    "warm_up",
]

CLIENT_AUTH, AIO, BLOCKING = (
    "ticketgate.core.client_auth",
    "ticketgate.drivers.aio",
    "ticketgate.drivers.blocking",
)
LATER = {
    "BearerToken": CLIENT_AUTH,
    "ClientSecretBasic": CLIENT_AUTH,
    "ClientSecretPost": CLIENT_AUTH,
    "Introspection": "ticketgate.core.introspection",
    "MutualTls": CLIENT_AUTH,
    "PrivateKeyJwt": CLIENT_AUTH,
    "averify": AIO,
    "awarm_up": AIO,
    "verify": BLOCKING,
    "warm_up": BLOCKING,
}


def __getattr__(name: str) -> Any:
    """What not everybody needs (an HTTP client, keys that sign) is loaded for those who use it."""
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
