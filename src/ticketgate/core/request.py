"""The facts of a request that we look at, as received."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """A request to a protected resource, copied from the framework as it came in.

    ``authorization`` and ``dpop`` hold the bytes of every such header field in order of arrival;
    ``client_certificate`` is DER.  ``url`` is only needed where a DPoP header is present.  Only the method is shown
    by ``repr``: everything else may hold a secret.
    """

    method: str = "GET"
    url: str = field(default="", repr=False)
    authorization: tuple[bytes, ...] = field(default=(), repr=False)
    dpop: tuple[bytes, ...] = field(default=(), repr=False)
    client_certificate: bytes | None = field(default=None, repr=False)


def bearer_request(token: str | bytes) -> ResourceRequest:
    """A request that presents ``token`` in its Authorization header (RFC 6750 §2.1)."""
    raw = token.encode("utf-8", "replace") if isinstance(token, str) else token
    return ResourceRequest(authorization=(b"Bearer " + raw,))
