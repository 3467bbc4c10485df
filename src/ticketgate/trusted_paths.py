"""Paths that lead where we and root put something, and nobody else.

Whoever may write to a folder can put another file, folder or symbolic link in the place of one that is in it.  So
every folder and every link on the way belongs to us or root, and no such folder may be written by others.  Sticky
folders (/tmp) are let through on the way: in them others cannot replace what is ours.  Who may write to the last folder
is for the caller to check.

On Windows, whose permissions are not these, nothing is checked.
"""

import errno
import os
import stat
import sys

OTHERS_MAY_WRITE = 0o022
MAX_LINKS = 40


def trusted_folder(path: str | os.PathLike[str], *, make: bool = False) -> str:
    """The folder ``path`` without symbolic links.  Raises OSError where others may decide what is there.

    With ``make``, folders that are missing are made, for us alone.
    """
    path = os.path.join(os.getcwd(), path)
    if sys.platform == "win32":
        if make:
            os.makedirs(path, exist_ok=True)
        return path
    here, links, rest = os.sep, 0, _names(path)
    while rest:
        here = os.path.normpath(
            os.path.join(here, rest.pop())
        )  # no link is in it, so ".." is the folder above
        status = _status(here, make=make)
        check_owner(status, here)
        if stat.S_ISLNK(status.st_mode):
            if (links := links + 1) > MAX_LINKS:
                raise OSError(errno.ELOOP, f"too many symbolic links lead to {path}")
            rest += _names(target := os.readlink(here))
            here = os.sep if target.startswith(os.sep) else os.path.dirname(here)
        elif rest and status.st_mode & OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX:
            raise OSError(errno.EACCES, f"others may write to {here}")
    return here


def _names(path: str) -> list[str]:
    """The names in ``path``, the last one first."""
    return [name for name in reversed(path.split(os.sep)) if name]


def _status(path: str, *, make: bool) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        if not make:
            raise
    os.makedirs(path, mode=0o700, exist_ok=True)
    return os.lstat(path)


def check_owner(status: os.stat_result, what: str) -> None:
    """It is ours or root's.  Raises OSError."""
    if sys.platform != "win32" and status.st_uid not in {os.geteuid(), 0}:
        raise OSError(errno.EACCES, f"{what} belongs to another user")


def check_not_writable_by_others(status: os.stat_result, what: str) -> None:
    """Only we and root can write to it, sticky or not.  Raises OSError."""
    check_owner(status, what)
    if sys.platform != "win32" and status.st_mode & OTHERS_MAY_WRITE:
        raise OSError(errno.EACCES, f"others may write to {what}")
