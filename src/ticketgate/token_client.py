"""Access tokens for calls to other APIs: fetched when they are needed, kept while they are good.

RFC 6749 §4.4 (client credentials), RFC 7523 §2.1 (JWT bearer grant), RFC 8693 §2 (token exchange),
RFC 8707 §2 (resource), RFC 6750 §2.1 and §5.3.
"""

import math
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx

from ticketgate.core.attempts import Attempts, Failure
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.client_auth import ClientAuth, form_request
from ticketgate.core.clock import Clock, Now
from ticketgate.core.echoes import secrets_in
from ticketgate.core.flow import FetchFailed, Flow, behind, fetch, once
from ticketgate.core.grant_types import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE
from ticketgate.core.grants import ACCESS_TOKEN_TYPE, Assertion, Grant, grant_of, token_form
from ticketgate.core.issuer import Issuer
from ticketgate.core.signing_key import SigningKey
from ticketgate.core.token_answer import IssuedToken, read_token_answer
from ticketgate.core.web_address import DEFAULT_PORTS, is_safe, shown
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError, TokenRefused

REFRESH_AHEAD = 0.8
MAX_BYTES = 262_144
REPLACE_AGAIN = 30.0
"""Seconds after a token was replaced because the resource refused it until that is done again."""

__all__ = ["Grant", "ResourceAuth", "TokenClient"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A token, when it is renewed and when it ends, by the monotonic clock and, in ``ends_at``, by the other."""

    token: str = field(repr=False)
    refresh_at: float
    until: float
    ends_at: float

    def is_valid(self, now: Now) -> bool:
        """Whether it may still be used; a machine that was suspended notices by its wall clock."""
        return now.monotonic < self.until and now.wall < self.ends_at

    @property
    def says_its_end(self) -> bool:
        """Whether it has a lifetime; a token without one is used once."""
        return self.refresh_at != self.until


class TokenClient:
    """Gets access tokens from ``issuer``, where ``auth`` says who we are; in sync and async code alike.

    ``token_endpoint`` is taken from the issuer's metadata where it is not given; ``timeout`` is in seconds and
    bounds each request in total.  Tokens are kept until they end, at most ``cache_size`` of them, and renewed ahead of
    that.  What fails is not asked for again at once (see `ticketgate.core.attempts`); a token that is still good goes
    on being used meanwhile.

        client = TokenClient("https://as.example", ClientSecretBasic("orders", "secret"))
        httpx.get("https://stock.example/items", auth=client.for_resource("https://stock.example"))
    """

    def __init__(
        self,
        issuer: str | Issuer,
        auth: ClientAuth,
        *,
        token_endpoint: str | None = None,
        timeout: float = 5,
        cache_size: int = 1_000,
        clock: Clock = Clock(),
    ) -> None:
        self._issuer = Issuer(issuer) if isinstance(issuer, str) else issuer
        if token_endpoint is not None and not is_safe(
            token_endpoint, insecure_http=self._issuer.insecure_http
        ):
            raise ConfigurationError(f"token_endpoint {shown(token_endpoint)} is not an https URL")
        if not hasattr(auth, "prove"):
            raise ConfigurationError('auth says who we are: write ClientSecretBasic("id", "secret")')
        self._auth = auth
        self._endpoint = token_endpoint
        self._timeout = timeout
        self._clock = clock
        self._kept: BoundedCache[bytes, Kept] = BoundedCache(cache_size)
        self._replaced_at: BoundedCache[bytes, float] = BoundedCache(cache_size)
        self._attempts = Attempts(timeout)

    def client_credentials(
        self,
        resource: str = "",
        scope: str = "",
        *,
        audience: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> Grant:
        """For ourselves (RFC 6749 §4.4).

        ``audience`` is for issuers that want it in place of ``resource`` (Auth0), ``parameters`` for others that want
        more; those that are written here cannot be among them.
        """
        form = token_form(CLIENT_CREDENTIALS, resource, scope, audience, parameters)
        return grant_of(form)

    def vouched(
        self,
        resource: str = "",
        scope: str = "",
        *,
        assertion: str | None = None,
        key: Mapping[str, Any] | str | bytes | None = None,
        issuer: str = "",
        subject: str = "",
        audience: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> Grant:
        """For somebody vouched for (RFC 7523 §2.1): by a given ``assertion``, or by ``key`` (a JWK or PEM), in the
        name of ``issuer`` (our client id where it is left out), about ``subject``."""
        form = token_form(JWT_BEARER, resource, scope, audience, parameters)
        if assertion is not None:
            return grant_of({**form, "assertion": assertion}, made_of=assertion)
        if key is None or not subject:
            raise ConfigurationError("vouched() needs an assertion, or a key and a subject")
        made = Assertion(SigningKey.load(key), issuer or self._auth.client_id, subject)
        return grant_of(form, assertion=made)

    def exchanged(
        self,
        subject_token: str,
        resource: str = "",
        scope: str = "",
        *,
        audience: str = "",
        actor_token: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> Grant:
        """For the caller whose token we hold (RFC 8693 §2.1); never good for longer than that token."""
        form = {
            **token_form(TOKEN_EXCHANGE, resource, scope, audience, parameters),
            "subject_token": subject_token,
            "subject_token_type": ACCESS_TOKEN_TYPE,
            **({"actor_token": actor_token, "actor_token_type": ACCESS_TOKEN_TYPE} if actor_token else {}),
        }
        return grant_of(form, made_of=subject_token)

    def get(self, grant: Grant, *, driver: blocking.Driver | None = None) -> str:
        """An access token by ``grant``.  Raises `TokenRefused` or `IssuerUnavailable`, with seconds to wait."""
        return (driver or blocking.default_driver()).run(self.token(grant))

    async def aget(self, grant: Grant, *, driver: aio.Driver | None = None) -> str:
        """The same under asyncio."""
        return await (driver or aio.default_driver()).run(self.token(grant))

    def for_resource(self, resource: str, scope: str = "", *, grant: Grant | None = None) -> "ResourceAuth":
        """What puts a token for ``resource`` on the requests of an httpx client, and on no others."""
        return ResourceAuth(self, resource, grant or self.client_credentials(resource, scope))

    def token(self, grant: Grant) -> Flow[str]:
        """The flow behind `get` and `aget`."""
        now, kept = self._clock.read(), self._kept.get(grant.digest)
        if kept is not None and kept.is_valid(now):
            if now.monotonic >= kept.refresh_at and not self._attempts.refusal(grant.digest, now.monotonic):
                yield from behind((self, grant.digest), self._renewal(grant, kept), lifetime=self._lifetime)
            return kept.token
        _require_alive(grant, now)
        refusal = self._attempts.refusal(grant.digest, now.monotonic)
        if refusal is not None:
            raise refusal
        outcome = yield from once((self, grant.digest), self._renewal(grant, kept), lifetime=self._lifetime)
        if isinstance(outcome, Failure):
            now = self._clock.read()
            raise self._attempts.refusal(grant.digest, now.monotonic) or outcome.error(1)
        return outcome.token

    def forget(self, grant: Grant, token: str) -> bool:
        """Whether asking again may give another token than ``token``, which the resource refused.

        A resource that refuses every token does not have one made for each request: only one in half a minute.
        """
        kept = self._kept.get(grant.digest)
        if kept is None or kept.token != token:
            return True
        now, replaced_at = self._clock.monotonic(), self._replaced_at.get(grant.digest)
        if replaced_at is not None and now < replaced_at + REPLACE_AGAIN:
            return False
        self._replaced_at.put(grant.digest, now)
        self._kept.drop(grant.digest)
        return True

    @property
    def _lifetime(self) -> float:
        """How long a run may take: two documents of metadata and the token."""
        return 3 * self._timeout + 5

    def _renewal(self, grant: Grant, seen: Kept | None) -> "partial[Flow[Kept | Failure]]":
        return partial(self._renew, grant, seen)

    def _renew(self, grant: Grant, seen: Kept | None) -> Flow[Kept | Failure]:
        """One request, whoever waits for it; what goes wrong is its result.

        The result is not the bare token: asyncio's debug mode logs the results of tasks.
        """
        kept, started = self._kept.get(grant.digest), self._clock.read()
        if kept is not None and kept is not seen and kept.is_valid(started):
            return kept  # from a run that ended when this one was asked for
        self._attempts.begin(started.monotonic)
        try:
            issued = yield from self._request(grant, started)
            kept = self._checked(grant, issued, started)
        except ConfigurationError:
            raise
        except (FetchFailed, TokenRefused, ValueError) as error:
            now = self._clock.read()
            failure = Failure.of(error, self._issuer.identifier, now.wall)
            self._attempts.failed(grant.digest, failure, now.monotonic)
            return failure
        self._attempts.succeeded(grant.digest)
        self._kept.put(grant.digest, kept)
        return kept

    def _checked(self, grant: Grant, issued: IssuedToken, started: Now) -> Kept:
        """``issued`` with its times.  Raises `TokenRefused` or `FetchFailed` where it was over before it came."""
        ends_at = math.inf if grant.ends_at is None else grant.ends_at
        lifetime = min(issued.lifetime, ends_at - started.wall)
        refresh_at, until = started.monotonic + lifetime * REFRESH_AHEAD, started.monotonic + lifetime
        kept = Kept(issued.token, refresh_at, until, started.wall + lifetime)
        now = self._clock.read()
        _require_alive(grant, now)
        if kept.says_its_end and not kept.is_valid(now):
            raise FetchFailed("the token was over before it came")
        return kept

    def _request(self, grant: Grant, now: Now) -> Flow[IssuedToken]:
        proof = yield from self._auth.prove(self._issuer.identifier, now.wall)
        url = self._endpoint or (
            yield from self._issuer.metadata.endpoint(
                "token_endpoint", now.monotonic, mutual_tls=proof.certificate is not None
            )
        )
        form = {**grant.form}
        if grant.assertion is not None:
            form["assertion"] = grant.assertion.made(self._issuer.identifier, now.wall)
        accept = "application/json"
        request = form_request(url, form, proof, accept=accept, timeout=self._timeout, max_bytes=MAX_BYTES)
        request = self._issuer.metadata.whereabouts.reach(request)
        reply = yield from fetch(request)
        return read_token_answer(reply, self._clock.wall(), secrets_in(request))


class ResourceAuth(httpx.Auth):
    """Puts an access token on requests to one resource; see `TokenClient.for_resource`.

    A request to another origin, or over plain http to anything but loopback, raises `ConfigurationError` instead.
    Which proxies are used is the business of the httpx client: one that trusts the environment sends plain http for
    loopback through ``HTTP_PROXY``, with the token.  Where the resource answers 401 a new token is tried, once; a body that is streamed cannot be sent twice, so its 401
    is returned.
    """

    def __init__(self, client: TokenClient, resource: str, grant: Grant) -> None:
        if not is_safe(resource):
            raise ConfigurationError(
                f"resource {shown(resource)} is not an https URL: plain http is for loopback only"
            )
        self._client = client
        self._origin = _origin(resource)
        self._grant = grant

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`."""
        token = self._client.get(self._grant)
        response = yield self._with(token, request)
        if self._may_repeat(request, response, token):
            yield self._with(self._client.get(self._grant), request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See `httpx.Auth`."""
        token = await self._client.aget(self._grant)
        response = yield self._with(token, request)
        if self._may_repeat(request, response, token):
            yield self._with(await self._client.aget(self._grant), request)

    def _may_repeat(self, request: httpx.Request, response: httpx.Response, token: str) -> bool:
        """Whether the request is worth sending again, with another token."""
        if response.status_code != 401 or not self._client.forget(self._grant, token):
            return False
        return isinstance(request.stream, httpx.ByteStream)

    def _with(self, token: str, request: httpx.Request) -> httpx.Request:
        if _origin(str(request.url)) != self._origin:
            raise ConfigurationError(f"this token is for {self._origin} and goes nowhere else")
        request.headers["Authorization"] = f"Bearer {token}"
        return request


def _require_alive(grant: Grant, now: Now) -> None:
    """Raises `TokenRefused` where the token or assertion that ``grant`` is made of has expired (RFC 6749 §5.2)."""
    if grant.ends_at is not None and grant.ends_at <= now.wall:
        raise TokenRefused("invalid_grant", "what the token would be made of has expired")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"
