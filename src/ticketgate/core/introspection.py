"""Asking the issuer about a token that says nothing by itself.

RFC 7662 §2 and §4, RFC 6749 §2.3.1, RFC 9701 §4, §5 and §8 (signed answers).

An answer is believed only where it says ``"active": true`` in so many words, and what it says then is checked
as the claims of a JWT are.  Whatever else comes from the endpoint is its fault or ours, and so a 503: a client
that is told 401 throws a good token away.

Answers are remembered under the SHA-256 of the whole token: active ones until they expire and for ``cache_ttl``
at most, others for ``negative_ttl`` in a space of their own, so that a flood of nonsense pushes no good token
out.  An endpoint that fails three times in a row is left alone for a while, then one request tries it.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ticketgate.core.access_token import AccessToken
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.claims import Rules, check_claims, check_introspected, was_issued_in_the_past
from ticketgate.core.client_auth import ClientAuth, form_request
from ticketgate.core.clock import Now
from ticketgate.core.decryption import decryption_keys_of
from ticketgate.core.flow import FetchFailed, Flow, Lane, Reply, fetch, once
from ticketgate.core.freshness import Backoff, retry_after
from ticketgate.core.issuer import Issuer
from ticketgate.core.jwt import UnverifiedJWT, check_header, read, verify_signature
from ticketgate.core.strict_json import FrozenDict, is_array, is_object, parse_object
from ticketgate.core.surroundings import Surroundings
from ticketgate.core.web_address import is_safe
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable

FAILURES_UNTIL_OPEN = 3
SIGNED = "token-introspection+jwt"
ACCEPT = {
    "json": "application/json",
    "jwt": f"application/{SIGNED}",
    "phantom": "application/jwt",
}
HINTS = {
    400: "it may not answer for this kind of token (oidc-provider says 400 for a JWT), or wants another client authentication",
    401: "it refused our own client authentication (Authlib says 401 for a token with an empty scope, too)",
    403: "it does not let our client introspect",
    404: "there is no introspection endpoint",
    405: "it is no introspection endpoint",
}
NOT_OUR_CLIENTS_FAULT = frozenset(range(400, 500)) - {408, 429}
EMPTY = FrozenDict()

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    introspect: str
    expect: str
    cache_ttl: float
    negative_ttl: float
    cache_size: int
    max_concurrency: int
    max_waiting: int
    timeout: float
    max_bytes: int
    accept_missing_audience: bool
    accept_audience: frozenset[str]


class Introspection:
    """How an issuer is asked about its opaque tokens (RFC 7662).

    ``endpoint`` is taken from the issuer's metadata where it is not given; ``auth`` is who we are there.
    ``introspect`` is ``"opaque"`` for tokens that are no JWT, or ``"always"`` for every token.
    ``expect`` is ``"json"``, ``"jwt"`` for answers that the issuer signs (RFC 9701; ``decryption_keys`` open
    those that are encrypted for us; they are addressed to our client id, or to one of ``accept_audience``), or
    ``"phantom"`` where it hands out a JWT access token for the opaque one.  Both are kept as ``phantom``.

    Answers are remembered for ``cache_ttl`` seconds, refusals for ``negative_ttl``, at most ``cache_size`` of
    each; 0 switches either off.  At most ``max_concurrency`` requests run at once and ``max_waiting`` more wait
    for their turn.  ``timeout`` (seconds, in total) and ``max_bytes`` bound each.
    ``accept_missing_audience`` lets pass what names no audience: then any API's token opens this one.

    Raises `ConfigurationError` for what cannot work or is not safe.

        Issuer("https://as.example", introspection=Introspection(auth=ClientSecretBasic("api", "secret")))
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        auth: ClientAuth,
        introspect: str = "opaque",
        expect: str = "json",
        cache_ttl: float = 60,
        negative_ttl: float = 10,
        cache_size: int = 10_000,
        max_concurrency: int = 20,
        max_waiting: int = 100,
        timeout: float = 5,
        max_bytes: int = 262_144,
        decryption_keys: Sequence[Mapping[str, Any] | str | bytes] = (),
        accept_audience: Sequence[str] = (),
        accept_missing_audience: bool = False,
    ) -> None:
        if not hasattr(auth, "prove"):
            raise ConfigurationError('auth says who we are: write auth=ClientSecretBasic("id", "secret")')
        if introspect not in {"opaque", "always"}:
            raise ConfigurationError('introspect is "opaque" or "always"')
        if expect not in ACCEPT:
            raise ConfigurationError(f"expect is one of {', '.join(ACCEPT)}")
        if expect == "jwt" and not (auth.client_id or accept_audience):
            raise ConfigurationError(
                "signed answers are addressed to us: give auth a client_id, or accept_audience"
            )
        if min(cache_ttl, negative_ttl, cache_size, max_waiting) < 0:
            raise ConfigurationError(
                "cache_ttl, negative_ttl, cache_size and max_waiting must not be negative"
            )
        if min(max_concurrency, timeout, max_bytes) <= 0:
            raise ConfigurationError("max_concurrency, timeout and max_bytes must be above 0")
        self.endpoint = endpoint
        self.auth = auth
        self.settings = _Settings(
            introspect=introspect,
            expect=expect,
            cache_ttl=cache_ttl,
            negative_ttl=negative_ttl,
            cache_size=cache_size,
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            timeout=timeout,
            max_bytes=max_bytes,
            accept_missing_audience=accept_missing_audience,
            accept_audience=frozenset(accept_audience),
        )
        self.decryption_keys = decryption_keys_of(decryption_keys)
        if accept_missing_audience:
            logger.warning("accept_missing_audience: tokens that were made for other APIs may open this one")

    def __repr__(self) -> str:
        return f"Introspection({self.endpoint!r}, auth={self.auth!r})"


class Answer(NamedTuple):
    """What is known of a token: the token if it is good, or the reason why it is not."""

    token: AccessToken | None
    reason: str
    asked_at: float
    until: float
    expires_at: float


class Unavailable(NamedTuple):
    """There is no answer now; ``seconds`` until it is worth asking again."""

    seconds: int


class Inspector:
    """Asks one issuer about tokens on behalf of one resource server, and remembers the answers."""

    def __init__(
        self, issuer: Issuer, introspection: Introspection, audiences: Sequence[str], leeway: float
    ) -> None:
        endpoint = introspection.endpoint
        if endpoint is not None and not is_safe(endpoint, insecure_http=issuer.insecure_http):
            raise ConfigurationError(
                f"endpoint {endpoint!r} is no https URL: plain http is for loopback only"
            )
        settings = introspection.settings
        self.issuer = issuer
        self.always = settings.introspect == "always"
        self._introspection = introspection
        self._settings = settings
        self._audiences = frozenset(audiences)
        self._leeway = leeway
        self._active: BoundedCache[bytes, Answer] = BoundedCache(
            settings.cache_size if settings.cache_ttl else 0
        )
        self._others: BoundedCache[bytes, Answer] = BoundedCache(
            settings.cache_size if settings.negative_ttl else 0
        )
        self._lane = Lane(self, settings.max_concurrency, settings.max_waiting)
        self._trouble = Backoff()
        self._open_until = -math.inf

    def remembered(self, name: bytes, now: Now, within: float = math.inf) -> AccessToken | None:
        """The token of an active answer that is not older than ``within`` seconds, or None."""
        answer = self._active.get(name)
        if answer is None or now.monotonic >= answer.until or now.wall >= answer.expires_at:
            return None
        return answer.token if now.monotonic - answer.asked_at <= within else None

    def ask(self, raw: bytes, name: bytes, now: Now, around: Surroundings) -> Flow[AccessToken]:
        """The access token that ``raw`` is, by a new answer of the issuer.

        Raises `InvalidToken` where it is not active or not for us, `IssuerUnavailable` where that cannot be known.
        """
        other = self._others.get(name)
        if other is not None and now.monotonic < other.until:
            raise InvalidToken(other.reason)
        answer = yield from once((self, name), partial(self._inquire, raw, name, around))
        if isinstance(answer, Unavailable):
            raise IssuerUnavailable(f"{self.issuer.identifier} does not say", retry_after=answer.seconds)
        if answer.token is None:
            raise InvalidToken(answer.reason)
        return answer.token

    def _inquire(self, raw: bytes, name: bytes, around: Surroundings) -> Flow[Answer | Unavailable]:
        """One request to the endpoint, whoever waits for it; never raises for what comes back."""
        started = around.clock.monotonic()
        if started < self._open_until:
            return Unavailable(max(1, math.ceil(self._open_until - started)))
        if self._trouble.failures >= FAILURES_UNTIL_OPEN:
            self._open_until = started + self._settings.timeout  # this one tries; the others wait for it
        try:
            reply = yield from self._exchange(raw, started, around)
            response, phantom = yield from self._read(reply, around)
        except IssuerUnavailable as error:
            return Unavailable(error.retry_after)
        except (FetchFailed, ValueError, InvalidToken) as error:
            return self._failed(error, around)
        self._trouble, self._open_until = Backoff(), -math.inf
        return self._judge(response, phantom, name, around.clock.read())

    def _exchange(self, raw: bytes, now: float, around: Surroundings) -> Flow[Reply]:
        auth, settings = self._introspection.auth, self._settings
        proof = yield from auth.prove(self.issuer.identifier, around.clock.wall())
        url = self._introspection.endpoint or (
            yield from self.issuer.metadata.endpoint(
                "introspection_endpoint", now, mutual_tls=proof.certificate is not None
            )
        )
        form = {"token": raw.decode("ascii"), "token_type_hint": "access_token"}
        request = form_request(
            url,
            form,
            proof,
            accept=ACCEPT[settings.expect],
            timeout=settings.timeout,
            max_bytes=settings.max_bytes,
            lane=self._lane,
        )
        return (yield from fetch(self.issuer.metadata.whereabouts.reach(request)))

    def _read(self, reply: Reply, around: Surroundings) -> Flow[tuple[FrozenDict, str | None]]:
        """The members of an answer that can be believed, and the JWT they came in.

        Raises `FetchFailed`, ValueError or `InvalidToken` for any other, `IssuerUnavailable` without keys.
        """
        if self._settings.expect == "phantom":
            return (yield from self._read_phantom(reply, around))
        if reply.status != 200:
            raise FetchFailed(f"answered {reply.status}", reply)
        if self._settings.expect == "jwt":
            return (yield from self._read_signed(reply, around))
        return _activity(parse_object(reply.body)), None

    def _read_signed(self, reply: Reply, around: Surroundings) -> Flow[tuple[FrozenDict, str | None]]:
        """RFC 9701 §5: signed by the issuer, for us, just now; plain JSON is not accepted instead."""
        _content_type_is(ACCEPT["jwt"], reply)
        signed = self._opened(reply.body.strip())
        jwt = yield from self._verified(signed, (SIGNED,), around)
        _is_addressed_to({self._introspection.auth.client_id} | self._settings.accept_audience, jwt.claims)
        was_issued_in_the_past(jwt.claims, self._rules(around.clock.wall()))
        response = jwt.claims.get("token_introspection")
        if not is_object(response):
            raise ValueError("there is no token_introspection in it")
        return _activity(response), signed.decode("ascii")

    def _read_phantom(self, reply: Reply, around: Surroundings) -> Flow[tuple[FrozenDict, str | None]]:
        """A JWT access token for the opaque one; no content where that is not active."""
        if reply.status == 204:
            return FrozenDict({"active": False}), None
        if reply.status != 200:
            raise FetchFailed(f"answered {reply.status}", reply)
        _content_type_is(ACCEPT["phantom"], reply)
        signed = self._opened(reply.body.strip())
        jwt = yield from self._verified(signed, self.issuer.token_types, around)
        check_claims(jwt.claims, self._rules(around.clock.wall()), typed=self.issuer.typed)
        return FrozenDict({**jwt.claims, "active": True}), signed.decode("ascii")

    def _opened(self, raw: bytes) -> bytes:
        keys = self._introspection.decryption_keys
        return keys.decrypt(raw) if keys is not None and raw.count(b".") == 4 else raw

    def _verified(self, raw: bytes, types: tuple[str, ...], around: Surroundings) -> Flow[UnverifiedJWT]:
        """The JWT in an answer, after its signature was found to be the issuer's."""
        jwt = read(raw)
        check_header(jwt.header, types, self.issuer.algorithms)
        if jwt.claims.get("iss") != self.issuer.identifier:
            raise InvalidToken("issuer", expected=self.issuer.identifier, actual=jwt.claims.get("iss"))
        keys = yield from self.issuer.keys.find(jwt.header, around.clock.read(), around)
        verify_signature(jwt, keys)
        return jwt

    def _rules(self, wall: float) -> Rules:
        return Rules(wall, self._leeway, self._audiences)

    def _judge(self, response: FrozenDict, phantom: str | None, name: bytes, now: Now) -> Answer:
        claims = FrozenDict(
            {"iss": self.issuer.identifier}
            | {key: value for key, value in response.items() if key != "active"}
        )
        rules = self._rules(now.wall)
        try:
            if response["active"] is not True:
                raise InvalidToken("inactive")
            lenient = self._settings.accept_missing_audience
            check_introspected(claims, rules, self.issuer.identifier, accept_missing_audience=lenient)
        except InvalidToken as error:
            until = now.monotonic + self._settings.negative_ttl
            answer = Answer(None, error.reason, now.monotonic, until, math.inf)
            self._others.put(name, answer)
            return answer
        token = AccessToken(claims, EMPTY, "opaque", phantom)
        until, end = now.monotonic + self._settings.cache_ttl, token.expires_at
        answer = Answer(token, "", now.monotonic, until, math.inf if end is None else end + self._leeway)
        self._active.put(name, answer)
        return answer

    def _failed(self, error: Exception, around: Surroundings) -> Unavailable:
        """Log whose fault it probably is, and leave an endpoint alone that fails or asks for it."""
        now, reply = around.clock.monotonic(), error.reply if isinstance(error, FetchFailed) else None
        hint = HINTS.get(reply.status, "") if reply else ""
        issuer = self.issuer.identifier
        details = {"issuer": issuer}
        logger.warning(
            "introspection at %s failed: %s%s", issuer, error, hint and f" ({hint})", extra=details
        )
        if reply is not None and reply.status in NOT_OUR_CLIENTS_FAULT:
            self._trouble, self._open_until = Backoff(), -math.inf  # it answers, so it is not dead
            return Unavailable(1)
        wait = retry_after(reply.headers, around.clock.wall()) if reply else 0
        self._trouble = self._trouble.after_failure(now, 0, str(error), wait)
        if wait or self._trouble.failures >= FAILURES_UNTIL_OPEN:
            self._open_until = self._trouble.retry_at
        return Unavailable(self._trouble.seconds_left(now))


def _activity(response: FrozenDict) -> FrozenDict:
    """RFC 7662 §2.2: ``active`` is a JSON boolean, and nothing else is nearly one."""
    if not isinstance(response.get("active"), bool):
        raise ValueError("active is neither true nor false")
    return response


def _content_type_is(expected: str, reply: Reply) -> None:
    found = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != expected:
        raise ValueError(f"its content type is {ascii(found)[:80]}, not {expected}")


def _is_addressed_to(names: frozenset[str] | set[str], claims: FrozenDict) -> None:
    aud = claims.get("aud")
    if not any(name in names for name in (aud if is_array(aud) else (aud,)) if name):
        raise ValueError("it is addressed to somebody else")
