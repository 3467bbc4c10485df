"""What a token is asked for with: the parameters of a token request, and what tells them apart from others.

RFC 6749 §4.4.2 (client credentials), RFC 7523 §2.1 (JWT bearer grant), RFC 8693 §2.1 (token exchange), RFC 8707 §2.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ticketgate.core.client_auth import assertion_claims
from ticketgate.core.echoes import NOT_SECRET
from ticketgate.core.jwt import read
from ticketgate.core.signing_key import SigningKey, sign_jwt
from ticketgate.core.strict_json import as_number
from ticketgate.errors import ConfigurationError, InvalidToken

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
ASSERTION_LIFE = 60
OURS = NOT_SECRET | {"client_secret", "client_assertion", "assertion", "subject_token", "actor_token"}
"""The parameters that are written here, or by the client authentication, and by nobody else."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is asked for with; ``digest`` tells grants apart without showing them."""

    form: Mapping[str, str] = field(repr=False)
    digest: bytes = field(repr=False)
    ends_at: float | None = None
    assertion: "Assertion | None" = None


@dataclass(frozen=True, slots=True)
class Assertion:
    """A key that vouches for ``subject``: an assertion is made of it for each request (RFC 7523 §3)."""

    key: SigningKey = field(repr=False)
    issuer: str
    subject: str

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it apart: the key itself, since a key id may come back with another key (RFC 7638)."""
        return self.key.key.thumbprint(), self.issuer, self.subject

    def made(self, audience: str, now: float) -> str:
        """An assertion for the issuer ``audience``, good for a minute."""
        claims = assertion_claims(self.issuer, self.subject, audience, now, ASSERTION_LIFE)
        return sign_jwt(self.key, "JWT", claims)


def token_form(
    grant_type: str, resource: str, scope: str, audience: str, parameters: Mapping[str, str] | None
) -> dict[str, str]:
    """The parameters that grants have in common.  Raises `ConfigurationError` for ``parameters`` that are ours."""
    members = {"grant_type": grant_type, "resource": resource, "scope": scope, "audience": audience}
    form = {name: value for name, value in members.items() if value}
    for name, value in (parameters or {}).items():
        if not name or name in OURS:
            raise ConfigurationError(f"parameters: {name!r} is written by the token client itself")
        if not isinstance(value, str):
            raise ConfigurationError(f"parameters: {name!r} must be a string")
        form[name] = value
    return form


def grant_of(form: Mapping[str, str], *, made_of: str = "", assertion: Assertion | None = None) -> Grant:
    """The grant that ``form`` asks for; its token ends with ``made_of``, the token it is made of."""
    told = [sorted(form.items()), assertion.identity if assertion else ()]
    digest = hashlib.sha256(json.dumps(told).encode("ascii")).digest()
    return Grant(form, digest, _end_of(made_of), assertion)


def _end_of(token: str) -> float | None:
    """When a JWT ends, unverified: that can only shorten what is kept."""
    try:
        return as_number(read(token.encode("utf-8", "replace")).claims.get("exp"))
    except (InvalidToken, OverflowError):
        return None
