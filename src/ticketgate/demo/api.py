"""The sample API of the demo: what a service behind the gate looks like."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ticketgate import ClientSecretBasic, Introspection, Issuer, KeyPolicy, ResourceServer, role, scope
from ticketgate.demo.issuer import API_CLIENT_ID, API_CLIENT_SECRET, AUDIENCE
from ticketgate.starlette import AccessTokenMiddleware, requires


async def health(request: Request) -> Response:
    return PlainTextResponse("well\n")


async def me(request: Request) -> Response:
    token = request.user.token
    return JSONResponse(
        {
            "sub": token.subject,
            "scopes": sorted(token.scopes),
            "groups": sorted(token.groups),
            "roles": sorted(token.roles),
            "entitlements": sorted(token.entitlements),
        }
    )


@requires(scope("orders:read"))
async def list_orders(request: Request) -> Response:
    return JSONResponse([{"id": 1, "item": "a ticket"}])


@requires(scope("orders:write"))
async def create_order(request: Request) -> Response:
    return JSONResponse({"id": 2}, status_code=201)


@requires(role("admin"))
async def admin(request: Request) -> Response:
    return JSONResponse({"welcome": request.user.token.subject})


def api_app(issuer: str) -> Starlette:
    """The API that trusts ``issuer``; it asks for new keys sooner than usual, since here they change often."""
    asking = Introspection(
        auth=ClientSecretBasic(API_CLIENT_ID, API_CLIENT_SECRET), cache_ttl=1, negative_ttl=1
    )
    trusted = Issuer(issuer, keys=KeyPolicy(cooldown=1), introspection=asking)
    server = ResourceServer(AUDIENCE, trusted, leeway=0)
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/me", me),
            Route("/orders", list_orders, methods=["GET"]),
            Route("/orders", create_order, methods=["POST"]),
            Route("/admin", admin),
        ],
        middleware=[Middleware(AccessTokenMiddleware, server=server, public=["/health"])],
    )
