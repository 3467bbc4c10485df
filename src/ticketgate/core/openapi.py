"""What an OpenAPI document says about access tokens: security schemes, requirements and refusals.

OpenAPI 3.1 §4.8.27 (security schemes) and §4.8.30 (security requirements); RFC 6750 §3 for the answers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ticketgate.core.requirement import Requirement

SCHEME = "accessToken"
ERROR_SCHEMA = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}


def bearer_scheme() -> dict[str, Any]:
    """Tokens of RFC 9068, wherever the client has them from."""
    return {"type": "http", "scheme": "bearer", "bearerFormat": "at+jwt"}


def openid_connect_scheme(url: str) -> dict[str, Any]:
    """Tokens of the issuer whose metadata stand at ``url``."""
    return {"type": "openIdConnect", "openIdConnectUrl": url}


def authorization_code_scheme(
    authorization_endpoint: str, token_endpoint: str, scopes: Iterable[str]
) -> dict[str, Any]:
    """Tokens by the authorization code flow at these endpoints (RFC 6749 §4.1)."""
    flow = {
        "authorizationUrl": authorization_endpoint,
        "tokenUrl": token_endpoint,
        "scopes": dict.fromkeys(scopes, ""),
    }
    return {"type": "oauth2", "flows": {"authorizationCode": flow}}


def security_of(needed: Requirement) -> list[dict[str, list[str]]]:
    """The security requirements of an operation: one for each alternative, with the scopes it needs.

    OpenAPI has no words for roles, groups, entitlements and claims: the description of the 403 names them.
    """
    entries: list[dict[str, list[str]]] = []
    for needs in needed.alternatives:
        entry = {SCHEME: [need.value for need in needs if need.kind == "scope"]}
        if entry not in entries:
            entries.append(entry)
    return entries


def protect(operation: dict[str, Any], needed: Requirement, *, optional: bool = False) -> None:
    """Have ``operation``, an OpenAPI Operation Object, say that it needs ``needed`` and how it refuses.

    What it says of other security schemes must hold as well.  ``optional`` operations also take no token at all.
    """
    before: list[Mapping[str, Any]] = operation.get("security") or [{}]
    ours = [*([{}] if optional else []), *security_of(needed)]
    operation["security"] = [{**other, **entry} for entry in ours for other in before]
    responses: dict[str, Any] = operation.setdefault("responses", {})
    _ = responses.setdefault("401", _refusal("No access token, or one that is not valid"))
    if needed.describe():
        _ = responses.setdefault(
            "403", _refusal(f"The access token lacks what is needed: {needed.describe()}")
        )


def _refusal(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {
            "WWW-Authenticate": {
                "description": "The challenge (RFC 6750 §3)",
                "schema": {"type": "string"},
            }
        },
        "content": {"application/json": {"schema": {**ERROR_SCHEMA}}},
    }
