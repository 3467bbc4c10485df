"""An issuer of access tokens: what it signs with, for which resources, and what it publishes about itself.

RFC 9068 §2 and §3, RFC 8414 §2, RFC 8707 §2.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ticketgate.core.clock import Clock
from ticketgate.core.web_address import is_safe, shown
from ticketgate.errors import ConfigurationError
from ticketgate.issuing.keys import KeyRing, SigningKey
from ticketgate.issuing.tokens import MAX_LIFETIME, issue_access_token, scope_values


class AccessTokenIssuer:
    """Issues access tokens as JWTs (RFC 9068 §2), in the name of ``issuer``.

    ``signing_keys`` is a `KeyRing` or one `SigningKey`.  ``resources`` names the APIs that tokens are for, the
    first by default; a mapping also says which scope values mean something to each, None for any.
    ``lifetime`` is in seconds, an hour at most.  Raises `ConfigurationError` for what cannot work.

        issuer = AccessTokenIssuer(
            "https://as.example", SigningKey.generate("ES256"),
            resources={"https://api.example": ["orders:read", "orders:write"]},
        )
        issuer.issue(subject="alice", client_id="app", scope="orders:read")
    """

    def __init__(
        self,
        issuer: str,
        signing_keys: KeyRing | SigningKey,
        *,
        resources: str | Mapping[str, Iterable[str] | None],
        lifetime: int = 300,
        clock: Clock = Clock(),
    ) -> None:
        if not isinstance(issuer, str) or not is_safe(issuer):
            raise ConfigurationError(f"{shown(issuer)} is no https URL: plain http is for loopback only")
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise ConfigurationError(f"lifetime must be between 1 and {MAX_LIFETIME} seconds")
        self.issuer = issuer
        self.keys = KeyRing(signing_keys) if isinstance(signing_keys, SigningKey) else signing_keys
        self.lifetime = lifetime
        self.clock = clock
        self._resources = _resources(resources)

    @property
    def default_resource(self) -> str:
        """The API that tokens are for where nobody says otherwise."""
        return next(iter(self._resources))

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope value that means something to some resource."""
        return tuple(dict.fromkeys(value for known in self._resources.values() for value in known or ()))

    def knows(self, resource: str) -> bool:
        """Whether tokens are issued for ``resource`` (RFC 8707 §2)."""
        return resource in self._resources

    def meaningful(self, scope: str, resource: str) -> tuple[str, ...]:
        """The values of ``scope`` that mean something to ``resource`` (RFC 9068 §3), each once."""
        known = self._resources.get(resource, ())
        return (
            tuple(value for value in scope_values(scope) if known is None or value in known) if scope else ()
        )

    def issue(
        self,
        *,
        subject: str,
        client_id: str,
        scope: str = "",
        resource: str | None = None,
        lifetime: int | None = None,
        roles: Sequence[Any] = (),
        groups: Sequence[Any] = (),
        entitlements: Sequence[Any] = (),
        auth_time: int | None = None,
        acr: str | None = None,
        amr: Sequence[str] = (),
        cnf: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        encrypt_for: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> str:
        """A signed access token; for ``resource``, or for the default one, and never for the client itself.

        ``lifetime`` and ``auth_time`` are in seconds; ``roles``, ``groups`` and ``entitlements`` are strings or
        SCIM objects (RFC 7643 §4.1.2); ``cnf`` binds the token to a key (RFC 7800); ``claims`` are added and
        replace nothing; ``encrypt_for`` is a public JWK of the resource server, and then the token is a JWT
        inside a JWE (RFC 9068 §2.1).  Raises ValueError for anything that cannot be.
        """
        audience = self.default_resource if resource is None else resource
        known: dict[str, Any] = {
            "roles": list(roles),
            "groups": list(groups),
            "entitlements": list(entitlements),
            "auth_time": auth_time,
            "acr": acr,
            "amr": list(amr),
            "cnf": None if cnf is None else dict(cnf),
        }
        given = {name: value for name, value in known.items() if value not in (None, [])}
        token = issue_access_token(
            self.keys.signing,
            issuer=self.issuer,
            subject=subject,
            audience=audience,
            client_id=client_id,
            lifetime=self.lifetime if lifetime is None else lifetime,
            scope=" ".join(self.meaningful(scope, audience)),
            claims={**(claims or {}), **given},
            now=self.clock.wall() if now is None else now,
        )
        return token if encrypt_for is None else _encrypted(token, encrypt_for)

    def rotate(self, *, keep: bool = True) -> None:
        """See `KeyRing.rotate`."""
        self.keys.rotate(keep=keep)

    def jwks(self) -> dict[str, Any]:
        """The JWK Set to publish."""
        return self.keys.jwks()

    def metadata(self, **endpoints: Any) -> dict[str, Any]:
        """The metadata to publish (RFC 8414 §2), with ``endpoints`` and whatever else is to stand in it."""
        document: dict[str, Any] = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer.rstrip('/')}/jwks",
            "response_types_supported": [],
        }
        document |= {"scopes_supported": list(self.scopes)} if self.scopes else {}
        return document | {name: value for name, value in endpoints.items() if value is not None}


def _resources(resources: str | Mapping[str, Iterable[str] | None]) -> dict[str, frozenset[str] | None]:
    named: Mapping[str, Iterable[str] | None] = {resources: None} if isinstance(resources, str) else resources
    if not named or not all(isinstance(name, str) and name for name in named):
        raise ConfigurationError(
            'resources names the APIs that tokens are for: resources="https://api.example"'
        )
    return {name: None if known is None else frozenset(known) for name, known in named.items()}


def _encrypted(token: str, jwk: Mapping[str, Any]) -> str:
    """Encryption is loaded for those who use it."""
    from ticketgate.core.jwe import encrypt

    return encrypt(token, jwk)
