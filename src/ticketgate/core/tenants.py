"""Issuers that come and go: one for each tenant, found by a token's ``iss``, as many as fit.

RFC 8414 §2 (the identifier), RFC 9068 §4; OpenID Connect Discovery 1.0 §4.3.

A stranger may write anything into ``iss``.  So whoever is asked whether an issuer is trusted gets nothing but
short https URLs, only an issuer that is trusted ever causes a fetch, and the number of those that are held is
bounded: the one that nobody needed for longest is let go, with its keys.
"""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.flow import Flow, call, once
from ticketgate.core.issuer import Issuer
from ticketgate.core.web_address import is_safe
from ticketgate.errors import ConfigurationError

PLACE = "{tenant}"
TENANT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,200}")
MAX_IDENTIFIER = 2_000
ASK_AGAIN = 60.0


class IssuerTemplate:
    """Issuers that are alike but for their tenant; made by `Issuer.template`."""

    def __init__(
        self, template: str, tenants: Collection[str] | Callable[[str], Any], options: dict[str, Any]
    ) -> None:
        before, place, after = template.partition(PLACE) if isinstance(template, str) else ("", "", "")
        if not place or PLACE in after or before.count("/") < 3:
            raise ConfigurationError(
                f'{template!r} is no template: write {PLACE} once, in the path, like "https://as.example/{PLACE}/v2.0"'
            )
        if isinstance(tenants, str) or not (callable(tenants) or isinstance(tenants, Collection)):
            raise ConfigurationError(
                "tenants must be a list of tenants, or a function that says which are ours"
            )
        self.template = template
        self._before, self._after = before, after
        self._tenants = tenants if callable(tenants) else frozenset(tenants)
        self._options = options
        if "introspection" in options:
            raise ConfigurationError("introspection needs an Issuer of its own: a template has none")
        _ = self._issuer("tenant")  # what cannot work is said now

    def __repr__(self) -> str:
        return f"Issuer.template({self.template!r})"

    def find(self, iss: str) -> Flow[Issuer | None]:
        """The issuer ``iss``, if it is one of a tenant of ours."""
        tenant = self._tenant_in(iss)
        if tenant is None:
            return None
        known = self._tenants
        ours = bool((yield from call(known, tenant))) if callable(known) else tenant in known
        return self._issuer(tenant) if ours else None

    def _tenant_in(self, iss: str) -> str | None:
        if not iss.startswith(self._before) or not iss.endswith(self._after):
            return None
        tenant = iss[len(self._before) : len(iss) - len(self._after)]
        return tenant if TENANT.fullmatch(tenant) and self._before + tenant + self._after == iss else None

    def _issuer(self, tenant: str) -> Issuer:
        return Issuer(self._before + tenant + self._after, **self._options)


class Live(NamedTuple):
    """An issuer that is held, and until when nobody is asked whether it is still trusted."""

    issuer: Issuer
    until: float


class Tenants:
    """The issuers that are found by templates or by ``issuer_for``, at most ``limit`` of them at a time."""

    def __init__(self, templates: Sequence[Any], issuer_for: Callable[[str], Any] | None, limit: int) -> None:
        self._templates = tuple(map(_template, templates))
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"max_tenants={limit!r} must be a number of issuers, 1 at least")
        self._issuer_for = issuer_for
        self._live: BoundedCache[str, Live] = BoundedCache(limit)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """Those that are held at this moment."""
        return tuple(live.issuer for live in self._live.values())

    def named(self, iss: str, now: float) -> Flow[Issuer | None]:
        """The issuer whose identifier is exactly ``iss``, if it is trusted.

        What was found is held; after a minute it is asked again whether it is still trusted, and a new answer
        replaces the held one where its settings are others.
        """
        live = self._live.get(iss)
        if live is not None and now < live.until:
            return live.issuer
        if len(iss) > MAX_IDENTIFIER or not is_safe(iss, insecure_http=True):
            return None
        return (yield from once((self, iss), partial(self._ask, iss, now)))

    def _ask(self, iss: str, now: float) -> Flow[Issuer | None]:
        found = yield from self._find(iss)
        if found is None:
            self._live.drop(iss)
            return None
        if not isinstance(found, Issuer) or found.identifier != iss:
            raise ConfigurationError(
                f"issuer_for must return an Issuer with the very name, or None: {found!r}"
            )
        if found.introspection is not None:
            raise ConfigurationError("introspection needs an issuer that ResourceServer is given by name")
        live = self._live.get(iss)
        issuer = live.issuer if live is not None and live.issuer.settings == found.settings else found
        self._live.put(iss, Live(issuer, now + ASK_AGAIN))
        return issuer

    def _find(self, iss: str) -> Flow[Any]:
        if self._issuer_for is not None:
            return (yield from call(self._issuer_for, iss))
        for template in self._templates:
            issuer = yield from template.find(iss)
            if issuer is not None:
                return issuer
        return None


def _template(given: Any) -> IssuerTemplate:
    if not isinstance(given, IssuerTemplate):
        raise ConfigurationError(f'{given!r} is no issuer: write Issuer("https://as.example")')
    return given
