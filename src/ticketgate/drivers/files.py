"""Files that processes share: read if they can be trusted, written whole or not at all, one process at a time.

Nothing here raises: who cannot read or write goes on without, and the log says why.
"""

import logging
import os
import sys
import tempfile
from contextlib import suppress

if sys.platform != "win32":
    import fcntl

MAX_BYTES = 8_388_608
OTHERS_MAY_WRITE = 0o022
POLL = 0.02
"""Seconds between looks at a lock that another process holds."""

logger = logging.getLogger("ticketgate")


def load(path: str) -> bytes | None:
    """What stands in ``path``; None where nothing does, and for a file that somebody else may have written."""
    try:
        with open(path, "rb") as file:
            if _others_may_write(os.fstat(file.fileno())):
                logger.warning("snapshot %s is not used: others may have written it", path)
                return None
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("snapshot %s cannot be read: %s", path, error.strerror)
        return None
    return data if len(data) <= MAX_BYTES else b""


def save(path: str, data: bytes) -> None:
    """Put ``data`` into ``path``, readable by us alone; whoever reads meanwhile gets the old or the new."""
    temporary = ""
    try:
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".new")
        with open(descriptor, "wb") as file:
            _ = file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("snapshot %s cannot be written: %s", path, error.strerror)
        with suppress(OSError):
            os.unlink(temporary)


class ProcessLock:
    """Held by one process at a time; the operating system lets it go when that process ends."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        if sys.platform == "win32":  # processes do not wait for each other there
            return
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(f"{path}.lock", flags, 0o600)
        except OSError as error:
            logger.warning("snapshot %s cannot be shared: %s", path, error.strerror)

    def acquire(self) -> bool:
        """Whether it is ours now, or there is none to wait for."""
        if sys.platform == "win32" or self._descriptor < 0:
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def release(self) -> None:
        """Let it go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _others_may_write(status: os.stat_result) -> bool:
    if sys.platform == "win32":  # its permissions are not these
        return False
    return bool(status.st_mode & OTHERS_MAY_WRITE) or status.st_uid not in {os.geteuid(), 0}
