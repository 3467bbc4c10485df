"""An SQLite file with private keys in it: who may have written or read it, and connections that no fork shares.

SQLite's locks belong to the process and to the file, not to what opened it: they are gone as soon as the process
closes *any* descriptor of the file (https://www.sqlite.org/howtocorrupt.html §2.2).  So a file that is there is never
opened here, only looked at by its name.  And a connection must not get into a child process (§2.6): it is closed before
a fork, and both processes open it again when they need it.
"""

import os
import sqlite3
import stat
import sys
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

from ticketgate.errors import ConfigurationError
from ticketgate.trusted_paths import check_not_writable_by_others, trusted_folder

BESIDE = ("-wal", "-shm", "-journal")
FOR_OTHERS = 0o077
WAIT = 10
"""Seconds to wait for another process that writes."""


def private_file(path: str | Path) -> str:
    """The absolute path of a file that only we can read and only we and root can have written; made if it is missing.

    Raises `ConfigurationError` where others could put a file of theirs in its place, or beside it, where SQLite keeps
    its journals.
    """
    folder, name = os.path.split(path)
    try:
        folder = trusted_folder(folder)
        check_not_writable_by_others(os.lstat(folder), folder)
        whole = os.path.join(folder, name)
        with _preparing:  # another thread must not open it before our descriptor is closed
            _create(whole)
            for one in (whole, *(whole + end for end in BESIDE)):
                _make_private(one)
    except OSError as error:
        raise ConfigurationError(
            f"SQLiteStore cannot use {str(path)!r}: {error.strerror}. Its folder, for example of mode 0700, and what is"
            " in it must belong to this user or root, and nobody else may write to it or to a folder above it"
        ) from error
    return whole


def _create(path: str) -> None:
    """Make an empty file of ours, unless there is something of that name."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        return
    os.close(descriptor)


def _make_private(path: str) -> None:
    """Have others not read ``path``, if it is there.  Raises OSError where they may have written it."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, f"{path} is not a regular file")
    check_not_writable_by_others(status, path)
    if sys.platform != "win32" and status.st_mode & FOR_OTHERS:
        os.chmod(path, 0o600)


class Database:
    """The database in ``path``; one connection in each process, used by one thread at a time."""

    def __init__(self, path: str | Path) -> None:
        self._path = private_file(path)
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._is_closed = False
        self.lock = Lock()
        _databases.add(self)

    def run(self, sql: str, *values: object) -> list[Any]:
        """All rows that ``sql`` finds, which is a transaction of its own."""
        with self.lock:
            return self._connected().execute(sql, values).fetchall()

    def close(self) -> None:
        """Close it for good."""
        with self.lock:
            self._is_closed = True
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection, which is opened again when it is needed; the caller holds the lock."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._is_closed:
            raise sqlite3.ProgrammingError("the store is closed")
        if self._connection is None or self._process != os.getpid():
            if self._connection is not None:  # a fork that Python was not told of
                _inherited.append(self._connection)
            self._connection, self._process = _connect(self._path), os.getpid()
        return self._connection


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=WAIT)


_preparing = Lock()
_forking = Lock()
_databases: "WeakSet[Database]" = WeakSet()
_stopped: list[Database] = []
_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process, which the child must not close."""


def _before_fork() -> None:
    _ = _forking.acquire()
    for database in list(_databases):
        _ = database.lock.acquire()
        _stopped.append(database)
        database.disconnect()


def _after_fork() -> None:
    while _stopped:
        _stopped.pop().lock.release()
    if _forking.locked():  # not where something else than Python forked
        _forking.release()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
