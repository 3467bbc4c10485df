"""Two resource servers and one request: each judges it itself, and what the application sees is the inner one's."""

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from flask import Flask
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from tokens import API, ISSUER, Time, jwks, resource_server, token
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ticketgate import Issuer, ResourceServer, flask, scope, starlette, wsgi
from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.fastapi import access_token, install, requires

INNER = "https://inner.example"
OUTER_SERVER = resource_server()
INNER_SERVER = ResourceServer(INNER, Issuer(ISSUER, jwks=jwks()), clock=Time().clock)
READ = scope("read")


def outer_gate(app, **options):
    return AccessTokenMiddleware(app, OUTER_SERVER, **options)


def in_the_stack(server):
    return Middleware(AccessTokenMiddleware, server=server)


def api(*dependencies, path="/x", **options):
    """A FastAPI application with one path operation."""
    app = FastAPI(**options)

    @app.get(path, dependencies=[Depends(one) for one in dependencies])
    async def show(request: Request):
        assert request.user.token is access_token(request)
        return {"sub": access_token(request).subject}

    return app


def mounted(inner, **options):
    app = FastAPI(**options)
    app.mount("/m", inner)
    return app


def installed(app, server):
    install(app, server)
    return app


@starlette.requires(READ)
async def show(request):
    return JSONResponse({"sub": starlette.access_token(request).subject})


def with_a_router():
    app = installed(FastAPI(), OUTER_SERVER)
    router = APIRouter(dependencies=[Depends(requires()), Depends(requires(READ, server=INNER_SERVER))])
    router.get("/x")(lambda: {"sub": "alice"})
    app.include_router(router)
    return app


ASGI = {  # name: path, application
    "gate in a gate": (
        "/x",
        outer_gate(AccessTokenMiddleware(Starlette(routes=[Route("/x", show)]), INNER_SERVER)),
    ),
    "gate before one route": (
        "/x",
        outer_gate(Starlette(routes=[Route("/x", show, middleware=[in_the_stack(INNER_SERVER)])])),
    ),
    "gate below a mount": (
        "/m/x",
        Starlette(
            routes=[Mount("/m", AccessTokenMiddleware(Starlette(routes=[Route("/x", show)]), INNER_SERVER))],
            middleware=[in_the_stack(OUTER_SERVER)],
        ),
    ),
    "dependency in a gate": ("/x", outer_gate(api(requires(READ, server=INNER_SERVER)))),
    "dependency in the stack's gate": (
        "/x",
        api(requires(READ, server=INNER_SERVER), middleware=[in_the_stack(OUTER_SERVER)]),
    ),
    "two dependencies": (
        "/x",
        api(requires(server=OUTER_SERVER), requires(READ, server=INNER_SERVER)),
    ),
    "a router's dependencies": ("/x", with_a_router()),
    "application of the state in a gate": ("/x", outer_gate(installed(api(requires(READ)), INNER_SERVER))),
    "mounted application of a state": (
        "/m/x",
        mounted(installed(api(requires(READ)), INNER_SERVER), middleware=[in_the_stack(OUTER_SERVER)]),
    ),
    "mounted application with a gate": (
        "/m/x",
        outer_gate(mounted(api(requires(READ), middleware=[in_the_stack(INNER_SERVER)]))),
    ),
    "mounted gate in an application of a state": (
        "/m/x",
        outer_gate(
            installed(mounted(AccessTokenMiddleware(api(requires(READ)), INNER_SERVER)), OUTER_SERVER)
        ),
    ),
}
ROWS = [  # the token's audience and scope, the status, whose realm
    (API, "read", 401, INNER),
    (INNER, "read", 401, API),
    ([API, INNER], "", 403, INNER),
    ([INNER, API], "read", 200, None),
    ("https://third.example", "read", 401, API),
]


def check(answer, status, realm):
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"sub": "alice"}
    else:
        assert answer.headers["WWW-Authenticate"].startswith(f'Bearer realm="{realm}"')


def bearer(audience, scopes):
    return {"Authorization": f"Bearer {token(aud=audience, scope=scopes).decode()}"}


async def ask(app, path, headers):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(("audience", "scopes", "status", "realm"), ROWS)
@pytest.mark.parametrize("name", ASGI)
async def test_asgi(name, audience, scopes, status, realm):
    path, app = ASGI[name]
    check(await ask(app, path, bearer(audience, scopes)), status, realm)


def flask_view():
    app = Flask("api")

    @app.get("/x")
    @flask.requires(READ)
    def view():
        return {"sub": flask.access_token.subject}

    return app


def extension_in_a_gate():
    app = flask_view()
    flask.Ticketgate(app, server=INNER_SERVER)
    return wsgi.AccessTokenMiddleware(app, OUTER_SERVER)


def gate_in_a_gate():
    return wsgi.AccessTokenMiddleware(
        wsgi.AccessTokenMiddleware(flask_view(), INNER_SERVER), OUTER_SERVER, public=["/public"]
    )


@pytest.mark.parametrize(("audience", "scopes", "status", "realm"), ROWS)
@pytest.mark.parametrize("made", [extension_in_a_gate, gate_in_a_gate])
def test_wsgi(made, audience, scopes, status, realm):
    with httpx.Client(transport=httpx.WSGITransport(made()), base_url="http://api.example") as client:
        check(client.get("/x", headers=bearer(audience, scopes)), status, realm)


@pytest.mark.parametrize("turned", [False, True])
async def test_a_dependency_without_a_server_asks_the_applications_whatever_ran_before(turned):
    dependencies = [requires(server=INNER_SERVER), requires(READ)]
    app = installed(api(*(reversed(dependencies) if turned else dependencies)), OUTER_SERVER)
    refused = await ask(app, "/x", bearer([API, INNER], ""))
    check(refused, 403, API)
    check(await ask(app, "/x", bearer(INNER, "read")), 401, API)
    check(await ask(app, "/x", bearer(API, "read")), 401, INNER)


async def test_the_innermost_is_the_last_that_was_asked():
    app = api(
        requires(server=INNER_SERVER), requires(server=OUTER_SERVER), middleware=[in_the_stack(OUTER_SERVER)]
    )
    realms = []

    @app.middleware("http")
    async def note(request, call_next):
        answer = await call_next(request)
        realms.append(request.scope["ticketgate.gate"].server.realm)
        return answer

    assert (await ask(app, "/x", bearer([API, INNER], ""))).status_code == 200
    assert realms == [API]


async def test_a_path_that_is_public_for_the_outer_gate_alone():
    app = outer_gate(mounted(installed(api(requires(READ)), INNER_SERVER)), public=["/m/*"])
    check(await ask(app, "/m/x", bearer(INNER, "read")), 200, None)
    check(await ask(app, "/m/x", bearer(API, "read")), 401, INNER)
    check(await ask(app, "/m/x", {}), 401, INNER)


async def test_a_verdict_is_shared_with_the_gate_of_the_same_server():
    """So are the words of its refusals."""
    gate = outer_gate(
        AccessTokenMiddleware(api(requires(READ, server=OUTER_SERVER)), INNER_SERVER),
        error_body=lambda error: {"words": "ours"},
    )
    refused = await ask(gate, "/x", bearer([API, INNER], ""))
    check(refused, 403, API)
    assert refused.json()["detail"] == {"words": "ours"}


def test_websockets():
    inner = FastAPI()

    @inner.websocket("/ws", dependencies=[Depends(requires(READ))])
    async def live(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(access_token(websocket).subject)

    install(inner, INNER_SERVER)
    with serve_asgi(outer_gate(mounted(inner)), ws="websockets-sansio") as url:
        address = url.replace("http", "ws") + "/m/ws"
        with connect(address, additional_headers=bearer([API, INNER], "read")) as websocket:
            assert websocket.recv(5) == "alice"
        for audience, realm in ((API, INNER), (INNER, API)):
            with (
                pytest.raises(InvalidStatus, match="401") as refused,
                connect(address, additional_headers=bearer(audience, "read")),
            ):
                pass
            check(refused.value.response, 401, realm)
