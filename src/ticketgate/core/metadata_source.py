"""The metadata of one issuer: fetched when something in it is needed, and kept for a while.

RFC 8414 §3, OpenID Connect Discovery 1.0 §4; where both documents are published, each may hold what the other lacks.
"""

import math
from collections.abc import Mapping
from typing import Any

from ticketgate.core.flow import Cause, FetchFailed, Flow, HttpRequest, Reply, fetch
from ticketgate.core.freshness import KeyPolicy
from ticketgate.core.http_options import Whereabouts
from ticketgate.core.metadata import parse_metadata
from ticketgate.core.strict_json import FrozenDict, is_object

SETTINGS = {
    "jwks_uri": "Issuer(jwks_uri=...)",
    "introspection_endpoint": "Introspection(endpoint=...)",
    "token_endpoint": "TokenClient(token_endpoint=...)",
}
"""What says where an endpoint is, whatever the metadata say."""


class MetadataSource:
    """The metadata documents of one issuer, merged."""

    def __init__(self, whereabouts: Whereabouts, policy: KeyPolicy) -> None:
        self.whereabouts = whereabouts
        self._policy = policy
        self._documents: dict[str, FrozenDict] = {}
        self._until = -math.inf

    @property
    def documents(self) -> dict[str, FrozenDict]:
        """The documents that are held, by the URL that each was read from."""
        return self._documents

    def restore(self, documents: Mapping[str, FrozenDict], now: float) -> None:
        """Hold ``documents`` of an earlier time, those that stand where we would look for them."""
        urls = self.whereabouts.metadata_urls
        self._documents = {url: document for url, document in documents.items() if url in urls}
        self._until = now + self._policy.max_ttl

    @property
    def known_jwks_uri(self) -> str:
        """Where the keys stand, as far as that is known without asking; empty if it is not."""
        if self.whereabouts.jwks_uri:
            return self.whereabouts.jwks_uri
        found = (document.get("jwks_uri") for document in self._documents.values())
        return next(
            (url for url in found if isinstance(url, str) and not self.whereabouts.objection(url)), ""
        )

    def address(self, name: str, now: float, *, anew: bool = False) -> Flow[str]:
        """The URL that the metadata gives for ``name``; ``anew`` does not believe what is held.

        Raises `FetchFailed` where no document can be had or none has it, and for an address that is not used.
        """
        if anew or now >= self._until:
            self._documents, self._until = {}, now + self._policy.max_ttl
        troubles: list[str] = []
        last: Reply | None = None
        cause = Cause.EXCHANGE
        for url in self.whereabouts.metadata_urls:
            try:
                document = self._documents.get(url) or (yield from self._read(url))
                return self._address_in(document, name)
            except (FetchFailed, ValueError) as error:
                troubles.append(f"{url}: {error}")
                last, cause = _how(error)
        raise FetchFailed(f"no {name}: " + "; ".join(troubles), last, cause)

    def endpoint(self, name: str, now: float, *, mutual_tls: bool) -> Flow[str]:
        """Where ``name`` is asked: with a client certificate at an address of its own, where there is one.

        Raises `FetchFailed` as `address` does.
        """
        address = yield from self.address(name, now)
        return (self._mtls_address(name) if mutual_tls else "") or address

    def _mtls_address(self, name: str) -> str:
        """The address of ``name`` for clients with a certificate (RFC 8705 §5); empty where there is none."""
        for document in self._documents.values():
            aliases = document.get("mtls_endpoint_aliases")
            found = aliases.get(name) if is_object(aliases) else None
            if found is not None:
                return self._checked(name, found)
        return ""

    def _read(self, url: str) -> Flow[FrozenDict]:
        reply = yield from get(url, {"Accept": "application/json"}, self.whereabouts, self._policy)
        document = parse_metadata(reply.body, self.whereabouts.issuer)
        self._documents = {**self._documents, url: document}
        return document

    def _address_in(self, document: FrozenDict, name: str) -> str:
        found = document.get(name)
        if found is None:
            raise ValueError(f"there is no {name} in it")
        return self._checked(name, found)

    def _checked(self, name: str, found: Any) -> str:
        """``found``, if we go there.  Raises `FetchFailed` that names the setting which would have us go there."""
        objection = self.whereabouts.objection(found)
        if objection:
            raise FetchFailed(f"its {name} {ascii(found)[:200]} is not used: {objection}{_remedy(name)}")
        return str(found)


def _how(error: FetchFailed | ValueError) -> tuple[Reply | None, Cause]:
    """The answer that came, if one did, and why it is not used."""
    return (error.reply, error.cause) if isinstance(error, FetchFailed) else (None, Cause.EXCHANGE)


def _remedy(name: str) -> str:
    setting = SETTINGS.get(name)
    return f"; configure {setting} or Issuer(fetch_from=...)" if setting else ""


def get(
    url: str,
    headers: Mapping[str, str],
    whereabouts: Whereabouts,
    policy: KeyPolicy,
    *,
    accepted: tuple[int, ...] = (200,),
) -> Flow[Reply]:
    """The answer to a GET at ``whereabouts``, within the bounds of ``policy``.  Raises `FetchFailed` for a status not ``accepted``."""
    request = HttpRequest("GET", url, headers, policy.timeout, policy.max_bytes)
    reply = yield from fetch(whereabouts.reach(request))
    if reply.status not in accepted:
        raise FetchFailed(f"answered {reply.status}", reply)
    return reply
