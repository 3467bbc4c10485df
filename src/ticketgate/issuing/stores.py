"""What an issuer remembers: clients, opaque tokens, what was used once and what was revoked.

One small protocol, and two that keep it: in memory, and in an SQLite file that survives restarts.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from ticketgate.core.fork import renew_in_children
from ticketgate.issuing.database import Database

NOTHING: Mapping[str, Any] = {}
PURGE_EVERY = 1_000
PURGED_AT_ONCE = 10
LONGEST_LIFE = 3_600.0


class Store(Protocol):
    """Named values of several kinds; ``until`` is when one ends, in seconds since the epoch, None for never."""

    def put(self, kind: str, name: str, value: Mapping[str, Any], until: float | None = None) -> None:
        """Remember ``value``, in place of what there was."""
        ...

    def get(self, kind: str, name: str, now: float) -> dict[str, Any] | None:
        """What is remembered and has not ended."""
        ...

    def add(
        self, kind: str, name: str, until: float | None, now: float, value: Mapping[str, Any] = NOTHING
    ) -> bool:
        """Whether ``name`` is new, and ``value`` remembered; atomic: of two who ask at once only one is told so."""
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

    def add(
        self, kind: str, name: str, until: float | None, now: float, value: Mapping[str, Any] = NOTHING
    ) -> bool:
        """See `Store`."""
        with self._lock:
            self._purge(now)
            _, ends = self._entries.get((kind, name), (None, now))
            if ends is None or ends > now:
                return False
            self._entries[kind, name] = ({**value}, until)
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


class SQLiteStore:
    """Remembers in the file ``path``, which only its owner may read; several processes may share it.

    Raises `ConfigurationError` where somebody else may have written the file, or could put another in its place.
    """

    def __init__(self, path: str | Path) -> None:
        self._database = Database(path)
        self._run = self._database.run
        _ = self._run("PRAGMA journal_mode=WAL")
        _ = self._run(
            "CREATE TABLE IF NOT EXISTS entries"
            " (kind TEXT, name TEXT, value TEXT, until REAL, PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )
        _ = self._run("CREATE INDEX IF NOT EXISTS entries_until ON entries (until)")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def put(self, kind: str, name: str, value: Mapping[str, Any], until: float | None = None) -> None:
        """See `Store`."""
        _ = self._run("REPLACE INTO entries VALUES (?, ?, ?, ?)", kind, name, json.dumps({**value}), until)
        if until is not None:
            self._purge(until - LONGEST_LIFE)  # nothing new ends later than that

    def get(self, kind: str, name: str, now: float) -> dict[str, Any] | None:
        """See `Store`."""
        sql = "SELECT value FROM entries WHERE kind = ? AND name = ? AND (until IS NULL OR until > ?)"
        rows = self._run(sql, kind, name, now)
        return json.loads(rows[0][0]) if rows else None

    def add(
        self, kind: str, name: str, until: float | None, now: float, value: Mapping[str, Any] = NOTHING
    ) -> bool:
        """See `Store`."""
        self._purge(now)
        sql = (
            "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET value = excluded.value, until = excluded.until WHERE entries.until <= ? RETURNING name"
        )
        return bool(self._run(sql, kind, name, json.dumps({**value}), until, now))

    def delete(self, kind: str, name: str) -> None:
        """See `Store`."""
        _ = self._run("DELETE FROM entries WHERE kind = ? AND name = ?", kind, name)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store`."""
        rows = self._run("SELECT name, value FROM entries WHERE kind = ?", kind)
        return {name: json.loads(value) for name, value in rows}

    def _purge(self, now: float) -> None:
        """Forget a few that have ended: more than come at a time, and never so many that somebody waits."""
        _ = self._run(
            "DELETE FROM entries WHERE (kind, name) IN"
            " (SELECT kind, name FROM entries WHERE until <= ? ORDER BY until LIMIT ?)",
            now,
            PURGED_AT_ONCE,
        )
