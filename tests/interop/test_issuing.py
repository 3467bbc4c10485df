"""Our authorization server before software that we did not write, and our client before theirs."""

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc7523 import JWTBearerGrant
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from guarded_api import RS_KEYS
from joserfc.jwk import KeySet
from servers import serve_asgi

from ticketgate import ClientSecretBasic, Issuer, PrivateKeyJwt, ResourceServer, verify
from ticketgate.core.signing_key import SigningKey
from ticketgate.errors import TokenRefused
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import AssertionIssuer
from ticketgate.issuing.clients import Client
from ticketgate.issuing.server import AuthorizationServer
from ticketgate.issuing.starlette import authorization_server_app
from ticketgate.token_client import TokenClient

HERE = Path(__file__).parent
API = "https://api.example"
SECRET = "a-secret-that-opens-nothing-real"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
PARTNER = SigningKey.generate("ES256")
OWN = SigningKey.generate("ES256")


@pytest.fixture(scope="module", params=["RS256", "ES256"])
def ours(request):
    """The address of our own authorization server."""
    yield from serving(request.param)


@pytest.fixture(scope="module")
def ours_es256():
    yield from serving("ES256")


def serving(algorithm):
    place = {}

    async def late(scope, receive, send):
        await place["app"](scope, receive, send)

    with serve_asgi(late) as url:
        tokens = AccessTokenIssuer(url, SigningKey.generate(algorithm), resources={API: ["read"]})
        server = AuthorizationServer(
            tokens,
            clients=[
                Client("orders", SECRET, frozenset({"read"})),
                Client("opaque", SECRET, frozenset({"read"}), opaque=True),
                Client("api", SECRET, may_introspect=True),
                Client("keyed", scopes=frozenset({"read"}), jwks={"keys": [OWN.public_jwk()]}),
            ],
            assertion_issuers=[
                AssertionIssuer(
                    "https://partner.example",
                    jwks={"keys": [PARTNER.public_jwk()]},
                    scopes=frozenset({"read"}),
                    accept_any_subject=True,
                    accept_unauthenticated_clients=True,
                )
            ],
        )
        place["app"] = authorization_server_app(server)
        yield url


class Validator(JWTBearerTokenValidator):
    """Authlib's RFC 9068 validator."""

    def get_jwks(self):
        return KeySet.import_key_set(httpx.get(f"{self.issuer}/jwks").json())


@pytest.mark.requirement("RFC9068-2.1-a", "RFC9068-2.2-b")
def test_authlib_obtains_tokens_from_us_and_accepts_them(ours):
    with OAuth2Client("orders", SECRET, token_endpoint_auth_method="client_secret_basic") as client:
        token = client.fetch_token(f"{ours}/token", grant_type="client_credentials", scope="read")
    assert (token["token_type"], token["scope"]) == ("Bearer", "read")
    validator = Validator(ours, API)
    claims = validator.authenticate_token(token["access_token"])
    validator.validate_token(claims, ["read"], None)
    assert claims["sub"] == "orders"


@pytest.mark.requirement("RFC7523-2.1-a")
def test_authlib_exchanges_an_assertion_with_us(ours_es256):
    now = int(time.time())
    assertion = JWTBearerGrant.sign(
        PARTNER.key,
        issuer="https://partner.example",
        audience=ours_es256,
        subject="alice",
        issued_at=now,
        expires_at=now + 60,
        header={"alg": "ES256", "kid": PARTNER.kid},
    )
    with OAuth2Client("orders", SECRET, token_endpoint_auth_method="client_secret_basic") as client:
        token = client.fetch_token(f"{ours_es256}/token", grant_type=GRANT, assertion=assertion, scope="read")
    claims = Validator(ours_es256, API).authenticate_token(token["access_token"])
    assert (claims["sub"], claims["client_id"]) == ("alice", "orders")


@pytest.mark.requirement("RFC9701-5-a", "RFC7662-2.2-a", "RFC8414-2-a")
def test_oauth4webapi_accepts_our_answers(ours_es256, node):
    done = subprocess.run(
        [node, HERE / "oauth4webapi.mjs", ours_es256, API],
        capture_output=True,
        text=True,
        cwd=HERE,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["scope"] == "read"
    assert (found["claims"]["sub"], found["claims"]["aud"]) == ("orders", API)
    assert found["plain"]["active"] is found["signed"]["active"] is found["before"]["active"] is True
    assert found["after"] == {"active": False}


def test_our_client_obtains_tokens_from_us_by_its_key(ours_es256):
    client = TokenClient(ours_es256, PrivateKeyJwt("keyed", OWN.private_jwk()))
    token = client.get(client.client_credentials(API, "read"))
    assert verify(ResourceServer(API, Issuer(ours_es256)), token).client_id == "keyed"


def test_our_client_obtains_tokens_from_oidc_provider(oidc_provider):
    client = TokenClient(oidc_provider, ClientSecretBasic("service", SECRET))
    token = client.get(client.client_credentials(f"{API}/RS256", "orders:read"))
    assert verify(ResourceServer(API, Issuer(oidc_provider)), token).scopes == {"orders:read"}
    private = RS_KEYS["sign"].as_dict(private=True)
    vouched = client.vouched(f"{API}/RS256", "orders:read", key=private, issuer="service", subject="alice")
    assert verify(ResourceServer(API, Issuer(oidc_provider)), client.get(vouched)).subject == "alice"
    with pytest.raises(TokenRefused, match="invalid_target"):
        client.get(client.client_credentials("https://nobody.example"))


def test_our_client_obtains_tokens_from_authlib(authlib_as):
    client = TokenClient(authlib_as, ClientSecretBasic("rs256", SECRET))
    server = ResourceServer(API, Issuer(authlib_as))
    assert verify(server, client.get(client.client_credentials(scope="orders:read"))).subject == "rs256"
    private = RS_KEYS["sign"].as_dict(private=True)
    vouched = client.vouched(scope="orders:read", key=private, issuer="rs256", subject="alice")
    assert verify(server, client.get(vouched)).subject == "alice"
    wrong = TokenClient(authlib_as, ClientSecretBasic("rs256", "wrong"))
    with pytest.raises(TokenRefused, match="invalid_client"):
        wrong.get(wrong.client_credentials())
