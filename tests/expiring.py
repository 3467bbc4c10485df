"""An API whose connections end with the token that opened them, as servers run it.

Its clock is ahead by as many seconds as the file ``ahead`` in FOLDER says.  What it does goes to the file ``trace``:
the name of a route, and the text of a message or how the application ended.  Whatever is written to stdout or
stderr, by us or by the server, goes to the file ``log``.
"""

import asyncio
import logging
import os
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute

from ticketgate import Issuer, ResourceServer
from ticketgate.core.clock import Clock
from ticketgate.drivers import expiry
from ticketgate.starlette import AccessTokenMiddleware

FOLDER = Path(os.environ["FOLDER"])
expiry.GRACE = expiry.PAUSE = 0.5
expiry.LONGEST_WAIT = 0.05
log = os.open(FOLDER / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
logging.basicConfig(level="INFO", force=True)


def trace(scope, what):
    with (FOLDER / "trace").open("a") as file:
        file.write(f"{scope['path']} {what}\n")


def wall():
    return time.time() + float((FOLDER / "ahead").read_text())


async def echo(websocket):
    await websocket.accept()
    while True:
        text = await websocket.receive_text()
        trace(websocket.scope, text)
        await websocket.send_text(text)


async def push(websocket):
    await websocket.accept()
    while True:
        await websocket.send_text("again")
        await asyncio.sleep(0.02)


async def deaf(scope, receive, send):
    """Ignores disconnects, errors and cancellation for a while, and executes whatever it can get."""
    await send({"type": "websocket.accept"})
    while not (FOLDER / "go").exists():
        try:
            message = await receive()
            if message["type"] == "websocket.receive":
                trace(scope, message["text"])
            await send({"type": "websocket.send", "text": "again"})
        except asyncio.CancelledError:
            trace(scope, "cancelled")
        except OSError:
            continue


async def names(websocket):
    """Sends what the application can see of the handshake, and chooses what the query says."""
    offered = websocket.scope["subprotocols"], websocket.headers.getlist("sec-websocket-protocol")
    await websocket.accept(websocket.query_params.get("choose"))
    await websocket.send_json({"offered": offered, "scope": repr(websocket.scope)})
    await websocket.receive()


async def late(websocket):
    trace(websocket.scope, "waiting")
    while not (FOLDER / "go").exists():  # noqa: ASYNC110  another process says so
        await asyncio.sleep(0.02)
    await websocket.accept()
    trace(websocket.scope, "accepted")


async def busy(websocket):
    """Accepts late too, and until then no timer can run."""
    trace(websocket.scope, "waiting")
    while not (FOLDER / "go").exists():
        time.sleep(0.02)  # noqa: ASYNC251
    await websocket.accept()
    trace(websocket.scope, "accepted")


async def events():
    while not (FOLDER / "go").exists():
        yield "data: again\n\n"
        await asyncio.sleep(0.05)
    yield "data: last\n\n"


class Traced(StreamingResponse):
    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            trace(scope, "ended")


def answer(content_type):
    async def endpoint(request):
        return Traced(events(), media_type=content_type)

    return endpoint


async def idle(scope, receive, send):
    """Sends one event and waits for the client to leave, and then for ever."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"Content-Type", b"Text/Event-Stream; charset=utf-8")],
        }
    )
    await send({"type": "http.response.body", "body": b"data: again\n\n", "more_body": True})
    message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    trace(scope, "disconnect")
    try:
        await asyncio.sleep(60)
    finally:
        trace(scope, "ended")


server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]), leeway=0, clock=Clock(wall))
api = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/push", push),
        WebSocketRoute("/names", names),
        WebSocketRoute("/late", late),
        WebSocketRoute("/busy", busy),
        Route("/events", answer("text/event-stream")),
        Route("/download", answer("application/octet-stream")),
        Route("/public", answer("text/event-stream")),
    ]
)
plain = {"/deaf": deaf, "/idle": idle}


async def site(scope, receive, send):
    await plain.get(scope.get("path"), api)(scope, receive, send)


app = AccessTokenMiddleware(
    site,
    server,
    public=["/public"],
    accept_expired_connections="RELAXED" in os.environ,
    accept_subprotocol_token=True,
)
