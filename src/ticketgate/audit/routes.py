"""What is known of a route, and what is wrong with it; free of any framework."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from ticketgate.core.gate import MISPLACED
from ticketgate.core.guards import Protection
from ticketgate.core.public import PublicPaths
from ticketgate.core.requirement import ANY_TOKEN, Need, Requirement
from ticketgate.core.server import ResourceServer

ONE_STRING = ("iss", "sub", "client_id", "jti")


class Door(NamedTuple):
    """What stands before routes below ``prefix``: paths that are ``public``, and whether it ``closes`` all others."""

    public: PublicPaths
    closes: bool = True
    prefix: str = ""
    server: ResourceServer | None = None

    @classmethod
    def of(cls, gate: Any, prefix: str = "") -> "Door":
        """The door that a middleware, or an extension like it, is."""
        return cls(gate.public, not gate.optional, prefix, gate.server)


@dataclass(frozen=True, slots=True)
class GuardedRoute:
    """A route: its ``needed`` requirement, None where it declares none, and the ``doors`` before it, outermost first.

    ``deciding`` are the resource servers that its own declarations use, whatever the doors say; where there are none,
    the innermost door decides.  ``open_because`` says what is wrong where everybody may call it, if more is known than
    that; ``wrong`` is what is wrong with its declarations.  ``inside`` are decorators and the like around its guard,
    ``misplaced`` says that its guard is never called, and ``not_understood`` names what may answer here in its own
    way; what is not a route itself (``is_route``) sees requests before routes do.
    """

    path: str
    methods: tuple[str, ...]
    endpoint: str
    needed: Requirement | None
    doors: tuple[Door, ...] = ()
    deciding: tuple[ResourceServer, ...] = ()
    open_because: str = ""
    wrong: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    misplaced: bool = False
    not_understood: str = ""
    is_route: bool = True

    def protected_by(self, protection: Protection) -> "GuardedRoute":
        """The same route with what is known of its guard."""
        return replace(
            self,
            needed=protection.needed,
            inside=(*self.inside, *protection.inside) if protection.needed is not None else (),
            misplaced=protection.misplaced,
        )

    @property
    def name(self) -> str:
        """Its methods and path."""
        return f"{','.join(self.methods)} {self.path}"

    @property
    def is_public(self) -> bool:
        """Whether everybody may call it, by declaration."""
        return (
            bool(self.doors) and all(map(self._opens, self.doors)) and (self.needed is None or self._is_blind)
        )

    @property
    def access(self) -> str:
        """Who may call it, in words, and what may answer before its guard is asked."""
        inside = f", guarded inside {' and '.join(self.inside)}" if self.inside else ""
        unknown = f" (not understood: {self.not_understood})" if self.not_understood else ""
        return f"{self._who}{self._public_part}{inside}{unknown}"

    @property
    def _public_part(self) -> str:
        """Where everybody may call a route some of whose paths are public: ``, public below /static``."""
        doors = [door for door in self.doors if door.closes and not self._opens(door)]
        entries = [door.public.opening(self.below(door)) for door in doors]
        if self.needed is not None or not self.is_route or not all(entries):
            return ""
        parts = [
            f"{'below' if entry.endswith('/*') else 'at'} {entry.removesuffix('/*') or '/'}"
            for entry in dict.fromkeys(chain.from_iterable(entries))
        ]
        return f", public {' and '.join(parts)}" if parts else ""

    @property
    def _who(self) -> str:
        if self.is_public:
            return "public"
        if self.needed is not None:
            return self.needed.describe() or "any valid token"
        return "any valid token" if self._is_closed else "anybody"

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in sentences without the route's name."""
        if self.misplaced:
            return (f"({self.endpoint}) {MISPLACED}",)
        return (*self.wrong, *(self._problems() if self.is_route else ()))

    def _problems(self) -> tuple[str, ...]:
        if self.needed is None and not self._is_closed:
            return () if self.is_public else (self.open_because or "is neither protected nor public",)
        if self.needed is not None and self._is_blind:
            return ("is public, where no token is looked at, and so what it requires can never be met",)
        if self.needed is not None and not self._judges:
            return ("requires a token, and nothing before it looks for one: every request gets a 503",)
        reason = _why_never(ANY_TOKEN if self.needed is None else self.needed, self._judges)
        return (f"can never be called: {reason}",) if reason else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be judged from outside, in sentences without the route's name."""
        notes = [
            f"is guarded inside {name}, which can answer before the guard is asked" for name in self.inside
        ]
        if self.not_understood and (self.is_route or not self._is_closed):
            notes.append(f"is not understood: {self.not_understood} can answer it in its own way")
        elif self.not_understood and any(door.server and door.public.entries for door in self.doors):
            notes.append(
                f"is not understood: {self.not_understood} can rewrite a public path into another one"
            )
        return tuple(notes)

    def below(self, door: Door) -> str:
        """The path as ``door`` sees it."""
        return self.path.removeprefix(door.prefix)

    def as_json(self) -> dict[str, Any]:
        """What ``ticketgate routes --json`` prints."""
        return {
            "path": self.path,
            "methods": list(self.methods),
            "endpoint": self.endpoint,
            "access": self.access,
            "scopes": [] if self.needed is None else list(self.needed.scopes),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def _opens(self, door: Door) -> bool:
        return door.public.include(self.below(door))

    @property
    def _is_closed(self) -> bool:
        return any(door.closes and not self._opens(door) for door in self.doors)

    @property
    def _judges(self) -> tuple[ResourceServer, ...]:
        """The servers that must all accept the token."""
        looking = (door.server for door in self.doors if door.server is not None and not self._opens(door))
        return tuple(dict.fromkeys((*looking, *self.deciding)))

    @property
    def _is_blind(self) -> bool:
        """Whether a server that decides here was told not to look for a token."""
        if not self.deciding:
            gates = [door for door in self.doors if door.server is not None]
            return any(map(self._opens, (gates or self.doors)[-1:]))
        innermost = {door.server: door for door in self.doors}
        return any(self._opens(innermost[one]) for one in (None, *self.deciding) if one in innermost)


@dataclass(frozen=True, slots=True)
class Audit:
    """All routes of an application in their order, everything that is wrong, and ``notes`` on what is not understood."""

    routes: tuple[GuardedRoute, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Iterable[GuardedRoute]) -> "Audit":
        routes = tuple(found)
        wrong = [f"{route.name} {problem}" for route in routes for problem in route.problems]
        notes = [f"{route.name} {note}" for route in routes for note in route.notes]
        return cls(routes, (*wrong, *_idle_entries(routes)), tuple(notes))

    def as_json(self) -> dict[str, Any]:
        """What ``ticketgate routes --json`` prints."""
        routes = [route.as_json() for route in self.routes]
        return {"routes": routes, "problems": list(self.problems), "notes": list(self.notes)}


def _idle_entries(routes: tuple[GuardedRoute, ...]) -> list[str]:
    """The ``public`` entries that open nothing: a misspelt path, or a route that is gone."""
    doors: Mapping[int, Door] = {id(door.public): door for route in routes for door in route.doors}
    return [
        f"public entry {entry!r} matches no route"
        for door in doors.values()
        for entry in door.public.entries
        if not any(
            entry in door.public.opening(route.below(door)) for route in routes if _stands_before(door, route)
        )
    ]


def _stands_before(door: Door, route: GuardedRoute) -> bool:
    return route.is_route and any(mine.public is door.public for mine in route.doors)


def _why_never(needed: Requirement, judges: tuple[ResourceServer, ...]) -> str:
    """Why no token can meet ``needed`` and be accepted by all of these servers; empty where one can."""
    named = [set(server.issuers) for server in judges if server.tenants is None]
    issuers = named[0].intersection(*named) if named else None
    if issuers is not None and not issuers and not all(map(_asks, judges)):
        names = " and ".join(server.audiences[0] for server in judges)
        return f"{names} must all accept its token, and they have no issuer in common"
    reasons = [_why_not(needs, issuers) for needs in needed.alternatives]
    return "" if "" in reasons else "; ".join(reasons)


def _asks(server: ResourceServer) -> bool:
    """Whether issuers are asked about opaque tokens, which do not say whose they are."""
    return any(issuer.introspection is not None for issuer in server.issuers.values())


def _why_not(needs: tuple[Need, ...], issuers: set[str] | None) -> str:
    """Why no token of these issuers can have all of ``needs``; empty where one can."""
    for name in ONE_STRING:
        values = {need.value for need in needs if need.kind == "claim" and need.name == name}
        if any(not isinstance(value, str) for value in values):
            return f"{name} is always a string"
        if len(values) > 1:
            return f"{name} cannot be {' and '.join(sorted(map(repr, values)))} at once"
        if name == "iss" and issuers is not None and values - issuers:
            return f"no issuer here is {values.pop()!r}"
    return ""
