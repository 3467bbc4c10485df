"""Answers to requests that the gate does not let through.

RFC 6750 §3, RFC 9110 §11.6.1 (WWW-Authenticate) and §10.2.3 (Retry-After).
"""

import json
import string
from dataclasses import dataclass
from typing import Any

from ticketgate.errors import CannotDecide, ConfigurationError, InsufficientScope, NoCredentials, OAuthError

QUOTABLE = frozenset(string.printable) - frozenset('"\\\t\n\r\v\f')


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP response: raw header pairs, since a dict cannot hold two challenges."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def with_body(self, value: Any) -> "Answer":
        """The same answer with another JSON value in its body.  Raises what `json.dumps` raises."""
        body = json.dumps(value).encode()
        length = (b"content-length", b"%d" % len(body))
        headers = (length if name == length[0] else (name, text) for name, text in self.headers)
        return Answer(self.status, tuple(headers), body)


def check_realm(realm: str) -> str:
    """``realm``, if it can stand in a quoted string as it is.  Raises `ConfigurationError`."""
    if not isinstance(realm, str) or not realm or not QUOTABLE.issuperset(realm):
        raise ConfigurationError('realm must be printable ASCII without quotes: write realm="orders"')
    return realm


def render(error: OAuthError | CannotDecide, realm: str) -> Answer:
    """The response for ``error``.  Nothing that a client sent and no exception text is in it.

    400, 401 and 403 carry one challenge (RFC 6750 §3); 503 carries Retry-After in seconds and none.
    """
    if isinstance(error, OAuthError):
        challenge = (b"www-authenticate", _challenge(error, realm).encode())
        return json_answer(error.status, _body(error), challenge)
    return json_answer(error.status, {}, (b"retry-after", b"%d" % error.retry_after))


def _challenge(error: OAuthError, realm: str) -> str:
    params = {"realm": realm}
    if error.error is not None:
        params |= _body(error)
    if isinstance(error, InsufficientScope):
        params["scope"] = " ".join(error.scopes)
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in params.items())


def _body(error: OAuthError) -> dict[str, str]:
    """RFC 6750 §3.1: no error code where no credentials were given."""
    if isinstance(error, NoCredentials) or error.error is None:
        return {}
    return {"error": error.error, "error_description": error.description}


def json_answer(status: int, members: Any, *more: tuple[bytes, bytes]) -> Answer:
    """A response with ``members`` as its JSON body, which no cache may keep."""
    body = json.dumps(members).encode()
    headers = (
        *more,
        (b"cache-control", b"no-store"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    )
    return Answer(status, headers, body)
