"""Access tokens of Authlib's authorization server (RFC 9068), in front of an API that we guard."""

import time

import httpx
import pytest
from answers import assert_refused, challenge, get, wait_for_a_new_second

SECRET = "a-secret-that-opens-nothing-real"


@pytest.fixture(scope="module")
def issuer(authlib_as):
    return authlib_as


@pytest.fixture
def obtain(issuer):
    """A token by client_credentials: which client asks decides what is in it."""

    def obtain(client, scope="orders:read"):
        form = {"grant_type": "client_credentials", "scope": scope}
        response = httpx.post(f"{issuer}/oauth/token", auth=(client, SECRET), data=form)
        return response.raise_for_status().json()["access_token"]

    return obtain


@pytest.mark.requirement("RFC9068-2.1-d", "RFC9068-4-a", "RFC9068-4-l", "RFC6750-2.1-a")
@pytest.mark.parametrize("client", ["rs256", "es256"])
def test_a_good_token_opens(api, obtain, issuer, client):
    response = get(api, "/orders", obtain(client))
    assert response.status_code == 200
    assert response.json() == {
        "issuer": issuer,
        "audience": ["https://api.example"],
        "subject": client,
        "client_id": client,
        "scopes": ["orders:read"],
        "groups": ["ops"],
        "roles": ["clerk"],
        "entitlements": ["refunds"],
        "lifetime": 300,
    }


@pytest.mark.requirement("RFC7519-4.1.3-b")
def test_an_audience_in_a_list_is_found(api, obtain):
    assert get(api, "/orders", obtain("list")).status_code == 200


@pytest.mark.requirement("RFC9068-4-k", "RFC9068-4-q", "RFC7519-4.1.3-a")
@pytest.mark.parametrize("client", ["other", "default"])
def test_another_audience_is_refused(api, obtain, client):
    assert_refused(get(api, "/orders", obtain(client)), 401, "invalid_token")


@pytest.mark.requirement("RFC9068-4-o", "RFC6750-3.1-e", "DRV-cache-a")
def test_a_token_opens_until_it_expires(api, obtain):
    get(api, "/orders", obtain("rs256")).raise_for_status()  # the keys are fetched
    wait_for_a_new_second()
    token = obtain("short")
    assert get(api, "/orders", token).status_code == 200
    time.sleep(1.1)
    assert_refused(get(api, "/orders", token), 401, "invalid_token")


@pytest.mark.requirement("RFC6750-3.1-g", "RFC6750-3.1-h", "RFC9110-11.4-b")
def test_a_missing_scope_is_named(api, obtain):
    response = get(api, "/orders/new", obtain("rs256"))
    assert set(assert_refused(response, 403, "insufficient_scope")["scope"].split()) == {
        "orders:read",
        "orders:write",
    }
    assert get(api, "/orders/new", obtain("rs256", "orders:read orders:write")).status_code == 200


@pytest.mark.requirement("RFC6750-3.1-l")
def test_an_empty_scope_is_insufficient_and_no_error(api, obtain):
    token = obtain("rs256", scope="")
    assert get(api, "/whoami", token).json()["scopes"] == []
    assert assert_refused(get(api, "/orders", token), 403, "insufficient_scope")["scope"] == "orders:read"


@pytest.mark.requirement("RFC9068-2.2.3.1-c", "RFC9068-4-s", "RFC7643-4.1.2-a")
@pytest.mark.parametrize("client", ["rs256", "scim"])
def test_roles_and_groups_open_in_either_encoding(api, obtain, client):
    response = get(api, "/desk", obtain(client))
    assert response.status_code == 200
    assert (response.json()["roles"], response.json()["groups"]) == (["clerk"], ["ops"])


@pytest.mark.requirement("DRV-authz-a", "RFC9068-4-s")
@pytest.mark.parametrize(("path", "client"), [("/vault", "rs256"), ("/desk", "list")])
def test_a_missing_role_is_refused_without_a_scope(api, obtain, path, client):
    assert "scope" not in assert_refused(get(api, path, obtain(client)), 403, "insufficient_scope")


@pytest.mark.requirement("RFC6750-3.1-i", "RFC6750-3-a")
def test_without_a_token_nothing_opens_but_what_is_public(api):
    response = get(api, "/orders")
    assert (response.status_code, "error" in challenge(response)) == (401, False)
    assert get(api, "/health").text == "well"
