"""Authorization codes: what a user agreed to, kept until the client comes for it, once.

RFC 6749 §4.1.2 and §4.1.3, RFC 7636 §4.6 (proof of possession of the verifier), RFC 9700 §2.1.1.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ticketgate.core.signing_key import base64url
from ticketgate.issuing.messages import Refusal
from ticketgate.issuing.stores import Store, name_of

LIFETIME = 60.0
VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}")


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the user ``subject`` lets the client do, and what the client must present with the code."""

    client_id: str
    redirect_uri: str
    code_challenge: str
    subject: str
    resource: str
    scope: str
    auth_time: int
    claims: Mapping[str, Any]


class AuthorizationCodes:
    """Codes and what they stand for; ``store`` knows them by their hash alone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def issue(self, authorization: Authorization, now: float) -> str:
        """A code that is good for a minute, and for one use."""
        code = secrets.token_urlsafe(32)
        self._store.put("code", name_of(code), asdict(authorization), now + LIFETIME)
        return code

    def redeem(
        self, code: str, *, client_id: str, redirect_uri: str | None, verifier: str | None, now: float
    ) -> Authorization:
        """What ``code`` stands for.  Raises `Refusal` where it is not known, not this client's, or used before.

        The first attempt of its client uses it up, whatever comes with it.
        """
        found = self._store.get("code", name_of(code), now)
        if found is None or found["client_id"] != client_id:
            raise _invalid_grant()
        if not self._store.add("used code", name_of(code), now + LIFETIME, now):
            self._revoke_token_of(code, now)
            raise _invalid_grant()
        authorization = Authorization(**found)
        fits = _fits(verifier or "", authorization.code_challenge)
        if redirect_uri != authorization.redirect_uri or not fits:
            raise _invalid_grant()
        return authorization

    def remember_token(self, code: str, token_id: str, until: float) -> None:
        """Know which token ``code`` was exchanged for: a second use of the code revokes it (RFC 6749 §4.1.2)."""
        self._store.put("token of code", name_of(code), {"jti": token_id, "until": until}, until)

    def _revoke_token_of(self, code: str, now: float) -> None:
        """Somebody else has the code, so the token may be in the wrong hands; introspection calls it inactive."""
        token = self._store.get("token of code", name_of(code), now)
        if token is not None:
            self._store.put("denied", token["jti"], {}, token["until"])


def is_challenge(text: str) -> bool:
    """Whether ``text`` can be the challenge of some verifier (RFC 7636 §4.2, S256)."""
    return CHALLENGE.fullmatch(text) is not None


def challenge_of(verifier: str) -> str:
    """The challenge that only ``verifier`` meets (RFC 7636 §4.2, S256)."""
    return base64url(hashlib.sha256(verifier.encode("ascii")).digest()).decode("ascii")


def _fits(verifier: str, challenge: str) -> bool:
    return VERIFIER.fullmatch(verifier) is not None and hmac.compare_digest(challenge_of(verifier), challenge)


def _invalid_grant() -> Refusal:
    return Refusal("invalid_grant", "The code is not accepted")
