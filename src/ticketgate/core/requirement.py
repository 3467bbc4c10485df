"""Requirements: what an operation asks of an access token, as one value with four readers.

``check`` enforces it, ``explain`` says what is missing, ``scopes`` and ``alternatives`` tell clients what
to ask for, ``describe`` prints it.  RFC 6750 §3.1, RFC 9068 §3 and §4.

    scope("orders:read") & (role("clerk") | group("ops"))
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NoReturn, TypeVar
from weakref import ref

from ticketgate.core.access_token import AccessToken
from ticketgate.core.strict_json import is_array
from ticketgate.errors import AccessDenied, ConfigurationError, InsufficientScope

SCOPE_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - {'"', "\\"}
MAX_ALTERNATIVES = 64
DECLARED = "__ticketgate_requirement__"

Operation = TypeVar("Operation")


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a token must have: ``value`` among its scopes, roles, ..., or in the claim ``name``."""

    kind: Literal["scope", "role", "group", "entitlement", "claim"]
    value: Any
    name: str = ""

    def met_by(self, token: AccessToken) -> bool:
        match self.kind:
            case "scope":
                return self.value in token.scopes
            case "role":
                return self.value in token.roles
            case "group":
                return self.value in token.groups
            case "entitlement":
                return self.value in token.entitlements
            case _:
                return _equals_or_contains(token.claims.get(self.name), self.value)

    def __str__(self) -> str:
        return f"claim {self.name}={self.value!r}" if self.kind == "claim" else f"{self.kind} {self.value}"


def _equals_or_contains(claim: Any, value: Any) -> bool:
    members = claim if is_array(claim) else (claim,)
    return any(type(member) is type(value) and member == value for member in members)


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an operation asks for: one of its ``alternatives``, each a tuple of needs that must all be met.

    Made by `scope`, `role`, `group`, `entitlement` and `claim`, combined with ``&`` and ``|``.
    """

    alternatives: tuple[tuple[Need, ...], ...]

    def __and__(self, other: "Requirement") -> "Requirement":
        return _requirement((*mine, *theirs) for mine in self.alternatives for theirs in other.alternatives)

    def __or__(self, other: "Requirement") -> "Requirement":
        return _requirement((*self.alternatives, *other.alternatives))

    def __bool__(self) -> NoReturn:
        raise ConfigurationError(
            "combine requirements with & and |: `and`, `or`, `not` would lose one of them"
        )

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope that any alternative names, in order, once each."""
        return _unique(need.value for needs in self.alternatives for need in needs if need.kind == "scope")

    def is_met_by(self, token: AccessToken) -> bool:
        """Whether the token has everything that one of the alternatives needs."""
        return any(all(need.met_by(token) for need in needs) for needs in self.alternatives)

    def check(self, token: AccessToken) -> None:
        """Return for a token that meets this requirement.

        Raises `InsufficientScope` with all scopes of the first alternative that scopes alone would
        satisfy, or `AccessDenied` where no scope would help (RFC 6750 §3.1).
        """
        if self.is_met_by(token):
            return
        for needs in self.alternatives:
            if all(need.kind == "scope" or need.met_by(token) for need in needs):
                scopes = _unique(need.value for need in needs if need.kind == "scope")
                raise InsufficientScope(scopes, expected=self.describe(), actual=self.explain(token))
        raise AccessDenied(expected=self.describe(), actual=self.explain(token))

    def explain(self, token: AccessToken) -> str:
        """What the token lacks for each alternative, in words for the operator; empty if nothing."""
        if self.is_met_by(token):
            return ""
        lacking = (", ".join(str(n) for n in needs if not n.met_by(token)) for needs in self.alternatives)
        return " or ".join(f"lacks {needs}" for needs in lacking)

    def describe(self) -> str:
        """The requirement in words."""
        return " or ".join(" and ".join(map(str, needs)) for needs in self.alternatives)


ANY_TOKEN = Requirement(((),))
"""Met by every valid token: what ``requires()`` without arguments means."""


def all_of(requirements: Iterable[Requirement]) -> Requirement:
    """All of ``requirements``; none at all is met by any valid token."""
    given = tuple(requirements)
    for requirement in given:
        if not isinstance(requirement, Requirement):
            raise ConfigurationError(
                f"{requirement!r} is no requirement: write scope(...), role(...) or the like"
            )
    return reduce(Requirement.__and__, given, ANY_TOKEN)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What ``operation`` needs; decorators copy it to functions that are not the operation."""

    operation: "ref[Any]"
    needed: Requirement


def declare(operation: Operation, needed: Requirement) -> Operation:
    """``operation``, which says from now on that it needs ``needed``, and what it said before: see `declared`."""
    before = declared(operation)
    both = needed if before is None else before & needed
    setattr(operation, DECLARED, Declaration(ref(operation), both))
    return operation


def declared(operation: Any) -> Requirement | None:
    """What ``operation`` was guarded with, for documents and audits; None where nothing guards it by itself."""
    found = getattr(operation, DECLARED, None)
    return found.needed if isinstance(found, Declaration) else None


def is_declared_by(operation: Any) -> bool:
    """Whether ``operation`` itself was given to `declare`, rather than a function that it wraps."""
    found = getattr(operation, DECLARED, None)
    return isinstance(found, Declaration) and found.operation() is operation


def declared_together(operations: Iterable[Any]) -> Requirement | None:
    """All that ``operations`` declare, which one request goes through; None where none of them declares anything."""
    found = [needed for one in operations if (needed := declared(one)) is not None]
    return all_of(found) if found else None


def _requirement(alternatives: Iterable[tuple[Need, ...]]) -> Requirement:
    """The alternatives, without one that asks for no less than another: that one opens sooner anyway."""
    unique = {frozenset(map(str, needs)): needs for needs in map(_without_repeats, alternatives)}
    if len(unique) > MAX_ALTERNATIVES:
        raise ConfigurationError(f"a requirement has more than {MAX_ALTERNATIVES} alternatives: split it")
    return Requirement(tuple(needs for names, needs in unique.items() if not any(map(names.__gt__, unique))))


def _without_repeats(needs: tuple[Need, ...]) -> tuple[Need, ...]:
    return tuple({str(need): need for need in needs}.values())


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def scope(*values: str) -> Requirement:
    """All of these scopes (RFC 6749 §3.3).  Raises `ConfigurationError` for none, or for what is not a scope."""
    for value in values:
        if not is_scope_token(value):
            raise ConfigurationError(
                f"{value!r} is not a scope: write one value each, like scope('read', 'write')"
            )
    return _all("scope", values)


def is_scope_token(value: Any) -> bool:
    """Whether ``value`` is one scope (RFC 6749 §3.3)."""
    return isinstance(value, str) and value != "" and SCOPE_CHARACTERS.issuperset(value)


def role(*values: str) -> Requirement:
    """All of these roles, compared as whole strings (RFC 9068 §2.2.3.1)."""
    return _all("role", values)


def group(*values: str) -> Requirement:
    """Membership in all of these groups, compared as whole strings (RFC 9068 §2.2.3.1)."""
    return _all("group", values)


def entitlement(*values: str) -> Requirement:
    """All of these entitlements, compared as whole strings (RFC 9068 §2.2.3.1)."""
    return _all("entitlement", values)


def claim(name: str, value: str | int | float | bool) -> Requirement:
    """The claim ``name`` equals ``value``, in type too, or is a list containing it."""
    if not isinstance(name, str) or not name or not isinstance(value, str | int | float | bool):
        raise ConfigurationError('claim("tenant", "acme") needs a name and a string, number or boolean')
    return Requirement(((Need("claim", value, name),),))


def _all(kind: Literal["scope", "role", "group", "entitlement"], values: tuple[str, ...]) -> Requirement:
    if not values or not all(isinstance(value, str) and value for value in values):
        raise ConfigurationError(f'{kind}("...") needs at least one value, and values are strings')
    return _requirement([tuple(Need(kind, value) for value in values)])
