"""When an issuer is asked for a key that is not held, because of a token that nobody has verified.

RFC 7517 §5, RFC 9110 §10.2.3 (Retry-After).  `freshness` says what else bounds how often an issuer is asked.
"""

import math

from ticketgate.core.freshness import Budget
from ticketgate.core.keys import WantedKey

MAX_IN_VAIN = 1_000
MAX_KEY_ID = 200


class Looks:
    """The budget for looks at one issuer, and the keys that it was asked for in vain."""

    def __init__(self, cooldown: float) -> None:
        self.last = -math.inf
        self._cooldown = cooldown
        self._budget = Budget(cooldown)
        self._closed_until = -math.inf
        self._in_vain: dict[WantedKey, float] = {}

    def __len__(self) -> int:
        return len(self._in_vain)

    def may_look(self, now: float) -> bool:
        """Whether a look at ``now`` is within the budget, and not before the issuer wants it."""
        return now >= self._closed_until and self._budget.spend(now) is not None

    def spend(self, now: float) -> bool:
        """The same; and it is counted, whatever comes of it."""
        after = self._budget.spend(now)
        if after is None or now < self._closed_until:
            return False
        self._budget, self.last = after, now
        return True

    def close(self, until: float) -> None:
        """Leave the issuer alone, as it asked for."""
        self._closed_until = until

    def remember(self, name: WantedKey, now: float) -> None:
        """The issuer has no key of this name; one confused client does not spend the budget with it."""
        if len(self._in_vain) < MAX_IN_VAIN and len(name.kid or "") <= MAX_KEY_ID:
            self._in_vain[name] = now + self._cooldown

    def forget(self) -> None:
        """There is a new answer of the issuer."""
        self._in_vain = {}

    def is_in_vain(self, name: WantedKey, now: float) -> bool:
        """Whether the issuer was asked for ``name`` less than a cooldown ago, and had no such key."""
        return self._in_vain.get(name, -math.inf) > now

    def wait(self, name: WantedKey, now: float) -> float:
        """How many seconds after ``now`` it is worth asking for ``name`` again."""
        in_vain = self._in_vain.get(name, -math.inf) - now
        return max(in_vain, self._budget.wait(now), self._closed_until - now)
