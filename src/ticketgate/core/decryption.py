"""Decryption for those who use it: loading it takes time that nobody else should spend.

RFC 7516.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ticketgate.core.jwe import DecryptionKeys


def decryption_keys_of(sources: Sequence[Mapping[str, Any] | str | bytes]) -> "DecryptionKeys | None":
    """Our private keys, None where there are none.  Raises `ConfigurationError`."""
    if not sources:
        return None
    from ticketgate.core.jwe import DecryptionKeys

    return DecryptionKeys(sources)
