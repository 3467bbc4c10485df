"""An issuer: whom we trust, and for which tokens.

RFC 9068 §4, RFC 8414 §3, RFC 8725 §3.1 and §3.8.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ticketgate.core.freshness import KeyPolicy
from ticketgate.core.http_options import HTTPOptions, Whereabouts, checked_address, checked_origin
from ticketgate.core.jwk import ALGORITHMS
from ticketgate.core.jwt import media_type
from ticketgate.core.key_source import KeySource
from ticketgate.core.keys import static_jwk_set
from ticketgate.core.metadata import metadata_urls
from ticketgate.core.metadata_source import MetadataSource
from ticketgate.core.probation import Probation
from ticketgate.core.web_address import shown, split
from ticketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from ticketgate.core.introspection import Introspection
    from ticketgate.core.tenants import IssuerTemplate

DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")

logger = logging.getLogger("ticketgate")


class Issuer:
    """An authorization server whose access tokens we accept.

    ``issuer`` is its identifier, compared exactly with the token's ``iss``.  Its keys come from ``jwks``
    (a JWK Set, no network at all), else from ``jwks_uri``, else from the metadata that it publishes, at
    ``metadata_url`` or at the well-known places.  Nothing is fetched before the first token needs a key.

    ``algorithms`` is the allowlist for signatures, ``token_types`` the accepted ``typ`` headers, ``keys``
    how keys are fetched and kept, ``introspection`` how it is asked about tokens that are no JWT.
    ``fetch_from`` is an origin that is dialled in place of the issuer's own, where that one cannot be reached from
    here; ``http`` says by which certificates and through which proxy (`HTTPOptions`).  ``insecure_http`` allows
    plain http to hosts other than loopback.

    Raises `ConfigurationError` for what cannot work or is not safe.

        Issuer("https://as.example")
        Issuer("https://as.example", jwks={"keys": [...]}, algorithms=["ES256"])
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks: Mapping[str, Any] | None = None,
        jwks_uri: str | None = None,
        metadata_url: str | None = None,
        fetch_from: str | None = None,
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        token_types: Sequence[str] = ("at+jwt",),
        introspection: "Introspection | None" = None,
        keys: KeyPolicy = KeyPolicy(),
        http: HTTPOptions = HTTPOptions(),
        insecure_http: bool = False,
    ) -> None:
        self.identifier = _identifier(issuer, insecure_http)
        self.algorithms = _algorithms(algorithms)
        self.token_types = _token_types(token_types)
        static = None if jwks is None else static_jwk_set(jwks, self.algorithms, keys.max_keys)
        jwks_uri = checked_address("jwks_uri", jwks_uri, insecure_http=insecure_http)
        place = checked_address("metadata_url", metadata_url, insecure_http=insecure_http)
        places = (place,) if place else metadata_urls(issuer)
        self.insecure_http = insecure_http
        self.introspection = introspection
        inside = checked_origin("fetch_from", fetch_from, insecure_http=insecure_http)
        whereabouts = Whereabouts(issuer, jwks_uri, places, insecure_http, inside, http)
        self.metadata = MetadataSource(whereabouts, keys)
        self.keys = KeySource(self.metadata, self.algorithms, keys, static)
        self._policy = keys
        self.settings = (whereabouts, self.algorithms, self.token_types, keys, introspection, jwks)
        if insecure_http:
            logger.warning("insecure_http: %s and its keys may be changed on the way", issuer)

    def __repr__(self) -> str:
        return f"Issuer({self.identifier!r})"

    def confined(self, probation: Probation | None) -> "Issuer":
        """This issuer, as a resource server holds it that was not given it by name.

        It has keys of its own, fetched within ``probation``, and follows metadata to its own origin only.
        """
        if self.keys.held.is_static:
            return self
        twin = copy(self)
        twin.metadata = MetadataSource(replace(self.metadata.whereabouts, confined=True), self._policy)
        twin.keys = KeySource(twin.metadata, self.algorithms, self._policy, probation=probation)
        return twin

    @staticmethod
    def template(
        template: str, *, tenants: Collection[str] | Callable[[str], Any], **options: Any
    ) -> "IssuerTemplate":
        """Issuers that are alike but for their tenant, for `ResourceServer` to tell apart by a token's ``iss``.

        ``template`` has ``{tenant}`` once, in its path.  ``tenants`` names those that are ours, or is a function
        that is given a tenant and says whether it is (it may be async under asyncio).  ``options`` are those of an
        `Issuer`.  A tenant is one path segment of letters, digits and ``.-_~``.

            Issuer.template("https://login.example/{tenant}/v2.0", tenants=["acme", "globex"])
        """
        from ticketgate.core.tenants import IssuerTemplate  # it makes issuers

        return IssuerTemplate(template, tenants, options)

    @property
    def typed(self) -> bool:
        """Whether access tokens are told apart from other tokens by their ``typ`` alone (RFC 8725 §3.11)."""
        return all(media_type(name) == "application/at+jwt" for name in self.token_types)


def _identifier(issuer: str, insecure_http: bool) -> str:
    parts = split(issuer) if isinstance(issuer, str) else None
    if parts is None or parts.query or parts.fragment:
        raise ConfigurationError(
            f'{shown(issuer)} is no issuer: write an https URL like Issuer("https://as.example")'
        )
    return checked_address("issuer", issuer, insecure_http=insecure_http) or ""


def _algorithms(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names:
        raise ConfigurationError('algorithms must be a list of names, like algorithms=["RS256"]')
    if unknown := [name for name in names if name not in ALGORITHMS]:
        raise ConfigurationError(f"unknown algorithms {unknown!r}: choose from {', '.join(ALGORITHMS)}")
    return tuple(names)


def _token_types(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names or None in map(media_type, names):
        raise ConfigurationError('token_types must be a list of media types, like token_types=["at+jwt"]')
    return tuple(names)
