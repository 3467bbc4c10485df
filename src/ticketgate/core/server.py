"""The resource server: what happens to a request, from its Authorization header to an access token.

RFC 9068 §4, RFC 6750 §2.1 and §3, RFC 8725 §3.
"""

import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ticketgate.core.access_token import AccessToken
from ticketgate.core.binding import check_binding
from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.challenge import Answer, check_realm, render
from ticketgate.core.claims import Rules, check_claims
from ticketgate.core.clock import Clock, Now
from ticketgate.core.credentials import MAX_TOKEN_BYTES, Credentials, check_characters, parse_credentials
from ticketgate.core.decryption import decryption_keys_of
from ticketgate.core.flow import Flow
from ticketgate.core.health import IssuerHealth
from ticketgate.core.issuer import Issuer
from ticketgate.core.jwt import UnverifiedJWT, check_header, looks_like_a_jwt, read
from ticketgate.core.request import ResourceRequest
from ticketgate.core.surroundings import Surroundings
from ticketgate.core.token_cache import TokenCache
from ticketgate.errors import (
    CannotDecide,
    ConfigurationError,
    InternalFault,
    InvalidToken,
    IssuerUnavailable,
    OAuthError,
)
from ticketgate.events import CacheHit, Event, Refused

if TYPE_CHECKING:
    from ticketgate.core.introspection import Inspector
    from ticketgate.core.opaque_issuer import OpaqueIssuer
    from ticketgate.core.tenants import IssuerTemplate, Tenants

MAX_LEEWAY = 300
MAX_LOGGED = 200
TOKEN_BYTES = range(1_024, 65_537)

logger = logging.getLogger("ticketgate")


class ResourceServer:
    """An API that accepts the access tokens of some issuers (RFC 6749 §1.1).

    ``audience`` names us: a string, or several of which the first is the one we go by.  ``realm`` is
    shown in challenges and defaults to it.  ``leeway`` is how many seconds clocks may differ, 300 at
    most.  ``token_cache`` is how many verified tokens are remembered, 0 for none.  ``on_event`` is called
    with what happens (see `ticketgate.events`).  ``opaque_issuer`` is given an opaque token and says which of our
    issuers to ask about it, or None (it may be async under asyncio); without it all that have introspection are.
    ``decryption_keys`` (private JWKs or PEMs) open tokens that were encrypted for us.  ``max_token_bytes`` bounds a
    token, 1,024 to 65,536: servers have limits of their own for header fields, which may be lower.
    ``issuer_for`` takes the place of issuers that are named: it is given the ``iss`` of a token that nobody has
    verified yet, and returns an `Issuer` of exactly that name, or None (it may be async under asyncio).  It is given
    https URLs only, and with ``accept_loopback_issuers`` plain http ones on loopback too.  At most ``max_tenants``
    of those that it or `Issuer.template` found, and that a token was verified of, are held; and as many others.

    Raises `ConfigurationError` for what cannot work or is not safe.

        server = ResourceServer("https://api.example", Issuer("https://as.example"))
    """

    def __init__(
        self,
        audience: str | Sequence[str],
        *issuers: "Issuer | IssuerTemplate",
        issuer_for: Callable[[str], Any] | None = None,
        max_tenants: int = 1_000,
        accept_loopback_issuers: bool = False,
        realm: str | None = None,
        leeway: float = 30,
        token_cache: int = 10_000,
        opaque_issuer: Callable[[str], Any] | None = None,
        decryption_keys: Sequence[Mapping[str, Any] | str | bytes] = (),
        max_token_bytes: int = MAX_TOKEN_BYTES,
        on_event: Callable[[Event], Any] | None = None,
        clock: Clock = Clock(),
    ) -> None:
        self.audiences = _audiences(audience)
        named = tuple(issuer for issuer in issuers if isinstance(issuer, Issuer))
        templates = tuple(issuer for issuer in issuers if not isinstance(issuer, Issuer))
        self.issuers = _issuers(named, nobody=bool(templates) or issuer_for is not None)
        self.tenants = _tenants(issuers, templates, issuer_for, max_tenants, loopback=accept_loopback_issuers)
        self.realm = check_realm(self.audiences[0] if realm is None else realm)
        self.leeway = _leeway(leeway)
        self.max_token_bytes = _token_bytes(max_token_bytes)
        self._around = Surroundings(clock, on_event, many_issuers=len(named) > 1 or self.tenants is not None)
        self._accepted_audiences = frozenset(self.audiences)
        self._verified = TokenCache(_cache_size(token_cache))
        self._inspectors = _inspectors(named, self.audiences, self.leeway)
        self._opaque_issuer = _opaque_issuer(opaque_issuer, self._inspectors)
        self._decryption_keys = decryption_keys_of(decryption_keys)
        self._signed_names: BoundedCache[bytes, bytes] = BoundedCache(token_cache)
        self._always = {one.issuer.identifier: one for one in self._inspectors if one.always}
        self._remembers = token_cache > 0 or bool(self._inspectors)

    def authenticate(self, request: ResourceRequest) -> Flow[AccessToken]:
        """The access token of ``request``, after every check that RFC 9068 §4 asks for.

        A flow: run it with a driver, see `ticketgate.verify`.  Raises `OAuthError` where the request is
        at fault and `CannotDecide` where the issuer or we are; never anything else.
        """
        try:
            now = self._around.clock.read()
            credentials = parse_credentials(request.authorization, self.max_token_bytes)

            name = sha256(credentials.token).digest() if self._remembers else b""

            token = (self._verified.find(name, now) or self._remembered(name, now)) if name else None
            if token is not None:
                if self._around.on_event is not None:
                    self._around.tell(CacheHit(token.issuer))
            elif (jwt := self._read(credentials)) is None:
                token = yield from self._ask(credentials.token, name, now)
            else:
                iss = jwt.claims.get("iss")
                issuer = self._issuer_named(iss) or (yield from self._tenant_named(iss, now))
                check_header(jwt.header, issuer.token_types, issuer.algorithms)
                rules = Rules(now.wall, self.leeway, self._accepted_audiences)
                check_claims(jwt.claims, rules, typed=issuer.typed)

                keys = yield from issuer.keys.verify(jwt, now, self._around)
                if self.tenants is not None:
                    yield from self._tenant_verified(issuer, now)
                token = AccessToken(jwt.claims, jwt.header)
                if name:
                    self._verified.keep(name, token, issuer, keys, now, self.leeway)

            check_binding(token)
            if self._always and token.issuer in self._always and token.kind == "jwt":
                yield from self._confirmed(self._always[token.issuer], token, credentials.token, now)
            return token
        except (OAuthError, CannotDecide):
            raise
        except Exception as error:
            raise _fault(error) from None

    def confirm(self, request: ResourceRequest, token: AccessToken, within: float) -> Flow[None]:
        """Have the issuer say that ``token``, which came with ``request``, is still active (RFC 7662 §2.2).

        The answer to a question of the last ``within`` seconds will do.  Raises as `authenticate` does.
        """
        try:
            inspector = next((one for one in self._inspectors if one.issuer.identifier == token.issuer), None)
            if inspector is None:
                logger.error("fresh_within needs Issuer(%r, introspection=...)", token.issuer)
                raise InternalFault("no introspection")
            raw = parse_credentials(request.authorization, self.max_token_bytes).token
            yield from self._confirmed(inspector, token, raw, self._around.clock.read(), within)
        except (OAuthError, CannotDecide):
            raise
        except Exception as error:
            raise _fault(error) from None

    def answer(self, error: OAuthError | CannotDecide) -> Answer:
        """The response to a request that was refused with ``error``, which is logged here, once."""
        if isinstance(error, OAuthError):
            _log_refusal(error)
        else:
            logger.warning("cannot decide: %s", error)
        self._around.tell(Refused(error.status, getattr(error, "reason", "unavailable")))
        return render(error, self.realm)

    def warm_up(self, *, fail_fast: bool = False) -> Flow[None]:
        """Have the keys of every issuer at hand; run by `ticketgate.warm_up`.

        Raises `IssuerUnavailable` with ``fail_fast``; otherwise the log says which issuer cannot be reached.
        """
        for issuer in self.issuers.values():
            try:
                _ = yield from issuer.keys.ready(self._around.clock.read(), self._around)
            except IssuerUnavailable as error:
                if fail_fast:
                    raise
                logger.warning("not ready yet: %s", error)

    def remaining_lifetime(self, token: AccessToken) -> float:
        """For how many seconds ``token`` is still accepted; infinity where nothing says when it ends."""
        if token.expires_at is None:
            return math.inf
        return max(0.0, token.expires_at + self.leeway - self._around.clock.wall())

    def health(self, *, named_only: bool = False) -> tuple[IssuerHealth, ...]:
        """How each issuer is at this moment; nothing is fetched for it.

        With ``named_only`` those are left out that templates or ``issuer_for`` found.
        """
        now = self._around.clock.read()
        found = () if self.tenants is None or named_only else self.tenants.issuers
        return tuple(issuer.keys.health(now) for issuer in (*self.issuers.values(), *found))

    def _read(self, credentials: Credentials) -> UnverifiedJWT | None:
        """The token as a JWT, None for one that an issuer must be asked about.

        One with characters that no token has is the fault of the request instead.
        """
        try:
            opened = credentials.token if self._decryption_keys is None else self._opened(credentials.token)
            return read(opened)
        except InvalidToken:
            check_characters(credentials)
            if self._inspectors and not looks_like_a_jwt(credentials.token):
                return None
            raise

    def _opened(self, raw: bytes) -> bytes:
        """The signed token inside of one that was encrypted for us (RFC 9068 §2.1); any other as it is."""
        if self._decryption_keys is None or raw.count(b".") != 4:
            return raw
        try:
            return self._decryption_keys.decrypt(raw)
        except ValueError as error:
            raise InvalidToken("malformed", expected="a token that was encrypted for us") from error

    def _remembered(self, name: bytes, now: Now) -> AccessToken | None:
        """What an issuer said of an opaque token a moment ago."""
        for inspector in self._inspectors:
            if (token := inspector.remembered(name, now)) is not None:
                return token
        return None

    def _ask(self, raw: bytes, name: bytes, now: Now) -> Flow[AccessToken]:
        """The answer of the first issuer that says the token is active (RFC 7662 §2.2).

        Where none does and one does not answer, nothing can be decided.
        """
        refusal: InvalidToken | None = None
        silence: IssuerUnavailable | None = None
        inspectors = self._inspectors
        if self._opaque_issuer is not None:
            inspectors = yield from self._opaque_issuer.inspectors(raw, name, now)
        for inspector in inspectors:
            try:
                return (yield from inspector.ask(raw, name, now, self._around))
            except InvalidToken as error:
                refusal = error if refusal is None or refusal.reason == "inactive" else refusal
            except IssuerUnavailable as error:
                silence = error
        raise silence or refusal or InvalidToken("malformed", expected="a JWT")

    def _confirmed(
        self, inspector: "Inspector", token: AccessToken, raw: bytes, now: Now, within: float = math.inf
    ) -> Flow[None]:
        """Have the issuer say that ``token`` is active, by the answer to a question of the last ``within`` seconds.

        What it says of a JWT is remembered under a name of its own: a JWT is always judged by its signature too.
        """
        name = sha256(raw).digest() if token.kind == "opaque" else self._signed_name(raw)
        if inspector.remembered(name, now, within) is None:
            _ = yield from inspector.ask(raw, name, now, self._around, verified=True, within=within)

    def _signed_name(self, raw: bytes) -> bytes:
        """The name of what the issuer signed in a JWT, which is the same however often that is encrypted anew."""
        if self._decryption_keys is None or raw.count(b".") != 4:
            return _named_by_what_is_signed(raw)
        outer = sha256(raw).digest()
        name = self._signed_names.get(outer)
        if name is None:
            name = _named_by_what_is_signed(self._opened(raw))
            self._signed_names.put(outer, name)
        return name

    def _issuer_named(self, iss: Any) -> Issuer | None:
        """RFC 9068 §4: the issuer whose identifier is exactly ``iss``; nobody else is ever asked."""
        return self.issuers.get(iss) if isinstance(iss, str) else None

    def _tenant_named(self, iss: Any, now: Now) -> Flow[Issuer]:
        """The same where issuers are found.  Raises `InvalidToken` for a stranger."""
        issuer: Issuer | None = None
        if self.tenants is not None and isinstance(iss, str):
            issuer = yield from self.tenants.named(iss, now.monotonic)
        if issuer is None:
            raise InvalidToken("issuer", expected=list(self.issuers), actual=iss)
        return issuer

    def _tenant_verified(self, issuer: Issuer, now: Now) -> Flow[None]:
        """From its first verified token on, no unverified one takes anything from a tenant."""
        if self.tenants is None or issuer.identifier in self.issuers:
            return
        if self.tenants.verified(issuer, now.monotonic):
            yield from issuer.keys.end_probation()


def _named_by_what_is_signed(jwt: bytes) -> bytes:
    """Without the signature (RFC 7515 §5.1): anybody can turn an ECDSA signature into another good one."""
    return sha256(jwt.rpartition(b".")[0]).digest() + b" confirmed"


def _log_refusal(error: OAuthError) -> None:
    """What was expected and what came, escaped and cut: both may be a stranger's words."""
    details = {"reason": error.reason, "expected": _shown(error.expected), "actual": _shown(error.actual)}
    told = "".join(f", {name} {details[name]}" for name in ("expected", "actual") if details[name])
    logger.info("refused with %s: %s%s", error.status, error.reason, told, extra=details)


def _shown(value: object) -> str:
    return "" if value is None else ascii(value)[:MAX_LOGGED]


def _fault(error: Exception) -> InternalFault:
    """Log where it happened; what the exception says may quote a token, so that is left out."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s while a request was authenticated\n%s", type(error).__qualname__, where)
    return InternalFault("an unexpected fault")


def _audiences(audience: str | Sequence[str]) -> tuple[str, ...]:
    names = (audience,) if isinstance(audience, str) else tuple(audience)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            'the audience names your API: write ResourceServer("https://api.example", ...)'
        )
    return names


def _issuers(issuers: Sequence[Issuer], *, nobody: bool) -> dict[str, Issuer]:
    if not issuers and not nobody:
        raise ConfigurationError('name an issuer: ResourceServer(audience, Issuer("https://as.example"))')
    by_name = {issuer.identifier: issuer for issuer in issuers}
    if len(by_name) < len(issuers):
        raise ConfigurationError("an issuer is configured twice: pass one Issuer for each identifier")
    return by_name


def _tenants(
    issuers: Sequence[Any],
    templates: Sequence[Any],
    issuer_for: Callable[[str], Any] | None,
    limit: int,
    *,
    loopback: bool,
) -> "Tenants | None":
    """Who finds issuers that are not named one by one; loaded for those who have such."""
    if not templates and issuer_for is None:
        return None
    from ticketgate.core.tenants import Tenants

    if issuers and issuer_for is not None:
        raise ConfigurationError("issuer_for answers for all issuers: name none beside it")
    if loopback:
        logger.warning("accept_loopback_issuers: issuer_for is given plain http URLs on loopback too")
    return Tenants(templates, issuer_for, limit, loopback=loopback)


def _opaque_issuer(
    function: Callable[[str], Any] | None, inspectors: "tuple[Inspector, ...]"
) -> "OpaqueIssuer | None":
    """Who says which issuer is asked; loaded for those who have several."""
    if function is None:
        return None
    from ticketgate.core.opaque_issuer import OpaqueIssuer

    return OpaqueIssuer(function, inspectors)


def _inspectors(
    issuers: Sequence[Issuer], audiences: tuple[str, ...], leeway: float
) -> "tuple[Inspector, ...]":
    """Who asks about opaque tokens; loaded for those who have any."""
    asked = [(issuer, issuer.introspection) for issuer in issuers if issuer.introspection is not None]
    if not asked:
        return ()
    from ticketgate.core.introspection import Inspector

    return tuple(Inspector(issuer, introspection, audiences, leeway) for issuer, introspection in asked)


def _cache_size(tokens: int) -> int:
    if type(tokens) is not int or tokens < 0:
        raise ConfigurationError(f"token_cache={tokens!r} must be a number of tokens, 0 for none")
    return tokens


def _leeway(seconds: float) -> float:
    if not 0 <= seconds <= MAX_LEEWAY:
        raise ConfigurationError(f"leeway={seconds!r} must be between 0 and {MAX_LEEWAY} seconds")
    return seconds


def _token_bytes(limit: int) -> int:
    if type(limit) is not int or limit not in TOKEN_BYTES:
        raise ConfigurationError(
            f"max_token_bytes={limit!r} must be between {TOKEN_BYTES[0]} and {TOKEN_BYTES[-1]} bytes"
        )
    return limit
