r"""Which paths are public, and which requests have the form of a CORS preflight.

WHATWG Fetch, CORS protocol (preflights carry no credentials).

Paths are compared more than once because routers do not agree on what a root path is.  Starlette cuts it off where
the path begins with it and a slash follows; Django, Quart and adapters to WSGI need no slash; Litestar takes what
follows its first occurrence anywhere, and a Litestar mounted in it does so once more.  Servers differ too: uvicorn
makes the root path a part of the path, Hypercorn and Granian do not.  So ``/docs/api/me``, below the root path
``/api``, is ``/docs/api/me`` for one router and ``/me`` for another.  A path is public only where all readings are,
and below a prefix never where it contains what routers, servers or file systems may rewrite: control characters,
``%``, ``;``, ``\``, ``//``, dot segments, and what was not UTF-8.  All of it takes linear time.
"""

import re
from collections.abc import Iterable

from ticketgate.core.route_templates import is_opened_by
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
        rest = _below(path, root_path) if root_path else path
        listed = rest in self._exact or (rest.startswith(self._prefixes) and self._opens(rest))
        return listed and not (root_path and _is_cut_again(rest, root_path))

    def opening(self, template: str) -> tuple[str, ...]:
        """The entries that open a path which a route's ``template``, like ``/{shelf}/<path:book>``, stands for."""
        return tuple(entry for entry in self.entries if is_opened_by(entry, template))

    def _opens(self, path: str) -> bool:
        """Whether a path below a prefix is public; many routers read ``/docs/`` as ``/docs``, which is not below it."""
        without_slash = path.removesuffix("/") or "/"
        return _is_plain(path) and (without_slash in self._exact or without_slash.startswith(self._prefixes))


def _below(path: str, root_path: str) -> str:
    """The path that routes are matched with; empty where routers disagree, since no slash follows the root path."""
    rest = path.removeprefix(root_path)
    if rest.startswith("/"):
        return rest
    return path if root_path == "/" else ""


def _is_cut_again(path: str, root_path: str) -> bool:
    """Whether Litestar, or another one mounted in it, would cut off more of ``path``."""
    root = root_path.rstrip("/")
    return root != "" and path.find(root, 1) != -1


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
