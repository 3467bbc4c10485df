"""What an issuer remembers: clients, opaque tokens, what was used once and what was revoked.

One small protocol, and two that keep it: in memory, and in an SQLite file that survives restarts.
"""

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from ticketgate.core.fork import renew_in_children
from ticketgate.errors import ConfigurationError

PURGE_EVERY = 1_000
LONGEST_LIFE = 3_600.0


class Store(Protocol):
    """Named values of several kinds; ``until`` is when one ends, in seconds since the epoch, None for never."""

    def put(self, kind: str, name: str, value: Mapping[str, Any], until: float | None = None) -> None:
        """Remember ``value``, in place of what there was."""
        ...

    def get(self, kind: str, name: str, now: float) -> dict[str, Any] | None:
        """What is remembered and has not ended."""
        ...

    def add(self, kind: str, name: str, until: float, now: float) -> bool:
        """Whether ``name`` is new; atomic, so that of two who ask at once only one is told so."""
        ...

    def delete(self, kind: str, name: str) -> None:
        """Forget it, if it is there."""
        ...

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Everything of one kind, by name."""
        ...


def name_of(secret: str) -> str:
    """The name under which something secret is kept: whoever reads the store cannot use it."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


class MemoryStore:
    """Remembers until the process ends; what has ended is forgotten as new things come."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], tuple[dict[str, Any], float | None]] = {}
        self._lock = Lock()
        self._additions = 0
        renew_in_children(self)

    def renew_lock(self) -> None:
        """In a forked child: a thread of the parent may have held it."""
        self._lock = Lock()

    def put(self, kind: str, name: str, value: Mapping[str, Any], until: float | None = None) -> None:
        """See `Store`."""
        with self._lock:
            self._purge(None if until is None else until - LONGEST_LIFE)  # nothing new ends later than that
            self._entries[kind, name] = ({**value}, until)

    def get(self, kind: str, name: str, now: float) -> dict[str, Any] | None:
        """See `Store`."""
        value, until = self._entries.get((kind, name), (None, None))
        return None if value is None or (until is not None and until <= now) else {**value}

    def add(self, kind: str, name: str, until: float, now: float) -> bool:
        """See `Store`."""
        with self._lock:
            self._purge(now)
            _, ends = self._entries.get((kind, name), (None, 0.0))
            if ends is None or ends > now:
                return False
            self._entries[kind, name] = ({}, until)
            return True

    def delete(self, kind: str, name: str) -> None:
        """See `Store`."""
        with self._lock:
            _ = self._entries.pop((kind, name), None)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store`."""
        with self._lock:
            return {name: {**value} for (found, name), (value, _) in self._entries.items() if found == kind}

    def _purge(self, now: float | None) -> None:
        self._additions += 1
        if now is not None and self._additions % PURGE_EVERY == 0:
            entries = self._entries.items()
            self._entries = {name: entry for name, entry in entries if entry[1] is None or entry[1] > now}


def _make_private(path: str | Path) -> None:
    """Have ``path`` readable by us alone, also where it was there before: private keys are kept in it.

    The files that SQLite puts beside it get its mode.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigurationError(f"SQLiteStore cannot open {str(path)!r}: {error.strerror}") from error
    try:
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)
    except PermissionError as error:
        raise ConfigurationError(f"SQLiteStore: {str(path)!r} belongs to another user") from error
    finally:
        os.close(descriptor)


class SQLiteStore:
    """Remembers in the file ``path``, which only its owner may read; several processes may share it.

    Raises `ConfigurationError` where the file is another user's, or a symbolic link.
    """

    def __init__(self, path: str | Path) -> None:
        _make_private(path)
        self._additions = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._lock = Lock()
        self._run("PRAGMA journal_mode=WAL")
        self._run(
            "CREATE TABLE IF NOT EXISTS entries"
            " (kind TEXT, name TEXT, value TEXT, until REAL, PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def put(self, kind: str, name: str, value: Mapping[str, Any], until: float | None = None) -> None:
        """See `Store`."""
        self._run("REPLACE INTO entries VALUES (?, ?, ?, ?)", kind, name, json.dumps({**value}), until)
        self._additions += 1
        if until is not None and self._additions % PURGE_EVERY == 0:
            self._run("DELETE FROM entries WHERE until <= ?", until - LONGEST_LIFE)  # nothing new ends later

    def get(self, kind: str, name: str, now: float) -> dict[str, Any] | None:
        """See `Store`."""
        sql = "SELECT value FROM entries WHERE kind = ? AND name = ? AND (until IS NULL OR until > ?)"
        rows = self._run(sql, kind, name, now)
        return json.loads(rows[0][0]) if rows else None

    def add(self, kind: str, name: str, until: float, now: float) -> bool:
        """See `Store`."""
        self._run("DELETE FROM entries WHERE kind = ? AND until <= ?", kind, now)
        sql = "INSERT OR IGNORE INTO entries VALUES (?, ?, '{}', ?) RETURNING name"
        return bool(self._run(sql, kind, name, until))

    def delete(self, kind: str, name: str) -> None:
        """See `Store`."""
        self._run("DELETE FROM entries WHERE kind = ? AND name = ?", kind, name)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store`."""
        rows = self._run("SELECT name, value FROM entries WHERE kind = ?", kind)
        return {name: json.loads(value) for name, value in rows}

    def _run(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()
