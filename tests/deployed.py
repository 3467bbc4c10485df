"""An API as servers deploy it, with keys that its workers share; each worker that is ready leaves its process id.

app, asgi_app      in a Starlette with a lifespan, which warms up
mounted            below another application, whose lifespan is not passed on
application        for WSGI servers, warmed up on import
"""

import os
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute

from ticketgate import Issuer, KeyPolicy, ResourceServer, awarm_up, warm_up
from ticketgate.starlette import AccessTokenMiddleware, access_token
from ticketgate.wsgi import AccessTokenMiddleware as WsgiMiddleware

FOLDER = Path(os.environ["FOLDER"])
server = ResourceServer(
    "https://api.example", Issuer(os.environ["ISSUER"], keys=KeyPolicy(snapshot=FOLDER / "snapshots"))
)


def ready():
    (FOLDER / f"{os.getpid()}.ready").touch()


async def who(request):
    return JSONResponse({"pid": os.getpid(), "sub": access_token(request).subject})


async def live(websocket):
    await websocket.accept()
    await websocket.send_text(access_token(websocket).subject)
    await websocket.close()


@asynccontextmanager
async def lifespan(app):
    await awarm_up(server)
    ready()
    yield


api = Starlette(routes=[Route("/who", who), WebSocketRoute("/ws", live)])
app = Starlette(routes=[Mount("/", AccessTokenMiddleware(api, server))], lifespan=lifespan)
mounted = Starlette(
    routes=[Mount("/api", AccessTokenMiddleware(Starlette(routes=[Route("/who", who)]), server))]
)


def wsgi_app(environ, start_response):
    subject = environ["ticketgate.access_token"].subject
    body = f'{{"pid": {os.getpid()}, "sub": "{subject}"}}'.encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def application(environ, start_response):
    return guarded(environ, start_response)


guarded = WsgiMiddleware(wsgi_app, server)
if os.environ.get("WARM"):
    warm_up(server)
    ready()
