"""The token endpoint: who asks, for what, and the token that comes of it.

RFC 6749 §4.4 (client credentials), §5.1 and §5.2; RFC 9068 §2.2.3 and §3; RFC 8707 §2 (resource).
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ticketgate.core.clock import Clock
from ticketgate.errors import ConfigurationError
from ticketgate.issuing.clients import Client, Clients
from ticketgate.issuing.keys import KeyRing
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters
from ticketgate.issuing.tokens import MAX_LIFETIME, issue_access_token, scope_values

REQUESTED_CLAIMS = ("roles", "groups", "entitlements")
LIFETIME = re.compile(r"-?[0-9]{1,4}")

logger = logging.getLogger("ticketgate.issuing")


class TokenEndpoint:
    """Answers token requests by the client credentials grant; takes no framework object and never waits.

    ``audience`` is the resource that all tokens are for, ``lifetime`` their life in seconds.

    >>> endpoint = TokenEndpoint("https://as.example", "https://api.example", clients=[...], keys=ring)
    >>> endpoint.answer(EndpointRequest(authorization=(b"Basic ...",), body=b"grant_type=client_credentials"))
    """

    __slots__ = ("audience", "clients", "clock", "issuer", "keys", "lifetime")

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        clients: Iterable[Client],
        keys: KeyRing,
        lifetime: int = 300,
        clock: Clock = Clock(),
    ) -> None:
        if not issuer or not audience:
            raise ConfigurationError("a token endpoint needs an issuer and an audience")
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise ConfigurationError(f"lifetime must be between 1 and {MAX_LIFETIME} seconds")
        self.issuer = issuer
        self.audience = audience
        self.clients = Clients(clients)
        self.keys = keys
        self.lifetime = lifetime
        self.clock = clock

    def answer(self, request: EndpointRequest) -> Answer:
        """The token, or the refusal; never an exception for what a stranger sent."""
        try:
            return self._grant(request)
        except Refusal as refusal:
            logger.info("token request refused: %s: %s", refusal.error, refusal.description)
            return refusal.answer

    def _grant(self, request: EndpointRequest) -> Answer:
        parameters = read_parameters(request)
        client = self.clients.authenticate(request, parameters)
        _grant_is_client_credentials(parameters)
        audience = _audience(client, parameters, self.audience)
        scope = _scope(client, parameters)
        lifetime = _lifetime(client, parameters, self.lifetime)
        token = issue_access_token(
            self.keys.signing,
            issuer=self.issuer,
            subject=client.client_id,
            audience=audience,
            client_id=client.client_id,
            lifetime=max(lifetime, 1),
            scope=scope,
            claims=_claims(client, parameters),
            now=self.clock.wall() + min(lifetime - 1, 0),
        )
        return Answer.of(_members(token, lifetime, scope))


def _members(token: str, lifetime: int, scope: str) -> dict[str, Any]:
    """RFC 6749 §5.1; the scope is told whenever there is one."""
    members: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": max(lifetime, 0)}
    return members | {"scope": scope} if scope else members


def _grant_is_client_credentials(parameters: Mapping[str, str]) -> None:
    if "grant_type" not in parameters:
        raise Refusal("invalid_request", "grant_type is missing")
    if parameters["grant_type"] != "client_credentials":
        raise Refusal("unsupported_grant_type", "The only grant_type here is client_credentials")


def _audience(client: Client, parameters: Mapping[str, str], default: str) -> str:
    """RFC 8707 §2, RFC 9068 §3: a client that names a resource gets a token for it, or none."""
    resource = parameters.get("resource", default)
    if resource != default and not client.accept_requested_claims:
        raise Refusal("invalid_target", "No tokens are issued for this resource")
    return resource


def _scope(client: Client, parameters: Mapping[str, str]) -> str:
    """What was asked for, if the client may have all of it; nothing where nothing was asked for."""
    if "scope" not in parameters:
        return ""
    try:
        values = scope_values(parameters["scope"])
    except ValueError as error:
        raise Refusal("invalid_scope", "The scope is malformed") from error
    if not client.accept_requested_claims and not client.scopes.issuperset(values):
        raise Refusal("invalid_scope", "The scope is more than this client may have")
    return " ".join(values)


def _lifetime(client: Client, parameters: Mapping[str, str], default: int) -> int:
    """An extension of ours, for clients that may use it: whole seconds; not above 0 is over already."""
    if "lifetime" not in parameters or not client.accept_requested_claims:
        return default
    text = parameters["lifetime"]
    if not LIFETIME.fullmatch(text) or abs(int(text)) > MAX_LIFETIME:
        raise Refusal(
            "invalid_request", f"lifetime must be between -{MAX_LIFETIME} and {MAX_LIFETIME} seconds"
        )
    return int(text)


def _claims(client: Client, parameters: Mapping[str, str]) -> dict[str, list[str]]:
    """An extension of ours, for clients that may use it: words become an array (RFC 9068 §2.2.3.1)."""
    if not client.accept_requested_claims:
        return {}
    return {name: parameters[name].split() for name in REQUESTED_CLAIMS if parameters.get(name, "").split()}
