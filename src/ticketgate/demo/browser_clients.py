"""Clients that run in a browser, and the addresses users may be sent back to.

RFC 9700 §2.1 (exact comparison), RFC 8252 §7.3 (any port on loopback).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ticketgate.core.web_address import is_loopback, is_safe, origin, split
from ticketgate.errors import ConfigurationError

MAX_PORT = 65_535
PORT = re.compile(r"(?::[1-9][0-9]{0,4})?")


@dataclass(frozen=True, slots=True)
class BrowserClient:
    """A public client: ``scopes`` is what it may ask for, ``redirect_uris`` where its users are sent back to.

    Raises `ConfigurationError` for a redirect URI that is not safe.
    """

    client_id: str
    scopes: frozenset[str]
    redirect_uris: frozenset[str]

    def __post_init__(self) -> None:
        for uri in self.redirect_uris:
            if not isinstance(uri, str) or not is_safe(uri):
                raise ConfigurationError(
                    f"redirect_uri {uri!r} is not an https URL without fragment (http is for loopback only)"
                )

    def has_redirect_uri(self, uri: str) -> bool:
        """Whether ``uri`` is registered: exactly, or on loopback with another port."""
        return _is_one_of(uri, self.redirect_uris)


class BrowserClients:
    """All browser clients of an authorization server, by their client id."""

    def __init__(self, clients: Iterable[BrowserClient]) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._origins = {origin(uri) for client in self._clients.values() for uri in client.redirect_uris}

    def named(self, client_id: str) -> BrowserClient | None:
        """The client of that name, which nobody has proven to be."""
        return self._clients.get(client_id)

    def have_pages_at(self, origin: str) -> bool:
        """Whether one of the clients has a redirect URI at ``origin``."""
        return _is_one_of(origin, self._origins)


def _is_one_of(url: str, registered: Collection[str]) -> bool:
    return url in registered or any(_is_loopback_variant(url, other) for other in registered)


def _is_loopback_variant(url: str, registered: str) -> bool:
    """Whether ``url`` is ``registered`` with another port, both http on loopback.

    Nothing but the port is read from ``url``: what it must be is built from the registered URL, and compared as a
    string.  Two readings of one URL can therefore never differ.
    """
    parts = split(registered)
    if parts is None or parts.scheme != "http" or not is_loopback(parts.hostname or ""):
        return False
    own_port = f":{parts.port}" if parts.port else ""
    start = origin(registered).removesuffix(own_port)
    rest = registered[len(start) + len(own_port) :]
    port = url.removeprefix(start).removesuffix(rest)
    return bool(PORT.fullmatch(port)) and int(port[1:] or 80) <= MAX_PORT and url == start + port + rest
