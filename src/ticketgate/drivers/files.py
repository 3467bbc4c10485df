"""Files that processes share: read if they can be trusted, written whole or not at all, one process at a time.

Nothing here raises: who cannot read or write goes on without, and the log says why.

A file is trusted if only we and root can have written it.  So can a folder, or others could put another file in its
place.  Neither may be a symbolic link, and what is opened is what was checked: files are opened relative to the folder.
The folders above it are trusted too, see `trusted_folder`; others may write to the one directly above, since what is
opened there is checked.
"""

import errno
import logging
import os
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ticketgate.trusted_paths import check_not_writable_by_others, trusted_folder

if sys.platform != "win32":
    import fcntl

MAX_BYTES = 8_388_608
POLL = 0.02
"""Seconds between looks at a lock that another process holds."""

logger = logging.getLogger("ticketgate")


def load(path: str) -> bytes | None:
    """What stands in ``path``; None where nothing does, and for a file that somebody else may have written."""
    try:
        with _place(path) as place:
            data = _read(place)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("snapshot %s is not used: %s", path, error.strerror)
        return None
    return data if len(data) <= MAX_BYTES else b""


def save(path: str, data: bytes) -> None:
    """Put ``data`` into ``path``, readable by us alone; whoever reads meanwhile gets the old or the new."""
    try:
        _make_folder(path)
        with _place(path) as place:
            _write(place, data)
    except OSError as error:
        logger.warning("snapshot %s cannot be written: %s", path, error.strerror)


class Place(NamedTuple):
    """A file by its name, relative to ``folder`` where the platform can do that."""

    name: str
    folder: int | None

    def beside(self, name: str) -> "Place":
        """Another file in the same folder."""
        return Place(os.path.join(os.path.dirname(self.name), name), self.folder)


@contextmanager
def _place(path: str) -> Generator[Place, None, None]:
    """Where ``path`` is, in a folder that was checked.  Raises OSError."""
    if sys.platform == "win32":  # its permissions are not these
        yield Place(path, None)
        return
    whole = _folder(path)
    if os.path.islink(whole):
        raise OSError(errno.ELOOP, "its folder is a symbolic link")
    folder = os.open(whole, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        check_not_writable_by_others(os.fstat(folder), "its folder")
        yield Place(os.path.basename(path), folder)
    finally:
        os.close(folder)


def _open(place: Place, flags: int) -> int:
    if sys.platform == "win32":
        flags |= os.O_BINARY
    else:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # or a pipe would wait for somebody to write
    return os.open(place.name, flags, 0o600, dir_fd=place.folder)


def _read(place: Place) -> bytes:
    """What is in the file, and one byte more than is allowed at most.  Raises OSError."""
    descriptor = _open(place, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        check_not_writable_by_others(status, "it")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _write(place: Place, data: bytes) -> None:
    temporary = place.beside(f".{secrets.token_hex(8)}.new")
    try:
        with open(_open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            _ = file.write(data)
        os.replace(temporary.name, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary.name, dir_fd=place.folder)
        raise


def _folder(path: str, *, make: bool = False) -> str:
    """The folder of ``path``, in one that is trusted.  Raises OSError."""
    above, name = os.path.split(os.path.join(os.getcwd(), os.path.dirname(path)))
    return os.path.join(trusted_folder(above, make=make), name)


def _make_folder(path: str) -> None:
    os.makedirs(_folder(path, make=True), mode=0o700, exist_ok=True)


class ProcessLock:
    """Held by one process at a time; the operating system releases it when that process ends.

    The lock belongs to an open file that a forked child inherits.  So the child closes its copy at once, never
    releases what its parent holds, and opens the file for itself where it needs the lock.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = _open_lock(path)
        self._process = os.getpid()

    def acquire(self) -> bool:
        """Whether it is ours now, or there is none to wait for."""
        if self._process != os.getpid():
            self._descriptor, self._process = _open_lock(self._path), os.getpid()
        if sys.platform == "win32" or self._descriptor < 0:  # on Windows processes do not wait for each other
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def release(self) -> None:
        """Let it go, once and for all."""
        if sys.platform == "win32" or self._descriptor < 0 or self._process != os.getpid():
            return
        descriptor, self._descriptor = self._descriptor, -1
        OPEN_LOCKS.discard(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a child has a copy
        os.close(descriptor)


OPEN_LOCKS: set[int] = set()
"""The descriptors of this process's locks, which a forked child closes."""


def _open_lock(path: str) -> int:
    """A descriptor of the file to lock; -1 where there is none to wait for."""
    if sys.platform == "win32":
        return -1
    try:
        _make_folder(path)
        with _place(f"{path}.lock") as place:
            descriptor = _open(place, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        logger.warning("snapshot %s cannot be shared: %s", path, error.strerror)
        return -1
    OPEN_LOCKS.add(descriptor)
    return descriptor


def _close_inherited() -> None:
    for descriptor in OPEN_LOCKS:
        with suppress(OSError):
            os.close(descriptor)
    OPEN_LOCKS.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)
