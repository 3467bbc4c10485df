"""What drf-spectacular's OpenAPI document says about views that `AccessTokenAuthentication` guards.

OpenAPI 3.0.3 §4.7.30: only ``oauth2`` and ``openIdConnect`` schemes have scopes; so has every scheme since 3.1.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import spectacular_settings

from ticketgate.core.openapi import SCHEME, bearer_scheme, security_of
from ticketgate.core.requirement import ANY_TOKEN, declared_together
from ticketgate.rest_framework import all_asked


class AccessTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """``http bearer``, with the scopes of the ``requires(...)`` permissions where the document's version has a place for them."""

    target_class = "ticketgate.rest_framework.AccessTokenAuthentication"
    match_subclasses = True
    name = SCHEME

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        """One entry for each alternative; the view's permissions all have to be met."""
        needed = declared_together(all_asked(auto_schema.view.get_permissions()))
        has_scopes = not str(spectacular_settings.OAS_VERSION).startswith("3.0")
        return security_of(ANY_TOKEN if needed is None or not has_scopes else needed)

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """An access token of RFC 9068."""
        return bearer_scheme()
