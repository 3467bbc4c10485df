"""Which of our issuers is asked about an opaque token: all of them, or the one that ``opaque_issuer`` names."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ticketgate.core.circuit import lanes
from ticketgate.core.clock import Now
from ticketgate.core.flow import FetchFailed, Flow, call, within
from ticketgate.core.introspection import Inspector
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable

WIDTH = 20
QUEUE = 100
PATIENCE = 5  # seconds to wait for a place


class OpaqueIssuer:
    """Asks ``function`` of the user; at most 20 calls at once, a quarter of which is kept for known tokens."""

    def __init__(self, function: Callable[[str], Any], inspectors: tuple[Inspector, ...]) -> None:
        self._function = function
        self._inspectors = inspectors
        self._lanes = lanes(self, WIDTH, QUEUE)

    def inspectors(self, raw: bytes, name: bytes, now: Now) -> Flow[tuple[Inspector, ...]]:
        """Who is asked.

        Raises `InvalidToken` for nobody, `IssuerUnavailable` where too many wait, `ConfigurationError` for a stranger.
        """
        known = any(inspector.knows(name, now) for inspector in self._inspectors)
        ask = partial(call, self._function, raw.decode("ascii"))
        try:
            issuer = yield from within(self._lanes[known], PATIENCE, ask)
        except FetchFailed as error:
            raise IssuerUnavailable(f"opaque_issuer was not asked: {error}", retry_after=1) from error
        if issuer is None:
            raise InvalidToken("issuer", expected="one that opaque_issuer knows")
        chosen = tuple(inspector for inspector in self._inspectors if inspector.issuer is issuer)
        if not chosen:
            raise ConfigurationError("opaque_issuer must return one of our issuers that has introspection")
        return chosen
