"""Tokens whose signature was verified a moment ago, so that the same one is not verified for every request.

Keyed by the SHA-256 of the whole token: a key that covers less lets one token answer for another.
"""

import hashlib
from threading import Lock
from typing import NamedTuple

from cachetools import LRUCache

from ticketgate.core.access_token import AccessToken
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
    """A bounded cache of verified tokens, least recently used out first; safe between threads.

    It knows that a token is genuine and alive, never what it allows: requirements are checked anew.
    """

    def __init__(self, size: int) -> None:
        self._entries: LRUCache[bytes, Verified] | None = LRUCache(size) if size else None
        self._lock = Lock()

    def find(self, raw: bytes, now: Now) -> AccessToken | None:
        """The access token that ``raw`` was verified to be, or None."""
        if self._entries is None:
            return None
        with self._lock:
            entry = self._entries.get(hashlib.sha256(raw).digest())
        return entry.token if entry and entry.still_holds(now) else None

    def keep(self, raw: bytes, token: AccessToken, issuer: Issuer, now: Now, leeway: float) -> None:
        """Remember ``token`` for a minute, if it and the issuer's keys live that long."""
        if self._entries is None:
            return
        until = min(now.monotonic + MAX_AGE, issuer.keys.next_refresh)
        entry = Verified(token, token.expires_at + leeway, until, issuer, issuer.keys.held.keys)
        with self._lock:
            self._entries[hashlib.sha256(raw).digest()] = entry
