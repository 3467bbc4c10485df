"""Keys that change while others send nonsense: a good token waits for one cooldown at most, and is never refused."""

import pytest
from flows import World, reply, run
from tokens import API, ISSUER, Time, jwks, key, token

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.flow import WaitingFor
from ticketgate.core.request import bearer_request
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import InvalidToken, IssuerUnavailable

JWKS = f"{ISSUER}/keys"
OLD, NEW = key(), key("RS256", "new")
FORGER = key("RS256", "forger")
FAR = 10**10


def replaced(signing):
    """A token by a key that its issuer published under the id of the old one."""
    return token(signing=signing, head={"kid": OLD.kid}, exp=FAR)


def unknown(number):
    """An unsigned token by a key id that nobody has seen."""
    return token(signing=FORGER, head={"kid": f"unknown {number}"}, exp=FAR)


def forged(number):
    """A token by a key id that everybody has seen, with a signature that is not its own."""
    return token(signing=FORGER, head={"kid": OLD.kid}, exp=FAR, jti=str(number))


class Gate:
    """A resource server that holds the keys of an issuer, a second after it fetched them."""

    def __init__(self, **policy):
        self.time = Time()
        self.world = World({JWKS: jwks(OLD)})
        self.issuer = Issuer(ISSUER, jwks_uri=JWKS, keys=KeyPolicy(**policy))
        self.server = ResourceServer(API, self.issuer, clock=self.time.clock, token_cache=0)
        self.open()
        self.time.advance(1)
        self.world.requests.clear()

    def open(self, raw=None):
        return self.world.run(self.server.authenticate(bearer_request(raw or token(exp=FAR))))

    def outcome(self, raw):
        """What becomes of a token: 200, the reason of a 401, or the seconds of a 503.  Each comes later than the one before."""
        self.time.advance(0.01)
        try:
            self.open(raw)
        except InvalidToken as refused:
            return refused.reason
        except IssuerUnavailable as unavailable:
            return unavailable.retry_after
        return 200

    def publish(self, *keys, under=None):
        self.world.pages[JWKS] = {
            "keys": [one.public_jwk() | ({} if under is None else {"kid": under}) for one in keys]
        }


@pytest.mark.parametrize("junk", [unknown, forged])
def test_a_spent_budget_is_a_503_until_the_next_look(junk):
    gate = Gate(cooldown=30)
    spending = [gate.outcome(unknown("first")), gate.outcome(unknown("second"))]
    assert spending == ["unknown_key", "unknown_key"]
    assert gate.outcome(junk(1)) == 30
    gate.time.advance(12)
    assert gate.outcome(junk(2)) == 18
    assert len(gate.world.asked) == 2


@pytest.mark.parametrize("rotated", ["a new key", "another key under the same id"])
@pytest.mark.parametrize("junk", [unknown, forged])
def test_a_flood_never_turns_a_good_token_into_a_401(rotated, junk):
    gate = Gate(cooldown=30)
    for number in range(50):
        gate.outcome(junk(number))
    if rotated == "a new key":
        gate.publish(OLD, NEW)
        good = token(signing=NEW, exp=FAR)
    else:
        gate.publish(NEW, under=OLD.kid)
        good = replaced(NEW)
    outcomes = []
    for number in range(120):
        gate.outcome(junk(f"later {number}"))
        outcomes.append(gate.outcome(good))
        gate.time.advance(0.5)
    accepted = outcomes.index(200)
    assert accepted <= 2 * 30 + 1
    assert all(
        type(seconds) is int and 1 <= seconds <= 30 for seconds in outcomes[:accepted] if seconds != 200
    )
    assert set(outcomes[accepted:]) == {200}
    assert len(gate.world.asked) <= 2 + 3


@pytest.mark.parametrize("junk", [unknown, forged])
def test_tokens_by_known_keys_wait_for_nothing_during_a_flood(junk):
    gate = Gate()
    for number in range(20):
        gate.outcome(junk(number))
        assert (
            run(gate.server.authenticate(bearer_request(token(exp=FAR, jti=str(number))))).subject == "alice"
        )


def test_keys_that_are_found_by_a_header_alone_are_looked_for_in_the_same_way():
    gate = Gate(cooldown=30)
    around = Surroundings(gate.time.clock)

    def found(kid):
        gate.time.advance(0.01)
        header = {"alg": "RS256", "kid": kid}
        return [
            one.kid for one in gate.world.run(gate.issuer.keys.find(header, gate.time.clock.read(), around))
        ]

    assert found(OLD.kid) == [OLD.kid]
    gate.publish(OLD, NEW)
    assert (found(NEW.kid), found("unknown")) == ([NEW.kid], [])
    with pytest.raises(IssuerUnavailable):
        found("another")


def test_a_key_that_was_replaced_under_its_id_is_found_at_once():
    gate = Gate()
    gate.publish(NEW, under=OLD.kid)
    assert gate.outcome(replaced(NEW)) == 200
    assert gate.outcome(replaced(FORGER)) == "signature"
    assert gate.world.asked == [JWKS, JWKS]


def test_a_forged_signature_is_refused_once_the_issuer_was_asked():
    gate = Gate(cooldown=30)
    assert gate.outcome(forged(1)) == "signature"
    assert gate.outcome(forged(2)) == 30  # one look for one key id
    assert gate.outcome(unknown(1)) == "unknown_key"
    assert gate.world.asked == [JWKS, JWKS]
    gate.time.advance(30)
    assert gate.outcome(forged(3)) == "signature"


def test_one_client_blocks_anothers_key_for_one_cooldown_at_most():
    """It guesses the id of the next key."""
    gate = Gate(cooldown=30)
    assert gate.outcome(token(signing=FORGER, head={"kid": NEW.kid}, exp=FAR)) == "unknown_key"
    gate.publish(OLD, NEW)
    good = token(signing=NEW, exp=FAR)
    gate.time.advance(1)
    assert gate.outcome(good) == 29
    gate.time.advance(29)
    assert gate.outcome(good) == 200


def test_tokens_by_a_withdrawn_key_are_refused_whatever_the_budget():
    gate = Gate(cooldown=30)
    gate.publish(NEW)
    assert gate.outcome(token(signing=NEW, exp=FAR)) == 200
    gate.time.advance(1)
    outcomes = [gate.outcome(token(exp=FAR, jti=str(number))) for number in range(20)]
    assert outcomes == ["unknown_key"] * 20
    assert gate.outcome(token(signing=FORGER, head={"kid": OLD.kid}, exp=FAR)) == 30
    assert len(gate.world.asked) == 2


def test_a_withdrawn_key_that_is_published_again_is_good_again():
    gate = Gate(cooldown=0)
    for keys in ([NEW], [OLD, NEW]):
        gate.publish(*keys)
        gate.time.advance(1)
        assert gate.outcome(token(signing=keys[0], exp=FAR)) == 200


def test_the_withdrawn_keys_that_are_known_are_bounded():
    gate = Gate(cooldown=0)
    for number in range(25):
        gate.publish(OLD, under=f"key {number}")
        gate.time.advance(1)
        assert gate.outcome(token(head={"kid": f"key {number}"}, exp=FAR)) == 200
    assert len(gate.issuer.keys._withdrawn.keys) == 20


def test_an_issuer_that_is_away_or_wants_to_be_left_alone_is_a_503():
    gate = Gate(cooldown=30)
    gate.world.pages[JWKS] = reply({}, 429, retry_after="120")
    assert gate.outcome(unknown(1)) == 120
    assert gate.outcome(forged(1)) == 120
    assert gate.world.asked == [JWKS]


@pytest.mark.parametrize("junk", [unknown, forged])
def test_where_as_many_wait_as_may_the_next_one_does_not(junk):
    gate = Gate()
    gate.world.full = set(WaitingFor)
    assert gate.outcome(junk(1)) == 1
    assert gate.outcome(token(exp=FAR)) == 200
    assert gate.world.asked == []


def test_the_first_keys_of_a_named_issuer_are_waited_for_by_all():
    gate = Gate()
    gate.world.full = set(WaitingFor)
    fresh = ResourceServer(API, Issuer(ISSUER, jwks_uri=JWKS), clock=gate.time.clock)
    assert gate.world.run(fresh.authenticate(bearer_request(token(exp=FAR)))).subject == "alice"


def test_the_first_keys_of_one_of_several_named_issuers_are_waited_for_by_few():
    gate = Gate()
    gate.world.full = {WaitingFor.KEYS}
    issuers = Issuer(ISSUER, jwks_uri=JWKS), Issuer("https://other.example", jwks=jwks(key()))
    several = ResourceServer(API, *issuers, clock=gate.time.clock)
    with pytest.raises(IssuerUnavailable) as unavailable:
        gate.world.run(several.authenticate(bearer_request(token(exp=FAR))))
    assert unavailable.value.retry_after == 1
    gate.world.full = set(WaitingFor) - {WaitingFor.KEYS}
    assert gate.world.run(several.authenticate(bearer_request(token(exp=FAR)))).subject == "alice"
