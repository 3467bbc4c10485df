"""Flows: code that decides yields what it needs, and a driver does the waiting.

A flow is a generator.  When it needs the world it yields an effect; a driver performs that effect and
sends the answer back in, or throws the exception that came instead.  The same flow therefore runs on
threads and on an event loop, no decision is written twice, and a test can play the driver by hand:

    flow = server.authenticate(request)
    fetch = next(flow)              # Fetch(HttpRequest("GET", "https://as.example/jwks"))
    flow.send(Reply(200, {}, b'{"keys": []}'))

A flow that needs nothing never yields, so on the warm path it costs as much as a function call.
The helpers `fetch` and `once` give every ``yield`` the type of its answer.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lane:
    """Flows of one ``name`` share a lane: ``width`` of them run at once, and ``queue`` more may wait.

    Those in it also need a place in the lane ``inside``, if there is one, which others may use too.
    """

    name: Hashable
    width: int
    queue: int
    inside: "Lane | None" = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate: the paths of two PEM files."""

    certificate: str
    key: str = field(repr=False)


class Connection(NamedTuple):
    """What a connection is made with: our certificate, the file of those we trust, and a proxy to go through."""

    certificate: Certificate | None = None
    ca: str | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        proxy = None if self.proxy is None else "..."  # it may hold a password
        return f"Connection(certificate={self.certificate!r}, ca={self.ca!r}, proxy={proxy})"


DIRECT = Connection()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to send out: a total time in seconds and an answer's size in bytes bound the whole exchange.

    ``keep_alive`` keeps the connection for the next one; secrets may be in headers and body, so neither is shown.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    timeout: float = 5
    max_bytes: int = 524_288
    body: bytes | None = field(default=None, repr=False)
    connection: Connection = DIRECT
    keep_alive: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer: header names in lower case, the body decoded.  It may hold tokens, so only ``status`` is shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Cause(Enum):
    """Why there is no answer: no connection could be made, our own limits are reached, or the exchange failed.

    What a request says can be the cause of the last only.
    """

    CONNECTION = "connection"
    LIMIT = "limit"
    EXCHANGE = "exchange"


class FetchFailed(Exception):
    """No answer that can be used; the message says why, in words for the operator.

    ``reply`` is the answer that came, where a complete one did.
    """

    def __init__(self, message: str, reply: Reply | None = None, cause: Cause = Cause.EXCHANGE) -> None:
        super().__init__(message)
        self.reply = reply
        self.cause = cause


class TooManyWaiting(FetchFailed):
    """As many callers as the driver allows are waiting already."""

    def __init__(self, message: str) -> None:
        super().__init__(message, cause=Cause.LIMIT)


class Fetch(NamedTuple):
    """Perform this exchange; the answer is a `Reply`, or `FetchFailed` is thrown."""

    request: HttpRequest


class WaitingFor(Enum):
    """What a caller waits for; of each kind as many may wait as the driver allows, whoever waits for the others."""

    NAME = "an issuer that we do not know yet"
    FIRST_KEYS = "keys of an issuer that has not verified a token yet"
    KEYS = "keys of an issuer beside others"
    LOOK = "a key that we have not seen yet"
    QUESTION = "what is said of an unknown opaque token"


class Once(NamedTuple):
    """Run ``flow`` once for everybody who asks under ``name`` meanwhile; the answer is its result.

    ``wait=False`` runs it in the background, and the answer is None at once.  A run that is not over
    ``lifetime`` seconds after its start is not joined any more (its process may have been frozen): another starts.
    But where the event loop of the last such run ended before the run did, the asker waits up to ``patience``
    seconds, so that one gets done; the answer is False where this was in vain.
    Callers that are ``limited`` count towards the driver's ``max_waiting`` for this kind of wait; above it
    `TooManyWaiting` is thrown.
    """

    name: Hashable
    flow: Callable[[], "Flow[Any]"]
    wait: bool = True
    lifetime: float = 60
    limited: WaitingFor | None = None
    patience: float = 0

    def __repr__(self) -> str:
        return f"Once(wait={self.wait})"  # the flow may hold a token


def name_of(function: Callable[..., Any]) -> str:
    """What messages call ``function``: not by its repr, which shows what a partial or an object with ``__call__`` holds."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


class Call(NamedTuple):
    """Ask a function that the user gave us; the answer is its result.

    Under asyncio an async function is awaited, and any other runs in a thread, since it may block.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"Call({name_of(self.function)})"  # tokens are among the arguments


class Within(NamedTuple):
    """Run ``flow`` while it has a place in ``lane``; the answer is its result.

    `FetchFailed` with `Cause.LIMIT` is thrown where there is no place within ``patience`` seconds.  What the wait took
    is taken from the time of the exchanges in ``flow``.  Functions of the user that it asks have threads of their own.
    """

    lane: Lane
    patience: float
    flow: Callable[[], "Flow[Any]"]

    def __repr__(self) -> str:
        return f"Within(patience={self.patience})"  # the flow may hold a token


class Load(NamedTuple):
    """Read the file ``path``; the answer is its bytes, or None where there is none that can be used."""

    path: str


class Save(NamedTuple):
    """Write ``data`` to the file ``path``, whole; failing is logged, and the answer is None either way."""

    path: str
    data: bytes

    def __repr__(self) -> str:
        return f"Save({self.path!r}, {len(self.data)} bytes)"


class Alone(NamedTuple):
    """Run ``flow`` while no other process runs one for ``path``; the answer is its result.

    After ``patience`` seconds of waiting it runs all the same.
    """

    path: str
    flow: Callable[[], "Flow[Any]"]
    patience: float

    def __repr__(self) -> str:
        return f"Alone({self.path!r}, patience={self.patience})"


Effect: TypeAlias = Fetch | Once | Call | Within | Load | Save | Alone
Flow: TypeAlias = Generator[Effect, Any, T]


def fetch(request: HttpRequest) -> Flow[Reply]:
    """The reply to ``request``.  Raises `FetchFailed`."""
    return cast(Reply, (yield Fetch(request)))


def once(
    name: Hashable,
    flow: Callable[[], Flow[T]],
    *,
    lifetime: float = 60,
    limited: WaitingFor | None = None,
) -> Flow[T]:
    """The result of ``flow``, shared with everybody who asks under ``name`` while it runs.

    Raises `TooManyWaiting` where this wait is ``limited`` and as many of its kind are waiting as the driver allows.
    """
    return cast(T, (yield Once(name, flow, lifetime=lifetime, limited=limited)))


def call(function: Callable[..., Any], *arguments: Any) -> Flow[Any]:
    """The result of a function that the user gave us."""
    return (yield Call(function, arguments))


def within(lane: Lane, patience: float, flow: Callable[[], Flow[T]]) -> Flow[T]:
    """The result of ``flow``, run with a place in ``lane``.  Raises `FetchFailed` where there is none."""
    return cast(T, (yield Within(lane, patience, flow)))


def load(path: str) -> Flow[bytes | None]:
    """What stands in the file ``path``, if it can be used."""
    return cast("bytes | None", (yield Load(path)))


def save(path: str, data: bytes) -> Flow[None]:
    """Write ``data`` to the file ``path``."""
    yield Save(path, data)


def alone(path: str, flow: Callable[[], Flow[T]], patience: float) -> Flow[T]:
    """The result of ``flow``, which no other process runs for ``path`` meanwhile."""
    return cast(T, (yield Alone(path, flow, patience)))


def behind(
    name: Hashable, flow: Callable[[], Flow[object]], *, lifetime: float = 60, patience: float = 0
) -> Flow[bool]:
    """Have ``flow`` run once in the background, and go on without its result.

    False where this took ``patience`` seconds, because the event loop of the run before ended too early.
    """
    answer = yield Once(name, flow, wait=False, lifetime=lifetime, patience=patience)
    return answer is not False
