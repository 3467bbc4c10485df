"""What FastAPI's OpenAPI document says about access tokens, and Swagger UI's login; used through `ticketgate.fastapi`.

FastAPI merges the scopes of alternative security requirements into one, so the document is completed afterwards.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from os import PathLike
from time import monotonic
from typing import Any

from fastapi import FastAPI, routing
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.core.flow import FetchFailed, Flow, once
from ticketgate.core.issuer import Issuer
from ticketgate.core.openapi import (
    SCHEME,
    authorization_code_scheme,
    bearer_scheme,
    openid_connect_scheme,
    protect,
)
from ticketgate.core.requirement import ANY_TOKEN, Requirement, declared_together
from ticketgate.core.server import ResourceServer
from ticketgate.drivers.aio import default_driver
from ticketgate.errors import ConfigurationError
from ticketgate.placement import effective_routes
from ticketgate.starlette import called_by, gates_within, unwrapped

logger = logging.getLogger("ticketgate")


def install_openapi(app: Any, *, openid_connect_url: str | None = None) -> "SecuredDocument":
    """Have the OpenAPI document of ``app`` tell what each operation requires, and how it refuses.

    ``app`` is a FastAPI application, or one behind ASGI middleware.  An operation is described by its
    ``requires(...)``, those of its routers and of the application included; behind `AccessTokenMiddleware` every
    operation that is not public needs a token at least.  The security scheme is ``http bearer``, or
    ``openIdConnect`` where ``openid_connect_url`` names the issuer's metadata.

    Raises `ConfigurationError` where there is no FastAPI application.
    """
    inner, gates = unwrapped(app)
    if not isinstance(inner, FastAPI):
        raise ConfigurationError(
            f"install_openapi(app) needs a FastAPI application, not {type(inner).__name__}"
        )
    installed = getattr(inner.state, "ticketgate_openapi", None)
    if isinstance(installed, SecuredDocument):
        return installed
    scheme = openid_connect_scheme(openid_connect_url) if openid_connect_url else bearer_scheme()
    document = SecuredDocument(inner, (*gates, *gates_within(inner)), scheme)
    inner.state.ticketgate_openapi = document
    setattr(inner, "openapi", document)  # noqa: B010  FastAPI's own way to replace it, which type checkers refuse
    return document


def install_swagger_login(
    app: Any,
    *,
    client_id: str,
    scopes: Iterable[str] = (),
    issuer: Issuer | None = None,
    parameters: Mapping[str, str] | None = None,
    assets: "str | PathLike[str] | None" = None,
) -> None:
    """Have Swagger UI's Authorize button sign in at the issuer: authorization code with PKCE (RFC 7636).

    ``client_id`` is a public client there, whose redirect URI is this application's ``/docs/oauth2-redirect``; its
    metadata and token endpoints must answer this origin (CORS).  The endpoints come from the metadata of
    ``issuer``, or of the one that the application trusts, when the document is first asked for; as long as they
    cannot be had, it shows a field for tokens instead.  ``scopes`` are chosen beforehand, ``parameters`` join the
    authorization request.  ``assets`` is a folder with ``swagger-ui-bundle.js`` and ``swagger-ui.css`` to serve in
    place of the CDN.  Installs what `install_openapi` does too.

    Raises `ConfigurationError` where there are no docs, or where it is not clear which issuer.
    """
    document = install_openapi(app)
    inner = document.app
    if not inner.openapi_url or not inner.docs_url:
        raise ConfigurationError(
            "install_swagger_login needs docs: docs_url and openapi_url must not be None"
        )
    discovery = Discovery(document, issuer or _only_issuer(document))
    inner.swagger_ui_init_oauth = {
        "clientId": client_id,
        "usePkceWithAuthorizationCodeGrant": True,
        "scopes": " ".join(scopes),
        "additionalQueryStringParams": dict(parameters or {}),
    }
    _replace_endpoint(inner, inner.openapi_url, discovery.before)
    places = [inner.openapi_url, inner.docs_url, f"{inner.docs_url}/oauth2-redirect"]
    if assets is not None:
        places.append(f"{inner.docs_url}/assets/swagger-ui.css")
        inner.router.routes.append(Mount(f"{inner.docs_url}/assets", StaticFiles(directory=assets)))
        _replace_endpoint(inner, inner.docs_url, lambda _: _page_with_assets(inner))
    if closed := [path for path in places if document.closing(path)]:
        logger.error("Swagger UI cannot load behind the gate: add %s to public", ", ".join(closed))


class SecuredDocument:
    """The OpenAPI document of ``app``, made again whenever FastAPI's own or the ``scheme`` is another."""

    def __init__(
        self, app: FastAPI, gates: tuple[AccessTokenMiddleware, ...], scheme: dict[str, Any]
    ) -> None:
        self.app = app
        self.gates = gates
        self.scheme = scheme
        self._make_plain = app.openapi
        self._made_of: tuple[Any, Any] = (None, None)
        self._made: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        plain, scheme = self._make_plain(), self.scheme
        if self._made_of[0] is not plain or self._made_of[1] is not scheme:
            self._made = self._secured(deepcopy(plain), scheme)
            self._made_of = (plain, scheme)
        return self._made

    @property
    def servers(self) -> list[ResourceServer]:
        """Every resource server that decides for some operation."""
        state: Any = getattr(self.app.state, "ticketgate", None)
        found = [state, *(gate.server for gate in self.gates)]
        found += [
            getattr(call, "server", None) for route in operations(self.app) for call in called_by(route)
        ]
        return [server for server in found if isinstance(server, ResourceServer)]

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope that some operation names, in order."""
        return tuple(
            dict.fromkeys(
                value
                for route in operations(self.app)
                for value in getattr(self._needed(route)[0], "scopes", ())
            )
        )

    def _secured(self, document: dict[str, Any], scheme: dict[str, Any]) -> dict[str, Any]:
        for route in operations(self.app):
            needed, optional = self._needed(route)
            described: dict[str, Any] = document["paths"].get(route.path_format, {})
            for method in route.methods or ():
                operation = described.get(method.lower())
                if operation is not None and needed is not None:
                    protect(operation, needed, optional=optional)
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[SCHEME] = scheme
        return document

    def _needed(self, route: Any) -> tuple[Requirement | None, bool]:
        """What a request for ``route`` needs, if anything, and whether none at all is good enough too."""
        own = declared_together(called_by(route))
        if own is not None:
            return own, False
        closing = self.closing(route.path_format)
        optional = all(gate.optional or gate.public.opening(route.path_format) for gate in closing)
        return (ANY_TOKEN, optional) if closing else (None, False)

    def closing(self, path: str) -> list[AccessTokenMiddleware]:
        """The gates that ``path`` is not public for."""
        return [gate for gate in self.gates if not gate.public.include(path)]


class Discovery:
    """Finds the endpoints of ``issuer`` in its metadata, for all who wait at once, and a minute apart where it fails."""

    PAUSE = 60.0

    def __init__(self, document: SecuredDocument, issuer: Issuer) -> None:
        self._document = document
        self._issuer = issuer
        self._again = float("-inf")

    def before(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """``endpoint``, once the document knows what can be known."""

        async def found_first(request: "Request[Any]") -> Any:
            await self._look()
            return await endpoint(request)

        return found_first

    async def _look(self) -> None:
        if monotonic() < self._again:
            return
        try:
            authorization, token = await default_driver().run(once((self, "endpoints"), self._read))
        except FetchFailed as error:
            self._again = monotonic() + self.PAUSE
            logger.warning("no login in Swagger UI yet: %s: %s", self._issuer.identifier, error)
        else:
            self._again = float("inf")
            self._document.scheme = authorization_code_scheme(authorization, token, self._document.scopes)

    def _read(self) -> Flow[tuple[str, str]]:
        metadata, now = self._issuer.metadata, monotonic()
        authorization = yield from metadata.address("authorization_endpoint", now)
        return authorization, (yield from metadata.address("token_endpoint", now))


def _only_issuer(document: SecuredDocument) -> Issuer:
    issuers = [issuer for server in document.servers for issuer in server.issuers.values()]
    if len(set(map(id, issuers))) != 1:
        raise ConfigurationError(
            f"{len(issuers)} issuers are known here: write install_swagger_login(app, issuer=issuer, ...)"
        )
    return issuers[0]


def _replace_endpoint(
    app: FastAPI, path: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Put ``around`` the endpoint that FastAPI made for ``path``."""
    for place, route in enumerate(app.router.routes):
        if isinstance(route, Route) and route.path == path:
            app.router.routes[place] = Route(path, around(route.endpoint), include_in_schema=False)


def _page_with_assets(app: FastAPI) -> Callable[..., Any]:
    async def page(request: "Request[Any]") -> Response:
        root = str(request.scope.get("root_path", "")).rstrip("/")
        assets = f"{root}{app.docs_url}/assets"
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            oauth2_redirect_url=f"{root}{app.swagger_ui_oauth2_redirect_url}",
            init_oauth=app.swagger_ui_init_oauth,
            swagger_ui_parameters=app.swagger_ui_parameters,
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
        )

    return page


def operations(app: FastAPI) -> Iterator[Any]:
    """The path operations of ``app``, those of included routers too."""
    for route in effective_routes(app.routes):
        if isinstance(getattr(route, "original_route", route), routing.APIRoute):
            yield route
