"""The sample API of the demo: what a service behind the gate looks like."""

from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import PlainTextResponse

from ticketgate import (
    AccessToken,
    ClientSecretBasic,
    Introspection,
    Issuer,
    KeyPolicy,
    ResourceServer,
    role,
    scope,
)
from ticketgate.demo.issuer import API_CLIENT_ID, API_CLIENT_SECRET, AUDIENCE, BROWSER_CLIENT_ID
from ticketgate.fastapi import AccessTokenMiddleware, install, install_swagger_login, requires

PUBLIC = ["/health", "/openapi.json", "/docs", "/docs/*"]

router = APIRouter()


@router.get("/health", response_class=PlainTextResponse)
async def health() -> str:
    return "well\n"


@router.get("/me")
async def me(token: Annotated[AccessToken, Depends(requires())]) -> dict[str, Any]:
    return {
        "sub": token.subject,
        "scopes": sorted(token.scopes),
        "groups": sorted(token.groups),
        "roles": sorted(token.roles),
        "entitlements": sorted(token.entitlements),
    }


@router.get("/orders", dependencies=[Depends(requires(scope("orders:read")))])
async def list_orders() -> list[dict[str, Any]]:
    return [{"id": 1, "item": "a ticket"}]


@router.post("/orders", dependencies=[Depends(requires(scope("orders:write")))], status_code=201)
async def create_order() -> dict[str, int]:
    return {"id": 2}


@router.get("/admin")
async def admin(token: Annotated[AccessToken, Depends(requires(role("admin")))]) -> dict[str, str | None]:
    return {"welcome": token.subject}


def api_app(issuer: str) -> FastAPI:
    """The API that trusts ``issuer``; it asks for new keys sooner than usual, since here they change often."""
    asking = Introspection(
        auth=ClientSecretBasic(API_CLIENT_ID, API_CLIENT_SECRET), cache_ttl=1, negative_ttl=1
    )
    trusted = Issuer(issuer, keys=KeyPolicy(cooldown=1), introspection=asking)
    server = ResourceServer(AUDIENCE, trusted, leeway=0)
    app = FastAPI(title="Orders", redoc_url=None)
    app.include_router(router)
    app.add_middleware(AccessTokenMiddleware, server=server, public=PUBLIC)
    install(app)
    swagger_ui = str(files("fastapi_offline") / "static")
    install_swagger_login(app, client_id=BROWSER_CLIENT_ID, assets=swagger_ui)
    return app
