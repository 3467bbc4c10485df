"""Authorization server metadata: where it stands, and what we take from it.

RFC 8414 §3, OpenID Connect Discovery 1.0 §4.
"""

from urllib.parse import urlsplit

from ticketgate.core.strict_json import FrozenDict, parse_document
from ticketgate.core.web_address import origin

RFC8414, OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of ``issuer`` may stand, in the order to try.

    RFC 8414 §3.1 inserts the well-known part before the path, OpenID Connect appends it; one trailing
    slash of the issuer is left out in both.
    """
    path = urlsplit(issuer).path.removesuffix("/")
    return (f"{origin(issuer)}{RFC8414}{path}", f"{origin(issuer)}{path}{OPENID}")


def parse_metadata(raw: bytes, issuer: str) -> FrozenDict:
    """The metadata of ``issuer``; members that are null are left out (RFC 8414 §3.2).

    Raises ValueError for a document that is not its own (RFC 8414 §3.3).
    """
    document = parse_document(raw)
    _issuer_is(document.get("issuer"), issuer)
    return document


def _issuer_is(found: object, configured: str) -> None:
    """Exactly, to the last slash: the string is an identifier, not an address."""
    if found == configured:
        return
    if isinstance(found, str) and found.rstrip("/") == configured.rstrip("/"):
        raise ValueError(f"its issuer differs in the trailing slash only: configure Issuer({found!r})")
    raise ValueError(f"its issuer is {ascii(found)[:200]}, not {configured!r}")
