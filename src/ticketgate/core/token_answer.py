"""What a token endpoint answers: a token and its lifetime, or a refusal.

RFC 6749 §5.1 and §5.2, RFC 6750 §2.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ticketgate.core.credentials import is_b64token
from ticketgate.core.flow import FetchFailed, Reply
from ticketgate.core.freshness import retry_after
from ticketgate.core.strict_json import FrozenDict, parse_object
from ticketgate.errors import TokenRefused

LONGEST_LIFETIME = 86_400
REFUSALS = frozenset({400, 401, 403})
NOT_NOW = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
"""Codes that other endpoints define, and that some servers use here: the server is at fault, not the request."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, and for how many seconds from the request it is good."""

    token: str = field(repr=False)
    lifetime: float


def read_token_answer(reply: Reply, wall: float, secrets: Sequence[str] = ()) -> IssuedToken:
    """The token in ``reply``, which came at ``wall`` (RFC 6749 §5.1).

    Raises `TokenRefused`, `FetchFailed` or ValueError.  A server may quote what it was sent, so ``secrets`` are struck
    from its words.
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
    error = _text(members, "error", secrets) or "unknown"
    if error in NOT_NOW:
        return FetchFailed(f"answered {reply.status} {error}", reply)
    seconds = math.ceil(retry_after(reply.headers, wall))
    return TokenRefused(error, _text(members, "error_description", secrets), retry_after=seconds)


def _text(members: FrozenDict, name: str, secrets: Sequence[str]) -> str:
    text = members.get(name)
    if not isinstance(text, str):
        return ""
    for secret in secrets:
        text = text.replace(secret, "...")
    return text


def _seconds(expires_in: Any) -> float:
    """``expires_in``, also where it is a string (ADFS, Entra v1), at most a day; 0 where it does not say."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = int(expires_in[-5:]) if not expires_in[:-5].strip("0") else LONGEST_LIFETIME
    if not isinstance(expires_in, int | float) or isinstance(expires_in, bool):
        return 0.0
    return float(min(max(expires_in, 0), LONGEST_LIFETIME))
