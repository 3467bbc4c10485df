"""Opaque tokens of npm's oidc-provider and of Authlib, judged through both middlewares."""

import time

import httpx
import pytest
from answers import assert_refused, get
from guarded_api import RS_KEYS, api_of

from ticketgate import (
    ClientSecretBasic,
    ClientSecretPost,
    Introspection,
    Issuer,
    PrivateKeyJwt,
    ResourceServer,
)

API = "https://api.example"
SECRET = "a-secret-that-opens-nothing-real"
BASIC = ClientSecretBasic("rs", SECRET)
WAYS = {
    "client_secret_basic": {"auth": BASIC},
    "client_secret_post": {"auth": ClientSecretPost("rs-post", SECRET)},
    "private_key_jwt": {"auth": PrivateKeyJwt("rs-key", RS_KEYS["sign"].as_dict(private=True))},
    "signed": {"auth": ClientSecretBasic("rs-signed", SECRET), "expect": "jwt"},
    "encrypted": {
        "auth": ClientSecretBasic("rs-encrypted", SECRET),
        "expect": "jwt",
        "decryption_keys": [RS_KEYS["decrypt"].as_dict(private=True)],
    },
}


def api(host, issuer, **options):
    introspection = Introspection(**{"auth": BASIC} | options)
    return api_of(host, ResourceServer(API, Issuer(issuer, introspection=introspection)))


def obtain(issuer, resource=f"{API}/opaque", scope="orders:read"):
    form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
    response = httpx.post(f"{issuer}/token", auth=("service", SECRET), data=form)
    return response.raise_for_status().json()["access_token"]


def asked(issuer):
    return httpx.get(f"{issuer}/hits").json().get("/token/introspection", 0)


hosts = pytest.mark.parametrize("host", ["asgi", "wsgi"])


@pytest.mark.requirement("RFC7662-2.1-i", "RFC9701-5-i", "RFC9701-5-g")
@hosts
@pytest.mark.parametrize("way", WAYS)
def test_opaque_tokens_of_oidc_provider(oidc_provider, host, way):
    with api(host, oidc_provider, **WAYS[way]) as client:
        before = asked(oidc_provider)
        opaque = obtain(oidc_provider)
        for _ in range(3):
            answer = get(client, "/orders", opaque)
            assert answer.status_code == 200
        facts = answer.json()
        assert (facts["client_id"], facts["scopes"], facts["issuer"]) == (
            "service",
            ["orders:read"],
            oidc_provider,
        )
        assert asked(oidc_provider) == before + 1
        assert_refused(get(client, "/orders/new", opaque), 403, "insufficient_scope")
        assert_refused(
            get(client, "/orders", obtain(oidc_provider, "https://other.example/opaque")),
            401,
            "invalid_token",
        )
        assert_refused(get(client, "/orders", "unknown"), 401, "invalid_token")
        assert asked(oidc_provider) == before + 3
        assert get(client, "/orders", obtain(oidc_provider, f"{API}/ES256")).status_code == 200
        assert asked(oidc_provider) == before + 3


@hosts
@pytest.mark.parametrize(
    ("options", "kind"),
    [({"auth": ClientSecretBasic("rs", "wrong")}, "opaque"), ({"introspect": "always"}, "RS256")],
)
def test_what_oidc_provider_refuses_to_tell_is_a_503(oidc_provider, host, options, kind):
    with api(host, oidc_provider, **options) as client:
        answer = get(client, "/orders", obtain(oidc_provider, f"{API}/{kind}"))
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


@pytest.mark.slow
@hosts
def test_a_flood_and_an_outage_leave_good_tokens_alone(fresh_oidc_provider, host):
    with api(host, fresh_oidc_provider) as client:
        good = obtain(fresh_oidc_provider)
        assert get(client, "/orders", good).status_code == 200
        for number in range(150):
            assert get(client, "/orders", f"unknown-{number}").status_code == 401
            assert get(client, "/orders", f"junk,{number}").status_code == 400
        assert asked(fresh_oidc_provider) == 151
        newer = obtain(fresh_oidc_provider)
        httpx.post(f"{fresh_oidc_provider}/outage", params={"on": 1}).raise_for_status()
        assert [get(client, "/orders", token).status_code for token in (good, newer)] == [200, 503]
        httpx.post(f"{fresh_oidc_provider}/outage", params={"on": 0}).raise_for_status()
        time.sleep(1.1)
        assert get(client, "/orders", newer).status_code == 200


def obtain_from_authlib(issuer, client, scope="orders:read"):
    form = {"grant_type": "client_credentials", "scope": scope}
    response = httpx.post(f"{issuer}/oauth/token", auth=(client, SECRET), data=form)
    return response.raise_for_status().json()["access_token"]


@hosts
def test_opaque_tokens_of_authlib(authlib_as, host):
    with api(host, authlib_as) as client:
        answer = get(client, "/orders", obtain_from_authlib(authlib_as, "opaque"))
        assert answer.status_code == 200
        assert answer.json()["subject"] == "opaque"
        assert_refused(get(client, "/orders", "unknown"), 401, "invalid_token")


@hosts
def test_jwts_of_authlib_are_asked_about_where_that_is_wanted(authlib_as, host):
    with api(host, authlib_as, introspect="always") as client:
        assert get(client, "/orders", obtain_from_authlib(authlib_as, "rs256")).status_code == 200
        assert_refused(get(client, "/orders", obtain_from_authlib(authlib_as, "other")), 401, "invalid_token")


@hosts
def test_authlib_does_not_know_us(authlib_as, host):
    with api(host, authlib_as, auth=ClientSecretBasic("rs", "wrong")) as client:
        assert get(client, "/orders", obtain_from_authlib(authlib_as, "opaque")).status_code == 503
