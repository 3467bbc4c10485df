"""Where the keys of one issuer come from, and the keys that are held at this moment.

RFC 8414 §3, RFC 7517 §5, RFC 9110 §13.1.2 (If-None-Match).  How long keys live is in `freshness`.
"""

import logging
import math
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ticketgate.core.clock import Now
from ticketgate.core.flow import FetchFailed, Flow, Reply, TooManyWaiting, WaitingFor, alone, behind, once
from ticketgate.core.freshness import (
    DUTIES,
    NOTHING,
    Age,
    Backoff,
    Held,
    KeyPolicy,
    hold,
    retry_after,
)
from ticketgate.core.health import IssuerHealth
from ticketgate.core.jwk import Key
from ticketgate.core.jwt import UnverifiedJWT, verify_signature
from ticketgate.core.keys import KeySet, parse_jwk_set
from ticketgate.core.looks import Looks
from ticketgate.core.metadata_source import MetadataSource, get
from ticketgate.core.probation import Probation
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import InvalidToken, IssuerUnavailable
from ticketgate.events import KeyFetchFailed, KeysRefreshed

if TYPE_CHECKING:
    from ticketgate.core.snapshot import SnapshotFile

ACCEPT_KEYS = "application/jwk-set+json, application/json"
NO_CACHE = {"Cache-Control": "no-cache"}
"""Have caches ask the issuer (RFC 9111 §5.2.1.4)."""
MAX_WITHDRAWN = 20
NOT_MODIFIED = 304

Suits: TypeAlias = Callable[[KeySet], bool]

logger = logging.getLogger("ticketgate")


class Question(NamedTuple):
    """When the issuer was asked, and the keys that were held then: a 304 is about those (RFC 9110 §15.4.5).

    ``is_certain`` where that moment is known for sure, and not only by somebody else's clock.
    """

    at: Now
    held: Held
    is_certain: bool = True


class KeySource:
    """The keys of one issuer: ``held`` is replaced as a whole, by one assignment, and never changed.

    ``probation`` bounds what is fetched for an issuer that nobody named, until a token of it was verified.
    """

    def __init__(
        self,
        metadata: MetadataSource,
        algorithms: tuple[str, ...],
        policy: KeyPolicy,
        static: KeySet | None = None,
        probation: Probation | None = None,
    ) -> None:
        self.probation = probation
        self.held = NOTHING if static is None else Held(static)
        self._issuer = metadata.whereabouts.issuer
        self._metadata = metadata
        self._algorithms = algorithms
        self._policy = policy
        self._backoff = Backoff()
        self._looks = Looks(policy.cooldown)
        self._withdrawn = NOTHING.keys
        self._snapshot = None if static else _snapshot_file(metadata, policy)
        self._unsaved: tuple[SnapshotFile, Reply, Held, float] | None = None
        self._locks: dict[int, Lock] = {}

    @property
    def next_refresh(self) -> float:
        """When the keys are due next, in monotonic seconds; later while the issuer is left alone."""
        return min(max(self.held.refresh_at, self._backoff.retry_at), self.held.dead_at)

    def verify(self, jwt: UnverifiedJWT, now: Now, around: Surroundings) -> Flow[KeySet]:
        """The key set that holds the key which signed ``jwt``: the token is good while that set is held.

        Raises `InvalidToken` where the issuer has no such key, `IssuerUnavailable` when that cannot be known now.
        A token by a key at hand never waits.
        """
        held = self.held
        if now.monotonic >= held.refresh_at:
            held = yield from self.ready(now, around)
        try:
            verify_signature(jwt, held.keys.candidates(jwt.header))
        except InvalidToken:
            newer = yield from self._look_again(jwt.header, partial(_signed, jwt), held, now, around)
            if newer is None:
                raise
            return newer
        return held.keys

    def find(self, header: Mapping[str, Any], now: Now, around: Surroundings) -> Flow[tuple[Key, ...]]:
        """The keys that may verify a token with this header; none when the issuer has no such key.

        Raises `IssuerUnavailable` when that cannot be known.  Keys at hand never make anybody wait.
        """
        held = self.held
        if now.monotonic >= held.refresh_at:
            held = yield from self.ready(now, around)
        found = held.keys.candidates(header)
        if found:
            return found
        newer = yield from self._look_again(header, partial(_has_key_for, header), held, now, around)
        return () if newer is None else newer.candidates(header)

    def ready(self, now: Now, around: Surroundings) -> Flow[Held]:
        """The keys that may be used at ``now``, refreshed as their age demands.  Raises `IssuerUnavailable`."""
        duty = DUTIES[self.held.age(now.monotonic)]
        if duty.refresh != "not" and now.monotonic >= self._backoff.retry_at:
            yield from self._run_refresh(now, around, waits=duty.refresh == "awaited")
        held = self.held
        if not DUTIES[held.age(now.monotonic)].serve:
            raise self._unavailable(self._backoff.seconds_left(now.monotonic))
        return held

    def end_probation(self) -> Flow[None]:
        """A token of the issuer was verified: from now on it is like one that was named."""
        if self.probation is None:
            return
        self.probation.end()
        self.probation = None
        unsaved, self._unsaved = self._unsaved, None
        if unsaved is not None:
            yield from behind((self, "keep"), partial(self._keep, *unsaved))

    def health(self, now: Now) -> IssuerHealth:
        """What an operator wants to know of these keys; nothing is fetched."""
        held = self.held
        fetched = held.fetched_at > -math.inf
        return IssuerHealth(
            issuer=self._issuer,
            state=DUTIES[held.age(now.monotonic)].state,
            keys=tuple((key.kid, key.algorithm) for key in held.keys.keys),
            age=now.monotonic - held.fetched_at if fetched else None,
            next_refresh=None if held.is_static else max(0.0, self.next_refresh - now.monotonic),
            last_error=self._backoff.last_error,
        )

    def _look_again(
        self, header: Mapping[str, Any], suits: Suits, held: Held, now: Now, around: Surroundings
    ) -> Flow[KeySet | None]:
        """A newer key set than ``held`` that ``suits``; None where the issuer has none.

        It has none if it was asked since the request began, or withdrew the key itself.  Raises
        `IssuerUnavailable` otherwise: whoever spent the budget must not turn somebody's good token into a 401.
        """
        if held.is_static or held.as_of >= now.monotonic:
            return None
        name = KeySet.wanted(header)
        if not self._looks.is_in_vain(name, now.monotonic):
            newer = yield from self._newer(suits, held, now, around)
            if newer is not None:
                return newer
            if self.held.as_of >= now.monotonic:
                self._looks.remember(name, now.monotonic)
                return None
        if suits(self._withdrawn):
            return None
        raise self._unavailable(self._looks.wait(name, now.monotonic))

    def _newer(self, suits: Suits, old: Held, now: Now, around: Surroundings) -> Flow[KeySet | None]:
        """Ask for keys that are not held; twice where the first answer was already under way."""
        for _ in range(2):
            try:
                limited = WaitingFor.LOOK if self.probation is None else WaitingFor.FIRST_KEYS
                yield from once((self, "look"), partial(self._look, around), limited=limited)
            except TooManyWaiting as error:
                raise self._unavailable(1) from error
            keys = self.held.keys
            if keys is not old.keys and suits(keys):
                return keys
            if self._looks.last >= now.monotonic:
                break
        return None

    def _run_refresh(self, now: Now, around: Surroundings, *, waits: bool) -> Flow[None]:
        """Have the keys refreshed; waiting for them is limited where others are served meanwhile."""
        name, refresh = (self, "refresh"), partial(self._refresh, around)
        if not waits:
            is_stale = self.held.age(now.monotonic) is Age.STALE
            if not (yield from behind(name, refresh, patience=self._policy.timeout if is_stale else 0)):
                self._fail("it took too long", around.clock.monotonic())  # the next ones do not wait too
            return
        try:
            yield from once(name, refresh, limited=self._limit(around))
        except TooManyWaiting as error:
            raise self._unavailable(1) from error

    def _limit(self, around: Surroundings) -> WaitingFor | None:
        """None for the keys of the only issuer: without them nobody can be served."""
        if self.probation is not None:
            return WaitingFor.FIRST_KEYS
        return WaitingFor.KEYS if around.many_issuers else None

    def _refresh(self, around: Surroundings) -> Flow[None]:
        """One attempt to renew the keys, because of their age; never raises for the issuer's faults.

        Workers that share a snapshot do so one after the other, and find what the first of them fetched.
        """
        now = around.clock.monotonic()
        if self.probation is not None and not self.probation.may_fetch(now):
            self._backoff = replace(self._backoff, retry_at=now + 1)  # each takes its turn
            return
        if self._snapshot is None:
            yield from self._renew(around)
        else:
            yield from self._alone(partial(self._renew_for_all, self._snapshot, around), self._snapshot)

    def _alone(self, flow: Callable[[], Flow[None]], snapshot: "SnapshotFile") -> Flow[None]:
        """While no other process does; an issuer on probation leaves no file behind, not even a lock."""
        if self.probation is not None:
            yield from flow()
        else:
            yield from alone(snapshot.path, flow, self._policy.timeout)

    def _renew_for_all(self, snapshot: "SnapshotFile", around: Surroundings) -> Flow[None]:
        if not (yield from self._take_over(snapshot, around)):
            yield from self._renew(around)
            return
        if self.held.age(around.clock.monotonic()) is not Age.FRESH:
            # who waits for these keys need not wait for the issuer
            yield from behind((self, "renew"), partial(self._alone, partial(self._renew, around), snapshot))

    def _take_over(self, snapshot: "SnapshotFile", around: Surroundings) -> Flow[bool]:
        """Hold what another worker has fetched since; whether there was such."""
        now = around.clock.read()
        news = yield from snapshot.news(now)
        if news is None:
            return False
        held = self.held
        age = now.wall - news.fetched_at
        asked_at = Now(news.fetched_at, now.monotonic - max(age, 0.0))
        try:
            accepted = self._accept(news.reply, Question(asked_at, held, is_certain=age >= 0), around)
        except Exception as error:
            snapshot.ignore(_words(error))
            return False
        if accepted is None:
            return False
        snapshot.is_taken_over(news)
        self._metadata.restore(news.metadata, now.monotonic)
        return True

    def _accept_and_keep(self, reply: Reply, question: Question, around: Surroundings) -> Flow[None]:
        accepted = self._accept(reply, question, around)
        if self._snapshot is None or accepted is None:
            return
        if self.probation is None:
            yield from self._keep(self._snapshot, reply, accepted, question.at.wall)
        elif self._unsaved is None or reply.status != NOT_MODIFIED:
            self._unsaved = self._snapshot, reply, accepted, question.at.wall

    def _keep(self, snapshot: "SnapshotFile", reply: Reply, accepted: Held, wall: float) -> Flow[None]:
        """Write down ``reply``, unless the keys that it brought were replaced meanwhile."""
        if self.held.keys is accepted.keys:
            yield from snapshot.keep(reply, accepted.etag, self._metadata.documents, wall)

    def _renew(self, around: Surroundings) -> Flow[None]:
        question = Question(around.clock.read(), self.held)
        try:
            reply = yield from self._fetch_keys(question)
            yield from self._accept_and_keep(reply, question, around)
        except Exception as error:
            now = around.clock.monotonic()
            wait = self._asked_to_wait(error, now, around)
            self._fail(_words(error), now, wait)
            self._report("keys of %s could not be refreshed: %s", error, around)

    def _fail(self, error: str, now: float, wait: float = 0) -> None:
        with self._lock():
            self._backoff = self._backoff.after_failure(now, _jitter(), error, wait)

    def _look(self, around: Surroundings) -> Flow[None]:
        """One attempt because of keys that are not held, as far as the budget goes; the metadata is not asked."""
        if self._snapshot is None or not self._looks.may_look(around.clock.monotonic()):
            yield from self._look_alone(around)
        else:
            yield from self._alone(partial(self._look_for_all, self._snapshot, around), self._snapshot)

    def _look_for_all(self, snapshot: "SnapshotFile", around: Surroundings) -> Flow[None]:
        if not (yield from self._take_over(snapshot, around)):
            yield from self._look_alone(around)

    def _look_alone(self, around: Surroundings) -> Flow[None]:
        question = Question(around.clock.read(), self.held)
        started = question.at.monotonic
        if not self._looks.spend(started):
            return
        if self.probation is not None and not self.probation.may_fetch(started):
            return
        try:
            reply = yield from self._get_keys(self._metadata.known_jwks_uri, question, NO_CACHE)
            yield from self._accept_and_keep(reply, question, around)
        except Exception as error:
            _ = self._asked_to_wait(error, started, around)
            self._report("keys of %s could not be looked at again: %s", error, around)

    def _asked_to_wait(self, error: Exception, now: float, around: Surroundings) -> float:
        """The seconds for which the issuer closed itself by a Retry-After, 0 if it did not."""
        reply = error.reply if isinstance(error, FetchFailed) else None
        seconds = retry_after(reply.headers, around.clock.wall()) if reply else 0
        self._looks.close(now + seconds)
        return seconds

    def _fetch_keys(self, question: Question) -> Flow[Reply]:
        address = self._metadata.whereabouts.jwks_uri
        if address is None:
            anew = self._backoff.failures > 0
            address = yield from self._metadata.address("jwks_uri", question.at.monotonic, anew=anew)
        return (yield from self._get_keys(address, question))

    def _get_keys(
        self, url: str, question: Question, more: Mapping[str, str] = MappingProxyType({})
    ) -> Flow[Reply]:
        etag, where = question.held.etag, self._metadata.whereabouts
        headers = {"Accept": ACCEPT_KEYS, **more}
        if not etag:
            return (yield from get(url, headers, where, self._policy))
        headers["If-None-Match"] = etag
        return (yield from get(url, headers, where, self._policy, accepted=(200, NOT_MODIFIED)))

    def _accept(self, reply: Reply, question: Question, around: Surroundings) -> Held | None:
        """What is held from now on; None where a later question was answered first, which says more.

        Answers to several questions may arrive at once, and parsing takes time: it happens before the lock.
        """
        parsed = None if reply.status == NOT_MODIFIED else self._parse(reply)
        with self._lock():
            old = self.held
            if question.at.monotonic < old.fetched_at or (
                parsed is None and old.keys is not question.held.keys
            ):
                return None
            held = self._replace(old, parsed, reply.headers, question)
        self._announce(held.keys, old.keys, around)
        return held

    def _replace(
        self, old: Held, parsed: KeySet | None, headers: Mapping[str, str], question: Question
    ) -> Held:
        """Replace the whole key set by one assignment; keys that did not change stay the same object."""
        if parsed is None:
            headers = {"etag": question.held.etag, **headers}
        keys = old.keys if parsed is None or parsed.same_as(old.keys) else parsed
        held = hold(keys, headers, self._policy, question.at.monotonic, _jitter())
        if not question.is_certain:
            held = replace(held, as_of=-math.inf)
        self.held = held
        if keys is not old.keys:
            self._withdrawn = KeySet(keys.missing((*old.keys.keys, *self._withdrawn.keys))[:MAX_WITHDRAWN])
        self._backoff = Backoff()
        self._looks.forget()
        return held

    def _lock(self) -> Lock:
        """Held while an answer is accepted; one that was held during a fork stays with the parent."""
        return self._locks.setdefault(os.getpid(), Lock())

    def _parse(self, reply: Reply) -> KeySet:
        return parse_jwk_set(reply.body, self._algorithms, self._policy.max_keys)

    def _announce(self, keys: KeySet, old: KeySet, around: Surroundings) -> None:
        """Tell of every fetch, and have the log tell of those that changed something."""
        added, removed = sorted(keys.names() - old.names()), sorted(old.names() - keys.names())
        if keys is not old:
            details = {"issuer": self._issuer, "added": added, "removed": removed}
            logger.info("holding %d keys of %s", len(keys.keys), self._issuer, extra=details)
            for dropped in keys.dropped:
                logger.warning(
                    "a key of %s is not used: %s", self._issuer, dropped, extra={"issuer": self._issuer}
                )
        around.tell(KeysRefreshed(self._issuer, tuple(added), tuple(removed)))

    def _report(self, message: str, error: Exception, around: Surroundings) -> None:
        logger.warning(message, self._issuer, _words(error), extra={"issuer": self._issuer})
        around.tell(KeyFetchFailed(self._issuer, _words(error)))

    def _unavailable(self, seconds: float) -> IssuerUnavailable:
        message = f"keys of {self._issuer} are unavailable"
        return IssuerUnavailable(message, retry_after=max(1, math.ceil(seconds)))


def _snapshot_file(metadata: MetadataSource, policy: KeyPolicy) -> "SnapshotFile | None":
    """Loaded for those who want snapshots."""
    if policy.snapshot is None:
        return None
    from ticketgate.core.snapshot import SnapshotFile

    return SnapshotFile(os.fspath(policy.snapshot), metadata.whereabouts, policy)


def _signed(jwt: UnverifiedJWT, keys: KeySet) -> bool:
    """Whether one of ``keys`` made the signature (RFC 7515 §5.2)."""
    return any(key.verify(jwt.signing_input, jwt.signature) for key in keys.candidates(jwt.header))


def _has_key_for(header: Mapping[str, Any], keys: KeySet) -> bool:
    return bool(keys.candidates(header))


def _words(error: Exception) -> str:
    """What an operator reads of ``error``; the text of one that nobody foresaw may quote anything, so it stays out."""
    if isinstance(error, (FetchFailed, ValueError)):
        return str(error)
    return f"unexpected {type(error).__qualname__}"


def _jitter() -> float:
    return random.uniform(-1, 1)
