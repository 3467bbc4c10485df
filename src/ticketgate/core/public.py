r"""Which paths are public, and which requests have the form of a CORS preflight.

WHATWG Fetch, CORS protocol (preflights carry no credentials).

Paths are compared more than once because routers do not agree on what a root path is.  Starlette cuts it off where
the path begins with it and a slash follows; Django, Quart and adapters to WSGI need no slash; Litestar takes what
follows its first occurrence anywhere, and once more in each mounted Litestar.  Servers differ too: uvicorn makes
the root path a part of the path, Hypercorn and Granian do not.  So ``/docs/api/me``, below the root path ``/api``, is
``/docs/api/me`` for one router and ``/me`` for another.  A path is public where all readings are, and what a ``*``
stands for may contain neither the root path nor anything that some router or file system rewrites: control
characters, ``%``, ``;``, ``\``, ``//``, dot segments, and what was not UTF-8.
"""

import re
from collections.abc import Iterable

from ticketgate.errors import ConfigurationError

PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f%;\\\ud800-\udfff\ufffd]*")
DOTS = ("/.", "/..")
ACCEPTED_PREFLIGHTS = (
    "accept_preflight: OPTIONS requests that look like CORS preflights reach the application without a token"
)


class PublicPaths:
    """Paths that are open to everybody: exact ones, and prefixes written with a trailing ``/*``.

    Raises `ConfigurationError` for entries that are not absolute, decoded paths.
    """

    __slots__ = ("_exact", "_prefixes", "entries")

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = paths = _entries(entries)
        self._exact = frozenset(path for path in paths if not path.endswith("/*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def include(self, path: str, root_path: str = "") -> bool:
        """Whether the decoded ``path`` is public in every reading that a supported router has of it.

        ``root_path`` is that of ASGI; a WSGI router reads ``PATH_INFO`` alone.
        """
        if not root_path:
            return self._lists(path)
        return self._lists(_below(path, root_path), root_path) and self._lists(
            _after_first(root_path, path), root_path
        )

    def _lists(self, path: str, root_path: str = "") -> bool:
        return path in self._exact or (
            path.startswith(self._prefixes) and _is_plain(path) and self._is_below_a_prefix(path, root_path)
        )

    def _is_below_a_prefix(self, path: str, root_path: str) -> bool:
        """Routers that ignore a slash at the end read ``/docs/`` as ``/docs``, which ``/docs/*`` does not list."""
        without_slash = path.removesuffix("/") or "/"
        if without_slash in self._exact:
            return True
        root = root_path.rstrip("/")
        return any(
            without_slash.startswith(prefix) and not (root and root in path[len(prefix) - 1 :])
            for prefix in self._prefixes
        )


def _below(path: str, root_path: str) -> str:
    """The path that Starlette's routes are matched with."""
    rest = path.removeprefix(root_path)
    return rest if rest == "" or rest.startswith("/") else path


def _after_first(root_path: str, path: str) -> str:
    """The path that Litestar's routes are matched with; Quart's too, where no slash follows the root path."""
    _, found, rest = path.partition(root_path)
    reading = rest if found else path
    return reading if reading.startswith("/") else f"/{reading}"


def _is_plain(path: str) -> bool:
    """Whether nothing in ``path`` is rewritten by a router, a server or a file system; takes linear time."""
    return (
        PLAIN.fullmatch(path) is not None
        and "//" not in path
        and "/./" not in path
        and "/../" not in path
        and not path.endswith(DOTS)
    )


def _entries(entries: Iterable[str]) -> tuple[str, ...]:
    if isinstance(entries, str):
        raise ConfigurationError(f"public must be a list of paths: write public=[{entries!r}]")
    paths = tuple(entries)
    for path in paths:
        stem = path.removesuffix("/*") if isinstance(path, str) else "*"
        if not path or not (stem.startswith("/") or stem == "") or "*" in stem or not _is_plain(stem):
            raise ConfigurationError(
                f'public={path!r}: write an exact, decoded path like "/health", or "/docs/*"'
            )
    return paths


def is_preflight(method: str, has_origin: bool, has_request_method: bool, has_body: bool = False) -> bool:
    """Whether a request has the form of a CORS preflight, which browsers send without credentials or a body.

    Any client can send one, so this alone admits nothing: a host also needs to know that no handler will run.
    """
    return method == "OPTIONS" and has_origin and has_request_method and not has_body
