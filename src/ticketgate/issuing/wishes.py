"""What a client asks for, whichever endpoint it asks at: a resource, and scopes that mean something to it.

RFC 6749 §3.3, RFC 8707 §2, RFC 9068 §3.
"""

from collections.abc import Mapping

from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.messages import Refusal
from ticketgate.issuing.tokens import scope_values


def wanted_resource(issuer: AccessTokenIssuer, parameters: Mapping[str, str], *, free: bool = False) -> str:
    """RFC 8707 §2, RFC 9068 §3: who names a resource gets a token for it, or none; ``free`` clients name any."""
    resource = parameters.get("resource", issuer.default_resource)
    if not free and not issuer.knows(resource):
        raise Refusal("invalid_target", "No tokens are issued for this resource")
    return resource


def wanted_scope(
    issuer: AccessTokenIssuer, parameters: Mapping[str, str], allowed: frozenset[str] | None
) -> str:
    """What was asked for, if all of it is allowed and defined by the resource; nothing if nothing was."""
    if "scope" not in parameters:
        return ""
    try:
        values = scope_values(parameters["scope"])
    except ValueError as error:
        raise Refusal("invalid_scope", "The scope is malformed") from error
    if allowed is not None and not allowed.issuperset(values):
        raise Refusal("invalid_scope", "The scope is more than is allowed here")
    resource = parameters.get("resource", issuer.default_resource)
    if len(issuer.meaningful(" ".join(values), resource)) != len(values):
        raise Refusal("invalid_scope", "The resource does not define this scope")
    return " ".join(values)
