"""The keys of an issuer: the one that signs, the next one, and those that let everybody check what was signed.

RFC 7517 §5, RFC 9068 §2.1.
"""

from typing import Any, NamedTuple

from ticketgate.core.issuer import DEFAULT_ALGORITHMS
from ticketgate.core.keys import KeySet, static_jwk_set
from ticketgate.core.signing_key import SigningKey

__all__ = ["KeyRing", "SigningKey"]


class Ring(NamedTuple):
    """The three ages of a signing key: published before it signs, signing, and published after it signed."""

    upcoming: SigningKey | None
    signing: SigningKey
    retiring: tuple[SigningKey, ...]


class KeyRing:
    """The keys of one issuer; rotations follow one another, and each replaces the whole ring by one assignment.

    >>> ring = KeyRing(SigningKey.generate("ES256"))
    >>> ring.rotate()      # the key before is still published, its tokens still good; the next one already is
    """

    __slots__ = ("_checked", "_ring")

    def __init__(
        self,
        signing: SigningKey,
        *,
        upcoming: SigningKey | None = None,
        retiring: tuple[SigningKey, ...] = (),
    ) -> None:
        self._ring = Ring(upcoming, signing, retiring)
        self._checked: tuple[Ring, KeySet] | None = None

    @property
    def ring(self) -> Ring:
        """The keys as they are at this moment."""
        return self._ring

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self._ring.signing

    def rotate(self, signing: SigningKey | None = None, *, keep: bool = True) -> None:
        """Sign with the next key, publish the one after it, and retire the one before the last.

        Resource servers that refresh their keys between two rotations never meet a key they do not know.
        ``keep=False`` withdraws every key there was, at once: for keys that somebody else may have.
        """
        old = self._ring
        after = SigningKey.generate(old.signing.algorithm)
        if keep:
            successor = signing or old.upcoming or SigningKey.generate(old.signing.algorithm)
            self._ring = Ring(after, successor, (old.signing,))
        else:
            self._ring = Ring(after, signing or SigningKey.generate(old.signing.algorithm), ())

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The key set to publish (RFC 7517 §5), public members only, the signing key first."""
        return _published(self._ring)

    def key_set(self) -> KeySet:
        """The published keys, to check what they signed; read once for each rotation."""
        ring, checked = self._ring, self._checked
        if checked is None or checked[0] is not ring:
            checked = self._checked = ring, static_jwk_set(_published(ring), DEFAULT_ALGORITHMS)
        return checked[1]


def _published(ring: Ring) -> dict[str, list[dict[str, Any]]]:
    keys = (ring.signing, *filter(None, [ring.upcoming]), *ring.retiring)
    return {"keys": [key.public_jwk() for key in keys]}
