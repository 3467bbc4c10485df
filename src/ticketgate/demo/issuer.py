"""A small authorization server for the demo: keys in memory, tokens for whoever knows the demo secret.

RFC 6749 §4.4 (client credentials), RFC 8414 §3 (metadata), RFC 7517 §5 (JWK Set).
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ticketgate.core.metadata import OPENID, RFC8414
from ticketgate.issuing.clients import Client
from ticketgate.issuing.keys import KeyRing, SigningKey
from ticketgate.issuing.messages import MAX_BODY_BYTES, EndpointRequest
from ticketgate.issuing.token_endpoint import TokenEndpoint

AUDIENCE = "https://api.demo.example"
CLIENT_ID, CLIENT_SECRET = "demo", "demo-secret"


def issuer_app(issuer: str, algorithm: str = "RS256") -> Starlette:
    """The authorization server whose identifier is ``issuer``, with a new key."""
    keys = KeyRing(SigningKey.generate(algorithm))
    client = Client(CLIENT_ID, CLIENT_SECRET, accept_requested_claims=True)
    endpoint = TokenEndpoint(issuer, AUDIENCE, clients=[client], keys=keys)

    async def token(request: Request) -> Response:
        return await _answer(endpoint, request)

    async def jwks(request: Request) -> Response:
        return JSONResponse(keys.jwks())

    async def metadata(request: Request) -> Response:
        return JSONResponse(_metadata(issuer))

    async def rotate(request: Request) -> Response:
        keys.rotate(keep=request.query_params.get("keep") == "1")
        return JSONResponse({"kid": keys.signing.kid})

    return Starlette(
        routes=[
            Route(RFC8414, metadata),
            Route(OPENID, metadata),
            Route("/jwks", jwks),
            Route("/token", token, methods=["GET", "POST"]),
            Route("/rotate", rotate, methods=["POST"]),
        ]
    )


def _metadata(issuer: str) -> dict[str, object]:
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/jwks",
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }


async def _answer(endpoint: TokenEndpoint, request: Request) -> Response:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    headers = request.scope["headers"]
    answer = endpoint.answer(
        EndpointRequest(
            request.method,
            next((value for name, value in headers if name == b"content-type"), b""),
            tuple(value for name, value in headers if name == b"authorization"),
            bytes(body),
        )
    )
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        response.headers.append(name, value)
    return response
