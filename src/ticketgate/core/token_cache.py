"""Tokens whose signature was verified a moment ago, so that the same one is not verified for every request.

Keyed by the SHA-256 of the whole token: a key that covers less lets one token answer for another.
"""

from typing import NamedTuple

from ticketgate.core.access_token import AccessToken
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.clock import Now
from ticketgate.core.issuer import Issuer
from ticketgate.core.keys import KeySet

MAX_AGE = 60


class Verified(NamedTuple):
    """A verified token, and until when and with which keys that is true."""

    token: AccessToken
    expires_at: float
    until: float
    issuer: Issuer
    keys: KeySet

    def still_holds(self, now: Now) -> bool:
        """Not past its end by either clock, and the issuer's keys are still the very ones."""
        return (
            now.wall < self.expires_at
            and now.monotonic < self.until
            and self.issuer.keys.held.keys is self.keys
        )


class TokenCache:
    """Knows that a token is genuine and alive, never what it allows: requirements are checked anew."""

    __slots__ = ("_entries",)

    def __init__(self, size: int) -> None:
        self._entries: BoundedCache[bytes, Verified] = BoundedCache(size)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: bytes, now: Now) -> AccessToken | None:
        """The access token that was verified under ``name``, or None."""
        entry = self._entries.get(name)
        return entry.token if entry and entry.still_holds(now) else None

    def keep(
        self, name: bytes, token: AccessToken, issuer: Issuer, keys: KeySet, now: Now, leeway: float
    ) -> None:
        """Remember ``token`` for a minute, if it and ``keys``, which verified it, live that long.

        The issuer's keys of this moment may be others already, without the key that signed it.
        """
        until = min(now.monotonic + MAX_AGE, issuer.keys.next_refresh)
        expires_at = float(token.claims["exp"]) + leeway
        self._entries.put(name, Verified(token, expires_at, until, issuer, keys))
