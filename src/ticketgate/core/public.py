"""What may pass without credentials: public paths, and the questions browsers ask first.

WHATWG Fetch, CORS protocol (preflights carry no credentials).
"""

from collections.abc import Iterable

from ticketgate.errors import ConfigurationError

DOTS = frozenset({".", ".."})


class PublicPaths:
    """Paths that are open to everybody: exact ones, and prefixes written with a trailing ``/*``.

    Raises `ConfigurationError` for entries that are no absolute path.
    """

    __slots__ = ("_exact", "_prefixes", "entries")

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = paths = _entries(entries)
        self._exact = frozenset(path for path in paths if not path.endswith("/*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def include(self, path: str) -> bool:
        """Whether ``path`` is public; one with dots or empty segments is never taken for a prefix's child."""
        if path in self._exact:
            return True
        return path.startswith(self._prefixes) and _is_plain(path)


def _entries(entries: Iterable[str]) -> tuple[str, ...]:
    if isinstance(entries, str):
        raise ConfigurationError(f"public must be a list of paths: write public=[{entries!r}]")
    paths = tuple(entries)
    for path in paths:
        stem = path.removesuffix("/*") if isinstance(path, str) else "*"
        if not path or not (stem.startswith("/") or stem == "") or "*" in stem or not _is_plain(stem):
            raise ConfigurationError(f'public={path!r}: write an exact path like "/health", or "/docs/*"')
    return paths


def _is_plain(path: str) -> bool:
    """Whether every router reads ``path`` alike: no backslash, no empty segment, none that is made of dots."""
    if "\\" in path or "//" in path:
        return False
    return DOTS.isdisjoint(segment.partition(";")[0] for segment in path.split("/"))


def is_preflight(method: str, has_origin: bool, has_request_method: bool) -> bool:
    """Whether a request is a CORS preflight, which the application must answer."""
    return method == "OPTIONS" and has_origin and has_request_method
