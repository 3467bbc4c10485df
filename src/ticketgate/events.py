"""What a resource server tells those who watch it: frozen values, given to ``ResourceServer(on_event=...)``.

    Refused          a request was answered with no
    CacheHit         a token was known from a moment ago
    KeysRefreshed    an issuer's keys were fetched
    KeyFetchFailed   they could not be

A listener is called where the thing happens and is never awaited; an error in it is logged, and changes nothing.
"""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CacheHit", "Event", "KeyFetchFailed", "KeysRefreshed", "Refused"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused with ``status``; ``reason`` is the stable slug of the error."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A token of ``issuer`` was verified within the last minute and is known."""

    issuer: str


@dataclass(frozen=True, slots=True)
class KeysRefreshed:
    """The keys of ``issuer`` were fetched; ``added`` and ``removed`` are key ids, empty where nothing changed."""

    issuer: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyFetchFailed:
    """The keys of ``issuer`` could not be fetched; ``error`` says why, in words for the operator."""

    issuer: str
    error: str


Event: TypeAlias = Refused | CacheHit | KeysRefreshed | KeyFetchFailed
