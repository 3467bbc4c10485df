"""JSON as RFC 8259 means it, for input that an unauthenticated client wrote: no leniency, no surprises.

UTF-8 only, no duplicate names, no NaN or infinite numbers, no lone surrogates, nesting at most 64 deep, at most
1,000 objects and arrays in small documents (RFC 7515 §10.12, RFC 8725 §3.7, RFC 8259 §9).  What comes back is read-only: objects are `FrozenDict`, arrays tuples.
Reading takes time proportional to the size of the input, whatever it holds.
"""

import codecs
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeGuard

MAX_DEPTH = 64
MAX_CONTAINERS = 1_000
BYTES_PER_CONTAINER = 16
"""Longer documents may hold one object or array for each of so many bytes: more than any JWK Set has."""
WHITESPACE = " \t\n\r"
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
SET_ITEM = dict[str, Any].__setitem__
"""What fills a `FrozenDict` while it is made."""


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed; ``json.dumps`` takes it as the dict it is."""

    def __setitem__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def __delitem__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def __or__(self, other: Any, /) -> Any:
        return dict(self) | other

    def __ior__(self, other: Any, /) -> Any:
        _refuse()

    def clear(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def pop(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def popitem(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def setdefault(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def update(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse()

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def _refuse() -> NoReturn:
    raise TypeError("this dict is read-only; dict(it) makes a copy that can be changed")


def is_array(value: Any) -> TypeGuard[tuple[Any, ...]]:
    """Whether ``value`` was a JSON array."""
    return isinstance(value, tuple)


def as_number(value: Any) -> float | None:
    """The number that ``value`` is; None for everything else, for true and false, and for a number beyond a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def is_object(value: Any) -> TypeGuard[FrozenDict]:
    """Whether ``value`` was a JSON object."""
    return isinstance(value, FrozenDict)


def parse_object(raw: bytes) -> FrozenDict:
    """The one JSON object that ``raw`` is.  Raises ValueError for everything else."""
    value: Any = _parse(raw)
    if not is_object(value):
        raise ValueError("not a JSON object")
    return value


def parse_document(raw: bytes) -> FrozenDict:
    """The JSON object that an issuer published: null members count as absent, and a byte order mark is skipped.

    RFC 8259 §8.1 lets a parser ignore the mark.  Never for tokens.  Raises ValueError as `parse_object` does.
    """
    return without_nulls(parse_object(raw.removeprefix(codecs.BOM_UTF8)))


def without_nulls(members: Mapping[str, Any]) -> FrozenDict:
    """``members`` without those that are null."""
    return FrozenDict({name: value for name, value in members.items() if value is not None})


def _parse(raw: bytes) -> Any:
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_complexity(raw)
    value = _scan(raw.decode("utf-8").strip(WHITESPACE))
    if b"\\u" in raw:
        _ = json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate cannot be encoded
    return value


def _scan(text: str) -> Any:
    """The one JSON value that ``text`` is: what `JSONDecoder.decode` does, in half the time."""
    try:
        value, end = SCANNER(text, 0)
    except StopIteration:
        raise ValueError("no JSON value") from None
    if end != len(text):
        raise ValueError("something stands after the JSON value")
    return value


def _check_complexity(raw: bytes) -> None:
    """Refuse what is nested too deep, or holds so many objects that making them costs more than a signature.

    Without the escaped backslashes, and then the escaped quotes, every quote left begins or ends a string.  What
    this makes of bytes that are not JSON does not matter: the scanner stops at the first of them.
    """
    outside_of_strings = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside_of_strings).translate(None, NOT_BRACKETS)
    if brackets.count(b"[") + brackets.count(b"{") > max(MAX_CONTAINERS, len(raw) // BYTES_PER_CONTAINER):
        raise ValueError("it holds too many objects and arrays")
    if _depth(brackets) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _depth(brackets: bytes) -> int:
    deepest = depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> FrozenDict:
    value = FrozenDict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is repeated")
    for name, member in pairs:
        if type(member) is list:
            SET_ITEM(value, name, _frozen(member))
    return value


def _frozen(value: Any) -> tuple[Any, ...]:
    if list not in map(type, value):  # by far the most arrays: a copy, without a call for each member
        return tuple(value)
    return tuple([_frozen(member) if _is_list(member) else member for member in value])


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return type(value) is list


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
SCANNER: Callable[[str, int], tuple[Any, int]] = vars(DECODER)["scan_once"]
