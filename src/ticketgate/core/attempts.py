"""When a token endpoint is asked again after it gave no token.

RFC 9110 §10.2.3 (Retry-After), RFC 6749 §5.2.

A request that failed is not repeated before its back-off is over: half a second, doubled, half a minute at most, or
as long as the server's Retry-After says.  That no connection can be made is the one failure that every request would
have met: three of them in a row hold all requests back; then one request tries it while the others wait.  Whatever
happens once there is a connection (a reset, a broken answer, any status) may be the doing of what was asked for, so
it holds back nothing else, and whoever is answered so ends the wait of the others.
"""

import math
import random
from typing import NamedTuple

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.flow import Cause, FetchFailed
from ticketgate.core.freshness import Backoff, retry_after
from ticketgate.errors import IssuerUnavailable, TokenRefused

FAILURES_UNTIL_ALL_WAIT = 3
MAX_REMEMBERED = 1_000


class Failure(NamedTuple):
    """Why there is no token, for all who asked for it: an exception belongs to one of them alone."""

    message: str
    refused: tuple[str, str] | None = None
    concerns_all: bool = False
    wait: float = 0

    @classmethod
    def of(cls, error: Exception, issuer: str, wall: float) -> "Failure":
        """What ``error`` says; ``wall`` is the time that a Retry-After is counted from."""
        if isinstance(error, TokenRefused):
            refused = error.error, error.description
            return cls("", refused, wait=error.retry_after)
        message = f"no token from {issuer}: {error}"
        if not isinstance(error, FetchFailed):
            return cls(message)
        wait = 0.0 if error.reply is None else retry_after(error.reply.headers, wall)
        return cls(message, None, error.cause is Cause.CONNECTION, wait)

    def error(self, seconds: int) -> TokenRefused | IssuerUnavailable:
        """The exception for one who asked; asking again is no use for ``seconds``."""
        if self.refused is not None:
            return TokenRefused(*self.refused, retry_after=seconds)
        return IssuerUnavailable(self.message, retry_after=seconds)


class Attempt(NamedTuple):
    """The last failure, and how long it holds requests back."""

    backoff: Backoff
    failure: Failure


class Attempts:
    """The failures of one client at one endpoint, by the digest of what was asked for; a bounded number of them."""

    __slots__ = ("_all", "_all_wait_until", "_failed", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._failed: BoundedCache[bytes, Attempt] = BoundedCache(MAX_REMEMBERED)
        self._all: Attempt | None = None
        self._all_wait_until = -math.inf

    def refusal(self, digest: bytes, now: float) -> TokenRefused | IssuerUnavailable | None:
        """What to raise instead of asking for ``digest`` at ``now``; None where it may be asked for."""
        mine = self._failed.get(digest)
        if mine is not None and now < mine.backoff.retry_at:
            return mine.failure.error(mine.backoff.seconds_left(now))
        if self._all is not None and now < self._all_wait_until:
            return self._all.failure.error(max(1, math.ceil(self._all_wait_until - now)))
        return None

    def begin(self, now: float) -> None:
        """A request goes out: where all had to wait, they wait for this one."""
        if self._all is not None and self._all.backoff.failures >= FAILURES_UNTIL_ALL_WAIT:
            self._all_wait_until = now + self._timeout

    def succeeded(self, digest: bytes) -> None:
        """There is a token for ``digest``."""
        self._failed.drop(digest)
        self._server_answers()

    def failed(self, digest: bytes, failure: Failure, now: float) -> None:
        """There is none, because of ``failure``."""
        self._failed.put(digest, _after(self._failed.get(digest), failure, now))
        if not failure.concerns_all:
            self._server_answers()
            return
        everybody = self._all = _after(self._all, failure, now)
        if everybody.backoff.failures >= FAILURES_UNTIL_ALL_WAIT:
            self._all_wait_until = everybody.backoff.retry_at

    def _server_answers(self) -> None:
        self._all, self._all_wait_until = None, -math.inf


def _after(last: Attempt | None, failure: Failure, now: float) -> Attempt:
    backoff = Backoff() if last is None else last.backoff
    jitter = random.uniform(-1, 1)
    return Attempt(backoff.after_failure(now, jitter, failure.message, failure.wait), failure)
