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
from typing import TYPE_CHECKING, Any, TypeAlias

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
MAX_WITHDRAWN = 20
NOT_MODIFIED = 304

Suits: TypeAlias = Callable[[KeySet], bool]

logger = logging.getLogger("ticketgate")


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
        self._unsaved: tuple[SnapshotFile, Reply, float] | None = None

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
            yield from self._run_refresh(around, waits=duty.refresh == "awaited")
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
        if held.is_static or held.fetched_at >= now.monotonic:
            return None
        name = KeySet.wanted(header)
        if not self._looks.is_in_vain(name, now.monotonic):
            newer = yield from self._newer(suits, held, now, around)
            if newer is not None:
                return newer
            if self.held.fetched_at >= now.monotonic:
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

    def _run_refresh(self, around: Surroundings, *, waits: bool) -> Flow[None]:
        """Have the keys refreshed; waiting for them is limited where others are served meanwhile."""
        name, refresh = (self, "refresh"), partial(self._refresh, around)
        if not waits:
            yield from behind(name, refresh)
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
        try:
            self._accept(news.reply, now.monotonic - max(now.wall - news.fetched_at, 0.0), around)
        except ValueError as error:
            snapshot.ignore(error)
            return False
        self._metadata.restore(news.metadata, now.monotonic)
        return self.held is not held

    def _accept_and_keep(self, reply: Reply, started: float, around: Surroundings) -> Flow[None]:
        self._accept(reply, started, around)
        if self._snapshot is None:
            return
        if self.probation is None:
            yield from self._keep(self._snapshot, reply, around.clock.wall())
        elif self._unsaved is None or reply.status != NOT_MODIFIED:
            self._unsaved = self._snapshot, reply, around.clock.wall()

    def _keep(self, snapshot: "SnapshotFile", reply: Reply, wall: float) -> Flow[None]:
        yield from snapshot.keep(reply, self.held.etag, self._metadata.documents, wall)

    def _renew(self, around: Surroundings) -> Flow[None]:
        started = around.clock.monotonic()
        try:
            reply = yield from self._fetch_keys(started)
            yield from self._accept_and_keep(reply, started, around)
        except (FetchFailed, ValueError) as error:
            now = around.clock.monotonic()
            wait = self._asked_to_wait(error, now, around)
            self._backoff = self._backoff.after_failure(now, _jitter(), str(error), wait)
            self._report("keys of %s could not be refreshed: %s", error, around)

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
        started = around.clock.monotonic()
        if not self._looks.spend(started):
            return
        if self.probation is not None and not self.probation.may_fetch(started):
            return
        try:
            reply = yield from self._get_keys(self._metadata.known_jwks_uri)
            yield from self._accept_and_keep(reply, started, around)
        except (FetchFailed, ValueError) as error:
            _ = self._asked_to_wait(error, started, around)
            self._report("keys of %s could not be looked at again: %s", error, around)

    def _asked_to_wait(self, error: Exception, now: float, around: Surroundings) -> float:
        """The seconds for which the issuer closed itself by a Retry-After, 0 if it did not."""
        reply = error.reply if isinstance(error, FetchFailed) else None
        seconds = retry_after(reply.headers, around.clock.wall()) if reply else 0
        self._looks.close(now + seconds)
        return seconds

    def _fetch_keys(self, now: float) -> Flow[Reply]:
        address = self._metadata.whereabouts.jwks_uri
        if address is None:
            address = yield from self._metadata.address("jwks_uri", now, anew=self._backoff.failures > 0)
        return (yield from self._get_keys(address))

    def _get_keys(self, url: str) -> Flow[Reply]:
        etag, where = self.held.etag, self._metadata.whereabouts
        if not etag:
            return (yield from get(url, {"Accept": ACCEPT_KEYS}, where, self._policy))
        headers = {"Accept": ACCEPT_KEYS, "If-None-Match": etag}
        return (yield from get(url, headers, where, self._policy, accepted=(200, NOT_MODIFIED)))

    def _accept(self, reply: Reply, started: float, around: Surroundings) -> None:
        """Replace the whole key set by one assignment; keys that did not change stay the same object."""
        held = self.held
        if started < held.fetched_at:
            return
        keys, headers = held.keys, reply.headers
        if reply.status == NOT_MODIFIED:
            headers = {"etag": held.etag, **headers}
        elif not (parsed := self._parse(reply)).same_as(held.keys):
            keys = parsed
        self.held = hold(keys, headers, self._policy, started, _jitter())
        if keys is not held.keys:
            self._withdrawn = KeySet(keys.missing((*held.keys.keys, *self._withdrawn.keys))[:MAX_WITHDRAWN])
        self._backoff = Backoff()
        self._looks.forget()
        self._announce(keys, held.keys, around)

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
        logger.warning(message, self._issuer, error, extra={"issuer": self._issuer})
        around.tell(KeyFetchFailed(self._issuer, str(error)))

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


def _jitter() -> float:
    return random.uniform(-1, 1)
