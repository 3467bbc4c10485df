"""Connections end with the token that opened them, under every server and whatever the application does.

And a browser's way to bring that token to a WebSocket, whose names every server reads by itself.
"""

import json
import os
import socket
import sys
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fault_issuer import FaultIssuer
from servers import free_port, start, until
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

UVICORN = ["uvicorn", "--port", "{port}", "--log-level", "info", "--ws"]
SERVERS = {
    "uvicorn with websockets": [*UVICORN, "websockets-sansio"],
    "uvicorn with wsproto": [*UVICORN, "wsproto"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1"],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "--workers-kill-timeout", "1"],
}
QUICK = ("uvicorn with websockets", "hypercorn")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SERVERS]
LIFE = 300


class Api:
    def __init__(self, url, issuer, folder):
        self.url, self.issuer, self.folder = url, issuer, folder
        self.ahead = 0

    def start_over(self):
        for name in ("go", "trace"):
            (self.folder / name).unlink(missing_ok=True)

    def token(self):
        now = int(time.time()) + self.ahead
        return self.issuer.token(iat=now - 1, exp=now + LIFE)

    def headers(self):
        return {"Authorization": f"Bearer {self.token()}"}

    def expire(self):
        """Every token that was issued until now is expired for the application."""
        self.ahead += LIFE + 1
        new = self.folder / "new"
        new.write_text(str(self.ahead))
        new.rename(self.folder / "ahead")

    def let_go(self):
        (self.folder / "go").touch()

    def socket(self, path):
        return connect(
            self.url.replace("http", "ws") + path, additional_headers=self.headers(), open_timeout=20
        )

    def stream(self, path):
        return httpx.stream("GET", self.url + path, headers=self.headers(), timeout=20)

    def traced(self, path):
        """Everything that the application at ``path`` noted."""
        file = self.folder / "trace"
        lines = [line.split(" ", 1) for line in file.read_text().splitlines()] if file.exists() else []
        return [what for name, what in lines if name == path]

    def wait_until(self, path, what):
        until(lambda: what in self.traced(path), f"{path} is {what}")


@contextmanager
def serving(name, issuer, folder, **more):
    port = free_port()
    (folder / "ahead").write_text("0")
    command = [part.format(port=port) for part in [*SERVERS[name], "expiring:app"]]
    env = os.environ | {"ISSUER": issuer.url, "FOLDER": str(folder)} | more
    with start([sys.executable, "-m", *command], port=port, cwd=Path(__file__).parent, env=env) as url:
        yield Api(url, issuer, folder)


@pytest.fixture(scope="module")
def issuer():
    with FaultIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module", params=EVERY)
def running(request, issuer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expiring")
    with serving(request.param, issuer, folder) as api:
        yield api
    assert_nothing_went_wrong((folder / "log").read_text())


@pytest.fixture
def api(running):
    running.start_over()
    yield running
    running.let_go()


def assert_nothing_went_wrong(log):
    """Starlette's own end of a WebSocket that was left is an exception; no server may get to see it."""
    log = log.replace(UVICORN_SAYS_OF_EVERY_REFUSAL, "")
    for sign in ("Traceback", "never retrieved", "never awaited", "destroyed", "ERROR", "Exception"):
        assert sign not in log, log


# with websockets-sansio, where a WebSocket is denied with a response, whatever the application does
UVICORN_SAYS_OF_EVERY_REFUSAL = "ERROR:    ASGI callable returned without completing handshake."


@pytest.mark.parametrize("path", ["/echo", "/push"])
def test_a_websocket_is_closed_with_the_reason(api, path):
    with api.socket(path) as websocket:
        websocket.send("again")
        assert websocket.recv(5) == "again"
        api.expire()
        with pytest.raises(ConnectionClosedError) as closed:
            _ = [websocket.recv(20) for _ in range(10_000)]
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "The access token expired")


@pytest.mark.parametrize("path", ["/echo", "/deaf"])
def test_no_message_is_executed_after_the_end(api, path):
    """The client ignores that it is closed, and goes on sending, as only a hand-made one can."""
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(handshake(path, api.headers()))
        read_until(client, b" 101 ")
        send_text(client, "early")
        api.wait_until(path, "early")
        api.expire()
        read_until(client, b"The access token expired")
        for _ in range(20):
            send_text(client, "late")
            time.sleep(0.05)
    assert "late" not in api.traced(path)
    if path == "/deaf":
        api.wait_until(path, "cancelled")


def read_until(client, wanted):
    data = b""
    while wanted not in data:
        more = client.recv(65_536)
        assert more, data
        data += more


def handshake(path, headers):
    key = b64encode(b"0123456789abcdef").decode()
    fields = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade", **headers}
    fields |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def send_text(client, text):
    """One frame, masked with zeros (RFC 6455 §5.2)."""
    with suppress(OSError):  # the server may have hung up
        client.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode())


@pytest.mark.parametrize("path", ["/late", "/busy"])
def test_a_handshake_that_is_accepted_too_late_is_refused(api, path):
    with ThreadPoolExecutor(1) as pool:
        handshaking = pool.submit(api.socket, path)
        api.wait_until(path, "waiting")
        api.expire()
        if path == "/busy":
            api.let_go()
        with pytest.raises(InvalidStatus) as refused:
            handshaking.result(20)
    assert refused.value.response.status_code in (401, 403)  # not every server sends our answer
    api.let_go()
    assert "accepted" not in api.traced(path)


@pytest.mark.parametrize("path", ["/events", "/idle"])
def test_a_stream_of_events_ends(api, path):
    with api.stream(path) as answer:
        chunks = answer.iter_text()
        assert next(chunks).startswith("data: again")
        api.expire()
        assert "last" not in "".join(chunks)
    api.wait_until(path, "ended")
    if path == "/idle":
        assert api.traced(path) == ["disconnect", "ended"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/download", "/public"])
def test_no_other_response_is_cut(api, path):
    with api.stream(path) as answer:
        chunks = answer.iter_text()
        assert next(chunks).startswith("data: again")
        api.expire()
        time.sleep(1)
        api.let_go()
        assert "".join(chunks).endswith("data: last\n\n")


@pytest.mark.parametrize(
    ("choose", "others", "chosen"),
    [("", [], "bearer"), ("", ["chat"], "bearer"), ("chat", ["chat", "v2"], "chat")],
)
def test_a_token_among_the_subprotocols_is_for_the_gate_alone(api, choose, others, chosen):
    raw = api.token()
    address = api.url.replace("http", "ws") + f"/names?choose={choose}"
    with connect(address, subprotocols=["bearer", raw, *others], open_timeout=20) as websocket:
        seen = json.loads(websocket.recv(20))
        assert websocket.subprotocol == chosen
        assert seen["offered"] == [others, [", ".join(others)] if others else []]
        assert raw not in seen["scope"]
        api.expire()
        with pytest.raises(ConnectionClosedError, match="1008"):
            websocket.recv(20)


def test_a_token_among_the_subprotocols_is_checked(api):
    address = api.url.replace("http", "ws") + "/names"
    for names, headers in ((["bearer", "x"], {}), (["bearer"], {}), (["bearer", api.token()], api.headers())):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(address, subprotocols=names, additional_headers=headers, open_timeout=20),
        ):
            pass
        assert refused.value.response.status_code in (400, 401, 403)  # not every server sends our answer


@pytest.mark.slow
def test_expired_connections_can_be_accepted(issuer, tmp_path):
    with (
        serving("uvicorn with websockets", issuer, tmp_path, RELAXED="1") as api,
        api.socket("/echo") as websocket,
        api.stream("/events") as answer,
    ):
        api.expire()
        time.sleep(1)
        websocket.send("again")
        assert websocket.recv(20) == "again"
        api.let_go()
        assert answer.read().endswith(b"data: last\n\n")
    assert (tmp_path / "log").read_text().count("accept_expired_connections") == 1
