"""What an issuer that a template or ``issuer_for`` found may cause before a token of it was verified.

Whoever sends a token chooses its ``iss``, so such an issuer is on probation until a signature was verified.  Until
then the fetches for it, and the questions whether it is ours, come out of budgets that all of them share.  What it
spent is given back once a token was verified: nobody who has real tokens uses the budgets up.
"""

from threading import Lock

from ticketgate.core.fork import renew_in_children
from ticketgate.core.freshness import Budget

QUICK, PER_SECOND = 100, 10


class SharedBudget:
    """A `Budget` for all tenants of a resource server: a hundred at once, then ten a second; safe between threads."""

    def __init__(self) -> None:
        self._budget = Budget(1 / PER_SECOND, QUICK)
        self._lock = Lock()
        renew_in_children(self)

    def renew_lock(self) -> None:
        """In a forked child; the budget is replaced by one assignment, so it is whole."""
        self._lock = Lock()

    def spend(self, now: float) -> bool:
        """Whether there was one to spend at ``now``, in monotonic seconds."""
        with self._lock:
            after = self._budget.spend(now)
            self._budget = after or self._budget
        return after is not None

    def refund(self, count: int) -> None:
        """Give back what a verified token turned out to have caused."""
        with self._lock:
            self._budget = self._budget.refund(count)


class Probation:
    """What one issuer on probation has fetched so far, out of the budget that it shares."""

    def __init__(self, fetches: SharedBudget) -> None:
        self._fetches = fetches
        self._spent = 0

    def may_fetch(self, now: float) -> bool:
        """Whether there may be one more fetch at ``now``; it is counted."""
        allowed = self._fetches.spend(now)
        self._spent += allowed
        return allowed

    def end(self) -> None:
        """Give back what was spent: a token of this issuer was verified."""
        self._fetches.refund(self._spent)
        self._spent = 0
