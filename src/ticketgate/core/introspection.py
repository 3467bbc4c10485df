"""Asking the issuer about a token that says nothing by itself.

RFC 7662 §2 and §4, RFC 6749 §2.3.1, RFC 9701 §4 (signed answers).

An answer is believed only where it says ``"active": true`` in so many words, and what it says then is checked
as the claims of a JWT are.  Whatever else comes from the endpoint is its fault or ours, and so a 503: a client
that is told 401 throws a good token away.

Answers are remembered under the SHA-256 of the whole token: active ones until they expire and for ``cache_ttl``
at most, others for ``negative_ttl`` in a space of their own, so that a flood of nonsense pushes no good token
out.  Whether the endpoint may be asked at all is decided in `circuit`.
"""

import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ticketgate.core.access_token import AccessToken
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.circuit import Circuit
from ticketgate.core.claims import Rules, check_introspected
from ticketgate.core.client_auth import ClientAuth, form_request
from ticketgate.core.clock import Now
from ticketgate.core.decryption import decryption_keys_of
from ticketgate.core.flow import (
    Cause,
    FetchFailed,
    Flow,
    Lane,
    Reply,
    TooManyWaiting,
    WaitingFor,
    behind,
    fetch,
    once,
    within,
)
from ticketgate.core.freshness import is_finite, retry_after
from ticketgate.core.introspection_replies import ACCEPT, Replies
from ticketgate.core.issuer import Issuer
from ticketgate.core.strict_json import FrozenDict, without_nulls
from ticketgate.core.surroundings import Surroundings
from ticketgate.core.web_address import is_safe, shown
from ticketgate.errors import ConfigurationError, InvalidToken, IssuerUnavailable

HINTS = {
    400: "it may not answer for this kind of token (oidc-provider says 400 for a JWT), or wants another client authentication",
    401: "it refused our own client authentication (Authlib says 401 for a token with an empty scope, too)",
    403: "it does not let our client introspect",
    404: "there is no introspection endpoint",
    405: "it is no introspection endpoint",
}
FAILING = frozenset({408, 429, *range(500, 600)})
REFUSING = frozenset(range(400, 500)) - FAILING  # the endpoint works, and says that it is not going to answer
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
    our_names: frozenset[str]


class Introspection:
    """How an issuer is asked about its opaque tokens (RFC 7662).

    ``endpoint`` is taken from the issuer's metadata where it is not given; ``auth`` is who we are there.
    ``introspect`` is ``"opaque"`` for tokens that are no JWT, or ``"always"`` for every token.
    ``expect`` is ``"json"``, ``"jwt"`` for answers that the issuer signs (RFC 9701; ``decryption_keys`` open
    those that are encrypted for us; they are addressed to our client id, or to one of ``accept_audience``), or
    ``"phantom"`` where it hands out a JWT access token for the opaque one.  Both are kept as ``phantom``.

    Answers are remembered for ``cache_ttl`` seconds, refusals for ``negative_ttl``, at most ``cache_size`` of
    each; 0 switches either off.  At most ``max_concurrency`` requests run at once, a quarter of which is kept for
    tokens that were active before, and ``max_waiting`` more of either kind wait for their turn.  ``timeout``
    (seconds, in total) and ``max_bytes`` bound each.
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
        _check_seconds(cache_ttl=cache_ttl, negative_ttl=negative_ttl, timeout=timeout)
        _check_counts(
            cache_size=cache_size,
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            max_bytes=max_bytes,
        )
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
            our_names=frozenset(accept_audience) | ({auth.client_id} - {""}),
        )
        self.decryption_keys = decryption_keys_of(decryption_keys)
        if accept_missing_audience:
            logger.warning("accept_missing_audience: tokens that were made for other APIs may open this one")

    def __repr__(self) -> str:
        return f"Introspection({self.endpoint!r}, auth={self.auth!r})"


MUST_BE_ABOVE_0 = frozenset({"timeout", "max_concurrency", "max_bytes"})


def _check_seconds(**named: float) -> None:
    for name, value in named.items():
        if not is_finite(value):
            raise ConfigurationError(f"{name}={value!r} must be a finite number of seconds")
        _check_minimum(name, value)


def _check_counts(**named: int) -> None:
    for name, value in named.items():
        if type(value) is not int:
            raise ConfigurationError(f"{name}={value!r} must be a whole number")
        _check_minimum(name, value)


def _check_minimum(name: str, value: float) -> None:
    if value < 0 or (value == 0 and name in MUST_BE_ABOVE_0):
        least = "be above 0" if name in MUST_BE_ABOVE_0 else "not be negative"
        raise ConfigurationError(f"{name}={value!r} must {least}")


class Answer(NamedTuple):
    """What is known of a token: the token if it is good, or the reason why it is not."""

    token: AccessToken | None
    reason: str
    asked_at: float
    until: float
    expires_at: float


class Question(NamedTuple):
    """The name of a token, whether it is known to be genuine, and when it was asked about (monotonic seconds)."""

    name: bytes
    verified: bool
    asked_at: float


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
                f"endpoint {shown(endpoint)} is no https URL: plain http is for loopback only"
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
        self._circuit = Circuit(settings.max_concurrency, settings.max_waiting)
        self._replies = Replies(issuer, settings.expect, settings.our_names, introspection.decryption_keys)

    def remembered(self, name: bytes, now: Now, within: float = math.inf) -> AccessToken | None:
        """The token of an active answer to a question of the last ``within`` seconds, or None."""
        answer = self._active.get(name)
        if answer is None or now.monotonic >= answer.until or now.wall >= answer.expires_at:
            return None
        return answer.token if now.monotonic - answer.asked_at <= within else None

    def knows(self, name: bytes, now: Now) -> bool:
        """Whether the issuer vouched for the token before, so that it is not junk."""
        return self._circuit.is_known(name, now.wall)

    def ask(
        self,
        raw: bytes,
        name: bytes,
        now: Now,
        around: Surroundings,
        *,
        verified: bool = False,
        within: float = math.inf,
    ) -> Flow[AccessToken]:
        """The access token that ``raw`` is, by a new answer of the issuer.

        ``verified`` says that the token is known to be genuine; a question that others asked more than ``within``
        seconds ago is not ours.  Raises `InvalidToken` where it is not active or not for us, `IssuerUnavailable` where that cannot be known.
        """
        other = self._others.get(name)
        if other is not None and now.monotonic < other.until:
            raise InvalidToken(other.reason)
        answer = yield from self._one_question(raw, name, verified, around)
        if isinstance(answer, Answer) and answer.asked_at < now.monotonic - within:  # we joined it too late
            answer = yield from self._one_question(raw, name, verified, around)
        if isinstance(answer, Unavailable):
            raise IssuerUnavailable(f"{self.issuer.identifier} does not say", retry_after=answer.seconds)
        if answer.token is None:
            raise InvalidToken(answer.reason)
        return answer.token

    def _one_question(
        self, raw: bytes, name: bytes, verified: bool, around: Surroundings
    ) -> Flow[Answer | Unavailable]:
        """One for all who ask about this token; waiting is limited where it may be junk."""
        known = self._circuit.is_known(name, around.clock.wall(), verified=verified)
        inquire = partial(self._inquire, raw, name, verified, around)
        try:
            return (yield from once((self, name), inquire, limited=None if known else WaitingFor.QUESTION))
        except TooManyWaiting:
            return Unavailable(1)

    def _inquire(
        self, raw: bytes, name: bytes, verified: bool, around: Surroundings
    ) -> Flow[Answer | Unavailable]:
        """One request to the endpoint, whoever waits for it; never raises for what comes back."""
        started, circuit = around.clock.monotonic(), self._circuit
        known = circuit.is_known(name, around.clock.wall(), verified=verified)
        if seconds := circuit.seconds_closed(name, known, started):
            return Unavailable(seconds)
        yield from self._resolve_doubts(around)
        try:
            reply = yield from self._exchange(raw, circuit.lane(known), around)
            rules = self._rules(around.clock.wall())
            response, phantom = yield from self._replies.read(reply, rules, around)
        except IssuerUnavailable as error:
            return Unavailable(error.retry_after)
        except (FetchFailed, ValueError, InvalidToken) as error:
            seconds = self._failed(error, name, known, around)
            yield from self._resolve_doubts(around)
            return Unavailable(seconds)
        circuit.answered(name, known)
        return self._judge(response, phantom, Question(name, verified, started), around.clock.read())

    def _exchange(self, raw: bytes, lane: Lane, around: Surroundings) -> Flow[Reply]:
        """The reply to a question that has its place before anything is done for it, our proof included."""
        question = partial(self._question, raw, around)
        return (yield from within(lane, self._settings.timeout, question))

    def _question(self, raw: bytes, around: Surroundings) -> Flow[Reply]:
        auth, settings = self._introspection.auth, self._settings
        proof = yield from auth.prove(self.issuer.identifier, around.clock.wall())
        mutual_tls = proof.certificate is not None
        url = self._introspection.endpoint or (
            yield from once((self, "endpoint"), partial(self._endpoint, mutual_tls, around))
        )
        form = {"token": raw.decode("ascii"), "token_type_hint": "access_token"}
        request = form_request(
            url,
            form,
            proof,
            accept=ACCEPT[settings.expect],
            timeout=settings.timeout,
            max_bytes=settings.max_bytes,
        )
        return (yield from fetch(self.issuer.metadata.whereabouts.reach(request)))

    def _endpoint(self, mutual_tls: bool, around: Surroundings) -> Flow[str]:
        """Where the metadata says we must ask; without it there is no connection, whatever the token is."""
        now = around.clock.monotonic()
        try:
            return (
                yield from self.issuer.metadata.endpoint("introspection_endpoint", now, mutual_tls=mutual_tls)
            )
        except FetchFailed as error:
            raise FetchFailed(str(error), error.reply, Cause.CONNECTION) from error

    def _resolve_doubts(self, around: Surroundings) -> Flow[None]:
        if self._circuit.is_in_doubt(around.clock.monotonic()):
            yield from behind((self, "doubts"), partial(self._ask_for_ourselves, around))

    def _ask_for_ourselves(self, around: Surroundings) -> Flow[None]:
        """Whether the endpoint answers a question that no client chose: about a random token, any answer will do."""
        if not self._circuit.is_in_doubt(around.clock.monotonic()):
            return
        question = self._circuit.own_question()
        try:
            reply = yield from self._exchange(secrets.token_urlsafe(32).encode(), question.lane, around)
            if reply.status in FAILING:
                raise FetchFailed(f"answered {reply.status}", reply)
        except FetchFailed as error:
            now = around.clock.read()
            wait = retry_after(error.reply.headers, now.wall) if error.reply else 0
            self._circuit.own_question_failed(question, str(error), error.cause, wait, now.monotonic)
        else:
            self._circuit.is_well()

    def _judge(self, response: FrozenDict, phantom: str | None, question: "Question", now: Now) -> Answer:
        """What an answer makes of the token; its age counts from the question, after which anything may have happened."""
        claims = _claims(response, self.issuer.identifier)
        rules = self._rules(now.wall)
        try:
            if response["active"] is not True:
                raise InvalidToken("inactive")
            lenient = self._settings.accept_missing_audience
            check_introspected(claims, rules, self.issuer.identifier, accept_missing_audience=lenient)
        except InvalidToken as error:
            return self._refuse(error.reason, question, now)
        token = AccessToken(claims, EMPTY, "opaque", phantom)
        until, end = question.asked_at + self._settings.cache_ttl, token.expires_at
        expires_at = math.inf if end is None else end + self._leeway
        answer = Answer(token, "", question.asked_at, until, expires_at)
        self._active.put(question.name, answer)
        self._circuit.was_called_active(question.name, expires_at)
        return answer

    def _refuse(self, reason: str, question: "Question", now: Now) -> Answer:
        """Remember a refusal, and no more what was said of the token before."""
        name, until = question.name, now.monotonic + self._settings.negative_ttl
        answer = Answer(None, reason, question.asked_at, until, math.inf)
        self._others.put(name, answer)
        self._active.drop(name)
        self._circuit.was_called_inactive(name, verified=question.verified)
        return answer

    def _rules(self, wall: float) -> Rules:
        return Rules(wall, self._leeway, self._audiences)

    def _failed(self, error: Exception, name: bytes, known: bool, around: Surroundings) -> int:
        """Log whose fault it probably is; the seconds after which the token is worth another question."""
        failure = error if isinstance(error, FetchFailed) else FetchFailed(str(error))
        asked = (
            failure.reply is not None and failure.cause is not Cause.CONNECTION
        )  # or the metadata answered
        status = failure.reply.status if asked and failure.reply else 0
        issuer, hint = self.issuer.identifier, HINTS.get(status, "")
        message, details = "introspection at %s failed: %s%s", {"issuer": issuer}
        logger.warning(message, issuer, error, hint and f" ({hint})", extra=details)
        if status in REFUSING:
            self._circuit.answered(name, known)
            return 1
        now = around.clock.read()
        wait = retry_after(failure.reply.headers, now.wall) if failure.reply else 0
        return self._circuit.failed(name, known, str(error), failure.cause, wait, now.monotonic)


def _claims(response: FrozenDict, issuer: str) -> FrozenDict:
    """What an answer says of the token: null counts as absent, and so does the empty ``sub`` of a client's token."""
    members = {name: value for name, value in without_nulls(response).items() if name != "active"}
    if members.get("sub") == "":
        del members["sub"]
    return FrozenDict({"iss": issuer} | members)
