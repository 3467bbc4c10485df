"""Runs flows on threads.

Whoever first needs something does it in its own thread while the others wait for the outcome; what nobody needs
to wait for gets a thread of its own.  An exchange happens in a thread too, because that is the only way to keep
a total time: when it is over, the exchange's sockets are shut down, and its thread ends by itself.
"""

import inspect
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock, Semaphore, Thread
from typing import Any, TypeVar, cast
from weakref import finalize

import httpx

from ticketgate.core.access_token import AccessToken
from ticketgate.core.flow import (
    Alone,
    Call,
    Cause,
    Connection,
    Effect,
    Fetch,
    FetchFailed,
    Flow,
    HttpRequest,
    Lane,
    Load,
    Once,
    Reply,
    Save,
    WaitingFor,
    Within,
    name_of,
)
from ticketgate.core.fork import renew_in_children
from ticketgate.core.request import bearer_request
from ticketgate.core.server import ResourceServer
from ticketgate.drivers import files
from ticketgate.drivers.http import (
    Answer,
    built,
    client_arguments,
    connection_for,
    failed,
    tls_context,
    too_many,
    too_slow,
)
from ticketgate.drivers.shared import Deadline, checked_max_waiting, report, too_many_waiting
from ticketgate.errors import ConfigurationError

T = TypeVar("T")


class Driver:
    """Performs what flows ask for, on the calling thread.

    ``client`` may be an `httpx.Client`, or one with its interface, that stays the caller's to close; without
    it every exchange has a client of its own.  At most ``max_waiting`` threads wait for each kind of thing
    that we have not seen yet (see docs/keys.md); the next one is answered 503.  It should be less than the server has
    threads, since what waits there serves nobody else meanwhile.
    """

    def __init__(self, client: httpx.Client | None = None, *, max_waiting: int = 4) -> None:
        self._client = client
        self._max_waiting = checked_max_waiting(max_waiting)
        self._shared: dict[int, Shared] = {}
        if client is None:
            _ = tls_context()

    def run(self, flow: Flow[T]) -> T:
        """The result of ``flow``; raises what it raises."""
        return self._run(flow, NO_WAIT)

    def _run(self, flow: Flow[T], wait: "Wait") -> T:
        try:
            effect = next(flow)
            while True:
                effect = self._step(flow, effect, wait)
        except StopIteration as done:
            return cast(T, done.value)

    def _step(self, flow: Flow[Any], effect: Effect, wait: "Wait") -> Effect:
        try:
            answer = self._perform(effect, wait)
        except Exception as error:
            return flow.throw(error)
        return flow.send(answer)

    def _perform(self, effect: Effect, wait: "Wait") -> Any:
        match effect:
            case Fetch(request):
                return self._fetch(request, wait)
            case Within():
                return self._within(effect)
            case Once(wait=True):
                with self._in_this_process().waiting(effect.limited, self._max_waiting):
                    return _result(self._begin(effect), effect.lifetime)
            case Once():
                _ = self._begin(effect)
            case Call(function, arguments):
                return _plain(function, arguments)
            case Load(path):
                return files.load(path)
            case Save(path, data):
                return files.save(path, data)
            case Alone():
                return self._alone(effect)

    def _alone(self, effect: Alone) -> Any:
        lock = files.ProcessLock(effect.path)
        try:
            deadline = time.monotonic() + effect.patience
            while not lock.acquire() and time.monotonic() < deadline:
                time.sleep(files.POLL)
            return self.run(effect.flow())
        finally:
            lock.release()

    def _begin(self, effect: Once) -> Future[Any]:
        """The outcome of the one run of ``effect``, which starts here unless it is under way."""
        shared = self._in_this_process()
        outcome, first = shared.join(effect)
        if first:
            run = partial(self._lead, effect, outcome, shared)
            run() if effect.wait else self._start(run, effect, outcome, shared)
        return outcome

    def _start(self, run: partial[None], effect: Once, outcome: Future[Any], shared: "Shared") -> None:
        """In a thread of its own; where none can be started the run is over, and the next who asks tries again."""
        try:
            _thread(run)
        except RuntimeError as error:
            shared.leave(effect.name, outcome)
            report(error)
            outcome.set_exception(FetchFailed("no thread could be started", cause=Cause.LIMIT))

    def _lead(self, effect: Once, outcome: Future[Any], shared: "Shared") -> None:
        try:
            result = self.run(effect.flow())
        except BaseException as error:
            shared.leave(effect.name, outcome)
            report(error)
            outcome.set_exception(error if isinstance(error, Exception) else FetchFailed("interrupted"))
            if not isinstance(error, Exception):
                raise
        else:
            shared.leave(effect.name, outcome)
            outcome.set_result(result)

    def _in_this_process(self) -> "Shared":
        return self._shared.setdefault(os.getpid(), Shared())  # what another process began never ends here

    def _within(self, effect: Within) -> Any:
        began = time.monotonic()
        with self._turn(effect.lane, began + effect.patience) as had_to_wait:
            waited = time.monotonic() - began if had_to_wait else 0
            return self._run(effect.flow(), Wait(had_to_wait, waited))

    def _fetch(self, request: HttpRequest, wait: "Wait") -> Reply:
        outcome: Future[Reply] = Future()
        line = Line()
        try:
            _thread(partial(self._exchange, request, line, outcome))
        except RuntimeError as error:
            raise FetchFailed("no thread could be started", cause=Cause.LIMIT) from error
        try:
            return outcome.result(request.timeout - wait.seconds)
        except TimeoutError as error:
            line.cut()
            raise (too_many() if wait.was_needed else too_slow(request)) from error

    @contextmanager
    def _turn(self, lane: Lane | None, deadline: float) -> Generator[bool, None, None]:
        """Hold a place in the lane; waits for one where others may still wait, and says whether it did."""
        if lane is None:
            yield False
            return
        places = self._in_this_process().places(lane)
        had_to_wait = not places.free.acquire(blocking=False)
        if had_to_wait and not places.wait(lane.queue, deadline):
            raise too_many()
        try:
            with self._turn(lane.inside, deadline) as had_to_wait_inside:
                yield had_to_wait or had_to_wait_inside
        finally:
            places.free.release()

    def _exchange(self, request: HttpRequest, line: "Line", outcome: Future[Reply]) -> None:
        try:
            with self._open_client(request) as client:
                reply = _exchange(client, request, line)
        except BaseException as error:
            outcome.set_exception(failed(error) if isinstance(error, Exception) else error)
        else:
            outcome.set_result(reply)

    def _open_client(self, request: HttpRequest) -> AbstractContextManager[httpx.Client]:
        if self._client is not None:
            return nullcontext(self._client)
        if not request.keep_alive:
            return httpx.Client(**client_arguments(connection_for(request)))
        return nullcontext(self._in_this_process().kept_client(connection_for(request)))


@dataclass(frozen=True, slots=True)
class Wait:
    """Whether a flow had to wait for its place in a lane, and for how long."""

    was_needed: bool
    seconds: float


NO_WAIT = Wait(was_needed=False, seconds=0)


class Places:
    """The places of a lane, and how many wait for one."""

    def __init__(self, width: int) -> None:
        self.free = Semaphore(width)
        self._waiting = 0
        self._lock = Lock()

    def wait(self, queue: int, deadline: float) -> bool:
        """Whether there was a place before ``deadline``; not more than ``queue`` wait for one."""
        with self._lock:
            if self._waiting >= queue:
                return False
            self._waiting += 1
        try:
            return self.free.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            with self._lock:
                self._waiting -= 1


@dataclass(frozen=True, slots=True)
class Run:
    """A flow that runs for everybody who asks for it before ``deadline``."""

    outcome: Future[Any]
    deadline: Deadline


class Shared:
    """What a driver has in one process: the runs that are under way, the lanes, and the clients that are kept."""

    def __init__(self) -> None:
        self._running: dict[Hashable, Run] = {}
        self._lanes: dict[Hashable, Places] = {}
        self._clients: dict[Connection, httpx.Client] = {}
        self._waiting: Counter[WaitingFor] = Counter()
        self._lock = Lock()

    @contextmanager
    def waiting(self, kind: WaitingFor | None, limit: int) -> Generator[None, None, None]:
        """Count one who waits, who leads the run too; raises `TooManyWaiting` above ``limit`` of a ``kind``."""
        if kind is None:
            yield
            return
        with self._lock:
            if self._waiting[kind] >= limit:
                raise too_many_waiting(limit, kind)
            self._waiting[kind] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[kind] -= 1

    def places(self, lane: Lane) -> Places:
        """The places of ``lane``."""
        with self._lock:
            return self._lanes.setdefault(lane.name, Places(lane.width))

    def kept_client(self, connection: Connection) -> httpx.Client:
        """A client whose connections are kept as long as we are."""
        with self._lock:
            if connection not in self._clients:
                client = self._clients[connection] = httpx.Client(**client_arguments(connection))
                _ = finalize(self, client.close)
            return self._clients[connection]

    def join(self, effect: Once) -> tuple[Future[Any], bool]:
        """The outcome of the run that ``effect`` asks for, and whether it is the caller who must run it."""
        with self._lock:
            run = self._running.get(effect.name)
            first = run is None or run.deadline.has_passed
            if run is None or first:
                run = self._running[effect.name] = Run(Future(), Deadline.after(effect.lifetime))
            return run.outcome, first

    def leave(self, name: Hashable, outcome: Future[Any]) -> None:
        """The run called ``name`` that has ``outcome`` is over: who asks from now on needs another one."""
        with self._lock:
            run = self._running.get(name)
            if run is not None and run.outcome is outcome:  # not one started after the deadline of this one
                del self._running[name]


class Line:
    """The sockets of one exchange, so that it can be ended from another thread.

    Nobody tells the socket of a connection that was there already: an exchange on one looks at ``is_cut`` as it reads.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self.is_cut = False

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpx tells about an exchange (its ``trace`` extension); connections are remembered."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.is_cut:
                self.cut()

    def cut(self) -> None:
        """Shut the sockets down; closing them would let another thread read from their number."""
        self.is_cut = True
        for sock in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _exchange(client: httpx.Client, request: HttpRequest, line: Line) -> Reply:
    sent = built(client, request, trace=line.trace)
    with closing(client.send(sent, stream=True, follow_redirects=False)) as response:
        answer = Answer(response, request.max_bytes)
        for chunk in response.iter_raw():
            answer.add(chunk)
            if line.is_cut:
                raise too_slow(request)
        return answer.complete()


def _result(outcome: Future[Any], lifetime: float) -> Any:
    """What a run that others may lead came to.  Raises `FetchFailed` where that takes longer than it may."""
    if not wait([outcome], lifetime).done:
        raise FetchFailed(f"no result within {lifetime:g} seconds")
    return outcome.result()


def _plain(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    result = function(*arguments)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise ConfigurationError(f"{name_of(function)} is async: that works under asyncio only")
    return result


def _thread(target: partial[None]) -> None:
    Thread(target=target, name="ticketgate", daemon=True).start()


def verify(server: ResourceServer, token: str | bytes, *, driver: Driver | None = None) -> AccessToken:
    """The access token that ``token`` is, after every check that a request's token gets (RFC 9068 §4).

    For workers, scripts and tests.  Raises `OAuthError` where the token is at fault, `CannotDecide` where
    that cannot be known now.  ``driver`` runs the flow; without it one is shared by the whole process.

        token = verify(server, "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOi...")
    """
    return (driver or default_driver()).run(server.authenticate(bearer_request(token)))


def warm_up(server: ResourceServer, fail_fast: bool = False, *, driver: Driver | None = None) -> None:
    """Fetch what the first request would have to wait for: the keys of every issuer (RFC 8414 §3).

    An issuer that cannot be reached is logged, and tried again by the requests that need it; with
    ``fail_fast`` it raises `IssuerUnavailable`.

        warm_up(server)
    """
    (driver or default_driver()).run(server.warm_up(fail_fast=fail_fast))


@cache
def default_driver() -> Driver:
    """The driver of everybody who brings none; it keeps what belongs to one process apart from all others."""
    with (
        ONE_AT_A_TIME.lock
    ):  # `cache` lets threads that come together make one each, which would share nothing
        return _only_driver()


class OneAtATime:
    """A lock for the whole process."""

    def __init__(self) -> None:
        self.lock = Lock()
        renew_in_children(self)

    def renew_lock(self) -> None:
        """In a forked child."""
        self.lock = Lock()


ONE_AT_A_TIME = OneAtATime()


@cache
def _only_driver() -> Driver:
    return Driver()
