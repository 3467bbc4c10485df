"""What a forked child finds where another thread of its parent held a lock."""

from threading import Lock

import pytest

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.fork import renew_locks
from ticketgate.core.probation import QUICK, SharedBudget
from ticketgate.issuing.stores import MemoryStore


def remembering(size):
    cache = BoundedCache(size)
    cache.put("name", "value")
    return cache


@pytest.mark.parametrize(("held", "found"), [(False, "value"), (True, None)])
def test_a_cache_that_was_being_changed_is_empty(held, found):
    cache = remembering(2)
    if held:
        cache._lock.acquire()
    renew_locks()
    assert cache.get("name") == found
    for number in range(3):
        cache.put(number, number)
    assert cache.values() == (1, 2)


def test_a_cache_of_nothing_stays_one():
    cache = remembering(0)
    cache._lock.acquire()
    renew_locks()
    assert cache.get("name") is None
    assert len(cache) == 0


def test_a_budget_goes_on():
    budget = SharedBudget()
    assert budget.spend(0)
    budget._lock.acquire()
    renew_locks()
    assert [budget.spend(0) for _ in range(QUICK)].count(True) == QUICK - 1


def test_every_lock_is_renewed():
    owners = BoundedCache(1), BoundedCache(0), SharedBudget(), MemoryStore()
    locks = [owner._lock for owner in owners]
    renew_locks()
    for owner, lock in zip(owners, locks, strict=True):
        assert isinstance(owner._lock, type(Lock()))
        assert owner._lock is not lock
