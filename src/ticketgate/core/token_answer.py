"""What a token endpoint answers: a token and its lifetime, or a refusal.

RFC 6749 §5.1 and §5.2, RFC 6750 §2.1.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ticketgate.core.credentials import is_b64token
from ticketgate.core.echoes import repeats
from ticketgate.core.flow import FetchFailed, Reply
from ticketgate.core.freshness import retry_after
from ticketgate.core.strict_json import parse_object
from ticketgate.errors import MAX_DESCRIPTION, TokenRefused

LONGEST_LIFETIME = 86_400
REFUSALS = frozenset({400, 401, 403})
NOT_NOW = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
"""Codes that other endpoints define, and that some servers use here: the server is at fault, not the request."""
CODES = frozenset(
    {
        "access_denied", "consent_required", "expired_token", "interaction_required", "invalid_client",
        "invalid_dpop_proof", "invalid_grant", "invalid_request", "invalid_scope", "invalid_target", "login_required",
        "unauthorized_client", "unsupported_grant_type", "use_dpop_nonce",
    }
)  # fmt: skip
"""Codes that are shown whatever was sent: a server that uses one quotes nothing."""
CODE = re.compile(r"[A-Za-z0-9_-]{1,64}")
LEFT_OUT = "(its words are left out: they may repeat a secret that was sent)"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, and for how many seconds from the request it is good."""

    token: str = field(repr=False)
    lifetime: float


def read_token_answer(reply: Reply, wall: float, secrets: Sequence[str] = ()) -> IssuedToken:
    """The token in ``reply``, which came at ``wall`` (RFC 6749 §5.1).

    Raises `TokenRefused`, `FetchFailed` or ValueError.  A server may quote what it was sent, so words of it that
    share a part with one of ``secrets`` are left out.
    """
    if reply.status in REFUSALS:
        raise _refusal(reply, wall, secrets)
    if reply.status != 200:
        raise FetchFailed(f"answered {reply.status}", reply)
    answer = parse_object(reply.body)
    token, kind = answer.get("access_token"), answer.get("token_type")
    if not isinstance(token, str) or not is_b64token(token.encode("utf-8")):
        raise ValueError("its access_token is not a token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("its token_type is not Bearer")
    return IssuedToken(token, _seconds(answer.get("expires_in")))


def _refusal(reply: Reply, wall: float, secrets: Sequence[str]) -> TokenRefused | FetchFailed:
    members = parse_object(reply.body)
    error = _code(members.get("error"), secrets)
    if error in NOT_NOW:
        return FetchFailed(f"answered {reply.status} {error}", reply)
    seconds = math.ceil(retry_after(reply.headers, wall))
    return TokenRefused(error, _words(members.get("error_description"), secrets), retry_after=seconds)


def _code(error: Any, secrets: Sequence[str]) -> str:
    """``error`` where it looks like a code; "unknown" where it does not, or may repeat one of ``secrets``."""
    if not isinstance(error, str) or not CODE.fullmatch(error):
        return "unknown"
    return error if error in CODES | NOT_NOW or not repeats(error, secrets) else "unknown"


def _words(description: Any, secrets: Sequence[str]) -> str:
    """As much of ``description`` as is shown, where that repeats nothing of ``secrets``."""
    if not isinstance(description, str):
        return ""
    words = description[:MAX_DESCRIPTION]
    return LEFT_OUT if repeats(words, secrets) else words


def _seconds(expires_in: Any) -> float:
    """``expires_in``, also where it is a string (ADFS, Entra v1), at most a day; 0 where it does not say."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = int(expires_in[-5:]) if not expires_in[:-5].strip("0") else LONGEST_LIFETIME
    if not isinstance(expires_in, int | float) or isinstance(expires_in, bool):
        return 0.0
    return float(min(max(expires_in, 0), LONGEST_LIFETIME))
