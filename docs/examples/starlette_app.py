import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from ticketgate import Issuer, ResourceServer, role, scope
from ticketgate.starlette import AccessTokenMiddleware, access_token, requires

server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"]))


async def health(request):
    return PlainTextResponse("well")


async def me(request):
    return JSONResponse({"sub": access_token(request).subject})


@requires(scope("orders:read"))
async def orders(request):
    return JSONResponse({"sub": request.user.token.subject})


@requires(role("admin"))
def admin(request):  # plain functions run in threads, as always
    return JSONResponse({"sub": access_token(request).subject})


@requires(scope("orders:read"))
async def live(websocket):
    await websocket.accept()
    await websocket.send_text(access_token(websocket).subject)
    await websocket.close()


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/me", me),
        Route("/orders", orders),
        Route("/admin", admin),
        WebSocketRoute("/ws", live),
    ],
    middleware=[  # CORS outside, so that browsers can read a 401
        Middleware(CORSMiddleware, allow_origins=["https://app.example"]),
        Middleware(AccessTokenMiddleware, server=server, public=["/health"]),
    ],
)
