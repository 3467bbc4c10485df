"""FastAPI applications with a WebSocket that is refused, for servers that run in processes of their own.

``without_...`` are behind a server that cannot refuse a WebSocket with a response.
"""

from doors import server
from fastapi import Depends, FastAPI, WebSocket

from ticketgate import scope
from ticketgate.errors import AccessDenied
from ticketgate.fastapi import install, requires


def api() -> FastAPI:
    app = FastAPI()

    @app.websocket("/required", dependencies=[Depends(requires(scope("read")))])
    async def required(websocket: WebSocket):
        await websocket.accept()

    @app.websocket("/raised")
    async def raised(websocket: WebSocket):
        raise AccessDenied()

    @app.websocket("/accepted")
    async def accepted(websocket: WebSocket):
        await websocket.accept()
        raise AccessDenied()

    @app.websocket("/closed")
    async def closed(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()
        raise AccessDenied()

    return app


def without_denials(app):
    async def server(scope, receive, send):
        await app({**scope, "extensions": {}} if scope["type"] == "websocket" else scope, receive, send)

    return server


bare, installed = api(), api()
bare.state.ticketgate = server()
install(installed, server())
without_bare, without_installed = without_denials(bare), without_denials(installed)
