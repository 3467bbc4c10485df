"""What both drivers know about a run that many share, and what they are made with."""

import logging
import time
from dataclasses import dataclass

from ticketgate.core.flow import FetchFailed, TooManyWaiting, WaitingFor
from ticketgate.errors import ConfigurationError

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment by both clocks: while a machine is suspended the monotonic one may stand still."""

    monotonic: float
    wall: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The moment ``seconds`` from now."""
        return cls(time.monotonic() + seconds, time.time() + seconds)

    @property
    def has_passed(self) -> bool:
        """Whether either clock says so: a run too many costs less than one that never ends."""
        return time.monotonic() >= self.monotonic or time.time() >= self.wall


def report(error: BaseException) -> None:
    """Log that a shared run ended with ``error``; its words may quote a stranger, so they stay out."""
    if not isinstance(error, FetchFailed):
        logger.error("a shared run ended with %s", type(error).__qualname__)


def checked_max_waiting(count: int) -> int:
    """``count``, if that many may wait.  Raises `ConfigurationError`."""
    if type(count) is not int or count < 1:
        raise ConfigurationError(f"Driver(max_waiting={count!r}) must be a number of requests, 1 at least")
    return count


def too_many_waiting(count: int, kind: WaitingFor) -> TooManyWaiting:
    """One more would wait than may."""
    return TooManyWaiting(f"{count} requests are waiting already for {kind.value} (max_waiting={count})")
