"""The introspection endpoint: what a token means, told to those who may know.

RFC 7662 §2 and §4, RFC 9701 §5.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ticketgate.core.claims import Rules, expires_in_the_future, is_valid_already
from ticketgate.core.introspection_replies import SIGNED
from ticketgate.core.jwt import looks_like_a_jwt, media_type, read, verify_signature
from ticketgate.core.signing_key import sign_jwt
from ticketgate.errors import InvalidToken
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.clients import Client, Clients, invalid_client
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters
from ticketgate.issuing.stores import Store, name_of

logger = logging.getLogger("ticketgate.issuing")


class KnownTokens:
    """The tokens that an issuer made: JWTs know themselves, opaque ones are in the store."""

    def __init__(self, issuer: AccessTokenIssuer, store: Store) -> None:
        self._issuer = issuer
        self._store = store

    def claims_of(self, token: str) -> dict[str, Any] | None:
        """What a token of ours says while it is alive and not revoked; None for every other string."""
        now = self._issuer.clock.wall()
        raw = token.encode("utf-8", "replace")
        if not looks_like_a_jwt(raw):
            return self._store.get("token", name_of(token), now)
        claims = self.signed_claims(token)
        if claims is None or self._store.get("denied", str(claims.get("jti")), now) is not None:
            return None
        try:
            rules = Rules(now, 0, frozenset())
            expires_in_the_future(claims, rules)
            is_valid_already(claims, rules)
        except InvalidToken:
            return None
        return {**claims}

    def signed_claims(self, token: str) -> Any:
        """The claims of an access token that we signed, alive or not; None for everything else."""
        try:
            jwt = read(token.encode("utf-8", "replace"))
            if (
                media_type(jwt.header.get("typ")) != "application/at+jwt"
                or jwt.claims.get("iss") != self._issuer.issuer
            ):
                return None
            verify_signature(jwt, self._issuer.keys.key_set().candidates(jwt.header))
        except InvalidToken:
            return None
        return jwt.claims


class IntrospectionEndpoint:
    """Answers resource servers that authenticate; every fault of a token is ``{"active": false}`` and no more."""

    def __init__(self, issuer: AccessTokenIssuer, clients: Clients, tokens: KnownTokens) -> None:
        self._issuer = issuer
        self._clients = clients
        self._tokens = tokens

    def answer(self, request: EndpointRequest) -> Answer:
        """What the token means, or the refusal; never an exception for what a stranger sent."""
        signed = _wants_signed(request.accept)
        try:
            parameters = read_parameters(request)
            caller = self._caller(request, parameters, signed=signed)
            if "token" not in parameters:
                raise Refusal("invalid_request", "token is missing")
        except Refusal as refusal:
            logger.info("introspection refused: %s: %s", refusal.error, refusal.description)
            return refusal.answer
        response = self._response(caller, parameters["token"])
        return self._sign(caller, response) if signed else Answer.of(response)

    def _caller(self, request: EndpointRequest, parameters: Mapping[str, str], *, signed: bool) -> Client:
        """RFC 7662 §2.1: authenticated; without any credentials 401, and 400 where a signed answer was asked for."""
        client = self._clients.authenticated(request, parameters, self._issuer.clock.wall())
        if client is None or not client.is_confidential:
            raise invalid_client(by_header=not signed)
        return client

    def _response(self, caller: Client, token: str) -> dict[str, Any]:
        """RFC 7662 §2.2: the hint never decides; who may not know learns what is true of unknown tokens."""
        claims = self._tokens.claims_of(token) if caller.may_introspect else None
        if claims is None:
            return {"active": False}
        aud = claims["aud"]
        names = {aud} if isinstance(aud, str) else set(aud)
        if caller.resources and caller.resources.isdisjoint(names):
            return {"active": False}
        return {"active": True, "token_type": "Bearer", **claims}

    def _sign(self, caller: Client, response: Mapping[str, Any]) -> Answer:
        """RFC 9701 §5: addressed to the caller, dated, and with nothing of the token at its top."""
        claims = {
            "iss": self._issuer.issuer,
            "aud": caller.client_id,
            "iat": int(self._issuer.clock.wall()),
            "token_introspection": response,
        }
        body = sign_jwt(self._issuer.keys.signing, SIGNED, claims).encode("ascii")
        return Answer(200, (("Content-Type", f"application/{SIGNED}"), ("Cache-Control", "no-store")), body)


def _wants_signed(accept: bytes) -> bool:
    ranges = (part.partition(b";")[0].strip().lower() for part in accept.split(b","))
    return f"application/{SIGNED}".encode() in ranges
