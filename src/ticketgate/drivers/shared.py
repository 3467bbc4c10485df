"""What both drivers know about a run that many share: until when it is joined, and what to say of its failure."""

import logging
import time
from dataclasses import dataclass

from ticketgate.core.flow import FetchFailed

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
