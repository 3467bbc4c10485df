"""The usable keys of a JWK Set, and the choice of one.

RFC 7517 §5, RFC 7515 §4.1.4, §4.1.7 and §4.1.8, RFC 8725 §3.1.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ticketgate.core.jwk import Key, UnusableKey, import_key, operation
from ticketgate.core.strict_json import is_array, is_object, parse_document
from ticketgate.core.x5c import CertificateThumbprint, thumbprints
from ticketgate.errors import ConfigurationError

MAX_CANDIDATES = 4


class WantedKey(NamedTuple):
    """The key that a token's header names, as far as it names one."""

    kid: str | None
    certificates: frozenset[CertificateThumbprint]
    algorithm: str


class KeySet:
    """The usable keys of a JWK Set, found by key id and algorithm; never changes."""

    __slots__ = ("_found", "dropped", "keys")

    def __init__(self, keys: Iterable[Key], dropped: Iterable[str] = ()) -> None:
        self.keys = tuple(keys)
        self.dropped = tuple(dropped)
        self._found: dict[tuple[str | None, str], tuple[Key, ...]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._add((key.kid, key.algorithm), key)
            self._add((None, key.algorithm), key)

    def _add(self, name: tuple[str | None, str], key: Key) -> None:
        self._found[name] = (*self._found.get(name, ()), key)

    def candidates(self, header: Mapping[str, Any]) -> tuple[Key, ...]:
        """The keys that may have signed under ``header``, at most four (RFC 7515 §4.1.4, RFC 7517 §4.5).

        The key id decides where there is one, then the certificate's thumbprint.  A token without either is
        only matched where exactly one key fits its algorithm.
        """
        kid = header.get("kid")
        found = self._found.get((kid, operation(header["alg"])), ())
        if kid is None:
            found = _of_certificate(found, thumbprints(header))
        return found[:MAX_CANDIDATES]

    def missing(self, others: Iterable[Key]) -> tuple[Key, ...]:
        """Those of ``others`` that are not in it, compared by their content."""
        ours = self._contents()
        return tuple(key for key in others if _content(key) not in ours)

    @staticmethod
    def wanted(header: Mapping[str, Any]) -> "WantedKey":
        """What `candidates` looks for, to remember what was looked for in vain."""
        return WantedKey(header.get("kid"), thumbprints(header), header["alg"])

    def same_as(self, other: "KeySet | None") -> bool:
        """Whether both hold the same keys under the same names, compared by their content."""
        return other is not None and self._contents() == other._contents()

    def names(self) -> frozenset[str]:
        """The key ids in it; keys without one go by their thumbprint."""
        return frozenset(key.kid or key.thumbprint for key in self.keys)

    def _contents(self) -> frozenset[tuple[object, ...]]:
        return frozenset(map(_content, self.keys))


def _content(key: Key) -> tuple[object, ...]:
    return key.kid, key.algorithm, key.thumbprint, key.certificates


def _of_certificate(keys: tuple[Key, ...], names: frozenset[CertificateThumbprint]) -> tuple[Key, ...]:
    """Those of ``keys`` that go by one of ``names``; else the only one, unless its certificate has other names."""
    named = tuple(key for key in keys if not names.isdisjoint(key.certificates))
    if named:
        return named
    return keys if len(keys) == 1 and not (names and keys[0].certificates) else ()


def static_jwk_set(jwks: Mapping[str, Any], algorithms: tuple[str, ...], max_keys: int = 100) -> KeySet:
    """The usable keys of a JWK Set that somebody configured.  Raises `ConfigurationError`."""
    try:
        return parse_jwk_set(json.dumps({**jwks}).encode(), algorithms, max_keys)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f'jwks={{"keys": [...]}} must hold a usable public key: {error}') from error


def parse_jwk_set(raw: bytes, algorithms: tuple[str, ...], max_keys: int) -> KeySet:
    """The usable keys in a JWK Set; members that cannot be used are dropped and named, one by one.

    Raises ValueError for what is no JWK Set, and for one without any usable key (RFC 7517 §5).
    """
    members = parse_document(raw).get("keys")
    if not is_array(members):
        raise ValueError("there is no array of keys in it")
    keys: list[Key] = []
    dropped: list[str] = []
    for member in members[:max_keys]:
        try:
            keys.extend(import_key(member, algorithms))
        except UnusableKey as reason:
            dropped.append(f"{_name(member)}: {reason}")
    if surplus := len(members[max_keys:]):
        dropped.append(f"{surplus} more: above max_keys={max_keys}")
    if not keys:
        raise ValueError(f"it has no usable key ({'; '.join(dropped) or 'it is empty'})")
    return KeySet(keys, dropped)


def _name(member: Any) -> str:
    """How the log names a key: its kid, cut to a sane length and escaped."""
    kid = member.get("kid") if is_object(member) else None
    return ascii(kid)[:80] if kid is not None else "a key without kid"
