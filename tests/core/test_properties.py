"""What holds for every input, tried on inputs that hypothesis thinks up."""

import json
import re

import pytest
from flows import run
from hypothesis import given
from hypothesis import strategies as st
from tokens import API, claims, compact, header, key, resource_server, token

from ticketgate import Requirement, claim, entitlement, group, role, scope
from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import check_realm, render
from ticketgate.core.jwt import read
from ticketgate.core.request import ResourceRequest, bearer_request
from ticketgate.core.requirement import SCOPE_CHARACTERS
from ticketgate.core.strict_json import FrozenDict
from ticketgate.errors import (
    AccessDenied,
    InsufficientScope,
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
    NoCredentials,
    OAuthError,
)

server = resource_server(token_cache=0)
GOOD = token()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def outcome(*authorization):
    """The answer to a request with these Authorization fields; None if it is let through."""
    try:
        run(server.authenticate(ResourceRequest(authorization=authorization)))
    except OAuthError as error:
        return server.answer(error)
    return None


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"Bearer ".__add__))
def test_any_bytes_get_an_answer_of_the_table(value):
    answer = outcome(value)
    assert answer.status in {400, 401}
    error = json.loads(answer.body).get("error")
    assert error == {400: "invalid_request", 401: "invalid_token"}.get(answer.status) or error is None


@given(st.lists(st.binary(max_size=50) | st.just(b"Bearer " + GOOD), min_size=2, max_size=4))
def test_several_fields_are_always_malformed(values):
    assert outcome(*values).status == 400


@given(st.binary(max_size=300) | st.text("ey0.JWT-_=", max_size=100).map(str.encode))
def test_reading_raises_our_errors_only(raw):
    with pytest.raises(InvalidToken):
        read(raw)


@given(JSON, JSON)
def test_reading_any_json_raises_our_errors_only(head, payload):
    with pytest.raises(InvalidToken):
        read(compact(json.dumps(head).encode(), json.dumps(payload).encode()) + b".")


@given(
    st.dictionaries(st.sampled_from(sorted({*claims(), "nbf", "cnf", "scope", "roles"})), JSON, max_size=3)
)
def test_claims_of_any_type_never_surprise_us(changes):
    payload = json.dumps(claims() | changes).encode()
    answer = outcome(b"Bearer " + compact(header(key()), payload))
    assert answer is None or answer.status in {400, 401}


@given(st.dictionaries(st.sampled_from(["typ", "alg", "kid", "crit", "jwk", "b64", "zip"]), JSON, max_size=3))
def test_header_members_of_any_type_never_surprise_us(changes):
    head = json.dumps(header(key()) | changes).encode()
    answer = outcome(b"Bearer " + compact(head, claims()))
    assert answer is None or answer.status in {400, 401}


@pytest.mark.requirement("RFC7515-5.2-a", "RFC9068-4-l")
@given(st.data())
def test_a_token_with_any_byte_changed_is_refused(data):
    position = data.draw(st.integers(0, len(GOOD) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != GOOD[position]))
    changed = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
    with pytest.raises((InvalidToken, InvalidRequest)):
        run(server.authenticate(bearer_request(changed)))


def test_a_token_with_its_neighbour_in_the_alphabet_is_refused_everywhere():
    for position in range(len(GOOD)):
        changed = GOOD[:position] + bytes([GOOD[position] ^ 1]) + GOOD[position + 1 :]
        with pytest.raises((InvalidToken, InvalidRequest)):
            run(server.authenticate(bearer_request(changed)))


TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
PARAM = rf"{TOKEN}[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED})"
CHALLENGE = re.compile(rf"{TOKEN} +{PARAM}(?:[ \t]*,[ \t]*{PARAM})*")
SCOPES = st.lists(st.text(sorted(SCOPE_CHARACTERS), min_size=1), min_size=1, max_size=4).map(tuple)
ERRORS = st.one_of(
    st.builds(NoCredentials),
    st.builds(InvalidRequest, st.text()),
    st.builds(InvalidToken, st.text() | st.sampled_from(sorted(InvalidToken.descriptions)), actual=JSON),
    st.builds(InsufficientScope, SCOPES, actual=JSON),
    st.builds(AccessDenied, actual=st.text()),
)


@pytest.mark.requirement("RFC9110-11.6.1-a", "RFC9110-11.5-a", "RFC6750-3-n")
@given(
    ERRORS, st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), min_size=1)
)
def test_every_challenge_follows_the_grammar(error, realm):
    answer = render(error, check_realm(realm))
    ((_, line),) = [pair for pair in answer.headers if pair[0] == b"www-authenticate"]
    assert CHALLENGE.fullmatch(line.decode("ascii"))
    names = re.findall(rf"({TOKEN})=\"", line.decode("ascii").replace(realm, ""))
    assert len(set(names)) == len(names)


@given(st.integers(1, 10**6))
def test_an_outage_is_never_a_challenge(seconds):
    answer = render(IssuerUnavailable("down", retry_after=seconds), API)
    assert dict(answer.headers)[b"retry-after"] == str(seconds).encode()
    assert b"www-authenticate" not in dict(answer.headers)


NEEDS = [scope("a"), scope("b"), role("a"), group("a"), entitlement("a"), claim("tenant", "x")]
REQUIREMENTS = st.recursive(
    st.sampled_from(NEEDS),
    lambda inner: st.tuples(inner, inner, st.booleans()).map(lambda t: t[0] & t[1] if t[2] else t[0] | t[1]),
    max_leaves=5,
)
TOKENS = st.builds(
    lambda **members: AccessToken(FrozenDict(members), FrozenDict()),
    scope=st.sampled_from(["", "a", "b", "a b"]),
    roles=st.sampled_from(["", "a"]),
    groups=st.sampled_from(["", "a"]),
    entitlements=st.sampled_from(["", "a"]),
    tenant=st.sampled_from(["x", "y"]),
)


def shape(requirement: Requirement):
    return {frozenset(map(str, needs)) for needs in requirement.alternatives}


@given(REQUIREMENTS, REQUIREMENTS, REQUIREMENTS)
def test_the_algebra_of_requirements(a, b, c):
    assert shape(a & b) == shape(b & a)
    assert shape(a | b) == shape(b | a)
    assert shape((a & b) & c) == shape(a & (b & c))
    assert shape((a | b) | c) == shape(a | (b | c))
    assert shape(a & (b | c)) == shape((a & b) | (a & c))
    assert shape(a | (a & b)) == shape(a) == shape(a & (a | b))
    assert shape(a & a) == shape(a | a) == shape(a)


@given(REQUIREMENTS, REQUIREMENTS, TOKENS)
def test_requirements_mean_what_their_signs_say(a, b, caller):
    assert (a & b).is_met_by(caller) == (a.is_met_by(caller) and b.is_met_by(caller))
    assert (a | b).is_met_by(caller) == (a.is_met_by(caller) or b.is_met_by(caller))


@given(REQUIREMENTS, TOKENS)
def test_checking_and_explaining_agree(requirement, caller):
    if requirement.is_met_by(caller):
        requirement.check(caller)
        assert requirement.explain(caller) == ""
        return
    with pytest.raises((InsufficientScope, AccessDenied)) as refused:
        requirement.check(caller)
    assert requirement.explain(caller).startswith("lacks ")
    if isinstance(refused.value, InsufficientScope):
        more = AccessToken(
            FrozenDict(caller.claims | {"scope": " ".join(refused.value.scopes)}), caller.header
        )
        assert requirement.is_met_by(more)
