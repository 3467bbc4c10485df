"""Issuers that come and go: one for each tenant, found by a token's ``iss``, as many as fit.

RFC 8414 §2 (the identifier), RFC 9068 §4; OpenID Connect Discovery 1.0 §4.3.

Whoever sends a token chooses its ``iss``, and may know the names of our tenants.  So a tenant is on `probation` until
a signature was verified, and each of these keeps its hands off the others:

    verified     tenants of which a token was verified, at most max_tenants; only such a token pushes another out
    probation    tenants that were found, at most as many again; they push each other out
    refused      names that are not ours, for ten seconds; they push each other out, and hold nothing else

What an unverified token causes for a verified tenant comes out of nothing that others can spend: one question in
45 seconds, and the looks that its own `KeyPolicy` allows.  Everybody else's questions and fetches come out of one
`SharedBudget` each.  Where that is spent, a name that we do not know yet is a 503.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ticketgate.core.bounded_cache import BoundedCache
from ticketgate.core.flow import FetchFailed, Flow, WaitingFor, behind, call, once
from ticketgate.core.issuer import Issuer
from ticketgate.core.probation import Probation, SharedBudget
from ticketgate.core.web_address import is_identifier, shown
from ticketgate.errors import ConfigurationError, IssuerUnavailable

PLACE = "{tenant}"
TENANT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,200}")
MAX_IDENTIFIER = 2_000
MAX_REFUSED = 1_000
ASK_AGAIN, ASK_AGAIN_AFTER_NO, ASK_AGAIN_AFTER_FAILURE = 60.0, 10.0, 1.0
ASK_AHEAD = 15.0  # enough for a question that waits behind a hundred others

Ask: TypeAlias = Callable[[Callable[[str], Any], str], Flow[Any]]
"""Calls a function of the user with what a token says."""


class IssuerTemplate:
    """Issuers that are alike but for their tenant; made by `Issuer.template`."""

    def __init__(
        self, template: str, tenants: Collection[str] | Callable[[str], Any], options: dict[str, Any]
    ) -> None:
        before, place, after = template.partition(PLACE) if isinstance(template, str) else ("", "", "")
        if not place or PLACE in after or before.count("/") < 3:
            raise ConfigurationError(
                f'{shown(template)} is no template: write {PLACE} once, in the path, like "https://as.example/{PLACE}/v2.0"'
            )
        if isinstance(tenants, str) or not (callable(tenants) or isinstance(tenants, Collection)):
            raise ConfigurationError(
                "tenants must be a list of tenants, or a function that says which are ours"
            )
        self.template = template
        self._before, self._after = before, after
        self._tenants = tenants if callable(tenants) else frozenset(tenants)
        self.asks = callable(tenants)
        self._options = options
        if "introspection" in options:
            raise ConfigurationError("introspection needs an Issuer of its own: a template has none")
        _ = self._issuer("tenant")  # what cannot work is said now

    def __repr__(self) -> str:
        return f"Issuer.template({self.template!r})"

    def includes(self, iss: str) -> bool:
        """Whether ``iss`` has the form of this template; whose tenant it is remains to be seen."""
        return self._tenant_in(iss) is not None

    def find(self, iss: str, ask: Ask) -> Flow[Issuer | None]:
        """The issuer ``iss``, if it is one of a tenant of ours."""
        tenant = self._tenant_in(iss)
        if tenant is None:
            return None
        known = self._tenants
        ours = bool((yield from ask(known, tenant))) if callable(known) else tenant in known
        return self._issuer(tenant) if ours else None

    def _tenant_in(self, iss: str) -> str | None:
        if not iss.startswith(self._before) or not iss.endswith(self._after):
            return None
        tenant = iss[len(self._before) : len(iss) - len(self._after)]
        return tenant if TENANT.fullmatch(tenant) and self._before + tenant + self._after == iss else None

    def _issuer(self, tenant: str) -> Issuer:
        return Issuer(self._before + tenant + self._after, **self._options)


class Tenant(NamedTuple):
    """An issuer that is held, until when nobody is asked whether it is still trusted, and what keeps us from asking."""

    issuer: Issuer
    until: float
    failed_until: float = -math.inf


class Tenants:
    """The issuers that are found by templates or by ``issuer_for``: ``limit`` that verified a token, and as many others."""

    def __init__(
        self,
        templates: Sequence[Any],
        issuer_for: Callable[[str], Any] | None,
        limit: int,
        *,
        loopback: bool = False,
    ) -> None:
        self._templates = tuple(map(_template, templates))
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"max_tenants={limit!r} must be a number of issuers, 1 at least")
        self._issuer_for = issuer_for
        self._loopback = loopback
        self._verified: BoundedCache[str, Tenant] = BoundedCache(limit)
        self._probation: BoundedCache[str, Tenant] = BoundedCache(limit)
        self._refused: BoundedCache[str, float] = BoundedCache(MAX_REFUSED)
        self._questions = SharedBudget()
        self._fetches = SharedBudget()

    def __len__(self) -> int:
        return len(self._verified) + len(self._probation)

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """Those that are held at this moment."""
        return tuple(tenant.issuer for tenant in (*self._verified.values(), *self._probation.values()))

    def named(self, iss: str, now: float) -> Flow[Issuer | None]:
        """The issuer whose identifier is exactly ``iss``, if it is trusted.

        What was found is held; after a minute it is asked again whether it is still trusted (a little earlier, and
        in the background, for one that verified a token), and a new answer replaces the held one where its settings
        are others.  Raises `IssuerUnavailable` where that cannot be asked.
        """
        verified = self._verified.peek(
            iss
        )  # looking is not using: an unverified token says nothing of a tenant
        tenant = verified or self._probation.peek(iss)
        if tenant is not None and now < tenant.until:
            if verified is not None and now >= verified.until - ASK_AHEAD:
                yield from self._ask_ahead(iss, verified, now)
            return tenant.issuer
        if verified is not None and now < verified.failed_until:
            raise _unavailable("that failed a moment ago")
        if (self._refused.peek(iss) or -math.inf) > now or not self._could_be(iss):
            return None
        limited = WaitingFor.NAME if verified is None and self._asks_about(iss) else None
        try:
            return (yield from once((self, iss), partial(self._find, iss, now), limited=limited))
        except FetchFailed as error:
            raise _unavailable(str(error)) from error

    def _ask_ahead(self, iss: str, verified: Tenant, now: float) -> Flow[None]:
        """So that a tenant that is in use never waits behind the questions that strangers cause."""
        if now >= verified.failed_until and self._asks_about(iss):
            yield from behind((self, iss), partial(self._find, iss, now))

    def verified(self, issuer: Issuer, now: float) -> bool:
        """Note that a token of ``issuer`` was verified; whether it was the first."""
        iss = issuer.identifier
        if self._verified.get(iss) is not None:
            return False
        tenant = self._probation.peek(iss)
        if tenant is None or tenant.issuer is not issuer:
            tenant = Tenant(issuer, now)  # it was pushed out meanwhile: ask again soon
        self._verified.put(iss, tenant)
        self._probation.drop(iss)
        if self._asks_about(iss):
            self._questions.refund(1)
        return True

    def _could_be(self, iss: str) -> bool:
        """Whether ``iss`` is of a form that is worth asking about (RFC 8414 §2)."""
        if len(iss) > MAX_IDENTIFIER:
            return False
        if self._issuer_for is not None:
            return is_identifier(iss, loopback=self._loopback)
        return any(template.includes(iss) for template in self._templates)

    def _asks_about(self, iss: str) -> bool:
        """Whether a function of the user says if ``iss`` is one of ours."""
        return self._issuer_for is not None or any(
            template.asks and template.includes(iss) for template in self._templates
        )

    def _find(self, iss: str, now: float) -> Flow[Issuer | None]:
        verified = self._verified.peek(iss)
        try:
            found = yield from self._found(
                iss, self._call if verified else partial(self._call_if_affordable, now)
            )
        except Exception:
            if verified is not None:
                self._verified.replace(iss, verified._replace(failed_until=now + ASK_AGAIN_AFTER_FAILURE))
            raise
        if found is None:
            self._refuse(iss, now)
            return None
        return self._hold(_checked(found, iss), verified, now)

    def _found(self, iss: str, ask: Ask) -> Flow[Any]:
        if self._issuer_for is not None:
            return (yield from ask(self._issuer_for, iss))
        for template in self._templates:
            issuer = yield from template.find(iss, ask)
            if issuer is not None:
                return issuer
        return None

    def _call(self, function: Callable[[str], Any], name: str) -> Flow[Any]:
        return (yield from call(function, name))

    def _call_if_affordable(self, now: float, function: Callable[[str], Any], name: str) -> Flow[Any]:
        """Raises `FetchFailed` where unverified tokens have caused too many questions already."""
        if not self._questions.spend(now):
            raise FetchFailed("unverified tokens name too many other issuers")
        return (yield from call(function, name))

    def _refuse(self, iss: str, now: float) -> None:
        self._verified.drop(iss)
        self._probation.drop(iss)
        if self._asks_about(iss):
            self._refused.put(iss, now + ASK_AGAIN_AFTER_NO)

    def _hold(self, found: Issuer, verified: Tenant | None, now: float) -> Issuer:
        iss = found.identifier
        held = verified or self._probation.peek(iss)
        if held is not None and held.issuer.settings == found.settings:
            issuer = held.issuer
        else:
            issuer = found.confined(None if verified else Probation(self._fetches))
        tenant = Tenant(issuer, now + ASK_AGAIN)
        if verified is not None:
            self._verified.replace(iss, tenant)
        else:
            self._probation.put(iss, tenant)
        return issuer


def _checked(found: Any, iss: str) -> Issuer:
    if not isinstance(found, Issuer) or found.identifier != iss:
        raise ConfigurationError(
            f"issuer_for must return an Issuer with the very name, or None: {shown(found)}"
        )
    if found.introspection is not None:
        raise ConfigurationError("introspection needs an issuer that ResourceServer is given by name")
    return found


def _unavailable(why: str) -> IssuerUnavailable:
    return IssuerUnavailable(f"whether we trust the issuer of a token cannot be asked now: {why}")


def _template(given: Any) -> IssuerTemplate:
    if not isinstance(given, IssuerTemplate):
        raise ConfigurationError(f'{shown(given)} is no issuer: write Issuer("https://as.example")')
    return given
