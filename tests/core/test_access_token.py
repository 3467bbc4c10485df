"""What an access token tells the application."""

import copy
import json
import pickle

import pytest
from tokens import API, ISSUER, NOW, as_json, claims

from ticketgate.core.access_token import AccessToken
from ticketgate.core.strict_json import parse_object


def access_token(**changes):
    return AccessToken(parse_object(as_json(claims(**changes))), parse_object(b'{"alg":"RS256"}'))


def test_every_claim_has_a_name_and_a_type():
    token = access_token(
        scope="a b", groups=["g"], roles="r", entitlements=[{"value": "e"}], auth_time=NOW - 5, acr="gold",
        amr=["pwd", 1, "otp"], act={"sub": "agent", "act": {"sub": "other"}}, cnf={"jkt": "x"},
    )  # fmt: skip
    assert (token.issuer, token.subject, token.client_id, token.token_id) == (ISSUER, "alice", "app", "one")
    assert token.audience == (API,)
    assert (token.expires_at, token.issued_at, token.authentication_time) == (NOW + 300, NOW - 10, NOW - 5)
    assert (token.scopes, token.groups, token.roles, token.entitlements) == ({"a", "b"}, {"g"}, {"r"}, {"e"})
    assert (token.acr, token.amr) == ("gold", ("pwd", "otp"))
    assert token.actor["sub"] == "agent"
    assert token.confirmation == {"jkt": "x"}
    assert token.kind == "jwt"


def test_what_is_missing_is_none_or_empty():
    token = access_token(aud=[API, "https://other.example"])
    assert token.audience == (API, "https://other.example")
    assert (token.scopes, token.groups, token.roles, token.entitlements) == (set(), set(), set(), set())
    assert [token.authentication_time, token.acr, token.amr, token.actor, token.confirmation] == [None] * 5


@pytest.mark.parametrize("wrong", [True, None, [1], {"a": 1}, 10**400, -(10**400)])
def test_what_has_the_wrong_type_counts_as_missing(wrong):
    token = access_token(auth_time=wrong, iat=wrong, exp=wrong, scope=[wrong])
    times = token.authentication_time, token.issued_at, token.expires_at
    assert (times, token.scopes) == ((None, None, None), set())


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("a b", {"a", "b"}),
        (" a  b ", {"a", "b"}),
        (["a", "b"], {"a", "b"}),
        (["a b", "c"], {"a b", "c"}),
        (["", "a", None, 1, ["b"], {"value": "c"}], {"a"}),
        ([], set()),
        (None, set()),
        (1, set()),
        ({"a": "b"}, set()),
    ],
)
def test_scopes(scope, expected):
    assert access_token(scope=scope).scopes == expected


def test_it_never_changes():
    token = access_token(x={"y": [1, {"z": 2}]})
    with pytest.raises(AttributeError):
        token.kind = "opaque"
    for inner in (token.claims, token.header, token.claims["x"], token.claims["x"]["y"][1]):
        for change in (
            lambda d: d.update(a=1),
            lambda d: d.__setitem__("a", 1),
            lambda d: d.__delitem__("a"),
            lambda d: d.setdefault("a", 1),
            lambda d: d.pop("a"),
            lambda d: d.popitem(),
            lambda d: d.clear(),
            lambda d: d.__ior__({"a": 1}),
        ):
            with pytest.raises(TypeError, match="read-only"):
                change(inner)


def test_its_claims_can_be_printed_copied_and_extended():
    token = access_token(x={"y": [1, 2]})
    assert json.loads(json.dumps(token.claims))["x"] == {"y": [1, 2]}
    assert copy.deepcopy(token.claims) == pickle.loads(pickle.dumps(token.claims)) == token.claims
    assert (token.claims | {"a": 1})["a"] == 1


def test_its_repr_tells_nothing_about_anybody():
    assert "alice" not in repr(access_token())
