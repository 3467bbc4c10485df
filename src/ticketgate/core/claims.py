"""The claims of an access token: one function for each rule, and the order they are asked in.

RFC 9068 §2.2 and §4, RFC 7519 §4.1, RFC 8725 §3.9-3.12.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from ticketgate.core.strict_json import FrozenDict, is_array, is_object
from ticketgate.errors import InvalidToken

END_OF_YEAR_9999 = 253_402_300_799


class Rules(NamedTuple):
    """What the claims are held against: wall clock and leeway in seconds, and the names we go by."""

    now: float
    leeway: float
    audiences: frozenset[str]


Check: TypeAlias = Callable[[FrozenDict, Rules], None]


def check_claims(claims: FrozenDict, rules: Rules, *, typed: bool = True) -> None:
    """Every rule for the claims of an access token.  Raises `InvalidToken` for the first that is broken.

    ``typed`` is False where the issuer's access tokens are not told apart by their ``typ``.
    """
    for check in CHECKS if typed else UNTYPED_CHECKS:
        check(claims, rules)


def check_introspected(
    claims: FrozenDict, rules: Rules, issuer: str, *, accept_missing_audience: bool = False
) -> None:
    """Every rule for what an active answer says of a token (RFC 7662 §2.2): members may be left out there.

    Raises `InvalidToken` for the first rule that is broken.
    """
    if claims["iss"] != issuer:
        raise InvalidToken("issuer", expected=issuer, actual=claims["iss"])
    if "aud" in claims or not accept_missing_audience:
        audience_includes_us(claims, rules)
    if "exp" in claims:
        expires_in_the_future(claims, rules)
    is_valid_already(claims, rules)
    if "iat" in claims:
        was_issued_in_the_past(claims, rules)
    somebody_is_named(claims)
    is_an_access_token(claims)
    confirmation_is_an_object(claims, rules)


def somebody_is_named(claims: FrozenDict) -> None:
    """RFC 7662 §2.2: ``sub`` and ``client_id`` are optional; a token of nobody at all opens nothing."""
    named = [name for name in ("sub", "client_id") if claims.get(name) is not None]
    if not named:
        raise _claim("sub", "sub or client_id", None)
    for name in named:
        _text(claims, name)


def is_an_access_token(claims: FrozenDict) -> None:
    """RFC 7662 §2.2: an answer about a refresh token or an ID token opens nothing; ``Bearer`` in any case."""
    token_type = claims.get("token_type", "Bearer")
    if not isinstance(token_type, str) or token_type.lower() not in {"bearer", "access_token"}:
        raise InvalidToken("type", expected="Bearer", actual=token_type)
    is_no_other_kind_of_token(claims)


def audience_includes_us(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9068 §4: ``aud`` is a string or an array of strings, and one of them names us exactly."""
    aud = claims.get("aud")
    if aud in rules.audiences if isinstance(aud, str) else _any_member_in(aud, rules.audiences):
        return
    raise InvalidToken("audience", expected=sorted(rules.audiences), actual=aud)


def _any_member_in(aud: Any, audiences: frozenset[str]) -> bool:
    if not is_array(aud) or not all(isinstance(name, str) for name in aud):
        return False
    return not audiences.isdisjoint(aud)


def expires_in_the_future(claims: FrozenDict, rules: Rules) -> None:
    """RFC 7519 §4.1.4: the current time must be before ``exp``; never beyond the year 9999."""
    exp = _seconds(claims, "exp")
    if rules.now >= exp + rules.leeway:
        raise InvalidToken("expired", expected=f"after {rules.now}", actual=exp)


def is_valid_already(claims: FrozenDict, rules: Rules) -> None:
    """RFC 7519 §4.1.5: the current time must be at or after ``nbf``, where there is one."""
    if "nbf" in claims and rules.now < (nbf := _seconds(claims, "nbf")) - rules.leeway:
        raise InvalidToken("not_yet_valid", expected=f"at most {rules.now}", actual=nbf)


def was_issued_in_the_past(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9068 §2.2: ``iat`` is required; a time to come means a broken or lying clock."""
    if rules.now < (iat := _seconds(claims, "iat")) - rules.leeway:
        raise InvalidToken("not_yet_valid", expected=f"at most {rules.now}", actual=iat)


def _seconds(claims: FrozenDict, name: str) -> float:
    """A NumericDate (RFC 7519 §2): a number of seconds, which True and False are not."""
    value = claims.get(name)
    if (type(value) is not int and type(value) is not float) or abs(value) > END_OF_YEAR_9999:
        raise _claim(name, "a number of seconds before the year 10000", value)
    return float(value)


def subject_is_named(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9068 §2.2: ``sub`` is required."""
    _text(claims, "sub")


def client_is_named(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9068 §2.2: ``client_id`` is required."""
    _text(claims, "client_id")


def token_is_named(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9068 §2.2: ``jti`` is required."""
    _text(claims, "jti")


def _text(claims: FrozenDict, name: str) -> None:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise _claim(name, "a string that is not empty", value)


def confirmation_is_an_object(claims: FrozenDict, rules: Rules) -> None:
    """RFC 7800 §3.1: a ``cnf`` that cannot be read cannot be proven."""
    if "cnf" in claims and not is_object(claims["cnf"]):
        raise InvalidToken("binding", expected="a cnf object", actual=claims["cnf"])


OTHER_KINDS: dict[str, tuple[str, ...]] = {
    "ID token": ("nonce", "at_hash", "c_hash"),
    "security event or logout token": ("events",),
}


def is_no_other_kind_of_token(claims: FrozenDict, rules: Rules | None = None) -> None:
    """RFC 8725 §3.12: where ``typ`` does not say what a token is for, its claims must not say otherwise."""
    for kind, marks in OTHER_KINDS.items():
        if not claims.keys().isdisjoint(marks):
            raise InvalidToken("type", expected="an access token", actual=kind)
    if claims.get("token_use", "access") != "access":
        raise InvalidToken("type", expected="token_use access", actual=claims["token_use"])
    if str(claims.get("typ", "")).lower() in {"refresh", "offline", "id", "logout"}:
        raise InvalidToken("type", expected="an access token", actual=claims["typ"])
    if str(claims.get("token_type", "")).lower() in {"refresh", "refresh_token", "id_token"}:
        raise InvalidToken("type", expected="an access token", actual=claims["token_type"])


def _claim(name: str, expected: str, actual: Any) -> InvalidToken:
    return InvalidToken("claim", expected=f"{name}: {expected}", actual=actual)


CHECKS: tuple[Check, ...] = (
    audience_includes_us,
    expires_in_the_future,
    is_valid_already,
    was_issued_in_the_past,
    subject_is_named,
    client_is_named,
    token_is_named,
    confirmation_is_an_object,
)
UNTYPED_CHECKS: tuple[Check, ...] = (is_no_other_kind_of_token, *CHECKS)
