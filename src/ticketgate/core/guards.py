"""Whether a registered function is a guard, contains one, or was registered without it.

    @app.get("/orders")                 registers the guard that @requires returned
    @requires(scope("orders:read"))
    def orders(): ...

    @requires(scope("orders:read"))     guards a function that nobody calls:
    @app.get("/orders")                 the one without the guard is registered
    def orders(): ...

`guard` therefore marks what it wraps.  Decorators copy attributes from the function inside them
(`functools.wraps`), so a mark or a declaration counts only for the very function it was made for.
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import ref

from ticketgate.core.requirement import Operation, Requirement, all_of, declare, declared, is_declared_by

GUARDED_ELSEWHERE = "__ticketgate_guarded_elsewhere__"
GUARDED_METHODS = "__ticketgate_guarded_methods__"
MOST_WRAPPERS = 50


@dataclass(frozen=True, slots=True)
class Protection:
    """How a registered function is protected: it needs ``needed``, None for nothing.

    ``inside`` are the decorators around the guard, which can answer before it is asked; a ``misplaced`` function
    has a guard that is never called.
    """

    needed: Requirement | None
    inside: tuple[str, ...] = ()
    misplaced: bool = False


def guard(guarded: Operation, inner: Any, needed: Requirement) -> Operation:
    """``guarded``, which `requires` put around ``inner``: it declares ``needed``, and ``inner`` is marked.

    So is everything that ``inner`` wraps: a route decorator may be anywhere in between.  A bound method has no
    attributes: its object says which of its methods are marked, or else the method is, for all objects.
    """
    for operation in _wrapped(inner):
        try:
            _mark(operation)
        except (AttributeError, TypeError):
            break
    return declare(guarded, needed)


def protection_of(operation: Any) -> Protection:
    """How ``operation`` is protected where it is called as it is, without anything around it."""
    around: list[str] = []
    copied: Requirement | None = None
    for layer in layers_of(operation):
        is_guard = is_declared_by(layer)
        if _is_marked(layer):
            if is_guard or copied is None:
                return Protection(None, misplaced=True)
            break  # a decorator that copies every attribute, ``__wrapped__`` too, leads past the guard inside
        if is_guard:
            return Protection(declared(layer), tuple(around))
        copied = declared(layer) if copied is None else copied
        if not _only_forwards(layer):
            around.append(name_of_decorator(layer))
    return Protection(copied, tuple(around)) if copied is not None else Protection(None)


def protection_by(operations: Iterable[Any], inside: tuple[str, ...] = ()) -> Protection:
    """How a route is protected whose requests go through all of ``operations``, and ``inside`` of more."""
    found = [protection_of(operation) for operation in operations]
    needed = [one.needed for one in found if one.needed is not None]
    return Protection(
        all_of(needed) if needed else None,
        (*inside, *(name for one in found for name in one.inside)),
        any(one.misplaced for one in found),
    )


def name_of_decorator(wrapper: Any) -> str:
    """Which decorator made ``wrapper``: `functools.wraps` gave it the name of the function inside."""
    code = getattr(wrapper, "__code__", None)
    if code is None:
        return f"{type(wrapper).__module__}.{type(wrapper).__qualname__}"
    return f"{wrapper.__globals__.get('__name__')}.{code.co_qualname.split('.<locals>')[0]}"


def name_of(operation: Any) -> str:
    """The name of a function, a class or an object's class, for messages."""
    while isinstance(operation, partial):
        operation = operation.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return str(getattr(operation, "__qualname__", type(operation).__qualname__))  # pyright: ignore[reportUnknownArgumentType]


def layers_of(operation: Any) -> Iterator[Any]:
    """``operation``, and what it calls in turn, as far as that can be seen."""
    for _ in range(MOST_WRAPPERS):
        yield operation
        operation = _inner(operation)
        if operation is None:
            return


def _inner(operation: Any) -> Any:
    if isinstance(operation, partial):
        return operation.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if inspect.ismethod(operation):
        return operation.__func__
    if (wrapped := getattr(operation, "__wrapped__", None)) is not None:
        return wrapped
    kind: Any = cast(Any, type(operation))
    call = getattr(kind, "__call__", None)  # noqa: B004  objects that are called
    return call if inspect.isfunction(call) else None


def _only_forwards(layer: Any) -> bool:
    """Whether ``layer`` can do nothing but call what is inside: no decorator made it."""
    if isinstance(layer, partial) or inspect.ismethod(layer):
        return True
    return not inspect.isfunction(layer) and not hasattr(layer, "__wrapped__")


def _wrapped(operation: Any) -> Iterator[Any]:
    for _ in range(MOST_WRAPPERS):
        yield operation
        operation = getattr(operation, "__wrapped__", None)
        if operation is None:
            return


def _mark(operation: Any) -> None:
    if inspect.ismethod(operation):
        owner, method = operation.__self__, operation.__func__
        try:
            setattr(owner, GUARDED_METHODS, (*_guarded_methods(owner), method))
        except (AttributeError, TypeError, ValueError):
            operation = method
        else:
            return
    setattr(operation, GUARDED_ELSEWHERE, ref(operation))


def _guarded_methods(owner: Any) -> tuple[Any, ...]:
    found: Any = getattr(owner, GUARDED_METHODS, ())
    return found if isinstance(found, tuple) else ()  # pyright: ignore[reportUnknownVariableType]


def _is_marked(operation: Any) -> bool:
    if inspect.ismethod(operation) and operation.__func__ in _guarded_methods(operation.__self__):
        return True
    mark = getattr(operation, GUARDED_ELSEWHERE, None)
    return isinstance(mark, ref) and mark() is operation
