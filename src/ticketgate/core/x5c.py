"""The certificate beside a published key: what it is called, and which key it holds.  It is not validated.

RFC 7517 §4.7, RFC 7515 §4.1.7 and §4.1.8.
"""

import base64
from hashlib import sha1, sha256
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import load_der_x509_certificate


class NamedKey(NamedTuple):
    """The public key in a certificate, and the certificate's thumbprints by the member that carries them."""

    public_key: Any
    thumbprints: frozenset[tuple[str, str]]


def first_certificate(encoded: str) -> NamedKey | None:
    """The certificate that ``encoded`` is (base64 of DER); None for what cannot be read."""
    try:
        der = base64.b64decode(encoded)
        public_key = load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    names = {"x5t": sha1(der, usedforsecurity=False).digest(), "x5t#S256": sha256(der).digest()}
    return NamedKey(public_key, frozenset((name, _text(digest)) for name, digest in names.items()))


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
