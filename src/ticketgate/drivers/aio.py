"""Runs flows on asyncio.

A flow that needs nothing runs to its end without touching the event loop.  What several requests need at once
runs as one task, in nobody's context, so that no request's end can cancel it; each event loop has its own.
"""

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import httpx

from ticketgate.core.access_token import AccessToken
from ticketgate.core.flow import (
    Alone,
    Call,
    Connection,
    Effect,
    Fetch,
    Flow,
    HttpRequest,
    Lane,
    Load,
    Once,
    Reply,
    Save,
    WaitingFor,
    Within,
)
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
THREADS = 32  # for functions of the user that no lane bounds
MAX_UNFINISHED = 10_000
CHUNKS_PER_TURN = 32


class Driver:
    """Performs what flows ask for, on the running event loop.

    ``client`` may be an `httpx.AsyncClient`, or one with its interface, that stays the caller's to close;
    without it every exchange has a client of its own.  On each loop at most ``max_waiting`` requests wait for each
    kind of thing that we have not seen yet (see docs/keys.md); the next one is answered 503.
    """

    def __init__(self, client: httpx.AsyncClient | None = None, *, max_waiting: int = 1_000) -> None:
        self._client = client
        self._runs_on_asyncio = False
        self._max_waiting = checked_max_waiting(max_waiting)
        self._unfinished: set[int] = set()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, OnLoop] = WeakKeyDictionary()
        if client is None:
            _ = tls_context()

    async def run(self, flow: Flow[T]) -> T:
        """The result of ``flow``; raises what it raises."""
        if not self._runs_on_asyncio:
            _require_asyncio()
            self._runs_on_asyncio = True
        try:
            effect = next(flow)
        except StopIteration as done:
            result: T = done.value
            return result
        return await self._go_on(flow, effect)

    async def _go_on(self, flow: Flow[T], effect: Effect, place: "Place | None" = None) -> T:
        _require_asyncio()  # a driver that many share may meet several event loops
        while True:
            try:
                step = partial(flow.send, await self._perform(effect, place))
            except Exception as error:
                step = partial(flow.throw, error)
            try:
                effect = step()
            except StopIteration as done:
                return cast(T, done.value)

    async def _perform(self, effect: Effect, place: "Place | None") -> Any:
        match effect:
            case Fetch(request):
                return await self._fetch(request, place or NO_WAIT)
            case Once(wait=True, limited=None):
                return await self._together(effect)
            case Once(wait=True, limited=WaitingFor() as kind):
                return await self._together_if_few_wait(effect, kind)
            case Once():
                return await self._in_background(effect)
            case Call(function, arguments):
                threads = self._on_this_loop().threads if place is None else place.threads
                return await _call(function, arguments, threads)
            case Within():
                return await self._within(effect)
            case Load(path):
                return await asyncio.to_thread(files.load, path)
            case Save(path, data):
                return await asyncio.to_thread(files.save, path, data)
            case Alone():
                return await self._alone(effect)

    async def _alone(self, effect: Alone) -> Any:
        lock = await asyncio.to_thread(files.ProcessLock, effect.path)
        try:
            deadline = time.monotonic() + effect.patience
            while not lock.acquire() and time.monotonic() < deadline:  # noqa: ASYNC110  another process has it
                await asyncio.sleep(files.POLL)
            return await self.run(effect.flow())
        finally:
            lock.release()

    async def _together(self, effect: Once) -> Any:
        """The result of the one run; whoever stops waiting leaves the others their run."""
        task, result = self._begin(effect)
        return result if task is None else await asyncio.shield(task)

    async def _together_if_few_wait(self, effect: Once, kind: WaitingFor) -> Any:
        """The same, unless as many of this ``kind`` wait already as may."""
        waiting = self._on_this_loop().waiting
        if waiting[kind] >= self._max_waiting:
            raise too_many_waiting(self._max_waiting, kind)
        waiting[kind] += 1
        try:
            return await self._together(effect)
        finally:
            waiting[kind] -= 1

    def _begin(self, effect: Once) -> tuple[asyncio.Task[Any] | None, Any]:
        """The task that runs ``effect`` for everybody; None and the result where it had nothing to wait for."""
        loop = asyncio.get_running_loop()
        running = self._on_this_loop().running
        run = running.get(effect.name)
        if run is not None and not run.deadline.has_passed:
            return run.task, None
        flow = effect.flow()
        try:
            first = next(flow)
        except StopIteration as done:
            return None, done.value
        task = loop.create_task(self._go_on(flow, first), context=Context())
        running[effect.name] = Run(task, Deadline.after(effect.lifetime))
        task.add_done_callback(partial(_forget, running, effect.name))
        return task, None

    async def _in_background(self, effect: Once) -> bool:
        """Begin a run that nobody waits for; False where it was waited for in vain.

        A loop that ends takes its runs with it.  Where each call has a loop of its own (`asyncio.run`) none would
        ever be over, so whoever comes after such a run waits.
        """
        name, running = (
            hash(effect.name),
            self._on_this_loop().running.get(effect.name),
        )  # a hash keeps nothing alive
        was_cut_short = name in self._unfinished
        task, _ = self._begin(effect)
        if task is None or (running is not None and running.task is task):
            return True
        if len(self._unfinished) >= MAX_UNFINISHED:
            self._unfinished.clear()
        self._unfinished.add(name)
        task.add_done_callback(partial(_is_over, self._unfinished, name))
        if not was_cut_short or not effect.patience:
            return True
        done, _ = await asyncio.wait({task}, timeout=effect.patience)
        return bool(done)

    def _on_this_loop(self) -> "OnLoop":
        return self._loops.setdefault(asyncio.get_running_loop(), OnLoop())

    async def _within(self, effect: Within) -> Any:
        had_to_wait, began = self._is_full(effect.lane), time.monotonic()
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(effect.patience):
                    await held.enter_async_context(self._turn(effect.lane))
            except TimeoutError as error:
                raise too_many() from error
            waited = time.monotonic() - began if had_to_wait else 0
            place = Place(self._places(effect.lane).threads, had_to_wait, waited)
            flow = effect.flow()
            try:
                first = next(flow)
            except StopIteration as done:
                return done.value
            return await self._go_on(flow, first, place)

    async def _fetch(self, request: HttpRequest, place: "Place") -> Reply:
        try:
            async with (
                asyncio.timeout(request.timeout - place.waited),
                await self._open_client(request) as client,
            ):
                return await _exchange(client, request)
        except TimeoutError as error:
            raise (too_many() if place.had_to_wait else too_slow(request)) from error
        except Exception as error:
            raise failed(error) from None  # what it was made of may quote a secret

    @asynccontextmanager
    async def _turn(self, lane: Lane | None) -> AsyncGenerator[None, None]:
        """Hold a place in the lane; waits for one where others may still wait."""
        if lane is None:
            yield
            return
        places = self._places(lane)
        if places.free.locked() and places.waiting >= lane.queue:
            raise too_many()
        places.waiting += 1
        try:
            _ = await places.free.acquire()
        finally:
            places.waiting -= 1
        try:
            async with self._turn(lane.inside):
                yield
        finally:
            places.free.release()

    def _is_full(self, lane: Lane | None) -> bool:
        """Whether a flow must wait for its turn: then its time may run out before anybody was asked."""
        return lane is not None and (self._places(lane).free.locked() or self._is_full(lane.inside))

    def _places(self, lane: Lane) -> "Places":
        return self._on_this_loop().lanes.setdefault(lane.name, Places(lane.width))

    async def _open_client(self, request: HttpRequest) -> Any:
        if self._client is not None:
            return nullcontext(self._client)
        if not request.keep_alive:
            return httpx.AsyncClient(**client_arguments(connection_for(request)))
        return nullcontext(await self._on_this_loop().kept_client(connection_for(request)))


class Places:
    """The places of a lane, how many wait for one, and threads for those who have one.

    A pool starts its threads when they are needed, and ends them when it is collected.
    """

    def __init__(self, width: int) -> None:
        self.free = asyncio.Semaphore(width)
        self.waiting = 0
        self.threads = ThreadPoolExecutor(width, "ticketgate")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a lane: the threads that go with it, and how long it took to get it, in seconds."""

    threads: ThreadPoolExecutor | None
    had_to_wait: bool
    waited: float


NO_WAIT = Place(None, had_to_wait=False, waited=0)


@dataclass(frozen=True, slots=True)
class Run:
    """A flow that runs for everybody who asks for it before ``deadline``."""

    task: asyncio.Task[Any] = field(repr=False)
    deadline: Deadline


class OnLoop:
    """What a driver has on one event loop; nothing of it ever crosses to another."""

    def __init__(self) -> None:
        self.running: dict[Hashable, Run] = {}
        self.waiting: Counter[WaitingFor] = Counter()
        self.lanes: dict[Hashable, Places] = {}
        self.threads = ThreadPoolExecutor(THREADS, "ticketgate")
        self._clients: dict[Connection, AsyncGenerator[httpx.AsyncClient, None]] = {}
        self._open: dict[Connection, httpx.AsyncClient] = {}

    async def kept_client(self, connection: Connection) -> httpx.AsyncClient:
        """A client whose connections are kept until the loop ends: that is when it ends asynchronous generators."""
        if connection not in self._open:
            keeping = self._clients[connection] = self._keep(connection)
            self._open[connection] = await anext(keeping)
        return self._open[connection]

    async def _keep(self, connection: Connection) -> AsyncGenerator[httpx.AsyncClient, None]:
        try:
            async with httpx.AsyncClient(**client_arguments(connection)) as client:
                yield client
        finally:
            _ = self._open.pop(connection, None), self._clients.pop(connection, None)


def _require_asyncio() -> None:
    """Raises `ConfigurationError` on any other event loop, where the first exchange would fail with other words."""
    try:
        _ = asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "ticketgate needs an asyncio event loop (uvloop is one, trio is not): run the application on asyncio,"
            " or call ticketgate.verify in a thread"
        ) from None


async def _exchange(client: httpx.AsyncClient, request: HttpRequest) -> Reply:
    sent = built(client, request)
    async with aclosing(await client.send(sent, stream=True, follow_redirects=False)) as response:
        answer = Answer(response, request.max_bytes)
        async for chunk in response.aiter_raw():
            answer.add(chunk)
            if answer.chunks % CHUNKS_PER_TURN == 0:
                await asyncio.sleep(
                    0
                )  # chunks that have arrived already would not let others, or the deadline, in
        return answer.complete()


async def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], threads: ThreadPoolExecutor | None
) -> Any:
    """The result of a user's function: awaited where it is async, in a thread where it is not and so might block.

    The loop's own threads also resolve names, and are the application's: they are never filled by us.
    """
    method = getattr(function, "__call__", None)  # noqa: B004  what matters is how it is defined
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method):
        return await function(*arguments)
    context = copy_context()
    result = await asyncio.get_running_loop().run_in_executor(
        threads, lambda: context.run(_without_stop_iteration, function, arguments)
    )
    return await result if inspect.isawaitable(result) else result


def _without_stop_iteration(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A future cannot carry a StopIteration: whoever waits for it would wait for ever."""
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("a function raised StopIteration") from error


def _is_over(unfinished: set[int], name: int, task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        unfinished.discard(name)


def _forget(running: dict[Hashable, Run], name: Hashable, task: asyncio.Task[Any]) -> None:
    run = running.get(name)
    if run is not None and run.task is task:  # not one that was started after the deadline of this one
        del running[name]
    if not task.cancelled() and (error := task.exception()) is not None:
        report(error)


async def averify(server: ResourceServer, token: str | bytes, *, driver: Driver | None = None) -> AccessToken:
    """The access token that ``token`` is, after every check that a request's token gets (RFC 9068 §4).

    For workers, scripts and tests.  Raises `OAuthError` where the token is at fault, `CannotDecide` where
    that cannot be known now.  ``driver`` runs the flow; without it one is shared by the whole process.

        token = await averify(server, "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOi...")
    """
    return await (driver or default_driver()).run(server.authenticate(bearer_request(token)))


async def awarm_up(server: ResourceServer, fail_fast: bool = False, *, driver: Driver | None = None) -> None:
    """Fetch what the first request would have to wait for: the keys of every issuer (RFC 8414 §3).

    An issuer that cannot be reached is logged, and tried again by the requests that need it; with
    ``fail_fast`` it raises `IssuerUnavailable`.

        await awarm_up(server)
    """
    await (driver or default_driver()).run(server.warm_up(fail_fast=fail_fast))


@cache
def default_driver() -> Driver:
    """The driver of everybody who brings none; it keeps what belongs to one event loop apart from all others."""
    return Driver()
