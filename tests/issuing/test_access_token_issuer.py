"""Access tokens as RFC 9068 §2 wants them, judged by our own resource server."""

import base64
import json

import pytest
from flows import run
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from tokens import API, ISSUER, NOW, Time

from ticketgate import Issuer, ResourceServer
from ticketgate.core.request import bearer_request
from ticketgate.errors import ConfigurationError, InvalidToken
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.keys import KeyRing, SigningKey

SCOPES = {API: ["orders:read", "orders:write"], "https://other.example": ["mail"]}


def issuer_with(algorithm="ES256", resources=API, **options):
    return AccessTokenIssuer(
        ISSUER, SigningKey.generate(algorithm), resources=resources, clock=Time().clock, **options
    )


def judged(issuer, token, **options):
    server = ResourceServer(API, Issuer(ISSUER, jwks=issuer.jwks()), clock=Time().clock, **options)
    return run(server.authenticate(bearer_request(token)))


def part(token, number):
    return json.loads(base64.urlsafe_b64decode(token.split(".")[number] + "=="))


@pytest.mark.requirement("RFC9068-2.1-a", "RFC9068-2.1-b", "RFC9068-2.2-a", "RFC9068-2.2-b")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"])
def test_a_token_has_what_it_needs(algorithm):
    issuer = issuer_with(algorithm)
    token = issuer.issue(subject="alice", client_id="app")
    assert part(token, 0) == {"typ": "at+jwt", "alg": algorithm, "kid": issuer.keys.signing.kid}
    claims = part(token, 1)
    assert claims.pop("jti")
    assert claims == {
        "iss": ISSUER,
        "sub": "alice",
        "aud": API,
        "client_id": "app",
        "iat": NOW,
        "exp": NOW + 300,
    }
    assert judged(issuer, token).subject == "alice"


@pytest.mark.requirement("RFC9068-2.2.1-a", "RFC9068-2.2.3.1-a", "RFC7800-3.1-a")
def test_a_token_says_what_it_is_told():
    issuer = issuer_with()
    token = issuer.issue(
        subject="alice", client_id="app", scope="a b a", roles=["clerk"], groups=[{"value": "ops"}], entitlements=["x"],
        auth_time=NOW - 5, acr="gold", amr=["pwd"], claims={"tenant": "acme"}, lifetime=60,
    )  # fmt: skip
    access = judged(issuer, token)
    assert (access.scopes, access.roles, access.groups, access.entitlements) == (
        {"a", "b"},
        {"clerk"},
        {"ops"},
        {"x"},
    )
    assert (access.authentication_time, access.acr, access.amr) == (NOW - 5, "gold", ("pwd",))
    assert (access.claims["tenant"], access.claims["scope"], access.expires_at) == ("acme", "a b", NOW + 60)
    with pytest.raises(InvalidToken, match="binding"):
        judged(issuer, issuer.issue(subject="alice", client_id="app", cnf={"jkt": "x"}))


@pytest.mark.requirement("RFC9068-3-a", "RFC9068-3-b", "RFC8707-2-a")
def test_the_audience_is_the_resource_or_the_default_and_scopes_must_mean_something_to_it():
    issuer = issuer_with(resources=SCOPES)
    assert part(issuer.issue(subject="a", client_id="app"), 1)["aud"] == API
    claims = part(
        issuer.issue(
            subject="a", client_id="app", resource="https://other.example", scope="mail orders:read"
        ),
        1,
    )
    assert (claims["aud"], claims["scope"]) == ("https://other.example", "mail")
    assert "scope" not in part(issuer.issue(subject="a", client_id="app", scope="mail"), 1)
    assert issuer.knows(API)
    assert not issuer.knows("app")


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": ""},
        {"client_id": ""},
        {"resource": ""},
        {"scope": "a  b"},
        {"scope": 'a"b'},
        {"lifetime": 0},
        {"lifetime": 3601},
        {"lifetime": True},
        {"claims": {"sub": "root"}},
        {"claims": {"exp": 1}},
        {"claims": {"scope": "everything"}},
    ],
)
def test_what_no_token_can_say_is_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        issuer_with().issue(**{"subject": "alice", "client_id": "app"} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AccessTokenIssuer("http://as.example", SigningKey.generate("ES256"), resources=API),
        lambda: AccessTokenIssuer("", SigningKey.generate("ES256"), resources=API),
        lambda: issuer_with(resources=""),
        lambda: issuer_with(resources={}),
        lambda: issuer_with(lifetime=7200),
        lambda: SigningKey.generate("HS256"),
        lambda: SigningKey.generate("none"),
    ],
)
def test_an_issuer_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


@pytest.mark.requirement("RFC9068-2.1-e", "RFC7517-5-a")
def test_a_rotation_publishes_first_and_retires_last():
    issuer = issuer_with()
    first = issuer.issue(subject="alice", client_id="app")
    issuer.rotate()
    known = {key["kid"] for key in issuer.jwks()["keys"]}
    second = issuer.issue(subject="alice", client_id="app")
    assert judged(issuer, first).subject == judged(issuer, second).subject == "alice"
    issuer.rotate()
    third = issuer.issue(subject="alice", client_id="app")
    assert part(third, 0)["kid"] in known  # it was published before it signed
    assert judged(issuer, second).subject == "alice"
    with pytest.raises(InvalidToken, match="unknown_key"):
        judged(issuer, first)
    assert not any({"d", "p"} & key.keys() for key in issuer.jwks()["keys"])


def test_a_rotation_can_withdraw_everything_at_once():
    issuer = issuer_with()
    issuer.rotate()
    token = issuer.issue(subject="alice", client_id="app")
    old = {key["kid"] for key in issuer.jwks()["keys"]}
    issuer.rotate(keep=False)
    assert not old & {key["kid"] for key in issuer.jwks()["keys"]}
    with pytest.raises(InvalidToken):
        judged(issuer, token)


def test_a_key_of_ones_own_can_be_next():
    ring = KeyRing(SigningKey.generate("ES256"))
    mine = SigningKey.generate("ES256")
    ring.rotate(mine)
    assert ring.signing is mine
    assert ring.ring.retiring


@pytest.mark.requirement("RFC8414-2-a", "RFC8414-2-b")
def test_metadata_and_keys_are_rendered_from_the_same_object():
    issuer = issuer_with(resources=SCOPES)
    document = issuer.metadata(token_endpoint=f"{ISSUER}/token", introspection_endpoint=None)
    assert document == {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/jwks",
        "response_types_supported": [],
        "scopes_supported": document["scopes_supported"],
        "token_endpoint": f"{ISSUER}/token",
    }
    assert set(document["scopes_supported"]) == {"orders:read", "orders:write", "mail"}
    assert "scopes_supported" not in issuer_with().metadata()


OURS = {
    "RSA": RSAKey.generate_key(2048, {"kid": "ours-rsa"}),
    "EC": ECKey.generate_key("P-256", {"kid": "ours"}),
    "OKP": OKPKey.generate_key("X25519", {"kid": "ours-okp"}),
}


@pytest.mark.requirement("RFC9068-2.1-d", "RFC7516-5.2-a")
@pytest.mark.parametrize("kind", OURS)
def test_an_encrypted_token_opens_for_whom_it_was_made(kind):
    issuer = issuer_with()
    token = issuer.issue(subject="alice", client_id="app", encrypt_for=OURS[kind].as_dict(private=False))
    assert token.count(".") == 4
    keys = [key.as_dict(private=True) for key in OURS.values()]
    assert judged(issuer, token, decryption_keys=keys).subject == "alice"
    with pytest.raises(InvalidToken, match="malformed"):
        judged(issuer, token)
    with pytest.raises(InvalidToken, match="malformed"):
        judged(issuer, token, decryption_keys=[RSAKey.generate_key(2048).as_dict(private=True)])
    for changed in (token[:-4] + "AAAA", "x" + token, token.replace(".", "..", 1)[:-1]):
        with pytest.raises(InvalidToken, match="malformed"):
            judged(issuer, changed, decryption_keys=keys)


def test_what_is_encrypted_must_be_signed_too():
    from ticketgate.core.jwe import encrypt

    keys = [OURS["EC"].as_dict(private=True)]
    issuer = issuer_with()
    for inner in (
        '{"sub": "alice"}',
        "opaque",
        issuer.issue(subject="a", client_id="b", encrypt_for=OURS["RSA"].as_dict(private=False)),
    ):
        with pytest.raises(InvalidToken, match="malformed"):
            judged(issuer, encrypt(inner, OURS["EC"].as_dict(private=False)), decryption_keys=keys)
    unsigned = issuer.issue(subject="a", client_id="b").rpartition(".")[0] + "."
    with pytest.raises(InvalidToken, match="signature"):
        judged(issuer, encrypt(unsigned, OURS["EC"].as_dict(private=False)), decryption_keys=keys)


@pytest.mark.parametrize(
    "jwk", [{}, {"kty": "RSA"}, OctKey.generate_key(256).as_dict(), OURS["EC"].as_dict() | {"alg": "dir"}]
)
def test_a_key_that_cannot_be_encrypted_for_is_refused(jwk):
    with pytest.raises(ValueError, match="cannot be encrypted for"):
        issuer_with().issue(subject="alice", client_id="app", encrypt_for=jwk)
