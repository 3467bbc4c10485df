"""An authorization server as a whole: its endpoints, its metadata and its keys, free of any framework.

RFC 8414 §2 and §3, RFC 6749 §3.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ticketgate.core.flow import Flow
from ticketgate.core.metadata import metadata_urls
from ticketgate.core.signing_key import SigningKey
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import AssertionIssuer
from ticketgate.issuing.clients import Client, Clients
from ticketgate.issuing.introspection_endpoint import IntrospectionEndpoint, KnownTokens
from ticketgate.issuing.keys import KeyRing
from ticketgate.issuing.messages import Answer, EndpointRequest
from ticketgate.issuing.revocation_endpoint import RevocationEndpoint
from ticketgate.issuing.stores import MemoryStore, Store
from ticketgate.issuing.token_endpoint import TokenEndpoint

AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
SIGNING_ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]


class AuthorizationServer:
    """All endpoints of a small authorization server: ``answer`` takes a request for a path below the issuer.

    ``store`` keeps added clients, opaque tokens, revocations and what was used once.  ``clients`` are the configured
    ones, see `Clients`.
    ``assertion_issuers`` and ``resolve_subject`` are for the JWT bearer grant, see `TokenEndpoint`.
    ``deny_list`` makes JWTs revocable.  ``accept_token_endpoint_audience`` also takes assertions that are
    addressed to the token endpoint, as RFC 7523 had it once.

        AuthorizationServer(AccessTokenIssuer(...), clients=[Client("app", "secret", {"orders:read"})])
    """

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        *,
        clients: Iterable[Client] = (),
        store: Store | None = None,
        assertion_issuers: Iterable[AssertionIssuer] = (),
        resolve_subject: Callable[[Mapping[str, Any]], Any] | None = None,
        deny_list: bool = False,
        accept_token_endpoint_audience: bool = False,
    ) -> None:
        self.issuer = issuer
        self.store: Store = MemoryStore() if store is None else store
        base = issuer.issuer.rstrip("/")
        self._root = urlsplit(base).path
        audiences = (issuer.issuer, *([f"{base}/token"] if accept_token_endpoint_audience else []))
        self.clients = Clients(clients, self.store, audiences=audiences)
        tokens = KnownTokens(issuer, self.store)
        self.token = TokenEndpoint(
            issuer,
            self.clients,
            self.store,
            audiences=(issuer.issuer, f"{base}/token"),
            assertion_issuers=assertion_issuers,
            resolve_subject=resolve_subject,
        )
        self.introspection = IntrospectionEndpoint(issuer, self.clients, tokens)
        self.revocation = RevocationEndpoint(issuer, self.clients, tokens, self.store, deny_list=deny_list)

    @property
    def metadata_paths(self) -> tuple[str, ...]:
        """Where the metadata document is (RFC 8414 §3.1), below the issuer's origin."""
        return tuple(urlsplit(url).path for url in metadata_urls(self.issuer.issuer))

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that is answered, below the issuer's origin."""
        ours = ("/jwks", "/token", "/introspect", "/revoke")
        return (*self.metadata_paths, *(self._root + path for path in ours))

    def answer(self, path: str, request: EndpointRequest) -> Flow[Answer]:
        """The answer to a request for ``path``, one of `paths`."""
        if path in self.metadata_paths:  # first: an issuer's own path may end in /token
            return document_answer(self.metadata(), request)
        match path.removeprefix(self._root):
            case "/token":
                return (yield from self.token.answer(request))
            case "/introspect":
                return self.introspection.answer(request)
            case "/revoke":
                return self.revocation.answer(request)
            case _:
                return document_answer(self.issuer.jwks(), request)

    def metadata(self) -> dict[str, Any]:
        """The metadata document (RFC 8414 §2), made of what is configured."""
        base = self.issuer.issuer.rstrip("/")
        return self.issuer.metadata(
            token_endpoint=f"{base}/token",
            introspection_endpoint=f"{base}/introspect",
            revocation_endpoint=f"{base}/revoke",
            grant_types_supported=self.token.grant_types,
            token_endpoint_auth_methods_supported=[*AUTH_METHODS, "none"],
            token_endpoint_auth_signing_alg_values_supported=SIGNING_ALGORITHMS,
            introspection_endpoint_auth_methods_supported=AUTH_METHODS,
            introspection_signing_alg_values_supported=[self.issuer.keys.signing.algorithm],
            revocation_endpoint_auth_methods_supported=AUTH_METHODS,
        )


def document_answer(value: Mapping[str, Any], request: EndpointRequest) -> Answer:
    """``value`` as a JSON document that anybody may keep for a minute; only GET and HEAD read it."""
    if request.method not in {"GET", "HEAD"}:
        return Answer(405, (("Allow", "GET, HEAD"),), b"")
    headers = (("Content-Type", "application/json"), ("Cache-Control", "public, max-age=60"))
    return Answer(200, headers, json.dumps(value).encode())


def load_keys(store: Store, algorithm: str = "RS256") -> KeyRing:
    """The keys that `save_keys` left in ``store``; a new key, saved there, where there are none.

    Of several processes that find none at once, one saves its key and all get that.
    """
    found = store.get("keys", "ring", 0)
    if found is None:
        new = _members(KeyRing(SigningKey.generate(algorithm)))
        _ = store.add("keys", "ring", None, 0, new)
        found = store.get("keys", "ring", 0) or new
    keys = {name: tuple(map(SigningKey.load, found[name])) for name in ("upcoming", "signing", "retiring")}
    upcoming = keys["upcoming"][0] if keys["upcoming"] else None
    return KeyRing(keys["signing"][0], upcoming=upcoming, retiring=keys["retiring"])


def save_keys(store: Store, ring: KeyRing) -> None:
    """Keep the private keys of ``ring``, to be called after each rotation; the store must be a safe place."""
    store.put("keys", "ring", _members(ring))


def _members(ring: KeyRing) -> dict[str, Any]:
    upcoming, signing, retiring = ring.ring
    members = {"upcoming": [upcoming] if upcoming else [], "signing": [signing], "retiring": list(retiring)}
    return {name: [key.private_jwk() for key in keys] for name, keys in members.items()}
