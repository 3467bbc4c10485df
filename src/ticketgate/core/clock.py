"""Time, from one place that tests can replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Now(NamedTuple):
    """One reading: ``wall`` judges claims, ``monotonic`` judges freshness; both in seconds."""

    wall: float
    monotonic: float


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a resource server, read once per request."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def read(self) -> Now:
        """Both clocks at this moment."""
        return Now(self.wall(), self.monotonic())
