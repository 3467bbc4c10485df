"""The key set of an issuer: the key that signs, and all that let everybody else check.

RFC 7517 §5.
"""

from typing import Any

from ticketgate.core.signing_key import SigningKey

__all__ = ["KeyRing", "SigningKey"]


class KeyRing:
    """The key that signs now, and all keys that are published; rotations follow one another.

    >>> ring = KeyRing(SigningKey.generate("ES256"))
    >>> ring.rotate(SigningKey.generate("ES256"))      # the old one is still published, its tokens still good
    """

    __slots__ = ("_keys",)

    def __init__(self, signing: SigningKey) -> None:
        self._keys: tuple[SigningKey, ...] = (signing,)

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self._keys[0]

    def rotate(self, signing: SigningKey, *, keep: bool = True) -> None:
        """Sign with a new key; the old ones stay published, or with ``keep=False`` are withdrawn at once."""
        old = tuple(key for key in self._keys if key.kid != signing.kid)
        self._keys = (signing, *old) if keep else (signing,)

    def withdraw(self, kid: str) -> None:
        """Publish the key no longer.  Raises ValueError for the one that signs."""
        if kid == self.signing.kid:
            raise ValueError("rotate first: this key signs")
        self._keys = tuple(key for key in self._keys if key.kid != kid)

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The key set to publish (RFC 7517 §5), public members only, the signing key first."""
        return {"keys": [key.public_jwk() for key in self._keys]}
