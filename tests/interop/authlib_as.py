"""A real authorization server: Authlib's RFC 9068 token generator on Flask, under waitress.

    python authlib_as.py [PORT]      prints "ready http://127.0.0.1:PORT"; ends when its standard input closes

Tokens are issued by client_credentials, and the client that asks decides which:
  rs256, es256      signed with that algorithm, for https://api.example, with groups, roles and entitlements
  scim              its roles and groups are SCIM objects (RFC 7643 §2.4)
  list              its audience is a list in which ours is the second
  other             meant for https://other.example
  default           Authlib's own choice of audience, the client id
  short             ends after one second
  opaque            not a JWT at all
The client "rs" may introspect both kinds; assertions by the keys in the variable RS_JWKS, with "rs256" as their issuer,
are exchanged for tokens of "alice" (RFC 7523).
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import waitress
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants, list_to_scope, scope_to_list
from authlib.oauth2.rfc6749.models import ClientMixin, TokenMixin
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerGrant
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator, JWTIntrospectionEndpoint
from flask import Flask
from joserfc.jwk import ECKey, KeySet, RSAKey

API = "https://api.example"
OTHER = "https://other.example"
SECRET = "a-secret-that-opens-nothing-real"
SCOPES = ["orders:read", "orders:write"]
PLAIN = {"groups": ["ops"], "roles": ["clerk"], "entitlements": ["refunds"]}
SCIM = {"groups": [{"value": "ops", "display": "Operations"}], "roles": [{"value": "clerk"}]}


@dataclass(frozen=True)
class Client(ClientMixin):
    """A confidential client, and what its tokens look like."""

    client_id: str
    algorithm: str = "RS256"
    audience: str | tuple[str, ...] | None = API
    lifetime: int = 300
    claims: Any = None

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        return list_to_scope([value for value in scope_to_list(scope or "") if value in SCOPES])

    def check_client_secret(self, client_secret):
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_grant_type(self, grant_type):
        return grant_type in {"client_credentials", JWTBearerGrant.GRANT_TYPE}


CLIENTS = {
    client.client_id: client
    for client in (
        Client("rs256", claims=PLAIN),
        Client("es256", "ES256", claims=PLAIN),
        Client("scim", claims=SCIM),
        Client("list", audience=(OTHER, API)),
        Client("other", audience=OTHER),
        Client("default", audience=None),
        Client("short", lifetime=1),
        Client("opaque"),
        Client("rs"),
    )
}
KEYS = {
    "RS256": RSAKey.generate_key(2048, {"kid": "rsa", "alg": "RS256", "use": "sig"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ec", "alg": "ES256", "use": "sig"}),
}


@dataclass
class OpaqueToken(TokenMixin):
    """A token that says nothing by itself, and what is known of it."""

    value: str
    client: Client
    scope: str
    issued_at: float

    def check_client(self, client):
        return client.client_id == "rs"

    def is_expired(self):
        return False

    def is_revoked(self):
        return False


OPAQUE: dict[str, OpaqueToken] = {}


class Generator(JWTBearerTokenGenerator):
    """Authlib's generator for one algorithm, with what our clients want in their tokens."""

    def get_jwks(self):
        return KeySet([KEYS[self.alg]])

    def get_audiences(self, client, user, scope):
        return client.audience or super().get_audiences(client, user, scope)

    def get_extra_claims(self, client, grant_type, user, scope):
        return dict(client.claims or {})


class User:
    """The only user there is."""

    def get_user_id(self):
        return "alice"


class BearerGrant(JWTBearerGrant):
    """Assertions of a client that we know, about a user that we know."""

    issuer = ""

    def resolve_issuer_client(self, issuer):
        return CLIENTS.get(issuer)

    def resolve_client_public_key(self, client):
        return KeySet.import_key_set(json.loads(os.environ["RS_JWKS"]))

    def authenticate_user(self, subject):
        return User() if subject == "alice" else None

    def get_audiences(self):
        return [self.issuer]

    def has_granted_permission(self, client, user):
        return True


def make_app(issuer: str) -> Flask:
    app = Flask(__name__)
    generators = {
        algorithm: Generator(issuer, algorithm, expires_generator=lambda client, grant_type: client.lifetime)
        for algorithm in KEYS
    }

    opaque = BearerTokenGenerator(lambda *args, **options: secrets.token_urlsafe(32), None, lambda *args: 300)

    def generate(grant_type, client, **options):
        if client.client_id == "opaque":
            return opaque(grant_type, client, **options)
        return generators[client.algorithm](grant_type, client, **options)

    def save(token, request):
        if request.client.client_id == "opaque":
            value = token["access_token"]
            OPAQUE[value] = OpaqueToken(value, request.client, token.get("scope", ""), time.time())

    class OpaqueIntrospection(IntrospectionEndpoint):
        def query_token(self, token_string, token_type_hint):
            return OPAQUE.get(token_string)

        def check_permission(self, token, client, request):
            return client.client_id == "rs"

        def introspect_token(self, token):
            times = {"iat": int(token.issued_at), "exp": int(token.issued_at) + 300}
            names = {"iss": issuer, "aud": API, "client_id": token.client.client_id, "token_type": "Bearer"}
            return {"active": True, "scope": token.scope, "sub": "opaque", **names, **times}

    class Introspection(JWTIntrospectionEndpoint):
        def get_jwks(self):
            return KeySet(list(KEYS.values()))

        def check_permission(self, token, client, request):
            return client.client_id == "rs"

    server = AuthorizationServer(app, query_client=CLIENTS.get, save_token=save)
    server.register_endpoint(Introspection(issuer=issuer))
    server.register_endpoint(OpaqueIntrospection)
    server.register_token_generator("default", generate)
    server.register_grant(grants.ClientCredentialsGrant)
    server.register_grant(type("OurBearerGrant", (BearerGrant,), {"issuer": issuer}))

    @app.post("/oauth/token")
    def token():
        return server.create_token_response()

    @app.post("/oauth/introspect")
    def introspect():
        return server.create_endpoint_response("introspection")

    @app.get("/jwks.json")
    def jwks():
        return KeySet(list(KEYS.values())).as_dict(private=False)

    @app.get("/.well-known/oauth-authorization-server")
    def metadata():
        return {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "jwks_uri": f"{issuer}/jwks.json",
            "introspection_endpoint": f"{issuer}/oauth/introspect",
            "scopes_supported": SCOPES,
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
        }

    return app


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback only
    sock = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0))
    issuer = f"http://127.0.0.1:{sock.getsockname()[1]}"
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    print("ready", issuer, flush=True)
    waitress.serve(make_app(issuer), sockets=[sock], _quiet=True)


if __name__ == "__main__":
    main()
