"""The keys of an issuer: which of them may verify a token, and how long they may be used.

RFC 7517 §5, RFC 8725 §3.1, RFC 9111 §4.2 and §5.

A set of keys lives through four times.  It is *fresh* for a lifetime that the issuer's cache headers
propose and `KeyPolicy` clamps.  At a fraction of that lifetime it is *due*: it goes on being used while
one refresh runs behind everybody's back.  Past its lifetime, when refreshing failed, it is *stale*, still
good enough not to log everybody out because the issuer has the hiccups.  At its hard limit it is *dead*,
and nothing can be decided until the issuer answers again.

    fetched ──────────── refresh_at ──── fresh_until ──────────────── dead_at
            fresh                  due                stale                  unavailable

Two things may cause a request to the issuer besides that clock, and each has its own bound, so that
neither strangers nor failures can make us hammer it: a key id nobody has seen spends from a `Budget`,
and after a failure the next attempt waits for a `Backoff`.  All of it are values: deciding is done here,
waiting elsewhere, and a new state replaces the old by one assignment.
"""

import email.utils
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ticketgate.core.jwk import Key, UnusableKey, import_key, operation
from ticketgate.core.strict_json import is_array, is_object, parse_object
from ticketgate.errors import ConfigurationError

MAX_CANDIDATES = 4
QUICK_LOOKS = 2
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 30.0
MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d+)\"?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """How an issuer's keys are fetched and how long they are used; times in seconds, sizes in bytes.

    The lifetime of a key set is the issuer's ``max-age``, or ``default_ttl`` without one, between
    ``min_ttl`` and ``max_ttl``; it is refreshed behind the requests' backs at ``refresh_ahead`` of it,
    and goes on being used for ``stale_if_error`` more while the issuer does not answer.  An unknown key
    id asks the issuer twice at once, then once per ``cooldown``.  One fetch takes at most ``timeout``
    and ``max_bytes``, and at most ``max_keys`` of its keys are kept.
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

    def __post_init__(self) -> None:
        for name in ("default_ttl", "min_ttl", "max_ttl", "stale_if_error", "cooldown"):
            _require(getattr(self, name) >= 0, f"KeyPolicy({name}=...) must not be negative")
        _require(self.min_ttl <= self.max_ttl, "KeyPolicy(min_ttl=...) must not be above max_ttl")
        _require(0 < self.refresh_ahead <= 1, "KeyPolicy(refresh_ahead=...) must be above 0 and at most 1")
        for name in ("timeout", "max_bytes", "max_keys"):
            _require(getattr(self, name) > 0, f"KeyPolicy({name}=...) must be above 0")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigurationError(otherwise)


class KeySet:
    """The usable keys of a JWK Set, found by key id and algorithm; never changes."""

    __slots__ = ("_found", "dropped", "keys")

    def __init__(self, keys: Iterable[Key], dropped: Iterable[str] = ()) -> None:
        self.keys = tuple(keys)
        self.dropped = tuple(dropped)
        self._found: dict[tuple[str | None, str], tuple[Key, ...]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._add((key.kid, key.algorithm), key)
            self._add((None, key.algorithm), key)

    def _add(self, name: tuple[str | None, str], key: Key) -> None:
        self._found[name] = (*self._found.get(name, ()), key)

    def candidates(self, header: Mapping[str, Any]) -> tuple[Key, ...]:
        """The keys that may have signed under ``header``, at most four (RFC 7515 §4.1.4, RFC 7517 §4.5).

        A token without a key id is only matched where exactly one key fits its algorithm.
        """
        kid = header.get("kid")
        found = self._found.get((kid, operation(header["alg"])), ())
        if kid is None and len(found) > 1:
            return ()
        return found[:MAX_CANDIDATES]

    def same_as(self, other: "KeySet | None") -> bool:
        """Whether both hold the same keys under the same names, compared by their content."""
        return other is not None and self._contents() == other._contents()

    def _contents(self) -> frozenset[tuple[str | None, str, str]]:
        return frozenset((key.kid, key.algorithm, key.thumbprint) for key in self.keys)


def parse_jwk_set(raw: bytes, algorithms: tuple[str, ...], max_keys: int) -> KeySet:
    """The usable keys in a JWK Set; members that cannot be used are dropped and named, one by one.

    Raises ValueError for what is no JWK Set, and for one without any usable key (RFC 7517 §5).
    """
    members = parse_object(raw).get("keys")
    if not is_array(members):
        raise ValueError("there is no array of keys in it")
    keys: list[Key] = []
    dropped: list[str] = []
    for member in members[:max_keys]:
        try:
            keys.extend(import_key(member, algorithms))
        except UnusableKey as reason:
            dropped.append(f"{_name(member)}: {reason}")
    if surplus := len(members[max_keys:]):
        dropped.append(f"{surplus} more: above max_keys={max_keys}")
    if not keys:
        raise ValueError(f"it has no usable key ({'; '.join(dropped) or 'it is empty'})")
    return KeySet(keys, dropped)


def _name(member: Any) -> str:
    """How the log names a key: its kid, cut to a sane length and escaped."""
    kid = member.get("kid") if is_object(member) else None
    return ascii(kid)[:80] if kid is not None else "a key without kid"


@dataclass(frozen=True, slots=True)
class Held:
    """A key set with its times, in seconds of the monotonic clock."""

    keys: KeySet
    fetched_at: float = -math.inf
    refresh_at: float = math.inf
    fresh_until: float = math.inf
    dead_at: float = math.inf


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
    )


def freshness_lifetime(headers: Mapping[str, str], policy: KeyPolicy) -> float:
    """How long an answer is fresh, in seconds (RFC 9111 §4.2.1), within the bounds of ``policy``.

    ``no-store`` proposes nothing: a key set is kept in memory only, and asking for every request would
    hurt the issuer more than it helps anybody.
    """
    lifetime = _proposed_lifetime(headers)
    if lifetime is None:
        lifetime = policy.default_ttl
    elif age := re.fullmatch(r"\s*(\d{1,10})\s*", headers.get("age", "")):
        lifetime -= int(age[1])
    return min(max(lifetime, policy.min_ttl), policy.max_ttl)


def _proposed_lifetime(headers: Mapping[str, str]) -> float | None:
    control = headers.get("cache-control", "").lower()
    if found := MAX_AGE.search(control):
        return float(found[1])
    if "no-store" in control or "expires" not in headers:
        return None
    expires, date = _http_date(headers["expires"]), _http_date(headers.get("date", ""))
    return 0 if expires is None else None if date is None else expires - date


def _http_date(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Budget:
    """A token bucket for looks at the issuer that strangers cause: two quick ones, then one per cooldown."""

    cooldown: float
    looks: float = QUICK_LOOKS
    counted_at: float = field(default=-math.inf)

    def spend(self, now: float) -> "Budget | None":
        """The budget after one look at ``now``, or None when none is left; a failed look counts too."""
        gained = (now - self.counted_at) / self.cooldown if self.cooldown else math.inf
        looks = min(float(QUICK_LOOKS), self.looks + gained)
        return replace(self, looks=looks - 1, counted_at=now) if looks >= 1 else None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to leave an issuer alone after failures: from half a second, doubled, to half a minute."""

    failures: int = 0
    retry_at: float = -math.inf
    last_error: str = ""

    def after_failure(self, now: float, jitter: float, error: str) -> "Backoff":
        """The back-off after one more failure at ``now``; ``jitter`` is between -1 and 1."""
        delay = min(LAST_BACKOFF, FIRST_BACKOFF * 2 ** min(self.failures, 10)) * (1 + 0.1 * jitter)
        return Backoff(self.failures + 1, now + delay, error)

    def seconds_left(self, now: float) -> int:
        """Whole seconds until the next attempt, at least 1: a Retry-After (RFC 9110 §10.2.3)."""
        return max(1, math.ceil(self.retry_at - now)) if self.failures else 1
