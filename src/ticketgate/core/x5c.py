"""The certificate of a published key: what it is called, and which key it holds.  It is not validated.

RFC 7515 §4.1.7 and §4.1.8, RFC 7517 §4.7-4.9.
"""

import base64
from collections.abc import Mapping
from hashlib import sha1, sha256
from typing import Any, NamedTuple, TypeAlias

from ticketgate.core.strict_json import is_array

MAX_THUMBPRINT = 100
CertificateThumbprint: TypeAlias = tuple[str, str]
"""The name of the member that carries it (``x5t`` or ``x5t#S256``), and its text."""


class NamedKey(NamedTuple):
    """The public key in a certificate, and the certificate's thumbprints."""

    public_key: Any
    thumbprints: frozenset[CertificateThumbprint]


def thumbprints(members: Mapping[str, Any]) -> frozenset[CertificateThumbprint]:
    """The thumbprints that a JWK or a JOSE header names.

    Compared as text, since some issuers write it in another encoding, the same one on both sides.
    """
    found = ((name, members.get(name)) for name in ("x5t", "x5t#S256"))
    return frozenset(
        (n, value) for n, value in found if isinstance(value, str) and len(value) <= MAX_THUMBPRINT
    )


def first_certificate(x5c: Any) -> NamedKey | None:
    """The certificate of the key itself in an ``x5c`` (base64 of DER); None for what cannot be read."""
    if not is_array(x5c) or not x5c or not isinstance(x5c[0], str):
        return None
    from cryptography.x509 import load_der_x509_certificate  # takes time that others should not spend

    try:
        der = base64.b64decode(x5c[0])
        public_key = load_der_x509_certificate(der).public_key()
    except Exception:  # what cryptography raises for odd certificates is not all a ValueError
        return None
    names = {"x5t": sha1(der, usedforsecurity=False).digest(), "x5t#S256": sha256(der).digest()}
    return NamedKey(public_key, frozenset((name, _text(digest)) for name, digest in names.items()))


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
