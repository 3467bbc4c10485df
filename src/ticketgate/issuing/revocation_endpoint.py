"""The revocation endpoint: tokens that their own client no longer wants.

RFC 7009 §2.
"""

import logging

from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.clients import Clients
from ticketgate.issuing.introspection_endpoint import KnownTokens
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters
from ticketgate.issuing.stores import Store, name_of

logger = logging.getLogger("ticketgate.issuing")


class RevocationEndpoint:
    """Forgets opaque tokens; JWTs that everybody can check alone cannot be taken back.

    With ``deny_list`` the ids of revoked JWTs are kept until they end, and introspection calls them inactive.
    """

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        clients: Clients,
        tokens: KnownTokens,
        store: Store,
        *,
        deny_list: bool,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._tokens = tokens
        self._store = store
        self._deny_list = deny_list

    def answer(self, request: EndpointRequest) -> Answer:
        """Done, or the refusal; RFC 7009 §2.2: a token that nobody knows is as good as revoked."""
        try:
            parameters = read_parameters(request)
            client = self._clients.authenticate(request, parameters, self._issuer.clock.wall())
            if "token" not in parameters:
                raise Refusal("invalid_request", "token is missing")
            self._revoke(parameters["token"], client.client_id)
        except Refusal as refusal:
            logger.info("revocation refused: %s: %s", refusal.error, refusal.description)
            return refusal.answer
        return Answer.of({})

    def _revoke(self, token: str, client_id: str) -> None:
        claims = self._tokens.claims_of(token)
        if claims is None:
            return
        if claims.get("client_id") != client_id:
            raise Refusal("invalid_grant", "The token was issued to another client")
        if self._tokens.signed_claims(token) is None:
            self._store.delete("token", name_of(token))
        elif self._deny_list:
            self._store.put("denied", str(claims["jti"]), {}, float(claims["exp"]))
        else:
            raise Refusal(
                "unsupported_token_type", "Tokens that can be checked by everybody cannot be revoked"
            )
