"""A cache of a fixed size, the least recently used out first; safe between threads."""

from threading import Lock
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Remembers at most ``size`` values, none at all for 0.  How long one is true stands in the value."""

    __slots__ = ("_entries", "_lock")

    def __init__(self, size: int) -> None:
        self._entries: LRUCache[bytes, Value] | None = LRUCache(size) if size else None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries or ())

    def get(self, name: bytes) -> Value | None:
        """What was put under ``name``, or None."""
        if self._entries is None:
            return None
        with self._lock:
            return self._entries.get(name)

    def put(self, name: bytes, value: Value) -> None:
        """Remember ``value`` under ``name``."""
        if self._entries is not None:
            with self._lock:
                self._entries[name] = value
