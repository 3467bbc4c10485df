"""Whether an introspection endpoint may be asked now, and what its failures say.

RFC 7662 §4, RFC 9110 §10.2.3 (Retry-After).

A client chooses the token that we ask about, so a failure may say more about that token than about the endpoint.
This must hold: no sequence of requests by clients without an active token changes the answer to a client with
one, as long as the endpoint answers that one's token.  Therefore

- an answer that is missing or cannot be used counts against its own token: after three in a row, or at once with
  a Retry-After, that token is not asked about for a while;
- the endpoint is left alone, for everybody, only where no client can be the cause: either no connection can be
  made, three times in a row (its metadata included), or it failed three different tokens in a row that it had
  vouched for before, and then a question of our own as well, about a random token.  The tokens exclude clients
  that never had an active one; our question excludes clients whose tokens were active once and now make the
  server fail;
- an exchange that our own limit turned away or delayed says nothing about anybody;
- a quarter of the places is kept for tokens that the issuer vouched for before.

Not covered, because nothing tells it from junk: a token that is seen for the first time competes with the others
that are, and gets 503 with Retry-After while they fill their share of the places.

*Known* below is a token that the issuer vouched for: it was active, or is a JWT with a good signature that the
issuer has not called inactive.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.flow import Cause, Lane
from ticketgate.core.freshness import Backoff

FAILURES_UNTIL_OPEN = 3
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Pause:
    """Failures in a row, and until when (monotonic seconds) nothing is asked because of them."""

    backoff: Backoff = field(default_factory=Backoff)
    until: float = -math.inf

    def after_failure(self, now: float, error: str, wait: float = 0, limit: int = 1) -> "Pause":
        """The pause after one more failure: it begins with the ``limit``-th, or when ``wait`` seconds are asked for."""
        backoff = self.backoff.after_failure(now, 0, error, wait)
        begins = wait > 0 or backoff.failures >= limit
        return Pause(backoff, backoff.retry_at if begins else -math.inf)


NO_PAUSE = Pause()


def lanes(owner: Hashable, width: int, queue: int) -> dict[bool, Lane]:
    """The lanes of tokens that are known and of those that are not, for which a quarter of the places is closed."""
    everybody = Lane((owner, "all"), width, queue)
    others = Lane((owner, "new"), max(1, width - max(1, width // 4)), queue, everybody)
    return {True: everybody, False: others}


class Circuit:
    """What is known of one endpoint's health; at most ``width`` questions at once, ``queue`` of each kind wait."""

    def __init__(self, width: int, queue: int) -> None:
        self._lanes = lanes(self, width, queue)
        self._trials = {
            known: Lane((self, "trial", known), 1, 0, lane) for known, lane in self._lanes.items()
        }
        self._active_until: BoundedCache[bytes, float] = BoundedCache(REMEMBERED)
        self._revoked: BoundedCache[bytes, bool] = BoundedCache(REMEMBERED)
        self._tokens: dict[bool, BoundedCache[bytes, Pause]] = {
            known: BoundedCache(REMEMBERED) for known in (True, False)
        }
        self._unreachable = NO_PAUSE
        self._silent = {True: NO_PAUSE, False: NO_PAUSE}
        self._failed: frozenset[bytes] = frozenset()
        self._times_well = 0

    def is_known(self, name: bytes, wall: float, *, verified: bool = False) -> bool:
        """Whether the issuer vouches for the token: it was active and has not expired since, or it is ``verified``.

        A verified one that was refused is junk until it is active again: it costs whoever holds it nothing to send it.
        """
        if verified:
            return not self._revoked.get(name)
        return wall < (self._active_until.get(name) or -math.inf)

    def seconds_closed(self, name: bytes, known: bool, now: float) -> int:
        """For how many seconds the token may not be asked about; 0 if it may."""
        token = self._tokens[known].get(name) or NO_PAUSE
        until = max(self._unreachable.until, self._silent[known].until, token.until)
        return max(1, math.ceil(until - now)) if until > now else 0

    def lane(self, known: bool) -> Lane:
        """The limit for a question; after a pause, one at a time until the endpoint answers."""
        trial = self._silent[known].backoff.failures or self._unreachable.until > -math.inf
        return (self._trials if trial else self._lanes)[known]

    def answered(self, name: bytes, known: bool) -> None:
        """The endpoint answered, whatever it said; only what it says of a known token shows that all is well."""
        self._unreachable = NO_PAUSE
        self._tokens[known].drop(name)
        if known:
            self.is_well()

    def was_called_active(self, name: bytes, until: float) -> None:
        """The issuer vouches for the token until ``until`` (seconds since the epoch), so it is not junk."""
        self._active_until.put(name, until)
        self._revoked.drop(name)
        self.is_well()

    def was_called_inactive(self, name: bytes, *, verified: bool = False) -> None:
        """The issuer does not vouch for the token any more, though it may be ``verified``."""
        self._active_until.drop(name)
        if verified:
            self._revoked.put(name, True)

    def failed(self, name: bytes, known: bool, error: str, cause: Cause, wait: float, now: float) -> int:
        """Note a failure; the seconds after which this token is worth another question."""
        if cause is Cause.LIMIT:
            return 1
        if cause is Cause.CONNECTION:
            self._unreachable = self._unreachable.after_failure(now, error, wait, FAILURES_UNTIL_OPEN)
            return self._unreachable.backoff.seconds_left(now)
        self._unreachable = NO_PAUSE
        pauses = self._tokens[known]
        pause = (pauses.get(name) or NO_PAUSE).after_failure(now, error, wait, FAILURES_UNTIL_OPEN)
        pauses.put(name, pause)
        if known and len(self._failed) < FAILURES_UNTIL_OPEN:
            self._failed |= {name}
        return pause.backoff.seconds_left(now)

    def is_in_doubt(self, now: float) -> bool:
        """Whether a question of our own should decide: known tokens fail, or a pause for new ones is over."""
        others = self._silent[False]
        return len(self._failed) >= FAILURES_UNTIL_OPEN or (
            others.backoff.failures > 0 and now >= others.until
        )

    def own_question(self) -> "OwnQuestion":
        """A question of our own begins; its outcome counts only if nothing better is known by then."""
        return OwnQuestion(self._lanes[True], self._times_well)

    def own_question_failed(
        self, question: "OwnQuestion", error: str, cause: Cause, wait: float, now: float
    ) -> None:
        """The endpoint does not answer us either: it is left alone, by known tokens if it failed those too."""
        if cause is Cause.LIMIT or question.times_well != self._times_well:
            return
        for known in {False, len(self._failed) >= FAILURES_UNTIL_OPEN}:
            self._silent[known] = self._silent[known].after_failure(now, error, wait)
        self._failed = frozenset()

    def is_well(self) -> None:
        """The endpoint answered a question that no client chose, or one about a known token."""
        self._silent = {True: NO_PAUSE, False: NO_PAUSE}
        self._failed = frozenset()
        self._times_well += 1


class OwnQuestion(NamedTuple):
    """A question of our own: its limit, and how often the endpoint had been well when it began."""

    lane: Lane
    times_well: int
