"""A WSGI application that has used its keys before its server forks."""

import os

from ticketgate import Issuer, KeyPolicy, ResourceServer, warm_up
from ticketgate.wsgi import AccessTokenMiddleware

policy = KeyPolicy(timeout=float(os.environ.get("TIMEOUT", "5")))
server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"], keys=policy))
warm_up(server)


def show_process(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


application = AccessTokenMiddleware(show_process, server)
