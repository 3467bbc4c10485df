"""The Authorization header: from bytes to credentials.

RFC 9110 §11.4 and §11.6.2, RFC 6750 §2.1.
"""

import re
import string
from itertools import pairwise
from typing import NamedTuple

from ticketgate.errors import InvalidRequest, NoCredentials

MAX_TOKEN_BYTES = 16_384
B64TOKEN_CHARACTERS = (string.ascii_letters + string.digits + "-._~+/").encode()
SCHEME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Credentials(NamedTuple):
    """One set of credentials: the scheme in lower case, and the access token."""

    scheme: bytes
    token: bytes

    def __repr__(self) -> str:
        return f"Credentials(scheme={self.scheme!r})"


def parse_credentials(
    authorization: tuple[bytes, ...], max_token_bytes: int = MAX_TOKEN_BYTES
) -> Credentials:
    """The credentials of a request, from all its Authorization header fields.

    Raises `NoCredentials` for none or for another scheme (RFC 6750 §3.1), and `InvalidRequest` for
    several fields, a missing or overlong token (RFC 9110 §11.6.2: the field is a singleton).
    The token's characters are not looked at yet, see `check_characters`.
    """
    if len(authorization) > 1:
        raise InvalidRequest("repeated", expected=1, actual=len(authorization))
    for value in authorization:
        return _parse_value(value, max_token_bytes)
    raise NoCredentials()


def _parse_value(value: bytes, max_token_bytes: int) -> Credentials:
    scheme, _, rest = value.strip(b" \t").partition(b" ")
    scheme, token = scheme.lower(), rest.lstrip(b" ")
    if scheme != b"bearer":
        raise _another_scheme(scheme, value)
    if not token:
        raise InvalidRequest("token", expected="one access token", actual="none")
    if len(token) > max_token_bytes:
        raise InvalidRequest("length", expected=max_token_bytes, actual=len(token))
    return Credentials(scheme, token)


def _another_scheme(scheme: bytes, value: bytes) -> NoCredentials | InvalidRequest:
    """Other schemes count as no credentials, unless a server joined two fields with a comma."""
    if scheme and not SCHEME.fullmatch(scheme):
        return InvalidRequest("characters", expected="a scheme")
    if _is_joined_with_bearer(value):
        return InvalidRequest("repeated", expected=1, actual="joined with a comma")
    return NoCredentials("scheme", expected="Bearer")


def _is_joined_with_bearer(value: bytes) -> bool:
    """Whether a comma, blanks and the scheme Bearer come somewhere in ``value``, as one word."""
    pieces = (value.lower() + b" ").split(b"bearer")
    return any(
        before.rstrip(b" \t").endswith(b",") and after.startswith(b" ") for before, after in pairwise(pieces)
    )


def check_characters(credentials: Credentials) -> None:
    """The token is a b64token (RFC 6750 §2.1); raises `InvalidRequest` otherwise.

    Spaces, commas and quotes are not in the alphabet, so surplus text and joined headers end here.
    """
    if not is_b64token(credentials.token):
        raise InvalidRequest("characters", expected="a b64token")


def is_b64token(token: bytes) -> bool:
    """Whether ``token`` is made of the alphabet of RFC 6750 §2.1, with padding at its end only."""
    surplus = token.translate(None, B64TOKEN_CHARACTERS)
    return len(surplus) < len(token) and not surplus.strip(b"=") and token.endswith(surplus)
