"""The demo's authorization server: keys in memory, tokens for whoever knows the demo secret.

RFC 6749 §4.4, RFC 7523 §2.1, RFC 7662, RFC 7009 by `ticketgate.issuing`; RFC 6749 §4.1 by the demo itself.
"""

import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from ticketgate.core.client_auth import assertion_claims
from ticketgate.core.signing_key import SigningKey, sign_jwt
from ticketgate.demo.authorization_endpoint import User
from ticketgate.demo.authorization_server import DemoAuthorizationServer
from ticketgate.demo.browser_clients import BrowserClient
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import AssertionIssuer
from ticketgate.issuing.clients import Client
from ticketgate.issuing.server import AuthorizationServer
from ticketgate.issuing.starlette import authorization_server_app

AUDIENCE = "https://api.demo.example"
SCOPES = frozenset({"orders:read", "orders:write"})
CLIENT_ID, CLIENT_SECRET = "demo", "demo-secret-for-trying-things-out"
API_CLIENT_ID, API_CLIENT_SECRET = "api", "api-secret-for-trying-things-out-"
BROWSER_CLIENT_ID = "swagger-ui"
REDIRECT_URIS = frozenset(f"http://{host}/docs/oauth2-redirect" for host in ("127.0.0.1", "localhost"))
USERS = {
    ("alice", "alice-secret"): User("alice", roles=("admin",)),
    ("bob", "bob-secret"): User("bob", scopes=frozenset({"orders:read"})),
}
ASSERTION_ISSUER = "https://partner.demo.example"
PARTNERS_USERS = frozenset({"alice"})


def issuer_app(issuer: str, algorithm: str = "RS256") -> Starlette:
    """The authorization server whose identifier is ``issuer``, with a new key."""
    tokens = AccessTokenIssuer(issuer, SigningKey.generate(algorithm), resources={AUDIENCE: SCOPES})
    partner = SigningKey.generate("ES256")
    server = AuthorizationServer(
        tokens,
        clients=[
            Client(CLIENT_ID, CLIENT_SECRET, SCOPES, accept_requested_claims=True),
            Client(API_CLIENT_ID, API_CLIENT_SECRET, may_introspect=True),
        ],
        assertion_issuers=[
            AssertionIssuer(ASSERTION_ISSUER, jwks={"keys": [partner.public_jwk()]}, scopes=SCOPES)
        ],
        resolve_subject=lambda claims: claims["sub"] if claims["sub"] in PARTNERS_USERS else None,
    )
    with_login = DemoAuthorizationServer(
        server, clients=[BrowserClient(BROWSER_CLIENT_ID, SCOPES, REDIRECT_URIS)], users=USERS
    )

    async def rotate(request: Request) -> Response:
        tokens.rotate(keep=request.query_params.get("keep") == "1")
        return JSONResponse({"kid": tokens.keys.signing.kid})

    async def assertion(request: Request) -> Response:
        return PlainTextResponse(_assertion(partner, issuer))

    return Starlette(
        routes=[
            Route("/rotate", rotate, methods=["POST"]),
            Route("/assertion", assertion, methods=["POST"]),
            Mount("/", authorization_server_app(with_login)),
        ]
    )


def _assertion(partner: SigningKey, audience: str) -> str:
    """What a partner that the demo trusts says of one of its users (RFC 7523 §3)."""
    claims = assertion_claims(ASSERTION_ISSUER, "alice", audience, time.time(), lifetime=300)
    return sign_jwt(partner, "JWT", claims)
