"""What goes out, and what is said about it when it fails: the same on threads and on event loops, with any client."""

import asyncio
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import httpx2
import pytest
from fault_issuer import FaultIssuer

from ticketgate.core.flow import FetchFailed, HttpRequest, fetch
from ticketgate.drivers import aio, blocking
from ticketgate.drivers.http import failed

SECRET = "canary-3f9a0Zk"


class Handler(BaseHTTPRequestHandler):
    """Keeps connections, sets a cookie with each answer, and drips where it is asked to."""

    protocol_version = "HTTP/1.1"
    server: "Keeper"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.cookies.append(self.headers.get("Cookie"))
        self.send_response(200)
        self.send_header("Set-Cookie", f"session={len(self.server.cookies)}; Path=/")
        self.send_header("Content-Length", "2" if self.path == "/" else "100000")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(b"{}")
            return
        while not self.server.over.wait(0.05):
            self.wfile.write(b" ")


class Keeper(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cookies, self.over = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        pass


@pytest.fixture
def keeper():
    with Keeper() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join(5)


def request(url, **options):
    return fetch(HttpRequest("GET", url, keep_alive=True, **options))


@contextmanager
def blocking_driver(library, client):
    if library is None:
        yield blocking.Driver().run
        return
    with library.Client(**client) as given:
        yield blocking.Driver(given).run


@contextmanager
def aio_driver(library, client):
    with asyncio.Runner() as runner:
        given = library and library.AsyncClient(**client)
        driver = aio.Driver(given)
        yield lambda flow: runner.run(driver.run(flow))
        if given:
            runner.run(given.aclose())


DRIVERS = {"aio": aio_driver, "blocking": blocking_driver}


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    ("library", "client", "headers", "sent"),
    [
        (None, {}, {}, None),
        (httpx, {}, {}, None),
        (httpx2, {}, {}, None),
        (httpx, {"cookies": {"mine": "1"}}, {}, None),
        (httpx2, {"cookies": {"mine": "1"}}, {}, None),
        # a header that somebody wrote is sent, and no more than that
        (httpx, {"headers": {"Cookie": "gateway=1"}}, {}, "gateway=1"),
        (httpx2, {"headers": {"cookie": "gateway=1"}}, {}, "gateway=1"),
        (None, {}, {"Cookie": "gateway=1"}, "gateway=1"),
        (httpx, {}, {"cookie": "gateway=1"}, "gateway=1"),
    ],
)
def test_no_cookie_goes_from_one_exchange_to_the_next(keeper, kind, library, client, headers, sent):
    with DRIVERS[kind](library, client) as run:
        for _ in range(3):
            run(request(f"{keeper.url}/", headers=headers))
    assert keeper.cookies == [sent] * 3


def exchanges():
    return [thread for thread in threading.enumerate() if thread.name == "ticketgate"]


def test_an_exchange_on_a_connection_that_was_there_ends_at_its_deadline(keeper):
    run = blocking.Driver().run
    run(request(f"{keeper.url}/"))
    before = len(exchanges())
    with pytest.raises(FetchFailed, match=r"within 0\.3 seconds"):
        run(request(f"{keeper.url}/drip", timeout=0.3))
    until = time.monotonic() + 5
    while len(exchanges()) > before and time.monotonic() < until:
        time.sleep(0.02)
    assert len(exchanges()) == before


def echo(*lines):
    """A server that sends back what it was sent, in place of an answer."""

    def fault(connection):
        connection.wfile.write(
            b"".join(line.replace(b"<form>", repr(connection.form).encode()) for line in lines)
        )

    return fault


@pytest.mark.parametrize(
    "lines",
    [
        (b"<form>\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\n<form>\r\n\r\n",),
        (b"HTTP/1.1 <form>\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: <form>\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: <form>\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n<form>\r\n",),
    ],
)
def test_an_error_does_not_quote_a_server_that_sends_our_request_back(run, lines):
    with FaultIssuer() as issuer:
        issuer.faults["/token"] = echo(*lines)
        asked = HttpRequest("POST", f"{issuer.url}/token", body=b"s=" + SECRET.encode(), timeout=2)
        with pytest.raises(
            FetchFailed, match=r"^(RemoteProtocolError|a content coding that was not asked for)$"
        ):
            run(fetch(asked))


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ConnectError", True), ("ConnectTimeout", True), ("ReadError", True), ("ReadTimeout", True),
        ("RemoteProtocolError", False), ("LocalProtocolError", False), ("UnsupportedProtocol", False),
        ("ProxyError", False), ("DecodingError", False), ("TooManyRedirects", False),
    ],
)  # fmt: skip
def test_errors_whose_words_are_shown(library, name, words):
    error = getattr(library, name)(SECRET)
    assert str(failed(error)) == (f"{name}: {SECRET}" if words else name)


def test_other_errors_and_their_words():
    assert str(failed(OSError(5, "disk\n"))) == "OSError: [Errno 5] disk\\n"
    assert str(failed(ValueError(b64encode(SECRET.encode())))) == "ValueError"
