"""Time, from one place that tests can replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Now(NamedTuple):
    """One reading: ``wall`` judges claims, ``monotonic`` judges freshness; both in seconds."""

    wall: float
    monotonic: float


def _wall() -> float:
    return time.time()


def _monotonic() -> float:
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a resource server, read once per request.

    The usual ones are looked up in ``time`` at each reading, so tools that replace them there (freezegun) work.
    """

    wall: Callable[[], float] = _wall
    monotonic: Callable[[], float] = _monotonic

    def read(self) -> Now:
        """Both clocks at this moment."""
        if self.wall is _wall and self.monotonic is _monotonic:  # a call less for each, on every request
            return Now(time.time(), time.monotonic())
        return Now(self.wall(), self.monotonic())
