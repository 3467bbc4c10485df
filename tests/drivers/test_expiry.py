"""The end of a connection, seen from the application and from the server: both are played here."""

import asyncio
import logging

import pytest
from tokens import NOW, Time, resource_server, token

from ticketgate import verify
from ticketgate.core.access_token import AccessToken
from ticketgate.core.strict_json import FrozenDict
from ticketgate.drivers import expiry

CLOSE = {"type": "websocket.close", "code": 1008, "reason": "The access token expired"}
ACCEPT = {"type": "websocket.accept"}
END = {"type": "http.response.body", "body": b"", "more_body": False}
CHUNK = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}


def start(content_type=b"text/event-stream", name=b"content-type"):
    return {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y"), (name, content_type)]}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(expiry, "GRACE", 0.1)
    monkeypatch.setattr(expiry, "PAUSE", 0.01)
    monkeypatch.setattr(expiry, "LONGEST_WAIT", 0.01)


class Server:
    """An ASGI server with one connection, whose token expires when `expire` says so."""

    def __init__(self):
        self.time = Time()
        self.server = resource_server(clock=self.time.clock, leeway=0)
        self.token = verify(self.server, token(exp=NOW + 60))
        self.incoming = asyncio.Queue()
        self.sent = []
        self.refused = False
        self.writable = asyncio.Event()
        self.writable.set()

    async def receive(self):
        return await self.incoming.get()

    async def send(self, message):
        await self.writable.wait()
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1005})

    def expire(self):
        self.time.advance(61)

    async def refuse(self):
        self.refused = True

    async def websocket(self, app):
        def remaining():
            return self.server.remaining_lifetime(self.token)

        async def send(message):
            await self.send(message)

        await asyncio.wait_for(
            expiry.run_websocket(app, {}, self.receive, send, remaining=remaining, refuse=self.refuse),
            10,
        )

    async def http(self, app):
        await asyncio.wait_for(expiry.run_http(app, {}, self.receive, self.send, self.server, self.token), 10)


async def test_whoever_waits_for_a_message_is_told():
    server, got = Server(), []

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.incoming.put_nowait({"type": "websocket.receive", "text": "early"})
        got.append((await receive())["text"])
        waiting = [asyncio.create_task(receive()) for _ in range(2)]
        await asyncio.sleep(0)
        server.expire()
        got.extend(await asyncio.gather(*waiting))
        server.incoming.put_nowait({"type": "websocket.receive", "text": "late"})
        got.extend([await receive() for _ in range(expiry.ANSWERS)])

    await server.websocket(app)
    gone = {"type": "websocket.disconnect", "code": 1008, "reason": "The access token expired"}
    assert got == ["early", *[gone] * (expiry.ANSWERS + 2)]
    assert server.sent == [ACCEPT, CLOSE]


async def test_a_message_that_waited_already_is_not_given_after_the_end():
    """No timer can run here: the application never yields to the event loop."""
    server, got = Server(), []

    async def app(scope, receive, send):
        await send(ACCEPT)
        for text in ("early", "late"):
            server.incoming.put_nowait({"type": "websocket.receive", "text": text})
        got.append(await receive())
        server.expire()
        got.append(await receive())

    await server.websocket(app)
    assert [message["type"] for message in got] == ["websocket.receive", "websocket.disconnect"]


async def test_a_message_that_arrives_as_the_token_expires_is_dropped():
    server, got = Server(), []

    async def receive():
        server.expire()
        return {"type": "websocket.receive", "text": "late"}

    server.receive = receive

    async def app(scope, receive, send):
        got.append((await receive())["type"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expiry.WebSocket, "say_goodbye", lambda self, receive, send: asyncio.sleep(0))
        await server.websocket(app)
    assert got == ["websocket.disconnect"]


@pytest.mark.parametrize("blocked", [False, True])
async def test_nothing_is_sent_after_the_end(blocked):
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        if blocked:
            server.writable.clear()
            asyncio.get_running_loop().call_later(0.05, server.writable.set)
            asyncio.get_running_loop().call_later(0.02, server.expire)
        else:
            server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send({"type": "websocket.send", "text": "late"})

    await server.websocket(app)
    assert server.sent == [ACCEPT, CLOSE]


async def test_an_application_that_does_not_end_is_cancelled():
    server, seen = Server(), []

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.expire()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    await server.websocket(app)
    assert (seen, asyncio.current_task().cancelling()) == (["cancelled"], 0)


async def test_an_application_that_refuses_to_be_cancelled_gets_nothing_more():
    server, got = Server(), []

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.expire()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            server.incoming.put_nowait({"type": "websocket.receive", "text": "late"})
            got.append((await receive())["type"])

    await server.websocket(app)
    assert got == ["websocket.disconnect"]


async def test_an_application_that_never_yields_does_not_hold_up_the_others():
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.expire()
        while True:
            try:
                await send({"type": "websocket.send", "text": "late"})
            except ConnectionError:
                continue

    await server.websocket(app)
    assert server.sent == [ACCEPT, CLOSE]


@pytest.mark.parametrize("before", [True, False], ids=["before the end", "after it"])
async def test_cancelled_by_the_server_it_is_cancelled(before):
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        if not before:
            server.expire()
        await asyncio.sleep(60)

    running = asyncio.create_task(server.websocket(app))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (CLOSE in server.sent) is not before


async def test_what_is_worse_than_an_error_passes():
    class Exit(BaseException):
        pass

    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.expire()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Exit from None

    with pytest.raises(Exit):
        await expiry.run_websocket(
            app, {}, server.receive, server.send, remaining=lambda: 0.01, refuse=server.refuse
        )


async def test_tasks_that_an_application_leaves_behind_end_nothing():
    server, left = Server(), []

    async def app(scope, receive, send):
        await send(ACCEPT)
        left.extend([receive, send])

    await server.websocket(app)
    server.expire()
    receive, send = left
    await send({"type": "websocket.send", "text": "late"})  # the server knows what to do with it
    assert (await receive())["type"] == "websocket.disconnect"
    await asyncio.sleep(0.3)
    assert asyncio.current_task().cancelling() == 0


async def test_errors_before_the_end_are_the_servers_to_see():
    async def app(scope, receive, send):
        raise KeyError("of the application")

    for run in (Server().websocket, Server().http):
        with pytest.raises(KeyError, match="of the application"):
            await run(app)


@pytest.mark.parametrize("error", [TimeoutError, OSError])
async def test_errors_of_the_server_are_not_taken_for_the_end(error):
    server = Server()

    async def fail(*_):
        raise error("of the server")

    server.send = server.receive = fail

    async def app(scope, receive, send):
        for call in (receive(), send(ACCEPT)):
            with pytest.raises(error, match="of the server"):
                await call

    await server.websocket(app)


async def test_errors_after_the_end_are_logged_in_a_line(caplog):
    caplog.set_level(logging.INFO, "ticketgate")
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.expire()
        await receive()
        raise KeyError("a secret")

    await server.websocket(app)
    (line,) = caplog.records
    assert line.getMessage() == "an application raised KeyError after its access token expired"
    assert line.exc_info is None


async def test_a_client_that_has_gone_is_no_error():
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.send = None  # whatever that raises
        server.expire()
        await receive()

    await server.websocket(app)


async def test_a_handshake_that_was_not_accepted_is_refused():
    server = Server()

    async def app(scope, receive, send):
        server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send(ACCEPT)

    await server.websocket(app)
    assert (server.sent, server.refused) == ([], True)


LAST = {
    "closed": [ACCEPT, {"type": "websocket.close", "code": 1000}],
    "denied": [{"type": "websocket.http.response.start"}, {"type": "websocket.http.response.body"}],
}


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
async def test_what_ended_by_itself_is_let_alone(last):
    """Its application may tidy up for as long as it likes; it can still read nothing."""
    server = Server()

    async def app(scope, receive, send):
        for message in last:
            await send(message)
        server.expire()
        await asyncio.sleep(0.3)
        assert (await receive())["type"] == "websocket.disconnect"
        server.sent.append("tidied up")

    await server.websocket(app)
    assert server.sent == [*last, "tidied up"]


DENIAL = {"type": "websocket.http.response.start", "status": 403}
PART = {"type": "websocket.http.response.body", "body": b"1", "more_body": True}


@pytest.mark.parametrize("parts", [[], [PART]], ids=["nothing", "a part"])
@pytest.mark.parametrize("more", [True, False])
async def test_a_denial_that_has_begun_ends_too(parts, more):
    server = Server()

    async def app(scope, receive, send):
        for message in (DENIAL, *parts):
            await send(message)
        server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send(PART | {"more_body": more})

    await server.websocket(app)
    end = {"type": "websocket.http.response.body", "body": b"", "more_body": False}
    assert (server.sent, server.refused) == ([DENIAL, *parts, end], False)


async def refuse_all(message):
    raise ValueError(message["type"])


@pytest.mark.parametrize("wrong", ["websocket.close", "websocket.unknown"])
async def test_what_the_server_did_not_take_ends_nothing(wrong):
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.send, usual = refuse_all, server.send
        with pytest.raises(ValueError, match=wrong):
            await send({"type": wrong})
        server.send = usual
        server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send({"type": "websocket.send", "text": "late"})

    await server.websocket(app)
    assert server.sent == [ACCEPT, CLOSE]


async def test_the_application_of_a_client_that_left_is_let_alone():
    server = Server()

    async def app(scope, receive, send):
        await send(ACCEPT)
        server.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        assert (await receive())["code"] == 1001
        server.expire()
        await asyncio.sleep(0.3)
        server.sent.append("tidied up")

    await server.websocket(app)
    assert server.sent == [ACCEPT, "tidied up"]


async def stream(send, begin=None):
    begin = begin or start()
    await send(begin)
    await send(CHUNK)


async def test_a_stream_of_events_ends_with_an_empty_chunk():
    server = Server()

    async def app(scope, receive, send):
        await stream(send)
        server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send(CHUNK)
        await asyncio.sleep(60)

    await server.http(app)
    assert server.sent == [start(), CHUNK, END]


async def test_what_is_no_part_of_the_body_does_not_end_a_stream():
    server = Server()

    async def app(scope, receive, send):
        await stream(send)
        await send({"type": "http.response.push", "path": "/", "headers": []})
        server.expire()
        with pytest.raises(ConnectionError, match="expired"):
            await send(CHUNK)

    await server.http(app)
    assert server.sent[-1] == END


async def test_a_stream_that_begins_too_late_is_empty():
    server = Server()

    async def app(scope, receive, send):
        server.expire()
        await send(start())
        with pytest.raises(ConnectionError, match="expired"):
            await send(CHUNK)

    await server.http(app)
    assert server.sent == [start(), END]


async def test_what_runs_after_a_whole_stream_is_let_alone():
    server = Server()

    async def app(scope, receive, send):
        await stream(send)
        await send(END)
        server.expire()
        await asyncio.sleep(0.3)
        server.sent.append("in the background")

    await server.http(app)
    assert server.sent == [start(), CHUNK, END, "in the background"]


EVENTS = [
    start(),
    start(b"Text/Event-Stream"),
    start(b"text/event-stream; charset=utf-8"),
    start(b" text/event-stream ;charset=utf-8"),
    start(name=b"Content-Type"),
    start() | {"headers": tuple(start()["headers"])},
    start() | {"headers": [(b"content-type", b"text/plain; charset=utf-8"), *start()["headers"]]},
]
OTHERS = [
    start(b"application/json"),
    start(b"text/event-streams"),
    start(b"text/html; charset=text/event-stream"),
    start(b"multipart/x-mixed-replace"),
    start(name=b"x-content-type"),
    start(name=b"contenttypes"),
    start() | {"headers": []},
    {"type": "http.response.start", "status": 204},
]


@pytest.mark.parametrize("begin", EVENTS + OTHERS)
async def test_only_streams_of_events_end(begin):
    server = Server()

    async def app(scope, receive, send):
        await stream(send, begin)
        server.expire()
        try:
            await send(CHUNK)
        except ConnectionError:
            server.sent.append("ended")

    await server.http(app)
    assert ("ended" in server.sent) is (begin in EVENTS)


async def test_headers_that_can_be_read_once_reach_the_server():
    server = Server()

    async def app(scope, receive, send):
        await send(start() | {"headers": iter(start()["headers"])})

    await server.http(app)
    assert list(server.sent[0]["headers"]) == start()["headers"]


async def test_a_token_without_an_expiry_ends_nothing():
    server = Server()
    server.token = AccessToken(FrozenDict({"iss": "https://as.example"}), FrozenDict({}))

    async def app(scope, receive, send):
        await stream(send)
        server.expire()
        await send(CHUNK)

    await server.http(app)
    assert server.sent == [start(), CHUNK, CHUNK]


async def test_an_ordinary_response_has_no_timer_and_no_task():
    server = Server()
    tasks = asyncio.all_tasks()

    async def app(scope, receive, send):
        await stream(send, start(b"application/json"))
        assert asyncio.all_tasks() == tasks
        server.sent.append("reached")

    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("call_later", "call_at"):
            patch.setattr(loop, name, None)
        await expiry.run_http(app, {}, server.receive, server.send, server.server, server.token)
    assert server.sent[-1] == "reached"
