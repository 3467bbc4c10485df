"""Fetches tokens from a running demo issuer, the way any client would.

RFC 6749 §4.1 (authorization code) and §4.4 (client credentials), with the demo's own parameters for roles, groups and the like.
The issuer is on this machine, so nothing is sent to a proxy that the environment names.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ticketgate.core.grant_types import AUTHORIZATION_CODE, CLIENT_CREDENTIALS, JWT_BEARER
from ticketgate.demo.authorization_codes import challenge_of
from ticketgate.demo.issuer import BROWSER_CLIENT_ID, CLIENT_ID, CLIENT_SECRET


class NoToken(Exception):
    """The issuer gave no token; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token should say; ``lifetime`` is in seconds, and one that is not above 0 is over already."""

    scope: Sequence[str] = ()
    role: Sequence[str] = ()
    group: Sequence[str] = ()
    entitlement: Sequence[str] = ()
    lifetime: int | None = None
    resource: str = ""
    opaque: bool = False

    def parameters(self) -> dict[str, str]:
        """The request's form, without what is left out."""
        form = {
            "grant_type": CLIENT_CREDENTIALS,
            "scope": " ".join(self.scope),
            "roles": " ".join(self.role),
            "groups": " ".join(self.group),
            "entitlements": " ".join(self.entitlement),
            "lifetime": "" if self.lifetime is None else str(self.lifetime),
            "resource": self.resource,
            "token_format": "opaque" if self.opaque else "",
        }
        return {name: value for name, value in form.items() if value}


def fetch_token(issuer: str, wanted: TokenRequest) -> str:
    """An access token of the demo issuer at ``issuer``.  Raises `NoToken`."""
    return _obtain(issuer, wanted.parameters(), (CLIENT_ID, CLIENT_SECRET))


def fetch_assertion(issuer: str) -> str:
    """An assertion by a partner that the demo issuer at ``issuer`` trusts (RFC 7523 §2.1).  Raises `NoToken`."""
    try:
        return (
            httpx.post(f"{issuer.rstrip('/')}/assertion", timeout=10, trust_env=False).raise_for_status().text
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoToken(f"No demo issuer answers at {issuer}: start one with `ticketgate demo`.") from error


def exchange_assertion(issuer: str, assertion: str, scope: str) -> str:
    """The access token that ``assertion`` is good for, once.  Raises `NoToken`."""
    return _obtain(
        issuer, {"grant_type": JWT_BEARER, "assertion": assertion, "scope": scope}, (CLIENT_ID, CLIENT_SECRET)
    )


def sign_in(issuer: str, redirect_uri: str, name: str, password: str, scope: str) -> str:
    """The access token of a user who signs in with a browser (RFC 6749 §4.1, RFC 7636).  Raises `NoToken`."""
    verifier = secrets.token_urlsafe(32)
    asked = {
        "response_type": "code",
        "client_id": BROWSER_CLIENT_ID,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    answered = {"username": name, "password": password, "decision": "allow"}
    response = httpx.post(f"{issuer}/authorize", data=asked | answered, timeout=10, trust_env=False)
    told = httpx.URL(response.headers.get("Location", "")).params
    if "code" not in told or told.get("iss") != issuer:
        raise NoToken(f"The issuer at {issuer} lets nobody sign in.")
    form = {
        "grant_type": AUTHORIZATION_CODE,
        "code": told["code"],
        "client_id": BROWSER_CLIENT_ID,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    return _obtain(issuer, form, None)


def _obtain(issuer: str, form: dict[str, str], auth: tuple[str, str] | None) -> str:
    try:
        response = httpx.post(
            f"{issuer.rstrip('/')}/token", data=form, auth=auth, timeout=10, trust_env=False
        )
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NoToken(f"No issuer answers at {issuer}: start one with `ticketgate demo`.") from error
    if response.status_code != 200 or "access_token" not in answer:
        raise NoToken(f"The issuer at {issuer} refused: {answer.get('error_description')}.")
    return str(answer["access_token"])
