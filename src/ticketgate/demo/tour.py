"""The tour through the demo: each step is a real request, and says what the gate should answer."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from ticketgate.demo.client import TokenRequest, exchange_assertion, fetch_assertion, fetch_token, sign_in
from ticketgate.demo.servers import Addresses

OTHER_AUDIENCE = "https://other.demo.example"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step of the tour expected, and what came."""

    name: str
    expected: str
    actual: str

    @property
    def holds(self) -> bool:
        return self.actual == self.expected


def walk(addresses: Addresses) -> Iterator[Verdict]:
    """Every step of the tour with its verdict, in order."""
    issuer = addresses.issuer
    with httpx.Client(base_url=addresses.api, trust_env=False) as api:
        reader = TokenRequest(scope=["orders:read"])
        good = fetch_token(issuer, reader)
        expired = fetch_token(issuer, TokenRequest(scope=["orders:read"], lifetime=-60))
        elsewhere = fetch_token(issuer, TokenRequest(resource=OTHER_AUDIENCE))
        admin = fetch_token(issuer, TokenRequest(role=["admin"]))

        yield _verdict("a public path without a token", "200", api.get("/health"))
        yield _verdict("a good token", "200", _get(api, "/orders", good))
        yield _verdict("no token", "401", api.get("/orders"))
        yield _verdict("no credentials but the scheme", "400 invalid_request", _get(api, "/orders", ""))
        yield _verdict("a token without the scope", "403 insufficient_scope", _post(api, "/orders", good))
        yield _verdict("a token without the role", "403 insufficient_scope", _get(api, "/admin", good))
        yield _verdict("a token with the role", "200", _get(api, "/admin", admin))
        yield _verdict("an expired token", "401 invalid_token", _get(api, "/orders", expired))
        yield _verdict("a tampered token", "401 invalid_token", _get(api, "/orders", _tampered(good)))
        yield _verdict("a token for another audience", "401 invalid_token", _get(api, "/orders", elsewhere))

        opaque = fetch_token(issuer, TokenRequest(scope=["orders:read"], opaque=True))
        yield _verdict("an opaque token, by introspection", "200", _get(api, "/orders", opaque))
        yield _verdict("an unknown opaque token", "401 invalid_token", _get(api, "/orders", "unknown"))
        vouched = exchange_assertion(issuer, fetch_assertion(issuer), "orders:read")
        yield _verdict("a token for a partner's assertion", "200", _get(api, "/orders", vouched))

        callback = f"{addresses.api}/docs/oauth2-redirect"
        signed_in = sign_in(issuer, callback, "alice", "alice-secret", "orders:read")
        yield _verdict("a token of a user who signed in", "200", _get(api, "/orders", signed_in))

        _ = httpx.post(f"{issuer}/rotate", trust_env=False).raise_for_status()
        newer = fetch_token(issuer, reader)
        yield _verdict("a token by the issuer's new key", "200", _get(api, "/orders", newer))
        yield _verdict("a token by the withdrawn key", "401 invalid_token", _get(api, "/orders", good))


def _get(api: httpx.Client, path: str, token: str) -> httpx.Response:
    return api.get(path, headers={"Authorization": f"Bearer {token}".strip()})


def _post(api: httpx.Client, path: str, token: str) -> httpx.Response:
    return api.post(path, headers={"Authorization": f"Bearer {token}"})


def _tampered(token: str) -> str:
    """The token with another first character in its signature."""
    rest, _, signature = token.rpartition(".")
    return f"{rest}.{'B' if signature[0] != 'B' else 'C'}{signature[1:]}"


def _verdict(name: str, expected: str, response: httpx.Response) -> Verdict:
    challenge = response.headers.get("WWW-Authenticate", "")
    _, _, rest = challenge.partition('error="')
    return Verdict(name, expected, f"{response.status_code} {rest.partition(chr(34))[0]}".strip())
