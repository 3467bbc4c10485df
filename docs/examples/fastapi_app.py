import os
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse

from ticketgate import AccessToken, Issuer, ResourceServer, role, scope
from ticketgate.fastapi import AccessTokenMiddleware, install, install_openapi, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))
public = ["/health", "/openapi.json", "/docs", "/docs/*", "/redoc"]

app = FastAPI(title="Orders")
app.add_middleware(AccessTokenMiddleware, server=server, public=public)  # everything else is closed
install(app)  # error bodies as everywhere: {"error": ..., "error_description": ...}

Anybody = Annotated[AccessToken, Depends(requires())]
Reader = Annotated[AccessToken, Depends(requires(scope("orders:read")))]
admins = APIRouter(dependencies=[Depends(requires(role("admin")))])


@app.get("/health", response_class=PlainTextResponse)
async def health():
    return "well"


@app.get("/me")
async def me(token: Anybody):
    return {"sub": token.subject}


@app.get("/orders")
def orders(token: Reader):
    return {"sub": token.subject}


@admins.get("/admin")
async def admin(token: Anybody):
    return {"sub": token.subject}


@app.websocket("/ws")
async def live(websocket: WebSocket, token: Reader):
    await websocket.accept()
    await websocket.send_text(token.subject)
    await websocket.close()


app.include_router(admins)
install_openapi(app)  # the OpenAPI document says all of this
