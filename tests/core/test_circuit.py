"""When an introspection endpoint is left alone, and what clients cannot do about that.

The invariant: no sequence of requests by clients without an active token changes the answer to a client with one,
as long as the endpoint answers that one's token.
"""

import random

import pytest
from flows import reply
from joserfc.jwk import ECKey
from opaque import ENDPOINT, GOOD, JWKS, OPENID, RFC8414, Gate
from tokens import ISSUER, NOW, claims, jwks, key, token

from ticketgate.core.flow import Cause, FetchFailed
from ticketgate.core.jwe import encrypt
from ticketgate.core.request import bearer_request
from ticketgate.core.signing_key import sign_jwt
from ticketgate.errors import InvalidToken, IssuerUnavailable

ALIVE = GOOD | {"exp": NOW + 10**6}
PROVOKED = {
    "broken JSON": reply(b'{"active": tru'),
    "HTML": reply(b"<html>"),
    "500": reply({}, 500),
    "503": reply({}, 503),
    "503 with Retry-After": reply({}, 503, retry_after="300"),
    "429 with Retry-After": reply({}, 429, retry_after="300"),
    "400": reply({}, 400),
    "a redirect": reply({}, 302),
    "an answer that is too large": FetchFailed("the answer is larger than 262144 bytes"),
    "no answer in time": FetchFailed("no complete answer within 5 seconds"),
    "a broken connection": FetchFailed("RemoteProtocolError: disconnected"),
    "our own limit": FetchFailed("too many exchanges are under way already", cause=Cause.LIMIT),
}
DEAD = FetchFailed("ConnectError: refused", cause=Cause.CONNECTION)


def refused(gate, raw):
    """Whether the endpoint was asked about ``raw``, to which the answer is not a token."""
    before = len(gate.world.requests)
    with pytest.raises((InvalidToken, IssuerUnavailable)):
        gate.open(raw)
    return len(gate.world.requests) > before


def seen_before(*names, **options):
    """A gate whose issuer vouched for these tokens a while ago: each must be asked about again."""
    gate = Gate(**options)
    gate.answers = dict.fromkeys(names, ALIVE)
    for name in names:
        gate.open(name)
    gate.time.advance(61)
    gate.world.requests.clear()
    return gate


@pytest.mark.parametrize("answer", PROVOKED.values(), ids=PROVOKED)
@pytest.mark.parametrize("tokens", [1, 40])
def test_what_a_client_provokes_harms_nobody_else(answer, tokens):
    gate = seen_before("known")
    gate.answers["new"], gate.otherwise = ALIVE, answer
    for number in range(40):
        refused(gate, f"odd{number % tokens}")
        gate.world.catch_up()
    assert gate.open("new").subject == gate.open("known").subject == "alice"


def signed(aud="api", content_type="application/token-introspection+jwt", signing=None):
    claims = {"iss": ISSUER, "aud": aud, "iat": NOW, "token_introspection": ALIVE}
    raw = sign_jwt(signing or key(), "token-introspection+jwt", claims)
    return reply(raw.encode(), content_type=content_type)


@pytest.mark.parametrize(
    "answer",
    [signed(aud="other"), signed(content_type="application/json"), signed(signing=key("RS256", "other")), reply(ALIVE)],
    ids=["for somebody else", "another content type", "another key", "not signed"],
)  # fmt: skip
def test_nor_do_signed_answers(answer):
    gate = Gate(expect="jwt")
    gate.otherwise, gate.answers["new"] = answer, signed()
    for number in range(40):
        refused(gate, f"odd{number}")
    assert gate.open("new").subject == "alice"


@pytest.mark.parametrize("answer", PROVOKED.values(), ids=PROVOKED)
def test_nor_does_a_client_whose_tokens_were_active_once(answer):
    """Its account is gone, and the server fails for each of its tokens; a question of our own shows that it is well."""
    theirs = [f"theirs{number}" for number in range(9)]
    gate = seen_before("known", *theirs)
    gate.answers |= dict.fromkeys(theirs, answer) | {"new": ALIVE}
    for name in theirs * 4:
        refused(gate, name)
        gate.world.catch_up()
    assert gate.open("new").subject == gate.open("known").subject == "alice"


def test_an_endpoint_that_fails_for_unknown_tokens_is_not_left_alone():
    """Not even when it does not answer our own question."""
    gate = seen_before("known")
    gate.otherwise = FetchFailed("no complete answer within 5 seconds")
    for number in range(40):
        refused(gate, f"odd{number}")
        gate.world.catch_up()
        gate.time.advance(61)
        assert gate.open("known").subject == "alice"


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_others_do_changes_the_answer_to_an_active_token(seed):
    dice = random.Random(seed)
    theirs = [f"theirs{number}" for number in range(5)]
    gate = seen_before("known", *theirs, cache_ttl=0)
    for step in range(150):
        gate.answers |= {name: dice.choice([{"active": False}, *PROVOKED.values()]) for name in theirs}
        gate.otherwise = dice.choice([{"active": False}, *PROVOKED.values()])
        refused(gate, dice.choice([*theirs, f"odd{dice.randrange(20)}", f"once{step}"]))
        if dice.random() < 0.5:
            gate.world.catch_up()
        gate.time.advance(dice.choice([0, 0.1, 1, 10, 31]))
        gate.answers[f"new{step}"] = ALIVE
        assert gate.open("known").subject == gate.open(f"new{step}").subject == "alice"


def test_an_endpoint_without_a_connection_is_left_alone_and_tried_again():
    gate = seen_before("known")
    gate.otherwise = gate.answers["known"] = DEAD
    assert [refused(gate, f"odd{number}") for number in range(5)] == [True] * 3 + [False] * 2
    assert not refused(gate, "known")
    gate.time.advance(2)
    assert [refused(gate, name) for name in ("odd", "odd", "known")] == [True, False, False]
    gate.answers |= {"known": ALIVE, "new": ALIVE}
    gate.time.advance(4)
    assert gate.open("new").subject == gate.open("known").subject == "alice"


def test_connections_must_fail_in_a_row():
    gate = Gate()
    for _ in range(5):
        for answer in (DEAD, DEAD, reply({}, 500)):
            gate.otherwise = answer
            assert refused(gate, f"odd{random.random()}")


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 503])
def test_metadata_that_cannot_be_used_pauses_whatever_its_status(status, caplog):
    gate = Gate(endpoint=None)
    gate.world.pages |= dict.fromkeys([RFC8414, OPENID], reply({}, status))
    asked = [refused(gate, f"odd{number}") for number in range(5)]
    assert asked == [True, True, True, False, False]
    assert "there is no introspection endpoint" not in caplog.text


def test_metadata_that_is_not_there_counts_as_no_connection():
    gate = Gate(endpoint=None)
    gate.world.pages[RFC8414] = reply({}, 503, retry_after="60")
    asked = [refused(gate, f"odd{number}") for number in range(5)]
    assert asked == [True, True, True, False, False]
    gate.world.pages[RFC8414] = {"issuer": ISSUER, "introspection_endpoint": ENDPOINT}
    gate.time.advance(60)
    assert gate.open().subject == "alice"


OVERLOADED = {
    "503": (reply({}, 503), 1),
    "503 with Retry-After": (reply({}, 503, retry_after="60"), 60),
    "429 with Retry-After": (reply({}, 429, retry_after="60"), 60),
    "no answer in time": (FetchFailed("no complete answer within 5 seconds"), 1),
    "no connection": (DEAD, 1),
}


@pytest.mark.parametrize(("answer", "seconds"), OVERLOADED.values(), ids=OVERLOADED)
def test_an_endpoint_that_fails_known_tokens_and_us_is_left_alone(answer, seconds):
    gate = seen_before("a", "b", "c", "d")
    gate.otherwise = answer
    gate.answers = {"new": ALIVE, "d": ALIVE}
    assert [refused(gate, name) for name in "abc"] == [True] * 3
    gate.world.catch_up()
    for name in ("new", "d"):
        with pytest.raises(IssuerUnavailable) as closed:
            gate.open(name)
        assert closed.value.retry_after >= seconds
    gate.time.advance(max(2, seconds))
    assert gate.open("d").subject == "alice"
    assert gate.open("new").subject == "alice"


def test_two_known_tokens_are_not_enough():
    gate = seen_before("a", "b")
    gate.otherwise, gate.answers = reply({}, 503), {"new": ALIVE}
    for name in "ababab":
        assert refused(gate, name)
        gate.world.catch_up()
    assert gate.open("new").subject == "alice"


@pytest.mark.parametrize("ends", [{"active": False}, ALIVE | {"aud": "other"}])
def test_a_token_that_is_not_active_any_more_says_nothing_about_the_endpoint(ends):
    gate = seen_before("a", "b", "c")
    gate.answers = {"new": ALIVE} | dict.fromkeys("abc", ends)
    assert [refused(gate, name) for name in "abc"] == [True] * 3
    gate.time.advance(11)
    gate.otherwise, gate.answers = reply({}, 503), {"new": ALIVE}
    assert [refused(gate, name) for name in "abc"] == [True] * 3
    gate.world.catch_up()
    assert gate.open("new").subject == "alice"


def test_an_expired_token_says_nothing_either():
    gate = Gate()
    gate.answers = dict.fromkeys("abc", GOOD)
    for name in "abc":
        gate.open(name)
    gate.time.advance(331)
    gate.otherwise, gate.answers = reply({}, 503), {"new": ALIVE}
    assert [refused(gate, name) for name in "abc"] == [True] * 3
    gate.world.catch_up()
    assert gate.open("new").subject == "alice"


def left_alone():
    """A gate whose endpoint was left alone for two known tokens and us, whose pause is over now."""
    gate = seen_before("a", "b", "c", "d")
    gate.otherwise, gate.answers = reply({}, 503), {}
    for name in "abc":
        refused(gate, name)
    gate.world.catch_up()
    assert not refused(gate, "new")
    gate.time.advance(1)
    gate.world.requests.clear()
    return gate


def test_after_a_pause_few_questions_run_until_a_known_token_is_answered():
    gate = left_alone()
    refused(gate, "odd")
    assert gate.world.lanes[-1].width == 1
    gate.answers = {"d": ALIVE}
    gate.open("d")
    assert gate.world.lanes[-1].width == 1
    gate.world.catch_up()
    assert gate.world.lanes[-1].width == 1  # our own question is not needed any more
    refused(gate, "odd")
    assert gate.world.lanes[-1].width == 15
    gate.time.advance(61)
    gate.open("d")
    assert gate.world.lanes[-1].width == 20


def test_our_own_question_does_not_count_where_a_known_token_was_answered_meanwhile():
    gate = left_alone()
    refused(gate, "odd")
    question = gate.world.behind.pop().flow()
    next(question)
    gate.answers = {"d": ALIVE, "new": ALIVE}
    gate.open("d")
    with pytest.raises(StopIteration):
        question.send(reply({}, 503))
    assert gate.open("new").subject == "alice"


def test_after_a_pause_one_failure_is_enough_to_leave_new_tokens_out_again():
    gate = left_alone()
    gate.answers = {"d": ALIVE}
    assert refused(gate, "odd")
    gate.world.catch_up()
    assert not refused(gate, "another")
    assert gate.open("d").subject == "alice"  # a known token is told from those
    assert refused(gate, "another")


def test_after_a_pause_our_own_question_may_show_that_all_is_well():
    gate = left_alone()
    gate.otherwise = {"active": False}
    assert refused(gate, "junk")
    gate.world.catch_up()
    for number in range(5):
        assert refused(gate, f"junk{number}")
        assert gate.world.lanes[-1].width == 15


def test_our_own_question_decides_nothing_where_our_own_limit_is_reached():
    gate = seen_before("a", "b", "c")
    gate.otherwise, gate.answers = reply({}, 503), {"new": ALIVE}
    for name in "abc":
        refused(gate, name)
    gate.otherwise = PROVOKED["our own limit"]
    gate.world.catch_up()
    assert gate.open("new").subject == "alice"


def test_our_own_question_is_about_a_random_token():
    gate = seen_before("a", "b", "c")
    gate.otherwise, gate.answers = reply({}, 503), {}
    for _ in range(2):
        for name in "abc":
            refused(gate, name)
        gate.world.requests.clear()
        gate.world.catch_up()
        (asked,) = gate.world.requests
        assert len(gate.form()["token"]) == 43
        assert asked.url == ENDPOINT
        assert gate.world.lanes[-1].width == 20
        gate.time.advance(31)
    assert "token=a" not in repr(gate.world.requests)


def test_a_token_that_fails_is_left_alone_by_itself():
    gate = Gate()
    gate.answers["odd"] = reply({}, 500)
    assert [refused(gate, "odd") for _ in range(5)] == [True] * 3 + [False] * 2
    assert refused(gate, "another")
    gate.time.advance(2)
    assert [refused(gate, "odd") for _ in range(2)] == [True, False]
    gate.answers["odd"] = ALIVE
    gate.time.advance(4)
    assert gate.open("odd").subject == "alice"


def test_a_token_whose_question_was_only_refused_may_be_asked_about_again():
    gate = Gate()
    gate.answers["odd"] = reply({}, 401)
    assert all(refused(gate, "odd") for _ in range(5))


@pytest.mark.parametrize(("places", "for_new"), [(1, 1), (2, 1), (3, 2), (4, 3), (20, 15), (100, 75)])
def test_a_quarter_of_the_places_is_kept_for_known_tokens(places, for_new):
    gate = seen_before("known", max_concurrency=places, max_waiting=7)
    refused(gate, "new")
    new = gate.world.lanes[-1]
    gate.open("known")
    known = gate.world.lanes[-1]
    assert (new.width, new.queue, new.inside) == (for_new, 7, known)
    assert (known.width, known.queue, known.inside) == (places, 7, None)


def test_a_verified_jwt_counts_as_known():
    gate = Gate(introspect="always", max_concurrency=4)
    raw = token().decode()
    gate.answers[raw] = ALIVE
    gate.open(raw)
    assert gate.world.lanes[-1].width == 4


def test_a_verified_jwt_that_was_refused_is_junk_until_it_is_active_again():
    gate = Gate(introspect="always", max_concurrency=4)
    raw = token().decode()
    for answer, places in [({"active": False}, 4), (ALIVE, 3), ({"active": False}, 4)]:
        gate.answers[raw] = answer
        _ = gate.open(raw) if answer is ALIVE else refused(gate, raw)
        assert gate.world.lanes[-1].width == places
        gate.time.advance(61)


@pytest.mark.parametrize("asked", ["always", "by a route"])
def test_a_jwt_is_one_token_however_often_it_is_encrypted(asked):
    ours = ECKey.generate_key("P-256")
    gate = Gate(
        introspect="always" if asked == "always" else "opaque", opened_with=[ours.as_dict(private=True)]
    )
    raw = token().decode()
    copies = [encrypt(raw, ours.as_dict(private=False)) for _ in range(3)]
    gate.answers = dict.fromkeys([raw, *copies], ALIVE)
    for copy in (raw, *copies, *copies):
        access = gate.open(copy)
        gate.world.run(gate.server.confirm(bearer_request(copy), access, 10))
    assert gate.world.asked.count(ENDPOINT) == 1
    gate.time.advance(61)
    gate.answers = {}
    for copy in (raw, *copies):
        with pytest.raises(InvalidToken, match="inactive"):
            gate.world.run(gate.server.confirm(bearer_request(copy), access, 10))
    assert gate.world.asked.count(ENDPOINT) == 2


def test_a_jwt_with_another_good_signature_is_the_same_token():
    signer = key("ES256")
    gate = Gate(introspect="always")
    gate.world.pages[JWKS] = jwks(signer)
    for raw in (sign_jwt(signer, "at+jwt", claims(exp=NOW + 10**6)) for _ in range(2)):
        gate.answers = {raw: ALIVE}
        gate.open(raw)
    assert gate.world.asked.count(ENDPOINT) == 1


def test_what_was_said_of_a_token_before_ends_with_a_new_answer():
    gate = Gate()
    access = gate.open()
    gate.time.advance(1)
    gate.answers["opaque"] = {"active": False}
    with pytest.raises(InvalidToken, match="inactive"):
        gate.world.run(gate.server.confirm(bearer_request("opaque"), access, 0))
    with pytest.raises(InvalidToken, match="inactive"):
        gate.open()
