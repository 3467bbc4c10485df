"""The clients we know, and how one proves to be one of them.

RFC 6749 §2.3.1 (client_secret_basic and client_secret_post) and §5.2 (invalid_client).
"""

import binascii
import hashlib
import hmac
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote_plus

from ticketgate.errors import ConfigurationError
from ticketgate.issuing.messages import EndpointRequest, Refusal

CHALLENGE = ("WWW-Authenticate", 'Basic realm="authorization server"')


@dataclass(frozen=True, slots=True)
class Client:
    """A confidential client, and the scope values it may ask for.

    ``accept_requested_claims`` lets the client itself choose any scope, ``resource``, ``roles``, ``groups``,
    ``entitlements`` and ``lifetime`` of its tokens: for demonstrations and tests only.
    """

    client_id: str
    secret: str = field(repr=False)
    scopes: frozenset[str] = frozenset()
    accept_requested_claims: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.client_id or not self.secret:
            raise ConfigurationError("a client needs a client_id and a secret")


class Login(NamedTuple):
    """Who somebody claims to be, by which secret, and whether the Authorization header said so."""

    client_id: str
    secret: str
    by_header: bool


class Clients:
    """All clients of a server; `authenticate` is the only way to get one out."""

    __slots__ = ("_clients",)

    def __init__(self, clients: Iterable[Client]) -> None:
        known = tuple(clients)
        self._clients = {client.client_id: client for client in known}
        if len(self._clients) != len(known):
            raise ConfigurationError("two clients have one client_id")

    def authenticate(self, request: EndpointRequest, parameters: Mapping[str, str]) -> Client:
        """The client that made this request.  Raises `Refusal`: one method, and the right secret."""
        login = _from_header(request, parameters) if request.authorization else _from_form(parameters)
        client = self._clients.get(login.client_id)
        if not _same(login.secret, client.secret if client else "") or client is None:
            raise _invalid_client(by_header=login.by_header)
        return client


def _from_form(parameters: Mapping[str, str]) -> Login:
    """client_secret_post: the credentials stand in the form."""
    if "client_id" not in parameters or "client_secret" not in parameters:
        raise _invalid_client(by_header=False)
    return Login(parameters["client_id"], parameters["client_secret"], by_header=False)


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
        raise _invalid_client(by_header=True) from error
    if scheme.lower() != b"basic" or not colon:
        raise _invalid_client(by_header=True)
    return login


def _unquote(text: str) -> str:
    return unquote_plus(text, errors="strict")


def _same(given: str, expected: str) -> bool:
    """Takes as long for an unknown client or a secret of another length as for a wrong one."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _invalid_client(*, by_header: bool) -> Refusal:
    """401 with a challenge where the Authorization header was used, 400 otherwise (RFC 6749 §5.2)."""
    words = "The client is unknown, or did not authenticate"
    if by_header:
        return Refusal("invalid_client", words, status=401, headers=(CHALLENGE,))
    return Refusal("invalid_client", words)
