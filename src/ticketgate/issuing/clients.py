"""The clients of an issuer, and how one proves to be one of them.

RFC 6749 §2.3 and §5.2, RFC 7521 §4.2, RFC 7523 §2.2 and §3.
"""

import binascii
import hashlib
import hmac
import logging
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import unquote_plus

from ticketgate.core.client_auth import ASSERTION_TYPE
from ticketgate.core.jwt import verify_signature
from ticketgate.core.keys import KeySet
from ticketgate.errors import ConfigurationError, InvalidToken
from ticketgate.issuing.assertions import (
    check_assertion,
    is_for_one_audience,
    public_key_set,
    read_assertion,
    type_is_for,
    use_once,
)
from ticketgate.issuing.messages import EndpointRequest, Refusal
from ticketgate.issuing.stores import MemoryStore, Store

NO_KEYS = KeySet(())
MIN_SECRET = 32
ADDED = "added client"
CHALLENGE = ("WWW-Authenticate", 'Basic realm="authorization server"')

logger = logging.getLogger("ticketgate.issuing")


@dataclass(frozen=True, slots=True)
class Client:
    """A client: confidential with a ``secret`` or with public keys (``jwks``), public with neither.

    ``scopes`` is what it may ask for; ``resources`` are the APIs whose tokens it may introspect, where
    ``may_introspect`` lets it (none means all).  ``opaque`` has it get tokens that say nothing by themselves.
    ``accept_requested_claims`` lets the client itself choose every scope of a resource, ``resource``, ``roles``,
    ``groups``, ``entitlements``, ``lifetime`` and ``token_format`` of its tokens: for demonstrations and tests only.

    A secret has at least 32 characters, made by a random generator: then its SHA-256, which is all that is kept, tells
    nothing.  Raises `ConfigurationError` for a shorter one, and for ``jwks`` with a private key in it.
    """

    client_id: str
    secret: str = field(default="", repr=False)
    scopes: frozenset[str] = frozenset()
    jwks: Mapping[str, Any] | None = field(default=None, repr=False, kw_only=True)
    may_introspect: bool = field(default=False, kw_only=True)
    resources: frozenset[str] = field(default=frozenset(), kw_only=True)
    opaque: bool = field(default=False, kw_only=True)
    accept_requested_claims: bool = field(default=False, kw_only=True)
    digest: str = field(default="", repr=False, kw_only=True)
    keys: KeySet = field(default=NO_KEYS, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.client_id, str) or not self.client_id:
            raise ConfigurationError("a client needs a client_id")
        if self.jwks is not None:
            object.__setattr__(self, "keys", public_key_set(self.jwks, f"client {self.client_id!r}"))
        if self.secret:
            if len(self.secret) < MIN_SECRET:
                raise ConfigurationError(
                    f"the secret of client {self.client_id!r} has fewer than {MIN_SECRET} characters:"
                    " make one with secrets.token_urlsafe(32)"
                )
            object.__setattr__(self, "digest", _digest(self.secret))
            object.__setattr__(self, "secret", "")
        object.__setattr__(self, "scopes", frozenset(self.scopes))
        object.__setattr__(self, "resources", frozenset(self.resources))

    @property
    def is_confidential(self) -> bool:
        """Whether it can prove to be itself."""
        return bool(self.digest or self.jwks)


@dataclass(frozen=True, slots=True)
class Login:
    """Who somebody claims to be, by which secret, and whether the Authorization header said so."""

    client_id: str
    secret: str = field(repr=False)
    by_header: bool


class Clients:
    """All clients of an issuer; `authenticate` is the only way to get one out by what it presents.

    ``clients`` are those of the configuration: this process knows them for as long as it runs, and the store does not.
    So a client that was taken out of the configuration is gone with the next start.  Those that are added with `add`
    are kept in the store.  ``audiences`` are the names that an assertion may be addressed to.
    """

    __slots__ = ("_audiences", "_configured", "_read", "_store")

    def __init__(
        self, clients: Iterable[Client], store: Store | None = None, *, audiences: Sequence[str] = ()
    ) -> None:
        self._store = MemoryStore() if store is None else store
        self._audiences = tuple(audiences)
        self._read: dict[str, tuple[dict[str, Any], Client]] = {}
        known = tuple(clients)
        self._configured = {client.client_id: client for client in known}
        if len(self._configured) != len(known):
            raise ConfigurationError("two clients have one client_id")
        for client_id in self._configured:
            self._store.delete(ADDED, client_id)  # the configuration replaces what was added before

    def add(self, client: Client) -> None:
        """Know ``client`` from now on, in place of another with its name, and after a restart on the same store.

        One of the configuration is replaced until the next start.
        """
        members = {one.name: getattr(client, one.name) for one in fields(client) if one.init}
        members |= {name: sorted(members[name]) for name in ("scopes", "resources")}
        self._store.put(ADDED, client.client_id, members)

    def named(self, client_id: str, now: float) -> Client | None:
        """The client of that name, which nobody has proven to be yet."""
        found = self._store.get(ADDED, client_id, now)
        if found is None:
            return self._configured.get(client_id)
        known = self._read.get(client_id)
        if known is None or known[0] != found:  # reading up to 100 keys takes its time
            known = self._read[client_id] = found, Client(**found)
        return known[1]

    def authenticate(self, request: EndpointRequest, parameters: Mapping[str, str], now: float) -> Client:
        """The client that made this request.  Raises `Refusal`: one method, and the right proof."""
        client = self.authenticated(request, parameters, now)
        if client is None:
            raise invalid_client(by_header=False)
        return client

    def authenticated(
        self, request: EndpointRequest, parameters: Mapping[str, str], now: float
    ) -> Client | None:
        """The same where a client may also be public or say nothing of itself; None then if nothing was said."""
        asserted = "client_assertion" in parameters or "client_assertion_type" in parameters
        if asserted:
            if request.authorization or "client_secret" in parameters:
                raise invalid_client(by_header=bool(request.authorization))
            return self._by_assertion(parameters, now)
        if request.authorization:
            return self._by_secret(_from_header(request, parameters), now)
        if "client_secret" in parameters:
            login = Login(parameters.get("client_id", ""), parameters["client_secret"], by_header=False)
            return self._by_secret(login, now)
        if "client_id" in parameters:
            client = self.named(parameters["client_id"], now)
            if client is None or client.is_confidential:
                raise invalid_client(by_header=False)
            return client
        return None

    def _by_secret(self, login: Login, now: float) -> Client:
        client = self.named(login.client_id, now)
        digest = client.digest if client else ""
        if not hmac.compare_digest(_digest(login.secret), digest) or client is None or not digest:
            raise invalid_client(by_header=login.by_header)
        return client

    def _by_assertion(self, parameters: Mapping[str, str], now: float) -> Client:
        """RFC 7523 §3: iss and sub are the client, the audience is us, and it comes once."""
        if parameters.get("client_assertion_type") != ASSERTION_TYPE:
            raise invalid_client(by_header=False)
        raw = parameters.get("client_assertion", "")
        try:
            jwt = read_assertion(raw)
            type_is_for(jwt, client=True)
            client = self.named(jwt.claims["iss"], now)
            if client is None or client.jwks is None:
                raise InvalidToken("issuer", expected="a client with keys", actual=jwt.claims["iss"])
            is_for_one_audience(jwt.claims)
            check_assertion(jwt.claims, self._audiences, now)
            if (
                jwt.claims["sub"] != client.client_id
                or parameters.get("client_id", client.client_id) != client.client_id
            ):
                raise InvalidToken("claim", expected="sub and client_id like iss", actual=jwt.claims["sub"])
            if not jwt.claims.get("jti"):
                raise InvalidToken("claim", expected="jti", actual=None)
            verify_signature(jwt, client.keys.candidates(jwt.header))
            use_once(raw, jwt.claims, self._store, now)
        except InvalidToken as error:
            logger.info(
                "client assertion refused: %s, expected %s", error.reason, ascii(error.expected)[:200]
            )
            raise invalid_client(by_header=False) from error
        return client


def _from_header(request: EndpointRequest, parameters: Mapping[str, str]) -> Login:
    """client_secret_basic, and nothing that contradicts it in the form (RFC 6749 §2.3)."""
    first, *more = request.authorization
    if more or "client_secret" in parameters:
        raise Refusal("invalid_request", "The client must authenticate by one method")
    login = _basic(first)
    if parameters.get("client_id", login.client_id) != login.client_id:
        raise Refusal("invalid_request", "client_id is not the client that authenticated")
    return login


def _basic(authorization: bytes) -> Login:
    """Both parts were form-urlencoded before they were joined by a colon (RFC 6749 §2.3.1)."""
    scheme, _, credentials = authorization.strip().partition(b" ")
    try:
        pair = b64decode(credentials.strip(), validate=True).decode("utf-8")
        client_id, colon, secret = pair.partition(":")
        login = Login(_unquote(client_id), _unquote(secret), by_header=True)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise invalid_client(by_header=True) from error
    if scheme.lower() != b"basic" or not colon:
        raise invalid_client(by_header=True)
    return login


def _unquote(text: str) -> str:
    return unquote_plus(text, errors="strict")


def _digest(secret: str) -> str:
    """Takes as long for an unknown client or a secret of another length as for a wrong one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def invalid_client(*, by_header: bool) -> Refusal:
    """401 with a challenge where the Authorization header was used, 400 otherwise (RFC 6749 §5.2)."""
    words = "The client is unknown, or did not authenticate"
    if by_header:
        return Refusal("invalid_client", words, status=401, headers=(CHALLENGE,))
    return Refusal("invalid_client", words)
