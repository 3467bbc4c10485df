"""Scopes of FastAPI's ``Security(...)``: what is required, what is documented and what is audited are the same.

`tests/versions/test_oldest_fastapi.py` runs this file with the oldest FastAPI that we allow.
"""

from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from starlette.requests import HTTPConnection
from tokens import resource_server, token

from ticketgate import AccessToken, role, scope
from ticketgate.audit import audit
from ticketgate.errors import ConfigurationError
from ticketgate.fastapi import Requires, install, install_openapi, requires

anybody = requires()
reader = requires(scope("read"))


def user(caller: Annotated[AccessToken, Security(anybody, scopes=["user"])]):
    return caller


def office(
    caller: Annotated[AccessToken, Security(user, scopes=["office"])],
    again: Annotated[AccessToken, Depends(anybody)],
):
    return caller


Nested = Annotated[AccessToken, Security(office, scopes=["outer"])]


def api(**options):
    app = FastAPI(dependencies=[Security(anybody, scopes=["api"])], openapi_url=None, **options)
    router = APIRouter(prefix="/router", dependencies=[Security(anybody, scopes=["router"])])
    bare = APIRouter()

    @bare.get("/plain")
    async def plain(): ...

    @bare.get("/one", dependencies=[Security(reader, scopes=["a", "b"])])
    async def one(): ...

    @bare.get("/roles", dependencies=[Security(requires(role("clerk") | scope("r")), scopes=["a"])])
    async def roles(): ...

    @bare.get("/nested")
    def nested(caller: Nested): ...

    @bare.get("/siblings")
    def siblings(caller: Nested, other: Annotated[AccessToken, Security(anybody, scopes=["late"])]): ...

    @router.get("/in")
    async def in_a_router(caller: Annotated[AccessToken, Security(reader, scopes=["op"])]): ...

    app.include_router(bare)
    app.include_router(router, prefix="/v1")
    install(app, resource_server())
    return app


NEEDED = {  # path: the scopes that each alternative needs
    "/plain": [["api"]],
    "/one": [["api", "a", "b", "read"]],
    "/roles": [["api", "a"], ["api", "a", "r"]],  # the first needs a role as well
    "/nested": [["api", "outer", "office", "user"]],
    "/siblings": [["api", "outer", "office", "user", "late"]],
    "/v1/router/in": [["api", "router", "op", "read"]],
}


async def get(app, path, **claims):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        return await client.get(path, headers={"Authorization": f"Bearer {token(**claims).decode()}"})


@pytest.mark.parametrize("path", NEEDED)
async def test_they_are_required(path):
    app, scopes = api(), NEEDED[path][-1]
    assert (await get(app, path, scope=" ".join(scopes))).status_code == 200
    for missing in scopes:
        refused = await get(app, path, scope=" ".join(set(scopes) - {missing}))
        assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
        (challenge,) = refused.headers.get_list("WWW-Authenticate")
        named = challenge.partition('scope="')[2].rstrip('"').split()
        assert missing in named
        assert named == [one for one in scopes if one in named]  # outer ones first


@pytest.mark.parametrize("path", NEEDED)
def test_they_are_audited(path):
    (route,) = (one for one in audit(api()).routes if one.path == path)
    assert [
        [need.value for need in needs if need.kind == "scope"] for needs in route.needed.alternatives
    ] == [unordered(needs, route.needed) for needs in NEEDED[path]]
    assert route.problems == ()


def unordered(scopes, needed):
    """``scopes`` in the order of a requirement, for sets to be compared."""
    return sorted(scopes, key=needed.scopes.index)


@pytest.mark.parametrize("path", NEEDED)
def test_they_are_documented(path):
    app = api()
    install_openapi(app)
    operation = app.openapi()["paths"][path]["get"]
    assert [set(entry["accessToken"]) for entry in operation["security"]] == [
        set(one) for one in NEEDED[path]
    ]
    assert "403" in operation["responses"]


async def test_a_dependency_runs_once_for_each_set_of_scopes():
    seen = []

    class Noted(Requires):
        async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes):
            seen.append(tuple(security_scopes.scopes))
            return await super().__call__(connection, security_scopes)

    noted = Noted(anybody.needed, None, None)
    app = FastAPI(dependencies=[Depends(noted), Security(noted, scopes=["a"])])

    @app.get("/", dependencies=[Depends(noted), Security(noted, scopes=["a"]), Security(noted, scopes=["b"])])
    async def show(caller: Annotated[AccessToken, Security(noted, scopes=["a"])]): ...

    install(app, resource_server())
    assert (await get(app, "/", scope="a b")).status_code == 200
    assert seen == [(), ("a",), ("b",)]


async def test_the_verdict_of_a_request_is_shared():
    events = []
    server = resource_server(on_event=events.append)  # it hears of a hit whenever a token is judged again
    app = FastAPI(dependencies=[Security(anybody, scopes=["a"])])

    @app.get("/", dependencies=[Security(requires(server=server), scopes=["b"]), Depends(reader)])
    async def show(caller: Nested): ...

    install(app, server)
    for _ in range(2):
        answer = await get(app, "/", scope="a b read outer office user")
        assert answer.status_code == 200
    assert [type(event).__name__ for event in events] == ["CacheHit"]  # of the second request


async def test_replaced_dependencies_are_given_their_scopes():
    app = api()
    app.dependency_overrides[user] = requires(scope("instead"))
    assert (await get(app, "/nested", scope="api outer office instead")).status_code == 200
    assert (await get(app, "/nested", scope="api outer instead")).status_code == 403


@pytest.mark.parametrize("bad", ["read write", "", 'say "hi"', "é"])
async def test_what_is_not_a_scope(bad, caplog):
    app = FastAPI(openapi_url=None)

    @app.get("/x", dependencies=[Security(anybody, scopes=[bad])])
    async def show(): ...

    with pytest.raises(ConfigurationError, match=r"^/x: .* in Security\(.*\) is not a scope"):
        install(app, resource_server())
    (problem,) = audit(app).problems
    assert "which is not a scope: every request gets a 503" in problem
    answer = await get(app, "/x", scope="read write")
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (503, False)
    assert "every request is refused" in caplog.text
    assert install_openapi(app)()["paths"]["/x"]["get"]["security"] == [{"accessToken": []}]


@pytest.mark.parametrize("bad", [1, None])
def test_what_is_not_even_a_string(bad):
    """At run time FastAPI itself fails for it."""
    app = FastAPI(dependencies=[Security(anybody, scopes=[bad])])
    app.get("/x")(lambda: None)
    with pytest.raises(ConfigurationError, match=f"^/x: {bad} in .* is not a scope"):
        install(app, resource_server())


async def test_what_is_not_a_scope_below_a_mount_and_after_install():
    app, inner = FastAPI(), FastAPI()
    install(app, resource_server())
    app.mount("/inner", inner)

    @inner.get("/x", dependencies=[Security(anybody, scopes=["read write"])])
    async def show(): ...

    with pytest.raises(ConfigurationError, match=r"^/inner/x: 'read write'"):
        async with app.router.lifespan_context(app):
            pass


def by_hand(security_scopes: SecurityScopes):
    return security_scopes.scopes


SCHEME = OAuth2PasswordBearer("/token")


@pytest.mark.parametrize("dependency", [by_hand, SCHEME, Depends(SCHEME).dependency])
async def test_scopes_that_nothing_requires(dependency, caplog):
    app = FastAPI(openapi_url=None)

    @app.get("/before", dependencies=[Security(dependency, scopes=["a"]), Depends(anybody)])
    async def before(): ...

    install(app, resource_server())
    assert "/before: Security(..., scopes=['a']) has no requires() below it" in caplog.text
    caplog.clear()

    @app.websocket("/later", dependencies=[Security(dependency, scopes=["b"]), Depends(anybody)])
    async def later(websocket: WebSocket): ...

    async with app.router.lifespan_context(app):
        (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("/later: Security(..., scopes=['b']) has no requires()")
    assert [problem.partition(" has")[0] for problem in audit(app).problems] == [
        "GET /before",
        "WEBSOCKET /later",
    ]


async def test_the_lifespan_of_the_application_goes_on_as_before():
    steps = []

    @asynccontextmanager
    async def lifespan(app):
        steps.append("begins")
        yield {"of": "the application"}
        steps.append("ends")

    app = api(lifespan=lifespan)
    async with app.router.lifespan_context(app) as state:
        assert (state, steps) == ({"of": "the application"}, ["begins"])
    assert steps == ["begins", "ends"]
