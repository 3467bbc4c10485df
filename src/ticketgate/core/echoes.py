"""Whether words of a server repeat something secret that it was sent.

RFC 6749 §5.2: what stands in ``error_description`` is for developers, so it ends in logs.  A server may quote a request
in any encoding and cut anywhere: no words are shown that share a run of `RUN` characters with a secret in a common one.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, quote_plus, unquote, unquote_plus

from ticketgate.core.flow import HttpRequest

RUN = 6
SHORTEST_SECRET = 4
TYPES = {"grant_type", "client_assertion_type", "subject_token_type", "actor_token_type"}
NOT_SECRET = TYPES | {"resource", "scope", "audience", "client_id"}
PUBLIC_WORDS = NOT_SECRET | {"requested_token_type"}
PUBLIC_HEADERS = {"accept", "content-type"}
URL_BASE64 = str.maketrans("-_", "+/")
BASIC = re.compile(r"basic +(.*)", re.IGNORECASE | re.DOTALL)


def secrets_in(request: HttpRequest) -> list[str]:
    """What the form and the headers of ``request`` hold beside public words."""
    form = parse_qsl((request.body or b"").decode("ascii"))
    values = [value for name, value in form if name not in PUBLIC_WORDS]
    for name, value in request.headers.items():
        if name.lower() not in PUBLIC_HEADERS:
            values += _credentials(value) if name.lower() == "authorization" else [value]
    return [value for value in values if len(value) >= SHORTEST_SECRET]


def _credentials(value: str) -> list[str]:
    """An Authorization header's ``value`` without its scheme, and the password of HTTP Basic, also before it was URL-encoded (RFC 6749 §2.3.1)."""
    basic = BASIC.fullmatch(value)
    if basic is None:
        return [value.partition(" ")[2] or value]
    try:
        password = b64decode(basic[1], validate=True).decode("utf-8", "replace").partition(":")[2]
    except ValueError:
        return [basic[1]]
    return [basic[1], password, unquote_plus(password)]


def repeats(text: str, secrets: Sequence[str]) -> bool:
    """Whether ``text``, which is short, shares a run of characters with one of ``secrets``, in upper or lower case.

    It takes time in proportion to their lengths.  A secret that is shorter than a run is looked for as a whole.
    """
    readings = {
        _plain(one) for one in (text, unquote(text), unquote_plus(text), unquote_plus(unquote_plus(text)))
    }
    runs = {one[at : at + RUN] for one in readings for at in range(len(one) - RUN + 1)}
    return any(_shares(form, runs, readings) for secret in secrets for form in _forms(secret))


def _shares(form: str, runs: set[str], readings: set[str]) -> bool:
    if len(form) < RUN:
        return len(form) >= SHORTEST_SECRET and any(form in one for one in readings)
    return any(form[at : at + RUN] in runs for at in range(len(form) - RUN + 1))


def _forms(secret: str) -> Iterator[str]:
    """How a server may show ``secret``: as it is, URL-encoded, hexadecimal, or in base64 at any place of a longer text."""
    raw = secret.encode("utf-8", "surrogatepass")
    yield from {_plain(secret), _plain(quote_plus(raw))}
    yield raw.hex()
    for before in range(3):
        encoded = b64encode(b"x" * before + raw).decode().rstrip("=")
        yield _plain(encoded[4 if before else 0 : -2])  # the ends depend on what stands beside it


def _plain(text: str) -> str:
    return text.lower().translate(URL_BASE64)
