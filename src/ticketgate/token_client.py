"""Access tokens for calls to other APIs: fetched when they are needed, kept while they are good.

RFC 6749 §4.4 (client credentials), RFC 7523 §2.1 (JWT bearer grant), RFC 8693 §2 (token exchange),
RFC 8707 §2 (resource), RFC 6750 §2.1 and §5.3.
"""

import hashlib
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.client_auth import ClientAuth, assertion_claims, form_request
from ticketgate.core.clock import Clock
from ticketgate.core.credentials import is_b64token
from ticketgate.core.flow import FetchFailed, Flow, Reply, behind, fetch, once
from ticketgate.core.grant_types import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE
from ticketgate.core.issuer import Issuer
from ticketgate.core.jwt import read
from ticketgate.core.signing_key import SigningKey, sign_jwt
from ticketgate.core.strict_json import FrozenDict, as_number, parse_object
from ticketgate.core.web_address import is_safe
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable, TokenRefused

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
REFRESH_AHEAD = 0.8
ASSERTION_LIFE = 60
MAX_BYTES = 262_144

__all__ = ["Grant", "ResourceAuth", "TokenClient"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is asked for with; ``name`` keeps grants for different subjects apart, without showing them."""

    form: Mapping[str, str] = field(repr=False)
    name: tuple[str, ...]
    ends_at: float | None = None
    assertion: "Assertion | None" = None


@dataclass(frozen=True, slots=True)
class Assertion:
    """A key that vouches for ``subject``: an assertion is made of it for each request (RFC 7523 §3)."""

    key: SigningKey = field(repr=False)
    issuer: str
    subject: str

    def made(self, audience: str, now: float) -> str:
        """An assertion for the issuer ``audience``, good for a minute."""
        claims = assertion_claims(self.issuer, self.subject, audience, now, ASSERTION_LIFE)
        return sign_jwt(self.key, "JWT", claims)


class Kept(NamedTuple):
    """A token, and its times by the monotonic clock."""

    token: str
    refresh_at: float
    until: float


class TokenClient:
    """Gets access tokens from ``issuer``, where ``auth`` says who we are; in sync and async code alike.

    ``token_endpoint`` is taken from the issuer's metadata where it is not given; ``timeout`` is in seconds and
    bounds each request in total.  Tokens are kept until they end, and renewed ahead of that.

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
            raise ConfigurationError(f"token_endpoint {token_endpoint!r} is no https URL")
        if not hasattr(auth, "prove"):
            raise ConfigurationError('auth says who we are: write ClientSecretBasic("id", "secret")')
        self._auth = auth
        self._endpoint = token_endpoint
        self._timeout = timeout
        self._clock = clock
        self._kept: BoundedCache[bytes, Kept] = BoundedCache(cache_size)

    def client_credentials(self, resource: str = "", scope: str = "") -> Grant:
        """For ourselves (RFC 6749 §4.4)."""
        return Grant(_form(CLIENT_CREDENTIALS, resource, scope), (CLIENT_CREDENTIALS, resource, scope))

    def vouched(
        self,
        resource: str = "",
        scope: str = "",
        *,
        assertion: str | None = None,
        key: Mapping[str, Any] | str | bytes | None = None,
        issuer: str = "",
        subject: str = "",
    ) -> Grant:
        """For somebody vouched for (RFC 7523 §2.1): by a given ``assertion``, or by ``key`` (a JWK or PEM), in the
        name of ``issuer`` (our client id where it is left out), about ``subject``."""
        form = _form(JWT_BEARER, resource, scope)
        if assertion is not None:
            name = (JWT_BEARER, _hash(assertion), resource, scope)
            return Grant({**form, "assertion": assertion}, name, _end_of(assertion))
        if key is None or not subject:
            raise ConfigurationError("vouched() needs an assertion, or a key and a subject")
        made = Assertion(SigningKey.load(key), issuer or self._auth.client_id, subject)
        return Grant(form, (JWT_BEARER, made.key.kid, made.issuer, subject, resource, scope), None, made)

    def exchanged(
        self,
        subject_token: str,
        resource: str = "",
        scope: str = "",
        *,
        audience: str = "",
        actor_token: str = "",
    ) -> Grant:
        """For the caller whose token we hold (RFC 8693 §2.1); never good for longer than that token."""
        form = {
            **_form(TOKEN_EXCHANGE, resource, scope),
            "subject_token": subject_token,
            "subject_token_type": ACCESS_TOKEN_TYPE,
            **({"audience": audience} if audience else {}),
            **({"actor_token": actor_token, "actor_token_type": ACCESS_TOKEN_TYPE} if actor_token else {}),
        }
        name = (TOKEN_EXCHANGE, _hash(subject_token), _hash(actor_token), resource, audience, scope)
        return Grant(form, name, _end_of(subject_token))

    def get(self, grant: Grant, *, driver: blocking.Driver | None = None) -> str:
        """An access token by ``grant``.  Raises `TokenRefused` or `IssuerUnavailable`."""
        return (driver or blocking.default_driver()).run(self.token(grant))

    async def aget(self, grant: Grant, *, driver: aio.Driver | None = None) -> str:
        """The same under asyncio."""
        return await (driver or aio.default_driver()).run(self.token(grant))

    def for_resource(self, resource: str, scope: str = "", *, grant: Grant | None = None) -> "ResourceAuth":
        """What puts a token for ``resource`` on the requests of an httpx client, and on no others."""
        return ResourceAuth(self, resource, grant or self.client_credentials(resource, scope))

    def token(self, grant: Grant) -> Flow[str]:
        """The flow behind `get` and `aget`."""
        now, name = self._clock.read(), _digest(grant)
        kept = self._kept.get(name)
        if kept is None or now.monotonic >= kept.until:
            outcome = yield from once((self, name), partial(self._renew, grant, name))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        if now.monotonic >= kept.refresh_at:
            yield from behind((self, name), partial(self._renew, grant, name))
        return kept.token

    def forget(self, grant: Grant, token: str) -> None:
        """Ask anew next time, if ``token`` is still the one that is kept."""
        kept = self._kept.get(_digest(grant))
        if kept is not None and kept.token == token:
            self._kept.put(_digest(grant), Kept("", 0, float("-inf")))

    def _renew(self, grant: Grant, name: bytes) -> Flow[str | Exception]:
        """One request, whoever waits for it; what goes wrong is its result."""
        started = self._clock.read()
        try:
            reply = yield from self._request(grant, started.monotonic, started.wall)
            answer = _read(reply)
        except (FetchFailed, ValueError) as error:
            return IssuerUnavailable(f"no token from {self._issuer.identifier}: {error}")
        except TokenRefused as refusal:
            return refusal
        lifetime = _lifetime(answer)
        if grant.ends_at is not None:
            lifetime = min(lifetime, grant.ends_at - started.wall)
        end = started.monotonic + lifetime
        self._kept.put(name, Kept(answer["access_token"], started.monotonic + lifetime * REFRESH_AHEAD, end))
        return str(answer["access_token"])

    def _request(self, grant: Grant, monotonic: float, wall: float) -> Flow[Reply]:
        proof = yield from self._auth.prove(self._issuer.identifier, wall)
        url = self._endpoint or (
            yield from self._issuer.metadata.endpoint(
                "token_endpoint", monotonic, mutual_tls=proof.certificate is not None
            )
        )
        form = {**grant.form}
        if grant.assertion is not None:
            form["assertion"] = grant.assertion.made(self._issuer.identifier, wall)
        accept = "application/json"
        request = form_request(url, form, proof, accept=accept, timeout=self._timeout, max_bytes=MAX_BYTES)
        return (yield from fetch(self._issuer.metadata.whereabouts.reach(request)))


class ResourceAuth(httpx.Auth):
    """Puts an access token on requests to one resource; see `TokenClient.for_resource`.

    A request to another origin, or over plain http to anything but loopback, raises `ConfigurationError` instead.
    Where the resource answers 401 a new token is tried, once.
    """

    def __init__(self, client: TokenClient, resource: str, grant: Grant) -> None:
        if not is_safe(resource):
            raise ConfigurationError(
                f"resource {resource!r} is no https URL: plain http is for loopback only"
            )
        self._client = client
        self._origin = _origin(resource)
        self._grant = grant

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`."""
        for is_last in (False, True):
            token = self._client.get(self._grant)
            response = yield self._with(token, request)
            if is_last or response.status_code != 401:
                return
            self._client.forget(self._grant, token)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See `httpx.Auth`."""
        for is_last in (False, True):
            token = await self._client.aget(self._grant)
            response = yield self._with(token, request)
            if is_last or response.status_code != 401:
                return
            self._client.forget(self._grant, token)

    def _with(self, token: str, request: httpx.Request) -> httpx.Request:
        if _origin(str(request.url)) != self._origin:
            raise ConfigurationError(f"this token is for {self._origin} and goes nowhere else")
        request.headers["Authorization"] = f"Bearer {token}"
        return request


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def _form(grant_type: str, resource: str, scope: str) -> dict[str, str]:
    members = {"grant_type": grant_type, "resource": resource, "scope": scope}
    return {name: value for name, value in members.items() if value}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _digest(grant: Grant) -> bytes:
    return hashlib.sha256("\n".join(grant.name).encode()).digest()


def _end_of(token: str) -> float | None:
    """When a JWT ends, unverified: that can only shorten what is kept."""
    try:
        return as_number(read(token.encode("utf-8", "replace")).claims.get("exp"))
    except InvalidToken:
        return None


def _read(reply: Reply) -> FrozenDict:
    """The members of a token response (RFC 6749 §5).  Raises `TokenRefused`, `FetchFailed` or ValueError."""
    if reply.status in {400, 401, 403}:
        refusal = parse_object(reply.body)
        raise TokenRefused(str(refusal.get("error", "unknown")), str(refusal.get("error_description", "")))
    if reply.status != 200:
        raise FetchFailed(f"answered {reply.status}", reply)
    answer = parse_object(reply.body)
    token, kind = answer.get("access_token"), answer.get("token_type")
    if not isinstance(token, str) or not is_b64token(token.encode("utf-8")):
        raise ValueError("its access_token is none")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("its token_type is not Bearer")
    return answer


def _lifetime(answer: FrozenDict) -> float:
    """RFC 6749 §5.1: a token that does not say how long it lives is used once."""
    return max(0.0, as_number(answer.get("expires_in")) or 0.0)
