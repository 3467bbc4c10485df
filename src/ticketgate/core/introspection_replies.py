"""What an introspection endpoint answered, as far as it can be believed.

RFC 7662 §2.2, RFC 9701 §5 and §8 (signed answers).

Whatever is not an answer in so many words is the endpoint's fault or ours, and never the client's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ticketgate.core.claims import (
    END_OF_YEAR_9999,
    Rules,
    check_claims,
    expires_in_the_future,
    is_valid_already,
    was_issued_in_the_past,
)
from ticketgate.core.flow import FetchFailed, Flow, Reply
from ticketgate.core.issuer import Issuer
from ticketgate.core.jwt import UnverifiedJWT, check_header, read
from ticketgate.core.strict_json import FrozenDict, is_array, is_object, parse_document, without_nulls
from ticketgate.core.surroundings import Surroundings
from ticketgate.errors import InvalidToken

if TYPE_CHECKING:
    from ticketgate.core.jwe import DecryptionKeys

SIGNED = "token-introspection+jwt"
ACCEPT = {
    "json": "application/json",
    "jwt": f"application/{SIGNED}",
    "phantom": "application/jwt",
}
MAX_AGE = 60  # seconds, beyond the leeway


class Replies:
    """Reads the answers of one issuer's endpoint; ``expect`` and ``our_names`` are those of `Introspection`."""

    def __init__(
        self, issuer: Issuer, expect: str, our_names: frozenset[str], keys: "DecryptionKeys | None"
    ) -> None:
        self._issuer = issuer
        self._expect = expect
        self._our_names = our_names
        self._decryption_keys = keys

    def read(self, reply: Reply, rules: Rules, around: Surroundings) -> Flow[tuple[FrozenDict, str | None]]:
        """The members of an answer that can be believed, and the JWT they came in.

        Raises `FetchFailed`, ValueError or `InvalidToken` for any other, `IssuerUnavailable` without keys.
        """
        if self._expect == "phantom":
            return (yield from self._read_phantom(reply, rules, around))
        if reply.status != 200:
            raise FetchFailed(f"answered {reply.status}", reply)
        if self._expect == "jwt":
            return (yield from self._read_signed(reply, rules, around))
        return _activity(parse_document(reply.body)), None

    def _read_signed(
        self, reply: Reply, rules: Rules, around: Surroundings
    ) -> Flow[tuple[FrozenDict, str | None]]:
        """RFC 9701 §5: signed by the issuer, for us, just now; plain JSON is not accepted instead."""
        _content_type_is(ACCEPT["jwt"], reply)
        signed = self._opened(reply.body.strip())
        jwt = yield from self._verified(signed, (SIGNED,), around)
        claims = without_nulls(jwt.claims)
        _is_addressed_to(self._our_names, claims)
        _is_recent(claims, rules)
        response = claims.get("token_introspection")
        if not is_object(response):
            raise ValueError("there is no token_introspection in it")
        return _activity(response), signed.decode("ascii")

    def _read_phantom(
        self, reply: Reply, rules: Rules, around: Surroundings
    ) -> Flow[tuple[FrozenDict, str | None]]:
        """A JWT access token for the opaque one; no content where that is not active."""
        if reply.status == 204:
            return FrozenDict({"active": False}), None
        if reply.status != 200:
            raise FetchFailed(f"answered {reply.status}", reply)
        _content_type_is(ACCEPT["phantom"], reply)
        signed = self._opened(reply.body.strip())
        jwt = yield from self._verified(signed, self._issuer.token_types, around)
        check_claims(jwt.claims, rules, typed=self._issuer.typed)
        return FrozenDict({**jwt.claims, "active": True}), signed.decode("ascii")

    def _opened(self, raw: bytes) -> bytes:
        keys = self._decryption_keys
        return keys.decrypt(raw) if keys is not None and raw.count(b".") == 4 else raw

    def _verified(self, raw: bytes, types: tuple[str, ...], around: Surroundings) -> Flow[UnverifiedJWT]:
        """The JWT in an answer, after its signature was found to be the issuer's."""
        jwt = read(raw)
        check_header(jwt.header, types, self._issuer.algorithms)
        if jwt.claims.get("iss") != self._issuer.identifier:
            raise InvalidToken("issuer", expected=self._issuer.identifier, actual=jwt.claims.get("iss"))
        _ = yield from self._issuer.keys.verify(jwt, around.clock.read(), around)
        return jwt


def _activity(response: FrozenDict) -> FrozenDict:
    """RFC 7662 §2.2: ``active`` is a JSON boolean, and nothing else is nearly one; the others are of their kinds."""
    if not isinstance(response.get("active"), bool):
        raise ValueError("active is neither true nor false")
    for name, is_of_its_kind in KINDS.items() if response["active"] else ():
        if response.get(name) is not None and not is_of_its_kind(response[name]):
            raise ValueError(f"its {name} is of another kind than RFC 7662 says")
    return response


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    return (type(value) is int or type(value) is float) and abs(value) <= END_OF_YEAR_9999


def _is_audience(value: object) -> bool:
    return isinstance(value, str) or (is_array(value) and all(isinstance(name, str) for name in value))


KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("iss", "sub", "client_id", "token_type"), _is_text),
    **dict.fromkeys(("exp", "iat", "nbf"), _is_time),
    "aud": _is_audience,
    "cnf": is_object,
}
"""What decides about a token: of another kind it says nothing of the token, but that the endpoint is at fault."""


def _content_type_is(expected: str, reply: Reply) -> None:
    found = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != expected:
        raise ValueError(f"its content type is {ascii(found)[:80]}, not {expected}")


def _is_addressed_to(names: frozenset[str], claims: FrozenDict) -> None:
    """RFC 9701 §5: ``aud`` is our client id, or a list that has it."""
    aud = claims.get("aud")
    if not any(isinstance(name, str) and name in names for name in (aud if is_array(aud) else (aud,))):
        raise ValueError("it is addressed to somebody else")


def _is_recent(claims: FrozenDict, rules: Rules) -> None:
    """RFC 9701 §5: ``iat`` is when the answer was given, so that an old one cannot be sent again."""
    was_issued_in_the_past(claims, rules)
    if rules.now > claims["iat"] + rules.leeway + MAX_AGE:
        raise ValueError(
            f"it was signed {rules.now - claims['iat']:.0f} seconds ago: a replay, or clocks differ"
        )
    is_valid_already(claims, rules)
    if "exp" in claims:
        expires_in_the_future(claims, rules)
