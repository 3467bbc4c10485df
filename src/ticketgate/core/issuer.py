"""An issuer: whom we trust, for which tokens, and with which keys at this moment.

RFC 9068 §4, RFC 8414 §3, RFC 8725 §3.1 and §3.8.
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ticketgate.core.clock import Clock, Now
from ticketgate.core.flow import FetchFailed, Flow, HttpRequest, Reply, behind, fetch, once
from ticketgate.core.jwk import ALGORITHMS, Key
from ticketgate.core.jwt import media_type
from ticketgate.core.keys import Backoff, Budget, Held, KeyPolicy, hold, parse_jwk_set
from ticketgate.core.metadata import Metadata, metadata_urls, parse_metadata
from ticketgate.core.web_address import is_safe, split
from ticketgate.errors import ConfigurationError, IssuerUnavailable

DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
ACCEPT_KEYS = "application/jwk-set+json, application/json"

logger = logging.getLogger("ticketgate")


class Issuer:
    """An authorization server whose access tokens we accept.

    ``issuer`` is its identifier, compared exactly with the token's ``iss``.  Its keys come from ``jwks``
    (a JWK Set, no network at all), else from ``jwks_uri``, else from the metadata that it publishes, at
    ``metadata_url`` or at the well-known places.  Nothing is fetched before the first token needs a key.

    ``algorithms`` is the allowlist for signatures, ``token_types`` the accepted ``typ`` headers, ``keys``
    how keys are fetched and kept.  ``insecure_http`` allows plain http to hosts other than loopback.

    Raises `ConfigurationError` for what cannot work or is not safe.

        Issuer("https://as.example")
        Issuer("https://as.example", jwks={"keys": [...]}, algorithms=["ES256"])
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks: Mapping[str, Any] | None = None,
        jwks_uri: str | None = None,
        metadata_url: str | None = None,
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        token_types: Sequence[str] = ("at+jwt",),
        keys: KeyPolicy = KeyPolicy(),
        insecure_http: bool = False,
    ) -> None:
        self.identifier = _identifier(issuer, insecure_http)
        self.algorithms = _algorithms(algorithms)
        self.token_types = _token_types(token_types)
        self.policy = keys
        self.held = None if jwks is None else Held(_static_keys(jwks, self.algorithms, keys.max_keys))
        self._jwks_uri = _address("jwks_uri", jwks_uri, insecure_http)
        self._metadata_urls = _metadata_urls(issuer, _address("metadata_url", metadata_url, insecure_http))
        self._insecure_http = insecure_http
        self._metadata: Metadata | None = None
        self._metadata_until = -math.inf
        self._budget = Budget(keys.cooldown)
        self._backoff = Backoff()
        self._look_failed = False
        if insecure_http:
            logger.warning("insecure_http: %s and its keys may be changed on the way", issuer)

    def __repr__(self) -> str:
        return f"Issuer({self.identifier!r})"

    @property
    def typed(self) -> bool:
        """Whether access tokens are told apart from other tokens by their ``typ`` alone (RFC 8725 §3.11)."""
        return all(media_type(name) == "application/at+jwt" for name in self.token_types)

    @property
    def next_refresh(self) -> float:
        """When the keys are due next, in monotonic seconds; later while the issuer is left alone."""
        held = self.held
        return min(max(held.refresh_at, self._backoff.retry_at), held.dead_at) if held else -math.inf

    def keys_for(self, header: Mapping[str, Any], now: Now, clock: Clock) -> Flow[tuple[Key, ...]]:
        """The keys that may verify a token with this header; none when the issuer has no such key.

        Raises `IssuerUnavailable` when that cannot be known.  Keys at hand never make anybody wait: when
        they are due, they are refreshed behind the request's back.
        """
        held = self.held
        if held is None or now.monotonic >= held.dead_at:
            held = yield from self._first_keys(now, clock)
        elif now.monotonic >= held.refresh_at and now.monotonic >= self._backoff.retry_at:
            yield from behind((self, "refresh"), partial(self._refresh, clock))
        found = held.keys.candidates(header)
        if found or held.fetched_at >= now.monotonic or held.fresh_until == math.inf:
            return found
        return (yield from self._look_again(header, now, clock))

    def _first_keys(self, now: Now, clock: Clock) -> Flow[Held]:
        """Wait for keys, together with everybody else; after a failure, not before the back-off is over."""
        if now.monotonic >= self._backoff.retry_at:
            yield from once((self, "refresh"), partial(self._refresh, clock))
        held = self.held
        if held is None or now.monotonic >= held.dead_at:
            raise self._unavailable(self._backoff.seconds_left(now.monotonic))
        return held

    def _look_again(self, header: Mapping[str, Any], now: Now, clock: Clock) -> Flow[tuple[Key, ...]]:
        """Ask for a key id nobody has seen; twice where the first answer was already under way."""
        found: tuple[Key, ...] = ()
        for _ in range(2):
            yield from once((self, "look"), partial(self._look, clock))
            held = self.held
            found = held.keys.candidates(header) if held else ()
            if found or held is None or held.fetched_at >= now.monotonic:
                return found
        if self._look_failed:
            raise self._unavailable(max(1, math.ceil(self.policy.cooldown)))
        return found

    def _refresh(self, clock: Clock) -> Flow[None]:
        """One attempt to renew the keys, because of their age; never raises for the issuer's faults."""
        started = clock.monotonic()
        try:
            self._accept((yield from self._fetch_keys(started)), started)
        except (FetchFailed, ValueError) as error:
            self._backoff = self._backoff.after_failure(clock.monotonic(), _jitter(), str(error))
            logger.warning("keys of %s could not be refreshed: %s", self.identifier, error)

    def _look(self, clock: Clock) -> Flow[None]:
        """One attempt because of an unknown key id, as far as the budget goes; the metadata is not asked."""
        started = clock.monotonic()
        budget = self._budget.spend(started)
        if budget is None:
            return
        self._budget, self._look_failed = budget, False
        try:
            address = self._jwks_uri or (self._metadata.jwks_uri if self._metadata else "")
            self._accept((yield from self._get(address, ACCEPT_KEYS)), started)
        except (FetchFailed, ValueError) as error:
            self._look_failed = True
            logger.warning("keys of %s could not be looked at again: %s", self.identifier, error)

    def _fetch_keys(self, now: float) -> Flow[Reply]:
        if self._jwks_uri:
            return (yield from self._get(self._jwks_uri, ACCEPT_KEYS))
        metadata = self._metadata
        if metadata is None or self._backoff.failures or now >= self._metadata_until:
            metadata = yield from self._discover()
            self._metadata, self._metadata_until = metadata, now + self.policy.max_ttl
        return (yield from self._get(metadata.jwks_uri, ACCEPT_KEYS))

    def _discover(self) -> Flow[Metadata]:
        """The issuer's metadata, from the first place that has it.  Raises `FetchFailed`."""
        troubles: list[str] = []
        for url in self._metadata_urls:
            try:
                reply = yield from self._get(url, "application/json")
                return parse_metadata(reply.body, self.identifier, insecure_http=self._insecure_http)
            except (FetchFailed, ValueError) as error:
                troubles.append(f"{url}: {error}")
        raise FetchFailed("no metadata: " + "; ".join(troubles))

    def _get(self, url: str, accept: str) -> Flow[Reply]:
        request = HttpRequest("GET", url, {"Accept": accept}, self.policy.timeout, self.policy.max_bytes)
        reply = yield from fetch(request)
        if reply.status != 200:
            raise FetchFailed(f"answered {reply.status}")
        return reply

    def _accept(self, reply: Reply, started: float) -> None:
        """Replace the whole key set by one assignment; keys that did not change stay the same object."""
        keys, held = parse_jwk_set(reply.body, self.algorithms, self.policy.max_keys), self.held
        if held and started < held.fetched_at:
            return
        if held and keys.same_as(held.keys):
            keys = held.keys
        else:
            logger.info("holding %d keys of %s", len(keys.keys), self.identifier)
            for dropped in keys.dropped:
                logger.warning("a key of %s is not used: %s", self.identifier, dropped)
        self.held = hold(keys, reply.headers, self.policy, started, _jitter())
        self._backoff, self._look_failed = Backoff(), False

    def _unavailable(self, retry_after: int) -> IssuerUnavailable:
        return IssuerUnavailable(f"the keys of {self.identifier} cannot be had", retry_after=retry_after)


def _jitter() -> float:
    return random.uniform(-1, 1)


def _identifier(issuer: str, insecure_http: bool) -> str:
    parts = split(issuer) if isinstance(issuer, str) else None
    if parts is None or parts.query or parts.fragment:
        raise ConfigurationError(
            f'{issuer!r} is no issuer: write an https URL like Issuer("https://as.example")'
        )
    return _address("issuer", issuer, insecure_http) or ""


def _address(name: str, url: str | None, insecure_http: bool) -> str | None:
    if url is not None and not is_safe(url, insecure_http=insecure_http):
        raise ConfigurationError(
            f"{name} {url!r} is no https URL: plain http is for loopback only, or write insecure_http=True"
        )
    return url


def _metadata_urls(issuer: str, configured: str | None) -> tuple[str, ...]:
    return (configured,) if configured else metadata_urls(issuer)


def _algorithms(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names:
        raise ConfigurationError('algorithms must be a list of names, like algorithms=["RS256"]')
    if unknown := [name for name in names if name not in ALGORITHMS]:
        raise ConfigurationError(f"unknown algorithms {unknown!r}: choose from {', '.join(ALGORITHMS)}")
    return tuple(names)


def _token_types(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names or None in map(media_type, names):
        raise ConfigurationError('token_types must be a list of media types, like token_types=["at+jwt"]')
    return tuple(names)


def _static_keys(jwks: Mapping[str, Any], algorithms: tuple[str, ...], max_keys: int) -> Any:
    try:
        return parse_jwk_set(json.dumps(jwks).encode(), algorithms, max_keys)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f'jwks={{"keys": [...]}} must hold a usable public key: {error}') from error
