"""Which addresses we trust for an issuer and its documents.

RFC 8414 §2 and §6.1, RFC 9700 §2.6, RFC 8252 §8.3 (loopback).
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
SCHEME = re.compile(r"b?['\"][A-Za-z][A-Za-z0-9+.-]*://")
DEFAULT_PORTS = {"https": 443, "http": 80}


def is_safe(url: str, *, insecure_http: bool = False) -> bool:
    """Whether ``url`` is https, or http on loopback, or http at all where that was asked for."""
    parts = split(url)
    if parts is None or "@" in parts.netloc or "#" in url:
        return False
    return parts.scheme == "https" or (
        parts.scheme == "http" and (insecure_http or is_loopback(parts.hostname or ""))
    )


def is_identifier(iss: str, *, loopback: bool) -> bool:
    """Whether ``iss`` may be an issuer's identifier (RFC 8414 §2): an https URL without query and fragment.

    With ``loopback`` also one of plain http, on loopback.
    """
    schemes = ("https://", "http://") if loopback else ("https://",)
    return iss.startswith(schemes) and "?" not in iss and "#" not in iss and is_safe(iss)


def split(url: object) -> SplitResult | None:
    """The parts of an absolute http(s) URL that everybody reads alike; None for what is not one.

    Browsers (WHATWG URL) read ``http://a\\@b`` as host a, Python as host b; where the two could differ, it is refused:
    backslashes, control characters, empty ports, queries and fragments, and hosts with other characters than names have.
    So are ports with leading zeros, which are not what they look like where URLs are compared as strings.
    """
    if not isinstance(url, str):
        return None
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url or url.endswith(("?", "#")):
        return None
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in {"http", "https"} and parts.port != 0 and _is_canonical(parts.netloc, parts.port)
        )
    except ValueError:
        return None
    return parts if usable and "?#" not in url and _is_host(parts.hostname or "", parts.netloc) else None


def _is_canonical(netloc: str, port: int | None) -> bool:
    return not netloc.endswith(":") if port is None else netloc.endswith(f":{port}")


def _is_host(host: str, netloc: str) -> bool:
    """Whether ``host`` is a name, an IPv4 address, or an IPv6 address in brackets."""
    if "[" not in netloc:
        return HOST_NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6 and "%" not in host  # a zone may hold any character
    except ValueError:
        return False


def shown(url: object) -> str:
    """The repr of ``url`` for a message: whatever stands before an ``@`` may be a password, and is not shown."""
    before, found, after = repr(url).rpartition("@")
    scheme = SCHEME.match(before)
    return f"{scheme[0] if scheme else before[:1]}...@{after}" if found else after


def origin(url: str) -> str:
    """The scheme, host and port of ``url``, as they are written."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def same_origin(one: str, other: str) -> bool:
    """Whether both URLs have the same scheme, host and port (RFC 6454 §5)."""
    first = _origin_parts(one)
    return first is not None and first == _origin_parts(other)


def _origin_parts(url: str) -> tuple[str, str, int | None] | None:
    parts = split(url)
    return parts and (parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme))


def is_plain_loopback(url: str) -> bool:
    """Whether ``url`` is plain http to a host that cannot leave this machine."""
    parts = split(url)
    return parts is not None and parts.scheme == "http" and is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether ``host`` cannot leave this machine: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
