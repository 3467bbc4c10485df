"""Locks in a process that was forked: one that another thread held at that moment is never released in the child."""

import os
from typing import Protocol
from weakref import WeakSet


class Locked(Protocol):
    """An object with a lock that belongs to one process."""

    def renew_lock(self) -> None:
        """Have a new lock; what the old one guarded may be half changed if it was held."""


OWNERS: WeakSet[Locked] = WeakSet()


def renew_in_children(owner: Locked) -> None:
    """From now on ``owner`` gets a new lock in every forked child, as long as it lives."""
    OWNERS.add(owner)


def renew_locks() -> None:
    """Called in a child right after the fork, where there is no other thread."""
    for owner in tuple(OWNERS):
        owner.renew_lock()


_ = getattr(os, "register_at_fork", dict)(
    after_in_child=renew_locks
)  # there is none, and no fork, on Windows
