"""What FastAPI's OpenAPI document says about access tokens; used through `ticketgate.fastapi`.

FastAPI merges the scopes of alternative security requirements into one, so the document is completed afterwards.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

from fastapi import FastAPI, routing

from ticketgate.asgi import AccessTokenMiddleware
from ticketgate.core.openapi import SCHEME, bearer_scheme, openid_connect_scheme, protect
from ticketgate.core.requirement import ANY_TOKEN, Requirement, all_of, declared
from ticketgate.errors import ConfigurationError
from ticketgate.starlette import unwrapped


def install_openapi(app: Any, *, openid_connect_url: str | None = None) -> "SecuredDocument":
    """Have the OpenAPI document of ``app`` tell what each operation requires, and how it refuses.

    ``app`` is a FastAPI application, or one behind ASGI middleware.  An operation is described by its
    ``requires(...)``, those of its routers and of the application included; behind `AccessTokenMiddleware` every
    operation that is not public needs a token at least.  The security scheme is ``http bearer``, or
    ``openIdConnect`` where ``openid_connect_url`` names the issuer's metadata.

    Raises `ConfigurationError` where there is no FastAPI application.
    """
    inner, gate = unwrapped(app)
    if not isinstance(inner, FastAPI):
        raise ConfigurationError(
            f"install_openapi(app) needs a FastAPI application, not {type(inner).__name__}"
        )
    installed = getattr(inner.state, "ticketgate_openapi", None)
    if isinstance(installed, SecuredDocument):
        return installed
    scheme = openid_connect_scheme(openid_connect_url) if openid_connect_url else bearer_scheme()
    document = SecuredDocument(inner, gate, scheme)
    inner.state.ticketgate_openapi = document
    setattr(inner, "openapi", document)  # noqa: B010  FastAPI's own way to replace it, which type checkers refuse
    return document


class SecuredDocument:
    """The OpenAPI document of ``app``, made again whenever FastAPI's own or the ``scheme`` is another."""

    def __init__(self, app: FastAPI, gate: AccessTokenMiddleware | None, scheme: dict[str, Any]) -> None:
        self.app = app
        self.gate = gate
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
        own = requirement_of(route)
        if own is not None:
            return own, False
        if self.gate is None or self.gate.public.include(route.path_format):
            return None, False
        return ANY_TOKEN, self.gate.optional


def operations(app: FastAPI) -> Iterator[Any]:
    """The path operations of ``app``, those of included routers too, as they take effect."""
    contexts = getattr(routing, "iter_route_contexts", None)  # newer versions keep included routers apart
    for route in contexts(app.routes) if contexts else app.routes:
        if isinstance(getattr(route, "original_route", route), routing.APIRoute):
            yield route


def requirement_of(route: Any) -> Requirement | None:
    """All that the dependencies and the endpoint of ``route`` require; None for nothing."""
    found = [needed for call in _calls(route.dependant) if (needed := declared(call)) is not None]
    return all_of(found) if found else None


def _calls(dependant: Any) -> Iterator[Any]:
    yield dependant.call
    for one in cast(list[Any], dependant.dependencies):
        yield from _calls(one)
