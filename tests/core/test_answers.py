"""Which of several answers of an issuer counts: the one to the latest question, whatever arrives last."""

import os

import pytest
from flows import World, reply
from tokens import API, ISSUER, Time, jwks, key, token

from ticketgate import Issuer, ResourceServer
from ticketgate.core.flow import Once, Reply
from ticketgate.core.request import bearer_request
from ticketgate.errors import InvalidToken, IssuerUnavailable
from ticketgate.events import KeyFetchFailed

JWKS = f"{ISSUER}/jwks"
FAR = 10**10
OLD, NEW, OTHER = key(), key("RS256", "new"), key("RS256", "other")


class Gate:
    """A resource server that holds `OLD`, at a moment when a refresh is due."""

    def __init__(self, **headers):
        self.time = Time()
        self.world = World({JWKS: reply(jwks(OLD), **headers)})
        self.issuer = Issuer(ISSUER, jwks_uri=JWKS)
        self.server = ResourceServer(API, self.issuer, clock=self.time.clock, token_cache=0)
        self.open()
        self.time.advance(580)

    @property
    def held(self):
        return self.issuer.keys.held

    def flow(self, signing):
        return self.server.authenticate(bearer_request(token(signing=signing, exp=FAR)))

    def open(self, signing=OLD):
        return self.world.run(self.flow(signing))

    def refresh(self):
        """A refresh that has sent its question, and the question."""
        self.open()
        (due,) = self.world.behind
        self.world.behind = []
        flow = due.flow()
        return flow, next(flow).request

    def look(self):
        """A look that has sent its question, and the question."""
        asked = self.flow(NEW)
        wanted = next(asked)
        while not (isinstance(wanted, Once) and wanted.wait):
            wanted = asked.send(None)
        flow = wanted.flow()
        return flow, next(flow).request


def arrive(flow, answer):
    with pytest.raises(StopIteration):
        flow.send(answer)


class Slow:
    """An answer during whose parsing something else happens."""

    status = 200

    def __init__(self, content, meanwhile):
        self.headers = content.headers
        self._content, self._meanwhile = content, meanwhile

    @property
    def body(self):
        self._meanwhile()
        return self._content.body


def test_an_older_answer_that_takes_long_to_parse_does_not_bring_a_withdrawn_key_back():
    gate = Gate()
    refresh, _ = gate.refresh()
    gate.time.advance(0.1)
    look, _ = gate.look()
    arrive(refresh, Slow(reply(jwks(OLD)), lambda: arrive(look, reply(jwks(NEW)))))
    assert [one.kid for one in gate.held.keys.keys] == [NEW.kid]
    assert gate.held.fetched_at == gate.time.monotonic


@pytest.mark.parametrize(
    ("first", "counts"),
    [
        (reply(jwks(OLD), etag="1"), True),
        (Reply(304, {}, b""), True),
        (reply(jwks(OTHER), etag="2"), False),
    ],
    ids=["the same keys", "not modified", "other keys"],
)
def test_a_304_is_about_the_keys_that_were_held_when_it_was_asked_for(first, counts):
    gate = Gate(etag="1")
    refresh, asked = gate.refresh()
    gate.time.advance(0.1)
    look, asked_again = gate.look()
    assert asked.headers["If-None-Match"] == asked_again.headers["If-None-Match"] == "1"
    arrive(refresh, first)
    keys = gate.held.keys
    arrive(look, Reply(304, {}, b""))
    assert gate.held.keys is keys
    assert (gate.held.fetched_at == gate.time.monotonic) == counts
    assert gate.held.etag == ("1" if counts else "2")


def test_a_fork_while_an_answer_is_accepted_blocks_nobody():
    gate = Gate()
    with gate.issuer.keys._lock():
        child = os.fork()
        if child == 0:
            os._exit(0 if gate.issuer.keys._lock().acquire(timeout=5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fails():
    raise RuntimeError("a secret")


def test_a_refresh_that_fails_as_nobody_foresaw_is_a_failure_like_any_other(caplog):
    world, time, told = World({JWKS: lambda _: Slow(reply(jwks(OLD)), fails)}), Time(), []
    server = ResourceServer(
        API, Issuer(ISSUER, jwks_uri=JWKS), clock=time.clock, token_cache=0, on_event=told.append
    )
    for _ in range(5):
        with pytest.raises(IssuerUnavailable, match="keys of"):
            world.run(server.authenticate(bearer_request(token(exp=FAR))))
    assert world.asked == [JWKS]
    assert server.health()[0].last_error == "unexpected RuntimeError"
    assert KeyFetchFailed(ISSUER, "unexpected RuntimeError") in told
    assert "unexpected RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_look_that_fails_as_nobody_foresaw_says_nothing_about_the_key(caplog):
    gate = Gate()
    look, _ = gate.look()
    arrive(look, Slow(reply(jwks(NEW)), fails))
    assert [one.kid for one in gate.held.keys.keys] == [OLD.kid]
    assert "unexpected RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_who_waited_in_vain_for_a_refresh_of_stale_keys_is_the_last_one_for_a_while():
    """A driver answers False where it waited, because the event loop of the refresh before ended too early."""
    gate = Gate()
    gate.time.advance(100)
    flow = gate.flow(OLD)
    asked = next(flow)
    assert (asked.wait, asked.patience) == (False, 5)
    with pytest.raises(StopIteration) as done:
        flow.send(False)
    assert done.value.value.subject == "alice"
    assert gate.server.health()[0].last_error == "it took too long"
    gate.open()
    assert gate.world.behind == []


def test_keys_that_are_due_are_never_waited_for():
    gate = Gate()
    assert next(gate.flow(OLD)).patience == 0


@pytest.mark.parametrize(
    ("headers", "refused"), [({}, True), ({"age": "0"}, True), ({"age": "1"}, False), ({"age": "x"}, True)]
)
def test_what_a_cache_answers_does_not_say_what_the_issuer_has_now(headers, refused):
    gate = Gate()
    gate.time.advance(-100)
    gate.world.pages[JWKS] = reply(jwks(OLD), **headers)
    with pytest.raises(
        InvalidToken if refused else IssuerUnavailable, match="unknown_key" if refused else "keys of"
    ):
        gate.open(NEW)
    assert gate.world.requests[-1].headers["Cache-Control"] == "no-cache"
    assert "Cache-Control" not in gate.world.requests[0].headers
