"""Ends connections when the access token that opened them expires.

What ends is a WebSocket, and a response of type ``text/event-stream``; every other response runs to its end.
At that moment, in this order:

  1. What the application waits for is interrupted, and nothing passes any more, in either direction.
  2. `receive` returns a disconnect and `send` raises `ConnectionError`, as with a client that has left.
  3. The client is sent the last message: close code 1008, or the end of the response body.
  4. After `GRACE` seconds the application is cancelled, if it is still running.

The server's own cancellation of the application passes through.  Errors that the application raises after that
moment are consequences of it: they are logged in one line, and the server does not see them.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from ticketgate.core.access_token import AccessToken
from ticketgate.core.server import ResourceServer

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
T = TypeVar("T")

GRACE = 5.0
"""For how many seconds an application may still run after the end of its connection."""

LONGEST_WAIT = 60.0
"""After so many seconds the wall clock is read again: it may have been set, or the machine may have slept."""

ANSWERS, PAUSE = 10, 1.0
"""So many calls after the end are answered at once, each further one after a pause of so many seconds."""

POLICY_VIOLATION = 1008
REASON = "The access token expired"
DISCONNECT = {"type": "websocket.disconnect", "code": POLICY_VIOLATION, "reason": REASON}
BODIES = {"http.response.body", "http.response.zerocopysend", "http.response.pathsend"}

logger = logging.getLogger("ticketgate")


class Kind(Protocol):
    """What differs between a WebSocket and a stream of events."""

    over: bool
    """Whether the connection ended by itself, so that nothing is left to end."""

    def sending(self, message: Message) -> None:
        """Note what the application begins to send."""

    def sent(self, message: Message) -> None:
        """Note what the server took."""

    async def say_goodbye(self, receive: Receive, send: Send) -> None:
        """Send the client the last message."""


class WebSocket:
    """Closed with 1008 once it was accepted; before that its handshake is refused, by ``refuse``."""

    def __init__(self, refuse: Callable[[], Awaitable[None]]) -> None:
        self.over = False
        self._accepted = False
        self._denied = False
        self._refuse = refuse

    def sending(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._accepted = True
        elif message["type"] == "websocket.http.response.start":
            self._denied = True

    def sent(self, message: Message) -> None:
        """The application closed, or denied the handshake with a response of its own."""
        is_denial = message["type"] == "websocket.http.response.body" and not message.get("more_body", False)
        if is_denial or message["type"] == "websocket.close":
            self.over = True

    async def say_goodbye(self, receive: Receive, send: Send) -> None:
        """What the client sent before it saw the close is read and dropped: some servers stop for unread messages."""
        if self._denied:
            await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
            return
        if not self._accepted:
            await self._refuse()
            return
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": REASON})
        while (await receive())["type"] != "websocket.disconnect":
            pass


class EventStream:
    """A response that has begun, whose body ends regularly: the client's next request is refused with 401."""

    def __init__(self) -> None:
        self.over = False

    def sending(self, message: Message) -> None:
        """Only the server knows whether it takes a message."""

    def sent(self, message: Message) -> None:
        if message["type"] in BODIES:
            self.over = not message.get("more_body", False)

    async def say_goodbye(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Connection:
    """A connection that ends when ``remaining()`` seconds have passed; ``task`` runs its application.

    `send`, and for a WebSocket `receive`, are for the application in place of the server's.
    """

    def __init__(
        self,
        kind: Kind,
        remaining: Callable[[], float],
        receive: Receive,
        send: Send,
        task: "asyncio.Task[Any] | None",
    ) -> None:
        assert task is not None  # ASGI servers run applications in tasks
        self._kind = kind
        self._remaining = remaining
        self._receive = receive
        self._send = send
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._interruptible: set[asyncio.Timeout] = set()
        self._goodbye: asyncio.Task[None] | None = None
        self._cancelled_at: int | None = None
        self._ended = False
        self._answers = 0
        self._wait()

    async def receive(self) -> Message:
        if not self._is_ended():
            message = await self._interrupted_at_the_end(self._receive())
            if message is not None and message["type"] == DISCONNECT["type"]:
                self._kind.over = True
                return message
            if message is not None and not self._is_ended():
                return message
        await self._slow_down()
        return dict(DISCONNECT)

    async def send(self, message: Message) -> None:
        if self._kind.over:
            await self._send(message)
            return
        if not self._is_ended():
            self._kind.sending(message)
            if await self._interrupted_at_the_end(self._taken(message)) or not self._ended:
                return
        await self._slow_down()
        raise ConnectionError("closed: the access token expired")

    async def settle(self, error: BaseException | None) -> bool:
        """Leave nothing behind of an application that returned, or raised ``error``.

        True where ``error`` is a consequence of the end; otherwise the server has to see it.
        """
        self._timer.cancel()
        self._kind.over = True
        by_us_alone = self._cancelled_at is not None and self._task.uncancel() <= self._cancelled_at
        if self._goodbye is None:
            return False
        cancelled_by_us = by_us_alone and isinstance(error, asyncio.CancelledError)
        consequence = cancelled_by_us or isinstance(error, Exception)
        try:
            if consequence or error is None:
                _ = await asyncio.wait({self._goodbye}, timeout=GRACE)
        finally:
            _ = self._goodbye.cancel()
        if isinstance(error, Exception):
            logger.info("an application raised %s after its access token expired", type(error).__qualname__)
        return consequence

    async def _interrupted_at_the_end(self, operation: Awaitable[T]) -> T | None:
        """The result of ``operation``; None where the end came first."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._interruptible.add(patience)
                try:
                    return await operation
                finally:
                    self._interruptible.discard(patience)
        except TimeoutError:
            if not patience.expired():
                raise
            return None

    async def _taken(self, message: Message) -> bool:
        await self._send(message)
        self._kind.sent(message)
        return self._kind.over

    async def _slow_down(self) -> None:
        """An application that goes on regardless must not keep the event loop from everybody else."""
        self._answers += 1
        if self._answers > ANSWERS:
            await asyncio.sleep(PAUSE)

    def _wait(self) -> None:
        remaining = self._remaining()
        if remaining > LONGEST_WAIT:
            self._timer = self._loop.call_later(LONGEST_WAIT, self._wait)
        else:
            self._timer = self._loop.call_later(remaining, self._end)

    def _is_ended(self) -> bool:
        """Timers are late where an application keeps the event loop busy; the clock is not."""
        if not self._ended and self._remaining() <= 0:
            self._end()
        return self._ended

    def _end(self) -> None:
        self._timer.cancel()
        self._ended = True
        if self._kind.over:
            return
        for patience in self._interruptible:
            patience.reschedule(self._loop.time())
        self._timer = self._loop.call_later(GRACE, self._cancel)
        self._goodbye = self._loop.create_task(self._say_goodbye())

    async def _say_goodbye(self) -> None:
        with suppress(Exception):  # the client may be gone
            while self._interruptible:  # noqa: ASYNC110  they end within a few rounds of the event loop
                await asyncio.sleep(0)
            await self._kind.say_goodbye(self._receive, self._send)

    def _cancel(self) -> None:
        self._cancelled_at = self._task.cancelling()
        _ = self._task.cancel()


async def run_websocket(
    app: ASGIApp,
    scope: MutableMapping[str, Any],
    receive: Receive,
    send: Send,
    *,
    remaining: Callable[[], float],
    refuse: Callable[[], Awaitable[None]],
) -> None:
    """Run ``app`` on a WebSocket for at most ``remaining()`` seconds.

    ``refuse`` answers a handshake that the application has not accepted by then.
    """
    connection = Connection(WebSocket(refuse), remaining, receive, send, asyncio.current_task())
    try:
        await app(scope, connection.receive, connection.send)
    except BaseException as error:
        if not await connection.settle(error):
            raise
    else:
        _ = await connection.settle(None)


async def run_http(
    app: ASGIApp,
    scope: MutableMapping[str, Any],
    receive: Receive,
    send: Send,
    server: ResourceServer,
    token: AccessToken,
) -> None:
    """Run ``app`` on a request with ``token``; where it answers with a stream of events, until that expires.

    Every request comes through here.  What an ordinary one pays for is the reading of its response's headers:
    one plain function stands before the server's ``send``, and there is no timer.  The server's ``receive`` returns
    a disconnect by itself, once the response has ended.
    """
    streams: list[Connection] = []  # none or one
    task = asyncio.current_task()

    def send_to_client(message: Message) -> Awaitable[None]:
        if streams:
            return streams[0].send(message)
        if message["type"] == "http.response.start" and _is_event_stream(message):
            return _begin(streams, message, partial(server.remaining_lifetime, token), receive, send, task)
        return send(message)

    try:
        await app(scope, receive, send_to_client)
    except BaseException as error:
        if not streams or not await streams[0].settle(error):
            raise
    else:
        if streams:
            _ = await streams[0].settle(None)


async def _begin(
    streams: list[Connection],
    start: Message,
    remaining: Callable[[], float],
    receive: Receive,
    send: Send,
    task: "asyncio.Task[Any] | None",
) -> None:
    """Send the start of a stream of events, and have it end, unless ``remaining()`` is infinite."""
    await send(start)
    if remaining() < math.inf:
        streams.append(Connection(EventStream(), remaining, receive, send, task))


def _is_event_stream(start: Message) -> bool:
    """This runs for every response: most are told by the length of a name or a type."""
    headers: list[tuple[bytes, bytes]] = start.get("headers", ())
    if type(headers) is not list:  # it may be an iterator, which can be read only once
        start["headers"] = headers = list(headers)
    for name, value in headers:
        if len(name) == 12 and len(value) > 16 and name.lower() == b"content-type":
            essence, _, _ = value.partition(b";")
            if essence.strip().lower() == b"text/event-stream":
                return True
    return False
