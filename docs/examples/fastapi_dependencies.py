import os
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse

from ticketgate import AccessToken, Issuer, ResourceServer, role, scope
from ticketgate.fastapi import install, install_openapi, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))

app = FastAPI(title="Orders")
install(app, server, public=["/health", "/openapi.json", "/docs", "/docs/*", "/redoc"])  # no middleware
install_openapi(app)


@app.get("/health", response_class=PlainTextResponse)
async def health():  # open, since nothing here asks for a token
    return "well"


@app.get("/me")
async def me(token: Annotated[AccessToken, Depends(requires())]):
    return {"sub": token.subject}


@app.get("/orders")
async def orders(token: Annotated[AccessToken, Depends(requires(scope("orders:read")))]):
    return {"sub": token.subject}


@app.get("/admin")
async def admin(token: Annotated[AccessToken, Depends(requires(role("admin")))]):
    return {"sub": token.subject}


@app.websocket("/ws")
async def live(websocket: WebSocket, token: Annotated[AccessToken, Depends(requires(scope("orders:read")))]):
    await websocket.accept()
    await websocket.send_text(token.subject)
    await websocket.close()
