"""How long keys may be used, and when their issuer may be asked for them again.

RFC 9111 §4.2 and §5 (freshness), RFC 5861 §4 (stale-if-error), RFC 9110 §10.2.3 (Retry-After).

A set of keys lives through four ages.  It is *fresh* for a lifetime that the issuer's cache headers propose
and `KeyPolicy` clamps.  At a fraction of that lifetime it is *due*: it goes on being used while one refresh
runs behind everybody's back, so that no request ever waits for keys that are known.  Past its lifetime, where
refreshing failed, it is *stale*, still good enough not to log everybody out because the issuer has the
hiccups.  At its hard limit it is *dead*: a key that was withdrawn long ago must not open doors for ever, so
nothing can be decided until the issuer answers, and that is a 503 and never a 401.

    fetched ──────────── refresh_at ──── fresh_until ──────────────── dead_at
            fresh                  due                stale                   dead

Three things bound how often an issuer is asked, each by itself, so that none can use up what another needs:

- the clock: a refresh, one at a time, and after a failure not before a `Backoff` is over;
- unverified tokens: a key id nobody has seen, and a signature that fails under a known one (keys may be
  replaced under their old id), spend from a `Budget`; what the issuer was asked for in vain is remembered for
  a while, so that one confused client cannot spend it all.  Keys of issuers on probation (`probation`) also
  spend from one that all of them share;
- the issuer itself: its Retry-After closes it to both.

Everything here is a value and decides; waiting is done elsewhere, and a new state replaces the old by one
assignment.  Ages are measured by the monotonic clock, so a corrected wall clock neither kills keys nor keeps
them alive.
"""

import email.utils
import math
import os
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from ticketgate.core.keys import KeySet
from ticketgate.errors import ConfigurationError

QUICK_LOOKS = 2
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 30.0
LONGEST_RETRY_AFTER = 300.0
MAX_SECONDS = 2.0**31
SECONDS = re.compile(r"[0-9]+")


class Age(Enum):
    """How old a set of keys is."""

    FRESH = "fresh"
    DUE = "due"
    STALE = "stale"
    DEAD = "dead"


class Duty(NamedTuple):
    """What follows from an age: whether requests get the keys, how one refresh runs, what health says."""

    serve: bool
    refresh: str
    state: str


DUTIES: dict[Age, Duty] = {
    #                  the keys are used   a refresh runs     health
    Age.FRESH: Duty(serve=True, refresh="not", state="fresh"),
    Age.DUE: Duty(serve=True, refresh="behind", state="fresh"),
    Age.STALE: Duty(serve=True, refresh="behind", state="stale"),
    Age.DEAD: Duty(serve=False, refresh="awaited", state="unavailable"),
}
AGES = tuple(Age)


NUMBERS = (
    "default_ttl", "min_ttl", "max_ttl", "refresh_ahead", "stale_if_error", "cooldown", "timeout", "max_bytes", "max_keys"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """How an issuer's keys are fetched and how long they are used; times in seconds, sizes in bytes.

    The lifetime of a key set is the issuer's ``max-age``, or ``default_ttl`` without one, between
    ``min_ttl`` and ``max_ttl``; it is refreshed behind the requests' backs at ``refresh_ahead`` of it,
    and goes on being used for ``stale_if_error`` more while the issuer does not answer.  An unknown key
    id asks the issuer twice at once, then once per ``cooldown``.  One fetch takes at most ``timeout``
    and ``max_bytes``, and at most ``max_keys`` of its keys are kept.

    ``snapshot`` is a folder where the last good answers of each issuer are kept, for starts while the issuer is
    away and for all workers to share: one of them fetches, the others read.
    """

    default_ttl: float = 600
    min_ttl: float = 60
    max_ttl: float = 86_400
    refresh_ahead: float = 0.8
    stale_if_error: float = 3_600
    cooldown: float = 30
    timeout: float = 5
    max_bytes: int = 524_288
    max_keys: int = 100
    snapshot: "str | os.PathLike[str] | None" = None

    def __post_init__(self) -> None:
        for name in NUMBERS:
            _require(is_finite(getattr(self, name)), f"KeyPolicy({name}=...) must be a finite number")
        for name in ("default_ttl", "min_ttl", "max_ttl", "stale_if_error", "cooldown"):
            _require(getattr(self, name) >= 0, f"KeyPolicy({name}=...) must not be negative")
        _require(self.min_ttl <= self.max_ttl, "KeyPolicy(min_ttl=...) must not be above max_ttl")
        _require(0 < self.refresh_ahead <= 1, "KeyPolicy(refresh_ahead=...) must be above 0 and at most 1")
        for name in ("timeout", "max_bytes", "max_keys"):
            _require(getattr(self, name) > 0, f"KeyPolicy({name}=...) must be above 0")


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number that can be waited for or counted to, as NaN and infinity cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigurationError(otherwise)


@dataclass(frozen=True, slots=True)
class Held:
    """A key set with its times, in seconds of the monotonic clock; ``etag`` may ask whether it changed.

    ``as_of`` is when the issuer itself had these keys, as far as that is known.
    """

    keys: KeySet
    fetched_at: float = -math.inf
    refresh_at: float = math.inf
    fresh_until: float = math.inf
    dead_at: float = math.inf
    etag: str = ""
    as_of: float = -math.inf

    @property
    def is_static(self) -> bool:
        """Whether the keys were configured and are never fetched."""
        return self.refresh_at == math.inf

    def age(self, now: float) -> Age:
        """The age of the keys at ``now``."""
        return AGES[bisect_right((self.refresh_at, self.fresh_until, self.dead_at), now)]


NOTHING = Held(KeySet(()), refresh_at=-math.inf, fresh_until=-math.inf, dead_at=-math.inf)
"""No keys were ever had: a set that was born dead."""


def hold(keys: KeySet, headers: Mapping[str, str], policy: KeyPolicy, now: float, jitter: float) -> Held:
    """The key set of an answer asked for at ``now``, with its times; ``jitter`` is between -1 and 1.

    Ten percent of jitter keep the workers of a service from refreshing at the same moment.
    """
    lifetime = freshness_lifetime(headers, policy)
    ahead = min(1.0, policy.refresh_ahead * (1 + 0.1 * jitter))
    return Held(
        keys=keys,
        fetched_at=now,
        refresh_at=now + lifetime * ahead,
        fresh_until=now + lifetime,
        dead_at=now + lifetime + policy.stale_if_error,
        etag=headers.get("etag", ""),
        as_of=now - _age(headers),
    )


def freshness_lifetime(headers: Mapping[str, str], policy: KeyPolicy) -> float:
    """How long an answer is fresh, in seconds (RFC 9111 §4.2.1), within the bounds of ``policy``.

    ``no-store`` proposes nothing: a key set is kept in memory only, and asking for every request would
    hurt the issuer more than it helps anybody.
    """
    lifetime = _proposed_lifetime(headers)
    if lifetime is None:
        lifetime = policy.default_ttl
    else:
        lifetime -= _age(headers)
    return min(max(lifetime, policy.min_ttl), policy.max_ttl)


def _proposed_lifetime(headers: Mapping[str, str]) -> float | None:
    directives = _directives(headers.get("cache-control", ""))
    if (max_age := _seconds(directives.get("max-age", ""))) is not None:
        return max_age
    if "no-store" in directives or "expires" not in headers:
        return None
    expires, date = _http_date(headers["expires"]), _http_date(headers.get("date", ""))
    return 0 if expires is None else None if date is None else expires - date


def _age(headers: Mapping[str, str]) -> float:
    """How long caches have had the answer, in seconds (RFC 9111 §5.1)."""
    return _seconds(headers.get("age", "")) or 0


def _directives(control: str) -> dict[str, str]:
    """The directives of a Cache-Control field (RFC 9111 §5.2), the first of each name."""
    directives: dict[str, str] = {}
    for part in control.lower().split(","):
        name, _, value = part.partition("=")
        _ = directives.setdefault(name.strip(), value.strip().strip('"'))
    return directives


def _seconds(text: str) -> float | None:
    """The delta-seconds that ``text`` is, 2^31 for anything above (RFC 9111 §1.2.2); None for what is not one."""
    text = text.strip()
    return min(float(text), MAX_SECONDS) if SECONDS.fullmatch(text) else None


def _http_date(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], wall: float) -> float:
    """How many seconds the issuer wants to be left alone (RFC 9110 §10.2.3): 0 to 300, whatever it says."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER)
    moment = _http_date(value)
    return 0.0 if moment is None else min(max(moment - wall, 0.0), LONGEST_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class Budget:
    """A token bucket for what unverified tokens cause: ``size`` quick ones, then one per ``cooldown`` (seconds)."""

    cooldown: float
    size: float = QUICK_LOOKS
    left: float = math.inf
    counted_at: float = -math.inf

    def spend(self, now: float) -> "Budget | None":
        """The budget after one look at ``now``, or None when none is left; a failed look counts too."""
        left = self._left_at(now)
        return replace(self, left=left - 1, counted_at=max(now, self.counted_at)) if left >= 1 else None

    def refund(self, count: float) -> "Budget":
        """The budget as if ``count`` had not been spent."""
        return replace(self, left=self.left + count)

    def wait(self, now: float) -> float:
        """How many seconds after ``now`` there is one to spend; 0 where there is one already."""
        left = self._left_at(now)
        return 0.0 if left >= 1 else (1 - left) * self.cooldown

    def _left_at(self, now: float) -> float:
        gained = max(0.0, now - self.counted_at) / self.cooldown if self.cooldown else math.inf
        return min(self.size, self.left + gained)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to leave an issuer alone after failures: from half a second, doubled, to half a minute."""

    failures: int = 0
    retry_at: float = -math.inf
    last_error: str = ""

    def after_failure(self, now: float, jitter: float, error: str, at_least: float = 0) -> "Backoff":
        """The back-off after one more failure at ``now``; ``jitter`` is between -1 and 1, times in seconds."""
        delay = min(LAST_BACKOFF, FIRST_BACKOFF * 2 ** min(self.failures, 10)) * (1 + 0.1 * jitter)
        return Backoff(self.failures + 1, now + max(delay, at_least), error)

    def seconds_left(self, now: float) -> int:
        """Whole seconds until the next attempt, at least 1: a Retry-After (RFC 9110 §10.2.3)."""
        return max(1, math.ceil(self.retry_at - now)) if self.failures else 1
