"""Access tokens of npm's oidc-provider (RFC 9068), in front of an API that we guard."""

import base64
import json
import time

import httpx
import pytest
from answers import assert_refused, challenge, get, wait_for_a_new_second
from joserfc import jws
from joserfc.jwk import RSAKey

SERVICE = ("service", "a-secret-that-opens-nothing-real")
API = "https://api.example"


@pytest.fixture(scope="module")
def issuer(oidc_provider):
    return oidc_provider


def obtain(issuer, resource=f"{API}/RS256", scope="orders:read"):
    """A token by client_credentials: which resource is asked for decides its kind (RFC 8707)."""
    form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
    response = httpx.post(f"{issuer}/token", auth=SERVICE, data=form)
    return response.raise_for_status().json()["access_token"]


def decode(segment):
    return json.loads(base64.urlsafe_b64decode(segment + "=="))


def encode(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.requirement("RFC9068-2.1-d", "RFC9068-4-b", "RFC9068-4-l", "RFC9068-5-d", "RFC6750-2.1-a")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"])
def test_a_good_token_opens(api, issuer, algorithm):
    token = obtain(issuer, f"{API}/{algorithm}")
    assert decode(token.split(".")[0])["alg"] == algorithm
    response = get(api, "/orders", token)
    assert response.status_code == 200
    assert response.json() == {
        "issuer": issuer,
        "audience": [API],
        "subject": "service",
        "client_id": "service",
        "scopes": ["orders:read"],
        "groups": ["ops"],
        "roles": ["clerk"],
        "entitlements": ["refunds"],
        "lifetime": 300,
    }


@pytest.mark.requirement("RFC7519-4.1.3-b")
def test_an_audience_in_a_list_is_found(api, issuer):
    assert get(api, "/orders", obtain(issuer, f"{API}/list")).status_code == 200


@pytest.mark.requirement("RFC9068-4-k", "RFC9068-4-q", "RFC7519-4.1.3-a")
def test_another_audience_is_refused(api, issuer):
    assert_refused(get(api, "/orders", obtain(issuer, "https://other.example")), 401, "invalid_token")


@pytest.mark.requirement("RFC9068-4-o", "RFC6750-3.1-e", "DRV-cache-a")
def test_a_token_opens_until_it_expires(api, issuer):
    get(api, "/orders", obtain(issuer)).raise_for_status()  # the keys are fetched
    wait_for_a_new_second()
    token = obtain(issuer, f"{API}/short")
    assert get(api, "/orders", token).status_code == 200
    time.sleep(1.1)
    assert_refused(get(api, "/orders", token), 401, "invalid_token")


@pytest.mark.requirement("RFC6750-3.1-g", "RFC6750-3.1-h", "RFC9110-11.4-b")
def test_a_missing_scope_is_named(api, issuer):
    response = get(api, "/orders/new", obtain(issuer))
    assert set(assert_refused(response, 403, "insufficient_scope")["scope"].split()) == {
        "orders:read",
        "orders:write",
    }
    assert get(api, "/orders/new", obtain(issuer, scope="orders:read orders:write")).status_code == 200


@pytest.mark.requirement("DRV-authz-a", "RFC9068-4-s")
def test_roles_and_groups_open_what_they_should(api, issuer):
    token = obtain(issuer)
    assert get(api, "/desk", token).status_code == 200
    assert "scope" not in assert_refused(get(api, "/vault", token), 403, "insufficient_scope")


@pytest.mark.requirement("RFC6750-3.1-f", "RFC8725-3.1-a")
@pytest.mark.parametrize("kind", ["opaque", "encrypted", "shared"])
def test_other_kinds_of_token_are_refused(api, issuer, kind):
    assert_refused(get(api, "/orders", obtain(issuer, f"{API}/{kind}")), 401, "invalid_token")


@pytest.mark.requirement("RFC9068-5-a", "RFC9068-4-e")
def test_an_id_token_is_refused(api, issuer):
    token = httpx.post(f"{issuer}/id-token").json()["id_token"]
    assert decode(token.split(".")[1])["iss"] == issuer
    assert_refused(get(api, "/whoami", token), 401, "invalid_token")


def signed_by_a_stranger(header, payload, signature):
    key = RSAKey.generate_key(2048)
    return jws.serialize_compact(header, json.dumps(payload).encode(), key, registry=LENIENT)


def signed_by_the_key_it_brings(header, payload, signature):
    key = RSAKey.generate_key(2048)
    header = header | {"jwk": key.as_dict(private=False)}
    return jws.serialize_compact(header, json.dumps(payload).encode(), key, registry=LENIENT)


def with_more_scope(header, payload, signature):
    return f"{encode(header)}.{encode(payload | {'scope': 'orders:read orders:write'})}.{signature}"


def unsigned(header, payload, signature):
    return f"{encode(header | {'alg': 'none'})}.{encode(payload)}."


LENIENT = jws.JWSRegistry(strict_check_header=False)


@pytest.mark.requirement("RFC9068-4-l", "RFC9068-4-m", "RFC9068-4-n", "RFC7515-4.1.3-a")
@pytest.mark.parametrize(
    "forge", [signed_by_a_stranger, signed_by_the_key_it_brings, with_more_scope, unsigned]
)
def test_a_forged_token_is_refused(api, issuer, forge):
    header, payload, signature = obtain(issuer).split(".")
    forged = forge(decode(header), decode(payload), signature)
    assert_refused(get(api, "/whoami", forged), 401, "invalid_token")


@pytest.mark.requirement("DRV-jwks-a", "DRV-jwks-d")
def test_new_keys_are_learned_and_withdrawn_keys_forgotten(fresh_api, fresh_oidc_provider):
    old = obtain(fresh_oidc_provider)
    assert get(fresh_api, "/orders", old).status_code == 200

    httpx.post(f"{fresh_oidc_provider}/rotate", params={"keep": 1}).raise_for_status()
    newer = obtain(fresh_oidc_provider)
    assert [get(fresh_api, "/orders", token).status_code for token in (newer, old)] == [200, 200]

    httpx.post(f"{fresh_oidc_provider}/rotate", params={"keep": 0}).raise_for_status()
    newest = obtain(fresh_oidc_provider)
    assert [get(fresh_api, "/orders", token).status_code for token in (newest, old)] == [200, 401]


def hits(issuer):
    return httpx.get(f"{issuer}/hits").json()


@pytest.mark.requirement("DRV-jwks-a", "DRV-jwks-b")
def test_the_issuer_is_asked_once_for_metadata_and_as_often_as_keys_change(fresh_api, fresh_oidc_provider):
    for _ in range(10):
        assert get(fresh_api, "/orders", obtain(fresh_oidc_provider)).status_code == 200
    first = hits(fresh_oidc_provider)
    assert first["/jwks"] == 1
    httpx.post(f"{fresh_oidc_provider}/rotate", params={"keep": 1}).raise_for_status()
    for _ in range(10):
        assert get(fresh_api, "/orders", obtain(fresh_oidc_provider)).status_code == 200
    second = hits(fresh_oidc_provider)
    assert second["/jwks"] == 2
    for place in (path for path in second if path.startswith("/.well-known/")):
        assert second[place] == first[place] == 1


@pytest.mark.requirement("DRV-jwks-c")
def test_an_outage_is_noticed_by_nobody_who_has_a_known_key(fresh_api, fresh_oidc_provider):
    known = obtain(fresh_oidc_provider)
    httpx.post(f"{fresh_oidc_provider}/outage", params={"on": 1}).raise_for_status()
    response = get(fresh_api, "/orders", known)
    assert (response.status_code, "WWW-Authenticate" in response.headers) == (503, False)
    assert int(response.headers["Retry-After"]) >= 1
    httpx.post(f"{fresh_oidc_provider}/outage", params={"on": 0}).raise_for_status()
    time.sleep(1.1)
    assert get(fresh_api, "/orders", known).status_code == 200

    httpx.post(f"{fresh_oidc_provider}/outage", params={"on": 1}).raise_for_status()
    newer = obtain(fresh_oidc_provider)
    assert [get(fresh_api, "/orders", token).status_code for token in (known, newer)] == [200, 200]
    httpx.post(f"{fresh_oidc_provider}/rotate", params={"keep": 1}).raise_for_status()
    assert get(fresh_api, "/orders", obtain(fresh_oidc_provider)).status_code == 503
    assert get(fresh_api, "/orders", known).status_code == 200


@pytest.mark.requirement("RFC6750-3.1-i", "RFC6750-3-a")
def test_without_a_token_nothing_opens_but_what_is_public(api):
    response = get(api, "/orders")
    assert (response.status_code, "error" in challenge(response)) == (401, False)
    assert get(api, "/health").text == "well"
