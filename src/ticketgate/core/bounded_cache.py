"""A cache of a fixed size, the least recently used out first; safe between threads, and where they fork."""

from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

from cachetools import LRUCache

from ticketgate.core.fork import renew_in_children

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Name, Value]):
    """Remembers at most ``size`` values, none at all for 0.  How long one is true stands in the value."""

    __slots__ = ("__weakref__", "_entries", "_lock")

    def __init__(self, size: int) -> None:
        self._entries: LRUCache[Name, Value] | None = LRUCache(size) if size else None
        self._lock = Lock()
        renew_in_children(self)

    def renew_lock(self) -> None:
        """In a forked child; a change that another thread had begun is never completed, so nothing is kept then."""
        if self._entries is not None and self._lock.locked():
            self._entries = LRUCache(self._entries.maxsize)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries or ())

    def get(self, name: Name) -> Value | None:
        """What was put under ``name``, or None."""
        if self._entries is None:
            return None
        with self._lock:
            return self._entries.get(name)

    def peek(self, name: Name) -> Value | None:
        """What was put under ``name``, or None; this does not count as a use of it."""
        if self._entries is None:
            return None
        with self._lock:
            return super(LRUCache, self._entries).__getitem__(name) if name in self._entries else None

    def replace(self, name: Name, value: Value) -> None:
        """Put ``value`` in place of what is remembered under ``name``, if anything is; not a use of it either."""
        if self._entries is not None:
            with self._lock:
                if name in self._entries:
                    super(LRUCache, self._entries).__setitem__(name, value)

    def put(self, name: Name, value: Value) -> None:
        """Remember ``value`` under ``name``."""
        if self._entries is not None:
            with self._lock:
                self._entries[name] = value

    def drop(self, name: Name) -> None:
        """Forget what was put under ``name``, if it is there."""
        if self._entries is not None:
            with self._lock:
                _ = self._entries.pop(name, None)

    def values(self) -> tuple[Value, ...]:
        """Everything that is remembered at this moment; looking through it is not a use."""
        if self._entries is None:
            return ()
        with self._lock:
            return tuple(super(LRUCache, self._entries).__getitem__(name) for name in self._entries)
