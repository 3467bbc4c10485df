"""JSON Web Tokens: read without trust, check the header, then verify the signature.

RFC 7515 §5.2, RFC 7519 §7.2, RFC 8725 §3, RFC 9068 §4.

The three steps are three functions, because everything cheap is checked between the first and the last:
`read` gives an `UnverifiedJWT`, `check_header` refuses what the issuer never signs, `verify_signature`
proves the rest with keys that somebody else found.
"""

import binascii
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ticketgate.core.strict_json import FrozenDict, parse_object
from ticketgate.errors import InvalidToken

if TYPE_CHECKING:
    from ticketgate.core.jwk import Key

MAX_HEADER_BYTES = 8_192
BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/***")  # what belongs to the other alphabet becomes illegal
PADDING = (b"", b"", b"==", b"=")
CANONICAL_TAILS = {0: BASE64URL, 2: BASE64URL[::16], 3: BASE64URL[::4]}
MAX_KNOWN_HEADERS = 256
MEDIA_TYPE = re.compile(r"[!#$&^_.+\-0-9A-Za-z]+(?:/[!#$&^_.+\-0-9A-Za-z]+)?")


class UnverifiedJWT(NamedTuple):
    """What a token says about itself; nothing in it may be believed yet."""

    header: FrozenDict
    claims: FrozenDict
    signing_input: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"UnverifiedJWT(header={self.header!r})"


def read(token: bytes) -> UnverifiedJWT:
    """The parts of a signed JWT in compact serialization (RFC 7515 §7.1).

    Raises `InvalidToken` with reason ``malformed`` for everything else: other than three parts, base64url
    that is padded or not canonical, JSON that is not strict, an overlong header.
    """
    if (dots := token.count(b".")) != 2:
        raise _malformed("three parts", f"{dots + 1} parts")
    signing_input, _, signature = token.rpartition(b".")
    header, _, payload = signing_input.partition(b".")
    if len(header) > MAX_HEADER_BYTES:
        raise _malformed(f"a header of at most {MAX_HEADER_BYTES} bytes")
    try:
        return UnverifiedJWT(
            _read_header(header),
            parse_object(decode_base64url(payload)),
            signing_input,
            decode_base64url(signature),
        )
    except (ValueError, RecursionError) as error:
        raise _malformed("base64url of JSON objects") from error


def looks_like_a_jwt(token: bytes) -> bool:
    """Whether the token wants to be a JWT, or one that is encrypted: then nobody else is asked what it is.

    Three or five parts, of which the first is a JSON object with ``alg`` (RFC 7516 §9).
    """
    first, *others = token.split(b".", 5)
    if len(others) not in {2, 4}:
        return False
    try:
        return "alg" in parse_object(decode_base64url(first))
    except (ValueError, RecursionError):
        return False


KNOWN_HEADERS: dict[bytes, FrozenDict] = {}
"""The headers of tokens whose signature was verified: tokens of one key share its very bytes.

Unverified tokens only read from it, so that a flood of them cannot displace the headers of good ones.
"""


def _read_header(segment: bytes) -> FrozenDict:
    known = KNOWN_HEADERS.get(segment)
    if known is not None:
        return known
    header = parse_object(decode_base64url(segment))
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise ValueError("alg and kid must be strings")
    return header


def _know_header(jwt: UnverifiedJWT) -> None:
    if len(KNOWN_HEADERS) >= MAX_KNOWN_HEADERS:
        KNOWN_HEADERS.clear()
    KNOWN_HEADERS[jwt.signing_input.partition(b".")[0]] = jwt.header


def decode_base64url(segment: bytes) -> bytes:
    """Base64url without padding and without bits to spare (RFC 7515 §2, RFC 4648 §3.5).  Raises ValueError."""
    if segment and segment[-1] not in CANONICAL_TAILS.get(len(segment) % 4, b""):
        raise ValueError("not canonical base64url")
    return binascii.a2b_base64(segment.translate(TO_BASE64) + PADDING[len(segment) % 4], strict_mode=True)


def _malformed(expected: str, actual: object = None) -> InvalidToken:
    return InvalidToken("malformed", expected=expected, actual=actual)


def check_header(header: FrozenDict, token_types: tuple[str, ...], algorithms: tuple[str, ...]) -> None:
    """The header is one that our issuer writes on an access token.  Raises `InvalidToken`."""
    type_is_one_of(header, token_types)
    algorithm_is_one_of(header, algorithms)
    nothing_is_critical(header)


def type_is_one_of(header: FrozenDict, token_types: tuple[str, ...]) -> None:
    """RFC 9068 §4: compared as media types, of which ``application/`` may be left out (RFC 7515 §4.1.9)."""
    typ = header.get("typ")
    if typ not in token_types and media_type(typ) not in map(media_type, token_types):
        raise InvalidToken("type", expected=token_types, actual=typ)


def media_type(typ: Any) -> str | None:
    """The full media type in lower case; None for what is not one, and parameters are none of ours."""
    if not isinstance(typ, str) or not MEDIA_TYPE.fullmatch(typ):
        return None
    return (typ if "/" in typ else f"application/{typ}").lower()


def algorithm_is_one_of(header: FrozenDict, algorithms: tuple[str, ...]) -> None:
    """RFC 8725 §3.1: only algorithms that this issuer is known to use, in exact case."""
    if header["alg"] not in algorithms:
        raise InvalidToken("algorithm", expected=algorithms, actual=header["alg"])


def nothing_is_critical(header: FrozenDict) -> None:
    """RFC 7515 §4.1.11: we understand no extension, so ``crit`` and ``b64`` (RFC 7797) of any shape are refused."""
    if "crit" in header or "b64" in header:
        raise InvalidToken("critical", expected="no crit and no b64", actual=header.get("crit"))


def verify_signature(jwt: UnverifiedJWT, keys: "tuple[Key, ...]") -> None:
    """One of ``keys`` made the signature (RFC 7515 §5.2).  Raises `InvalidToken`.

    The keys were chosen by the issuer and each is bound to one algorithm, the one the header names.
    """
    if not keys:
        raise InvalidToken("unknown_key", expected="a key of the issuer", actual=jwt.header.get("kid"))
    if not any(key.verify(jwt.signing_input, jwt.signature) for key in keys):
        raise InvalidToken("signature", expected="made by the issuer's key", actual=jwt.header.get("kid"))
    _know_header(jwt)
