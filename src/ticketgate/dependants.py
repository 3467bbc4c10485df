"""What FastAPI calls for a route: its endpoint and dependencies, with the scopes that ``Security`` adds to them.

The tree is read without importing FastAPI, whose versions keep these scopes in different members.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ticketgate.core.requirement import is_scope_token

NOTHING: Mapping[Any, Any] = MappingProxyType({})


def calls(dependant: Any, overrides: Mapping[Any, Any] = NOTHING) -> Iterator[Any]:
    """Everything that is called for ``dependant``, each ``requires(...)`` together with its security scopes.

    Those of outer dependencies come first, as FastAPI has it.  Values that are not scopes are left out: see
    `invalid_scopes`.  ``overrides`` are FastAPI's ``dependency_overrides``: what is called in place of a dependency
    and of all that it depends on.
    """
    for one, own, outer in _walk(dependant, (), overrides):
        call = overrides.get(one.call, one.call) if one is not dependant and overrides else one.call
        taking = getattr(call, "with_scopes", None)
        yield taking(tuple(filter(is_scope_token, (*outer, *own)))) if taking else call


def unused_scopes(dependant: Any) -> Iterator[list[Any]]:
    """The scopes of each ``Security(...)`` in ``dependant`` that has no ``requires(...)`` below it."""
    return (list(own) for one, own, _ in _walk(dependant) if own and not _takes_scopes(one))


def invalid_scopes(dependant: Any) -> Iterator[Any]:
    """The values that a ``requires(...)`` in ``dependant`` is given and that are not scopes (RFC 6749 §3.3)."""
    for one, own, _ in _walk(dependant):
        if _takes_scopes(one):
            yield from (value for value in own if not is_scope_token(value))


def _walk(
    dependant: Any, outer: tuple[Any, ...] = (), overrides: Mapping[Any, Any] = NOTHING
) -> Iterator[tuple[Any, tuple[Any, ...], tuple[Any, ...]]]:
    """``dependant`` and what is below it, each with its own security scopes and those it inherits."""
    own = _own_scopes(dependant, outer)
    yield dependant, own, outer
    for one in dependant.dependencies:
        if overrides and one.call in overrides:
            yield one, _own_scopes(one, (*outer, *own)), (*outer, *own)
        else:
            yield from _walk(one, (*outer, *own), overrides)


def _own_scopes(dependant: Any, outer: tuple[Any, ...]) -> tuple[Any, ...]:
    if hasattr(dependant, "own_oauth_scopes"):
        return tuple(dependant.own_oauth_scopes or ())
    return tuple(dependant.security_scopes or ())[
        len(outer) :
    ]  # FastAPI 0.122 keeps the inherited ones with them


def _takes_scopes(dependant: Any) -> bool:
    return any(hasattr(one.call, "with_scopes") for one, _, _ in _walk(dependant))
