import json
import os

from ticketgate import Issuer, ResourceServer, role, scope
from ticketgate.wsgi import AccessTokenMiddleware, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))


def health(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]


def me(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"sub": environ["ticketgate.access_token"].subject}).encode()]


routes = {
    "/health": health,
    "/me": me,
    "/orders": requires(scope("orders:read"))(me),
    "/admin": requires(role("admin"))(me),
}


def dispatch(environ, start_response):
    return routes[environ["PATH_INFO"]](environ, start_response)


app = AccessTokenMiddleware(dispatch, server, public=["/health"])
