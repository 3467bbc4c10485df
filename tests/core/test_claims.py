"""The claims of an access token, one rule after the other."""

import pytest
from tokens import ABSENT, API, NOW, as_json, claims

from ticketgate.core.claims import Rules, check_claims
from ticketgate.core.strict_json import parse_object
from ticketgate.errors import InvalidToken


def reason(leeway=30.0, typed=True, **changes):
    """Why the claims are refused; None if they are not."""
    rules = Rules(NOW, leeway, frozenset({API}))
    try:
        check_claims(parse_object(as_json(claims(**changes))), rules, typed=typed)
    except InvalidToken as error:
        return error.reason
    return None


@pytest.mark.requirement("RFC7519-4.1.4-a", "RFC7519-4.1.5-a", "RFC9068-4-o")
@pytest.mark.parametrize(
    ("leeway", "changes", "expected"),
    [
        (0, {"exp": NOW}, "expired"),
        (0, {"exp": NOW + 1}, None),
        (0, {"exp": NOW + 0.001}, None),
        (30, {"exp": NOW - 30}, "expired"),
        (30, {"exp": NOW - 29}, None),
        (0, {"nbf": NOW}, None),
        (0, {"nbf": NOW + 1}, "not_yet_valid"),
        (30, {"nbf": NOW + 30}, None),
        (30, {"nbf": NOW + 31}, "not_yet_valid"),
        (0, {"iat": NOW}, None),
        (0, {"iat": NOW + 1}, "not_yet_valid"),
        (300, {"iat": NOW + 300, "nbf": NOW + 300, "exp": NOW - 299}, None),
        (0, {"exp": 253_402_300_799}, None),
        (0, {"exp": 253_402_300_799.5}, "claim"),
        (0, {"exp": -253_402_300_800}, "claim"),
        (0, {"exp": 10**400}, "claim"),
        (0, {"nbf": -(10**400)}, "claim"),
        (0, {"iat": 10**4_000}, "claim"),
    ],
)
def test_times(leeway, changes, expected):
    assert reason(leeway, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"aud": ABSENT}, "audience"),
        ({"aud": ["x", API]}, None),
        ({"aud": ["x", 1, API]}, "audience"),
        ({"aud": "x", "exp": 0}, "audience"),
        ({"sub": ABSENT}, "claim"),
        ({"client_id": 7}, "claim"),
        ({"jti": ""}, "claim"),
        ({"cnf": {}}, None),
        ({"cnf": "key"}, "binding"),
    ],
)
def test_rules(changes, expected):
    assert reason(**changes) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("aud", "audience"), ("exp", "claim"), ("iat", "claim"), ("sub", "claim"), ("client_id", "claim"),
     ("jti", "claim"), ("nbf", "claim"), ("cnf", "binding")],
)  # fmt: skip
def test_null_in_a_signed_token_is_not_the_same_as_nothing(name, expected):
    assert reason(**{name: None}) == expected


@pytest.mark.requirement("RFC8725-3.12-a")
@pytest.mark.parametrize(
    "marks",
    [
        {"nonce": "x"},
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"events": {}},
        {"token_use": "id"},
        {"token_use": None},
        {"typ": "Refresh"},
        {"typ": "ID"},
        {"typ": "Offline"},
        {"typ": "Logout"},
        {"token_type": "refresh"},
        {"token_type": "Refresh_Token"},
        {"token_type": "id_token"},
    ],
)
def test_tokens_of_another_kind_are_known_by_their_claims_where_their_type_says_nothing(marks):
    assert reason(typed=False, **marks) == "type"
    assert reason(typed=True, **marks) is None


@pytest.mark.parametrize("marks", [{}, {"token_use": "access"}, {"typ": "Bearer"}, {"token_type": "Bearer"}])
def test_access_tokens_without_a_type_of_their_own_pass(marks):
    assert reason(typed=False, **marks) is None
