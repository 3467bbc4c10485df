"""The last good keys on disk: used while the issuer is away, shared by workers, and never trusted blindly."""

import json

import pytest
from flows import World, reply
from tokens import API, ISSUER, Time, jwks, key, token

from ticketgate import Issuer, KeyPolicy, ResourceServer
from ticketgate.core.request import bearer_request
from ticketgate.core.snapshot import snapshot_path
from ticketgate.errors import InvalidToken, IssuerUnavailable

RFC8414, JWKS = f"{ISSUER}/.well-known/oauth-authorization-server", f"{ISSUER}/keys"
METADATA = {"issuer": ISSUER, "jwks_uri": JWKS}
FOLDER = "/var/lib/api"
PATH = snapshot_path(FOLDER, ISSUER)
FAR = 10**10
NEW = key("RS256", "new")
POLICY = KeyPolicy(snapshot=FOLDER)


class Host:
    """A machine with one disk, one clock and one issuer; `worker` starts another process on it."""

    def __init__(self, **headers):
        self.time = Time()
        self.world = World({RFC8414: METADATA, JWKS: reply(jwks(key()), **headers)})

    def worker(self, policy=POLICY, **options):
        server = ResourceServer(
            API, Issuer(ISSUER, keys=policy, **options), clock=self.time.clock, token_cache=0
        )
        return lambda raw=None: self.world.run(server.authenticate(bearer_request(raw or token(exp=FAR))))

    def asked(self):
        asked = self.world.asked
        self.world.requests.clear()
        return asked

    def is_away(self):
        self.world.pages.clear()

    def restart(self):
        """The monotonic clock of another boot."""
        self.time.monotonic = 5.0


def test_one_worker_asks_for_all():
    host = Host()
    first, *others = [host.worker() for _ in range(4)]
    first()
    assert host.asked() == [RFC8414, JWKS]
    for other in others:
        other()
    assert host.asked() == []


def test_one_refresh_serves_all():
    host = Host()
    workers = [host.worker() for _ in range(4)]
    for _ in range(3):
        for worker in workers:
            worker()
            host.world.catch_up()
        assert len(host.asked()) in {1, 2}  # the first time with the metadata
        host.time.advance(599)


@pytest.mark.parametrize("wait", [0, 599, 1000, 4199])
def test_a_start_while_the_issuer_is_away(wait):
    host = Host()
    host.worker()()
    host.is_away()
    host.asked()
    host.time.advance(wait)
    host.restart()
    worker = host.worker()
    worker()
    assert host.asked() == []  # nobody waits for the issuer
    host.world.catch_up()
    assert bool(host.asked()) == (wait > 0)
    worker()


def test_beyond_the_hard_limit_it_is_too_old(caplog):
    host = Host()
    host.worker()()
    host.is_away()
    host.time.advance(4201)
    with pytest.raises(IssuerUnavailable):
        host.worker()()
    assert "it is too old" in caplog.text


def test_its_age_counts_from_the_fetch():
    host = Host(cache_control="max-age=1000")
    host.worker()()
    host.time.advance(500)
    host.restart()
    host.is_away()
    worker = host.worker()
    worker()
    host.time.advance(4099)
    worker()
    host.time.advance(2)
    with pytest.raises(IssuerUnavailable):
        worker()


def test_a_new_key_that_another_worker_found_needs_no_second_question():
    host = Host()
    first, second = host.worker(), host.worker()
    first(), second()
    host.time.advance(1)
    host.world.pages[JWKS] = reply(jwks(key(), NEW))
    host.asked()
    first(token(signing=NEW, exp=FAR))
    assert host.asked() == [JWKS]
    second(token(signing=NEW, exp=FAR))
    assert host.asked() == []
    host.time.advance(1)
    with pytest.raises(InvalidToken):
        second(token(signing=key("RS256", "unknown"), exp=FAR))
    assert host.asked() == [JWKS]


def test_an_answer_that_nothing_changed_is_written_down_too():
    host = Host(etag='"1"')
    host.worker()()
    host.world.pages[JWKS] = reply(b"", 304)
    host.time.advance(590)
    worker = host.worker()
    worker()
    host.world.catch_up()
    written = json.loads(host.world.files[PATH])
    assert (written["fetched_at"], written["headers"]["etag"]) == (host.time.wall, '"1"')
    assert "keys" in written["jwks"]
    worker()


def test_what_is_written():
    host = Host(cache_control="max-age=60", set_cookie="secret")
    host.worker()()
    written = json.loads(host.world.files[PATH])
    assert written.keys() == {"version", "issuer", "jwks_uri", "fetched_at", "headers", "jwks", "metadata"}
    assert written["issuer"] == ISSUER
    assert written["metadata"] == {RFC8414: METADATA}
    assert written["headers"] == {"cache-control": "max-age=60"}


def changed(**members):
    return lambda raw: json.dumps(json.loads(raw) | members).encode()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda raw: b"", "not used"),
        (lambda raw: raw[:-10], "not used"),
        (lambda raw: b"[]", "not used"),
        (changed(version=2), "it is of version 2"),
        (changed(issuer="https://other.example"), "it is of issuer 'https://other.example'"),
        (changed(jwks_uri="https://elsewhere.example"), "another jwks_uri than the configured one"),
        (changed(fetched_at=None), "a member is missing"),
        (changed(fetched_at=10**12), "it is from the future"),
        (changed(fetched_at=10**400), "a member is missing"),
        (changed(fetched_at=-(10**400)), "a member is missing"),
        (lambda raw: raw.replace(b'"version": 1', b'"version": ' + b"9" * 5_000), "not used"),
        (
            changed(headers={"age": 10**400, "cache-control": "max-age=" + "9" * 5_000}, fetched_at=0),
            "it is too old",
        ),
        (changed(jwks=None), "a member is missing"),
        (changed(jwks='{"keys": []}'), "no usable key"),
        (changed(headers=[]), "a member is missing"),
        (changed(metadata={RFC8414: {"issuer": "https://other.example"}}), "its issuer is"),
    ],
)
def test_a_snapshot_that_is_not_right_is_ignored_and_replaced(spoil, why, caplog):
    host = Host()
    host.worker()()
    good = host.world.files[PATH]
    host.world.files[PATH] = spoil(good)
    host.asked()
    host.worker()()
    assert host.asked() == [RFC8414, JWKS]
    assert why in caplog.text
    assert json.loads(host.world.files[PATH]) == json.loads(good)


def test_each_issuer_has_a_file_of_its_own():
    other = "https://other.example"
    assert snapshot_path(FOLDER, other) != PATH
    host = Host()
    host.world.pages |= {
        f"{other}/.well-known/openid-configuration": {"issuer": other, "jwks_uri": f"{other}/keys"},
        f"{other}/keys": jwks(NEW),
    }
    server = ResourceServer(
        API, Issuer(ISSUER, keys=POLICY), Issuer(other, keys=POLICY), clock=host.time.clock, token_cache=0
    )
    for raw in (token(exp=FAR), token(exp=FAR, iss=other, signing=NEW)):
        host.world.run(server.authenticate(bearer_request(raw)))
    assert len(host.world.files) == 2


def test_keys_that_are_configured_are_not_written():
    host = Host()
    host.worker(jwks=jwks(key()))()
    assert host.world.files == {}


def test_clocks_may_differ_a_little():
    host = Host()
    host.worker()()
    host.asked()
    host.time.wall -= 30
    host.worker()()
    assert host.asked() == []


@pytest.mark.parametrize("drift", [-0.5, 0.5, 3])
def test_what_a_worker_wrote_itself_is_no_news(drift):
    """The wall clock goes faster or slower than the monotonic one: a look for a new key must still be one."""
    host = Host()
    worker = host.worker()
    worker()
    host.time.advance(10)
    host.time.wall += drift
    host.world.pages[JWKS] = reply(jwks(key(), NEW))
    host.asked()
    worker(token(signing=NEW, exp=FAR))
    assert host.asked() == [JWKS]


def test_it_counts_from_the_question_and_not_from_the_answer():
    """The issuer replaces its key while its answer to another worker is under way."""
    host = Host()

    def takes_two_seconds(_):
        host.time.advance(2)
        return reply(jwks(key()))

    host.world.pages[JWKS] = takes_two_seconds
    asked_at = host.time.wall
    host.worker()()
    assert json.loads(host.world.files[PATH])["fetched_at"] == asked_at
    host.time.advance(-1)
    host.world.pages[JWKS] = reply(jwks(NEW))
    late = host.worker()
    late(token(signing=NEW, exp=FAR))
    with pytest.raises(InvalidToken):
        late()


def test_what_seems_to_come_from_the_future_does_not_say_what_the_issuer_has_now():
    """The clock of the worker that wrote it is ahead: it may have asked before the key was published."""
    host = Host()
    host.time.wall += 30
    host.worker()()
    host.time.wall -= 30
    host.world.pages[JWKS] = reply(jwks(key(), NEW))
    host.asked()
    host.worker()(token(signing=NEW, exp=FAR))
    assert host.asked() == [JWKS]


def test_what_is_older_than_what_is_held_is_not_taken_over():
    host = Host()
    first, second = host.worker(), host.worker()
    first()
    host.time.wall += 5
    del host.world.files[PATH]
    second()
    host.time.wall += 5
    host.time.advance(1)
    host.world.pages[JWKS] = reply(jwks(key(), NEW))
    host.asked()
    first(token(signing=NEW, exp=FAR))
    assert host.asked() == [JWKS]


def test_what_was_not_taken_over_is_not_written_down_as_what_the_issuer_still_has():
    host = Host(etag='"1"')
    worker = host.worker()
    worker()
    good = json.loads(host.world.files[PATH])
    bad = good | {"jwks": '{"keys": []}', "fetched_at": good["fetched_at"] + 1}
    host.world.files[PATH] = json.dumps(bad).encode()
    host.time.advance(599)
    host.world.pages[JWKS] = reply(b"", 304)
    worker()
    host.world.catch_up()
    assert json.loads(host.world.files[PATH]) == good | {"fetched_at": host.time.wall}


class Found(Host):
    """Its issuer is one that a function finds, so that it is on probation until a token of it was verified."""

    def found_worker(self):
        server = ResourceServer(
            API, issuer_for=lambda iss: Issuer(iss, keys=POLICY), clock=self.time.clock, token_cache=0
        )
        return lambda raw: self.world.run(server.authenticate(bearer_request(raw)))


def test_what_was_fetched_on_probation_counts_from_the_question_too():
    host = Found()

    def takes_two_seconds(_):
        host.time.advance(2)
        return reply(jwks(key()))

    host.world.pages[JWKS] = takes_two_seconds
    asked_at = host.time.wall
    host.found_worker()(token(exp=FAR))
    host.world.catch_up()
    assert json.loads(host.world.files[PATH])["fetched_at"] == asked_at


def test_what_was_fetched_on_probation_replaces_nothing_newer():
    host = Found()
    worker = host.found_worker()
    worker(token(exp=FAR))
    host.time.advance(1)
    host.world.pages[JWKS] = reply(jwks(NEW))
    worker(token(signing=NEW, exp=FAR))
    written = host.world.files[PATH]
    host.world.catch_up()
    assert host.world.files[PATH] == written
    assert json.loads(json.loads(written)["jwks"]) == jwks(NEW)
