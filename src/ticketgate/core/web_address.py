"""Which addresses we trust for an issuer and its documents.

RFC 8414 §2 and §6.1, RFC 9700 §2.6, RFC 8252 §8.3 (loopback).
"""

import ipaddress
from urllib.parse import SplitResult, urlsplit


def is_safe(url: str, *, insecure_http: bool = False) -> bool:
    """Whether ``url`` is https, or http on loopback, or http at all where that was asked for."""
    parts = split(url)
    if parts is None or parts.username is not None or parts.password is not None:
        return False
    return parts.scheme == "https" or (
        parts.scheme == "http" and (insecure_http or is_loopback(parts.hostname or ""))
    )


def split(url: str) -> SplitResult | None:
    """The parts of an absolute http(s) URL; None for what is not one."""
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        return None
    return parts if usable else None


def origin(url: str) -> str:
    """The scheme, host and port of ``url``, as they are written."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` cannot leave this machine: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
