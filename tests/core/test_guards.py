"""Which registered functions are guards, contain one, or were registered without it."""

import functools
from functools import partial
from itertools import islice, repeat

import pytest

from ticketgate import role, scope
from ticketgate.core.guards import Protection, guard, name_of, name_of_decorator, protection_by, protection_of
from ticketgate.core.requirement import declare, declared

READ, CLERK = scope("read"), role("clerk")
NOTHING, MISPLACED = Protection(None), Protection(None, misplaced=True)
CACHED = f"{__name__}.cached"


def requires(needed):
    def decorate(inner):
        @functools.wraps(inner)
        def guarded(*args, **kwargs):
            return inner(*args, **kwargs)

        return guard(guarded, inner, needed)

    return decorate


def cached(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def copied(function):
    """As decorators do that know nothing of `functools.wraps`."""

    def wrapper():
        return function()

    wrapper.__dict__.update(function.__dict__)
    return wrapper


class Route:
    """A route decorator: it keeps the function, and returns it as it was."""

    def __init__(self, wrap=lambda function: function):
        self.wrap = wrap

    def __call__(self, function):
        self.registered = self.wrap(function)
        return function


class Callable:
    @requires(READ)
    def __call__(self): ...


class Plain:
    def __call__(self): ...


class Methods:
    @requires(READ)
    def guarded(self): ...

    def plain(self): ...


def stack(*decorators, wrap=lambda function: function):
    """What the route registers where ``decorators`` are written from top to bottom, ``None`` for the route."""

    def view(): ...

    route = Route(wrap)
    for decorator in reversed(decorators):
        view = (decorator or route)(view)
    return route.registered


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        (stack(None), NOTHING),
        (stack(None, requires(READ)), Protection(READ)),
        (stack(None, requires(READ), requires(CLERK)), Protection(CLERK & READ)),
        (stack(None, cached, requires(READ)), Protection(READ, (CACHED,))),
        (stack(None, cached, cached, requires(READ)), Protection(READ, (CACHED, CACHED))),
        (stack(None, requires(READ), cached), Protection(READ)),
        (
            stack(None, functools.lru_cache, requires(READ)),
            Protection(READ, ("functools._lru_cache_wrapper",)),
        ),
        (stack(None, copied, requires(READ)), Protection(READ, (f"{__name__}.copied",))),
        (stack(None, cached), NOTHING),
        (stack(None, partial), NOTHING),
        (stack(None, partial, requires(READ)), Protection(READ)),
        (stack(requires(READ), None), MISPLACED),
        (stack(requires(READ), None, cached), MISPLACED),
        (stack(requires(READ), cached, None), MISPLACED),
        (stack(requires(READ), None, requires(CLERK)), MISPLACED),
        (stack(requires(READ), requires(CLERK), None), MISPLACED),
        (stack(requires(READ), None, wrap=partial), MISPLACED),
        (stack(requires(READ), None, wrap=cached), MISPLACED),
        (stack(requires(READ), None, wrap=copied), NOTHING),
        (Callable(), Protection(READ)),
        (partial(Callable()), Protection(READ)),
        (Plain(), NOTHING),
        (Methods().guarded, Protection(READ)),
        (Methods.guarded, Protection(READ)),
        (Methods().plain, NOTHING),
        (print, NOTHING),
        (None, NOTHING),
    ],
)
def test_how_a_registered_function_is_protected(registered, expected):
    assert protection_of(registered) == expected


def test_one_function_behind_two_guards():
    def view(): ...

    guards = [requires(needed)(view) for needed in (READ, CLERK)]
    assert [protection_of(one) for one in guards] == [Protection(READ), Protection(CLERK)]
    assert protection_of(view) == MISPLACED


def test_a_guard_between_two_route_decorators():
    above, below = Route(), Route()

    @above
    @requires(READ)
    @below
    def view(): ...

    assert protection_of(above.registered) == Protection(READ)
    assert protection_of(below.registered) == MISPLACED


def test_a_decorator_that_copies_a_mark_has_none_itself():
    def view(): ...

    _ = requires(READ)(view)
    assert protection_of(copied(view)) == NOTHING
    assert protection_of(requires(CLERK)(cached(view))) == Protection(CLERK)


def test_what_can_have_no_mark_can_be_guarded():
    methods = Methods()
    assert protection_of(requires(CLERK)(methods.plain)) == Protection(CLERK)
    assert protection_of(methods.plain) == MISPLACED
    assert protection_of(requires(CLERK)(len)) == Protection(CLERK)


def test_what_wraps_itself_ends():
    def view(): ...

    view.__wrapped__ = view
    assert protection_of(view) == NOTHING
    assert protection_of(requires(READ)(view)) == Protection(READ)


def test_a_long_chain_ends():
    def view(): ...

    for decorator in islice(repeat(cached), 60):
        view = decorator(view)
    assert protection_of(view) == NOTHING


def test_several_operations_on_the_way_of_one_request():
    plain, guarded, inside = stack(None), stack(None, requires(READ)), stack(None, cached, requires(CLERK))
    assert protection_by([plain]) == NOTHING
    assert protection_by([plain, guarded]) == Protection(READ)
    assert protection_by([guarded, inside], ("Middleware",)) == Protection(
        READ & CLERK, ("Middleware", CACHED)
    )
    assert protection_by([guarded, stack(requires(READ), None)]).misplaced


def test_a_declaration_is_told_apart_from_its_copies():
    def view(): ...

    declare(view, READ)
    assert declared(copied(view)) is declared(view) is READ
    assert declared(declare(view, CLERK)) == READ & CLERK


@pytest.mark.parametrize(
    ("operation", "name"),
    [(cached, "cached"), (partial(cached, 1), "cached"), (Plain(), "Plain"), (Methods, "Methods")],
)
def test_names(operation, name):
    assert name_of(operation) == name


def test_decorators_are_named_by_where_they_were_written():
    assert name_of_decorator(cached(print)) == CACHED
    assert name_of_decorator(Plain()) == f"{__name__}.Plain"


class Controller:
    def orders(self): ...


class Slotted:
    __slots__ = ()

    def orders(self): ...


def test_a_bound_method_is_marked_for_its_object_alone():
    controller, other = Controller(), Controller()
    guarded = requires(READ)(controller.orders)
    assert protection_of(guarded) == Protection(READ)
    assert protection_of(controller.orders) == MISPLACED
    assert protection_of(other.orders) == protection_of(Controller.orders) == NOTHING


def test_a_bound_method_of_an_object_without_attributes_is_marked_for_all():
    guarded = requires(READ)(Slotted().orders)
    assert protection_of(guarded) == Protection(READ)
    assert protection_of(Slotted().orders) == MISPLACED


def test_a_method_of_something_built_in_cannot_be_marked():
    values = Controller()
    values.__ticketgate_guarded_methods__ = "not ours"
    assert protection_of(values.orders) == NOTHING
    assert protection_of(requires(READ)("".join)) == Protection(READ)
