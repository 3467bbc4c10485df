"""Encrypted JWTs: from five parts to the signed JWT inside.

RFC 7516 §5.2 and §9, RFC 7519 §5.2, RFC 8725 §3.2-3.4 and §3.6.

Whatever goes wrong, the answer is the same, so that nobody learns how far a forged one came.  Compressed tokens
are refused: a few hundred bytes could grow to a megabyte, and lengths would tell of what is inside.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwe import JWERegistry, decrypt_compact, encrypt_compact
from joserfc.jwk import JWKRegistry, RSAKey

from ticketgate.core.jwt import decode_base64url
from ticketgate.core.private_key import PrivateKey, load_key
from ticketgate.core.strict_json import parse_object
from ticketgate.errors import ConfigurationError

KEY_MANAGEMENT = ("RSA-OAEP", "RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW")
CONTENT = ("A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512")
REGISTRY = JWERegistry(algorithms=[*KEY_MANAGEMENT, *CONTENT], strict_check_header=False)
MAX_KEYS = 10


class DecryptionKeys:
    """Our private keys, to open what was encrypted for us: JWKs or PEMs.  Raises `ConfigurationError`."""

    __slots__ = ("_keys",)

    def __init__(self, sources: Sequence[Mapping[str, Any] | str | bytes]) -> None:
        if isinstance(sources, str | bytes | Mapping) or len(sources) > MAX_KEYS:
            raise ConfigurationError(f"decryption_keys must be a list of at most {MAX_KEYS} JWKs or PEMs")
        self._keys = tuple(_load(source) for source in sources)

    def __repr__(self) -> str:
        return f"<{len(self._keys)} decryption keys>"

    def decrypt(self, raw: bytes) -> bytes:
        """What is inside.  Raises ValueError, with the same words for every fault.

        Without compression (RFC 8725 §3.6) that is never longer than ``raw``.
        """
        header = _header(raw)
        for key in self._candidates(header.get("kid")):
            try:
                plaintext = decrypt_compact(raw, key, registry=REGISTRY).plaintext
            except Exception:  # every byte is the client's and our keys were checked: the token is at fault
                continue
            if plaintext:
                return plaintext
        raise _undecipherable()

    def _candidates(self, kid: object) -> tuple[PrivateKey, ...]:
        """The keys that ``kid`` may name; the one key that we have is also tried where either has no name.

        With several keys a token must name its own: trying them all would cost a private key operation for each.
        """
        if len(self._keys) == 1 and None in (kid, self._keys[0].kid):
            return self._keys
        return tuple(key for key in self._keys if kid is not None and key.kid == kid)


def encrypt(signed: str, jwk: Mapping[str, Any]) -> str:
    """A signed JWT inside a JWE that only the owner of the public ``jwk`` can open.  Raises ValueError."""
    try:
        key = JWKRegistry.import_key({**jwk})
        usual = "RSA-OAEP-256" if isinstance(key, RSAKey) else "ECDH-ES"
        header = {"alg": jwk.get("alg", usual), "enc": "A256GCM", "cty": "JWT"}
        header |= {"kid": jwk["kid"]} if "kid" in jwk else {}
        return encrypt_compact(header, signed, key, registry=REGISTRY)
    except (JoseError, TypeError, KeyError) as error:
        raise ValueError("this JWK cannot be encrypted for") from error


def _header(raw: bytes) -> Mapping[str, Any]:
    """The JOSE header: without ``crit``, no extension of which is understood (RFC 7516 §4.1.13), and without ``zip``."""
    try:
        header = parse_object(decode_base64url(raw.partition(b".")[0]))
    except (ValueError, RecursionError):
        raise _undecipherable() from None
    if "crit" in header or "zip" in header:
        raise _undecipherable()
    return header


def _undecipherable() -> ValueError:
    return ValueError("it cannot be decrypted")


def _load(source: Mapping[str, Any] | str | bytes) -> PrivateKey:
    try:
        key = load_key(source)
    except ValueError as error:
        raise ConfigurationError(f"a decryption key is a private JWK or PEM: {error}") from error
    if not key.is_private:
        raise ConfigurationError("a decryption key is a private RSA, EC or X25519 key")
    return key
