"""The demo's authorization server: that of `ticketgate.issuing`, and a login page for its two users.

RFC 6749 §4.1, RFC 7636, RFC 9207 §3; WHATWG Fetch, CORS protocol.

For trying things out, on this machine only: passwords and login pages are not what ticketgate is for.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ticketgate.core.flow import Flow
from ticketgate.core.grant_types import AUTHORIZATION_CODE
from ticketgate.core.jwt import read
from ticketgate.core.web_address import is_loopback
from ticketgate.demo.authorization_codes import Authorization, AuthorizationCodes
from ticketgate.demo.authorization_endpoint import AuthorizationEndpoint, User
from ticketgate.demo.browser_clients import BrowserClient, BrowserClients
from ticketgate.errors import ConfigurationError
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters
from ticketgate.issuing.server import AuthorizationServer, document_answer

PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET, POST"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Requested-With"),
    ("Access-Control-Max-Age", "600"),
)


class DemoAuthorizationServer:
    """``server`` with the authorization code grant for ``clients`` and ``users``; its issuer must be on loopback.

    Raises `ConfigurationError` otherwise.  Pages at the origin of a client's redirect URI may read every answer but
    the login page (CORS).
    """

    def __init__(
        self,
        server: AuthorizationServer,
        *,
        clients: Iterable[BrowserClient],
        users: Mapping[tuple[str, str], User],
    ) -> None:
        parts = urlsplit(server.issuer.issuer)
        if not is_loopback(parts.hostname or ""):
            raise ConfigurationError("the demo's login page is for issuers on loopback: it has no safeguards")
        self.server = server
        self._clients = BrowserClients(clients)
        self._codes = AuthorizationCodes(server.store)
        self._authorization = AuthorizationEndpoint(server.issuer, self._clients, self._codes, users)
        self._root = parts.path.rstrip("/")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that is answered, below the issuer's origin."""
        return (*self.server.paths, f"{self._root}/authorize")

    def metadata(self) -> dict[str, Any]:
        """The metadata document (RFC 8414 §2)."""
        document = self.server.metadata()
        return document | {
            "authorization_endpoint": f"{self.server.issuer.issuer.rstrip('/')}/authorize",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "grant_types_supported": [*document["grant_types_supported"], AUTHORIZATION_CODE],
        }

    def answer(self, path: str, request: EndpointRequest) -> Flow[Answer]:
        """The answer to a request for ``path``, one of `paths`."""
        if path == f"{self._root}/authorize":
            return self._authorization.answer(request)
        if not request.origin:
            return (yield from self._answer(path, request))
        shared = self._shared_with(request.origin)
        if request.method == "OPTIONS":
            return Answer(204, (*shared, *(PREFLIGHT if len(shared) > 1 else ())), b"")
        return (yield from self._answer(path, request)).with_headers(*shared)

    def _shared_with(self, origin: bytes) -> tuple[tuple[str, str], ...]:
        name = origin.decode("latin-1")
        allowed = self._clients.have_pages_at(name)
        return (("Vary", "Origin"), *([("Access-Control-Allow-Origin", name)] if allowed else []))

    def _answer(self, path: str, request: EndpointRequest) -> Flow[Answer]:
        if path in self.server.metadata_paths:
            return document_answer(self.metadata(), request)
        if path == f"{self._root}/token" and (parameters := _code_grant(request)) is not None:
            return self._exchange(parameters)
        return (yield from self.server.answer(path, request))

    def _exchange(self, parameters: Mapping[str, str]) -> Answer:
        """RFC 6749 §4.1.3, RFC 7636 §4.6: the client that the user saw, and its verifier."""
        try:
            if "code" not in parameters:
                raise Refusal("invalid_request", "code is missing")
            now = self.server.issuer.clock.wall()
            authorization = self._codes.redeem(
                parameters["code"],
                client_id=parameters.get("client_id", ""),
                redirect_uri=parameters.get("redirect_uri"),
                verifier=parameters.get("code_verifier"),
                now=now,
            )
            if parameters.get("resource", authorization.resource) != authorization.resource:
                raise Refusal("invalid_target", "The user agreed to another resource")
            return self._grant(parameters["code"], authorization, now)
        except Refusal as refusal:
            return refusal.answer

    def _grant(self, code: str, authorization: Authorization, now: float) -> Answer:
        token = self.server.issuer.issue(
            subject=authorization.subject,
            client_id=authorization.client_id,
            scope=authorization.scope,
            resource=authorization.resource,
            claims={**authorization.claims, "auth_time": authorization.auth_time},
            now=now,
        )
        issued = read(token.encode("ascii")).claims
        self._codes.remember_token(code, issued["jti"], float(issued["exp"]))
        scope = {"scope": authorization.scope} if authorization.scope else {}
        lifetime = self.server.issuer.lifetime
        return Answer.of({"access_token": token, "token_type": "Bearer", "expires_in": lifetime} | scope)


def _code_grant(request: EndpointRequest) -> dict[str, str] | None:
    """The parameters of a request for this grant; None for any other, which the server answers."""
    try:
        parameters = read_parameters(request)
    except Refusal:
        return None
    return parameters if parameters.get("grant_type") == AUTHORIZATION_CODE else None
