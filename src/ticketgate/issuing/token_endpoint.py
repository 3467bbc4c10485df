"""The token endpoint: who asks, for what, and the token that comes of it.

RFC 6749 §4.4 (client credentials), §5.1 and §5.2; RFC 7523 §2.1 and §3 (JWT bearer grant); RFC 9068 §2.2.3 and §3;
RFC 8707 §2 (resource).
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ticketgate.core.flow import Flow, call
from ticketgate.core.grant_types import CLIENT_CREDENTIALS, JWT_BEARER
from ticketgate.core.jwt import verify_signature
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import (
    AssertionIssuer,
    AssertionKeys,
    check_assertion,
    read_assertion,
    type_is_for,
    use_once,
)
from ticketgate.issuing.clients import Client, Clients, invalid_client
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters
from ticketgate.issuing.stores import Store, name_of
from ticketgate.issuing.tokens import MAX_LIFETIME
from ticketgate.issuing.wishes import wanted_resource, wanted_scope

REQUESTED_CLAIMS = ("roles", "groups", "entitlements")
LIFETIME = re.compile(r"-?[0-9]{1,4}")

logger = logging.getLogger("ticketgate.issuing")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, after everything about it was found to be allowed."""

    subject: str
    client_id: str
    resource: str
    scope: str
    lifetime: int
    claims: Mapping[str, Any]
    opaque: bool
    now: float
    """When it was found to be allowed, in seconds since the epoch."""


class TokenEndpoint:
    """Answers token requests by client credentials and JWT bearer grant; a flow, and never waits.

    ``assertion_issuers`` are trusted for that grant; ``resolve_subject`` is given the claims of an assertion and
    returns the subject of the token, or None to refuse (it may be async).  It is required, except where each assertion
    issuer may name any subject.  ``audiences`` are the names that an assertion may be addressed to.

    Raises `ConfigurationError` where an assertion issuer's subjects are resolved by nobody, and where one that does
    without clients has the name of a client.
    """

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        clients: Clients,
        store: Store,
        *,
        audiences: tuple[str, ...],
        assertion_issuers: Iterable[AssertionIssuer] = (),
        resolve_subject: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._store = store
        self._audiences = audiences
        self._assertion_issuers = {one.issuer: AssertionKeys(one) for one in assertion_issuers}
        self._resolve_subject = resolve_subject
        for name, keys in self._assertion_issuers.items():
            if resolve_subject is None and not keys.issuer.accept_any_subject:
                raise ConfigurationError(
                    f"whose subjects may {name!r} name? Give resolve_subject=function, or accept_any_subject=True"
                )
        self._refuse_shared_names()
        self._around = Surroundings(issuer.clock)

    def _refuse_shared_names(self) -> None:
        """Tokens for an assertion without a client bear its issuer's name, which may not be that of a client."""
        for name, keys in self._assertion_issuers.items():
            open_to_all = keys.issuer.accept_unauthenticated_clients
            if open_to_all and self._clients.named(name, self._issuer.clock.wall()) is not None:
                raise ConfigurationError(
                    f"{name!r} is a client and an AssertionIssuer with accept_unauthenticated_clients=True:"
                    " without it, or with another client_id, tokens say which of them they were issued to"
                )

    @property
    def grant_types(self) -> list[str]:
        """The grants that are answered."""
        return [CLIENT_CREDENTIALS, *([JWT_BEARER] if self._assertion_issuers else [])]

    def answer(self, request: EndpointRequest) -> Flow[Answer]:
        """The token, or the refusal; never an exception for what a stranger sent."""
        try:
            parameters = read_parameters(request)
            now = self._issuer.clock.wall()
            grant = parameters.get("grant_type")
            if grant is None:
                raise Refusal("invalid_request", "grant_type is missing")
            if grant not in self.grant_types:
                raise Refusal(
                    "unsupported_grant_type", f"The grants here are {' and '.join(self.grant_types)}"
                )
            if grant == JWT_BEARER:
                wish = yield from self._vouched_for(request, parameters, now)
            else:
                wish = self._for_itself(request, parameters, now)
            return self._grant(wish)
        except Refusal as refusal:
            logger.info("token request refused: %s: %s", refusal.error, refusal.description)
            return refusal.answer
        except IssuerUnavailable as error:
            logger.warning("cannot decide on a token request: %s", error)
            words = "The keys of the assertion's issuer cannot be had now"
            headers = (("Retry-After", str(error.retry_after)),)
            return Refusal("temporarily_unavailable", words, status=503, headers=headers).answer

    def _for_itself(self, request: EndpointRequest, parameters: Mapping[str, str], now: float) -> Wish:
        """RFC 6749 §4.4: confidential clients only."""
        client = self._clients.authenticate(request, parameters, now)
        if not client.is_confidential:
            raise Refusal("unauthorized_client", "This grant is for clients that can authenticate")
        free = client.accept_requested_claims
        return Wish(
            subject=client.client_id,
            client_id=client.client_id,
            resource=wanted_resource(self._issuer, parameters, free=free),
            scope=wanted_scope(self._issuer, parameters, None if free else client.scopes),
            lifetime=_lifetime(client, parameters, self._issuer.lifetime),
            claims=_claims(client, parameters),
            opaque=client.opaque or (free and parameters.get("token_format") == "opaque"),
            now=now,
        )

    def _vouched_for(self, request: EndpointRequest, parameters: Mapping[str, str], now: float) -> Flow[Wish]:
        """RFC 7523 §2.1 and §3.1: a client may authenticate, and if it tries, it must succeed.

        Who says nothing of itself would get past the limits of the client that it is, so that must be accepted.
        """
        client = self._clients.authenticated(request, parameters, now)
        raw = parameters.get("assertion")
        if raw is None:
            raise Refusal("invalid_request", "assertion is missing")
        claims, trusted = yield from self._checked(raw, now)
        client_id = client.client_id if client else self._name_without_client(trusted, now)
        subject = yield from self._subject(claims)
        now = self._issuer.clock.wall()  # keys and subject may have been waited for
        allowed = _both(trusted.allowed_scopes, client.scopes if client else None)
        wish = Wish(
            subject=subject,
            client_id=client_id,
            resource=wanted_resource(self._issuer, parameters),
            scope=wanted_scope(self._issuer, parameters, allowed),
            lifetime=max(1, min(self._issuer.lifetime, int(claims["exp"] - now))),
            claims={},
            opaque=client.opaque if client else False,
            now=now,
        )
        self._use(raw, claims, now)
        return wish

    def _name_without_client(self, trusted: AssertionIssuer, now: float) -> str:
        """The client_id where no client said who it is: the assertion issuer, unless a client has that name."""
        if not trusted.accept_unauthenticated_clients:
            raise invalid_client(by_header=False)
        if self._clients.named(trusted.issuer, now) is not None:
            logger.warning("client %s has the name of an assertion issuer", ascii(trusted.issuer)[:200])
            raise invalid_client(by_header=False)
        return trusted.issuer

    def _subject(self, claims: Mapping[str, Any]) -> Flow[str]:
        """Whom the token is about.  Raises `Refusal` where the assertion names nobody that may be named."""
        resolve = self._resolve_subject
        subject = claims["sub"] if resolve is None else (yield from call(resolve, claims))
        if not isinstance(subject, str) or not subject:
            raise _invalid_grant()
        return subject

    def _checked(self, raw: str, now: float) -> Flow[tuple[Mapping[str, Any], AssertionIssuer]]:
        """The claims of a good assertion and who made it; an unknown issuer causes no request."""
        try:
            jwt = read_assertion(raw)
            type_is_for(jwt, client=False)
            keys = self._assertion_issuers.get(jwt.claims["iss"])
            if keys is None:
                raise InvalidToken("issuer", expected=list(self._assertion_issuers), actual=jwt.claims["iss"])
            check_assertion(jwt.claims, self._audiences, now)
            verify_signature(jwt, (yield from keys.find(jwt, self._around)))
        except InvalidToken as error:
            logger.info("assertion refused: %s, expected %s", error.reason, ascii(error.expected)[:200])
            raise _invalid_grant() from error
        return jwt.claims, keys.issuer

    def _use(self, raw: str, claims: Any, now: float) -> None:
        """It is good at this moment too: one that has ended meanwhile may be forgotten, and would pass for new."""
        try:
            check_assertion(claims, self._audiences, now)
            use_once(raw, claims, self._store, now)
        except InvalidToken as error:
            raise _invalid_grant() from error

    def _grant(self, wish: Wish) -> Answer:
        """RFC 6749 §5.1; the scope is told whenever there is one, and there is no refresh token."""
        issue = self._opaque if wish.opaque else self._signed
        members = {
            "access_token": issue(wish),
            "token_type": "Bearer",
            "expires_in": max(wish.lifetime, 0),
        }
        return Answer.of(members | ({"scope": wish.scope} if wish.scope else {}))

    def _signed(self, wish: Wish) -> str:
        return self._issuer.issue(
            subject=wish.subject,
            client_id=wish.client_id,
            scope=wish.scope,
            resource=wish.resource,
            lifetime=max(wish.lifetime, 1),
            claims=wish.claims,
            now=wish.now + min(wish.lifetime - 1, 0),
        )

    def _opaque(self, wish: Wish) -> str:
        """A token that says nothing; what it means is kept under its hash."""
        token = secrets.token_urlsafe(32)
        names = {
            "iss": self._issuer.issuer,
            "sub": wish.subject,
            "aud": wish.resource,
            "client_id": wish.client_id,
        }
        times = {"iat": int(wish.now), "exp": int(wish.now) + wish.lifetime, "jti": secrets.token_urlsafe(16)}
        claims = {**wish.claims, **names, **times} | ({"scope": wish.scope} if wish.scope else {})
        self._store.put("token", name_of(token), claims, wish.now + wish.lifetime)
        return token


def _both(some: frozenset[str] | None, others: frozenset[str] | None) -> frozenset[str] | None:
    return others if some is None else some if others is None else some & others


def _invalid_grant() -> Refusal:
    return Refusal("invalid_grant", "The assertion is not accepted")


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
