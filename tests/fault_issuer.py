"""An issuer that can be made to misbehave in every way that was ever seen, and counts what it is asked.

    with FaultIssuer() as issuer:
        issuer.faults["/jwks"] = slow(5)
        issuer.hits                      # Counter({"/jwks": 1, ...})

It speaks HTTP on a raw socket, since no HTTP server would let us be this wrong.  Whatever takes long ends at
once when the issuer is closed.
"""

import gzip
import json
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from tokens import ABSENT, key, token

from ticketgate.core.metadata import OPENID, RFC8414

Fault = Callable[["Connection"], None]


class FaultIssuer:
    """A loopback issuer: ``url`` is its identifier, ``keys`` what it publishes, ``faults`` how paths misbehave."""

    def __init__(self) -> None:
        self.keys = [key()]
        self.headers: dict[str, str] = {}
        self.faults: dict[str, Fault] = {}
        self.hits: Counter[str] = Counter()
        self.active: dict[str, dict[str, Any]] = {}
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultIssuer":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def page(self, path: str) -> Any:
        """What stands at ``path``, None where nothing does."""
        match path:
            case _ if path in {RFC8414, OPENID}:
                return {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url}/jwks",
                    "introspection_endpoint": f"{self.url}/introspect",
                }
            case "/introspect":
                return lambda form: self.active.get(form.get("token", ""), {"active": False})
            case "/jwks" | "/elsewhere":
                return {"keys": [one.public_jwk() for one in self.keys]}
            case _:
                return None

    def count(self, path: str) -> None:
        with self._lock:
            self.hits[path] += 1

    def token(self, signing: Any = None, **changes: Any) -> str:
        """A token that this issuer signed just now."""
        now = int(time.time())
        times = {"iat": now, "exp": now + 300}
        return token(signing=signing or self.keys[0], iss=self.url, **(times | changes)).decode()

    def break_everywhere(self, fault: Fault) -> None:
        for path in (RFC8414, OPENID, "/jwks"):
            self.faults[path] = fault


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 512
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], issuer: FaultIssuer) -> None:
        super().__init__(address, Connection)
        self.issuer = issuer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""


class Connection(socketserver.StreamRequestHandler):
    """One request; it closes after its answer."""

    server: Server

    def handle(self) -> None:
        request = self.rfile.readline(65_536).split()
        headers = {}
        while line := self.rfile.readline(65_536).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if len(request) < 2:
            return
        self.path = request[1].decode()
        self.issuer = self.server.issuer
        self.form = dict(parse_qsl(self.rfile.read(int(headers.get("content-length", 0))).decode()))
        self.issuer.count(self.path)
        self.issuer.faults.get(self.path, well)(self)

    def body(self) -> bytes:
        page = self.issuer.page(self.path)
        return json.dumps(page(self.form) if callable(page) else page).encode()

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """A response; ``length`` is what it says about its size."""
        size = len(body) if length is None else length
        fields = {"Content-Type": "application/json", "Content-Length": str(size), "Connection": "close"}
        fields |= self.issuer.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.wfile.write(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + body)

    def pause(self, seconds: float) -> None:
        self.issuer.over.wait(seconds)


def well(connection: Connection) -> None:
    found = connection.issuer.page(connection.path) is not None
    connection.answer(connection.body(), 200 if found else 404)


def status(code: int, **headers: str) -> Fault:
    return lambda connection: connection.answer(b"{}", code, **headers)


def with_body(body: bytes, **headers: str) -> Fault:
    return lambda connection: connection.answer(body, **headers)


def slow(seconds: float) -> Fault:
    def fault(connection: Connection) -> None:
        connection.pause(seconds)
        well(connection)

    return fault


def dripping(connection: Connection) -> None:
    """A body that comes byte by byte: each byte is in time, the whole is not."""
    body = connection.body()
    connection.answer(b"", length=len(body))
    for byte in body:
        connection.wfile.write(bytes([byte]))
        connection.pause(0.05)


def dripping_headers(connection: Connection) -> None:
    connection.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(200):
        connection.wfile.write(b"X-%d: y\r\n" % number)
        connection.pause(0.05)


def truncated(connection: Connection) -> None:
    body = connection.body()
    connection.answer(body, length=len(body) + 10)


def endless(connection: Connection) -> None:
    connection.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(10_000):
        connection.wfile.write(b" " * 65_536)


def reset(connection: Connection) -> None:
    connection.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.connection.close()


def not_http(connection: Connection) -> None:
    connection.wfile.write(b"\x15\x03\x01\x00\x02\x02\x16 is no HTTP\r\n\r\n")


def compressed(connection: Connection) -> None:
    """An answer in a coding that nobody asked for; it would be a hundred times as large."""
    connection.answer(gzip.compress(connection.body() + b" " * 10_000_000), Content_Encoding="gzip")


FAULTS: dict[str, Fault] = {
    "500": status(500),
    "404": status(404),
    "401": status(401),
    "204": status(204),
    "429": status(429, Retry_After="1"),
    "a redirect": status(302, Location="/elsewhere"),
    "a permanent redirect": status(308, Location="/elsewhere"),
    "html": with_body(b"<html>sign in</html>", Content_Type="text/html"),
    "nothing": with_body(b""),
    "an array": with_body(b"[]"),
    "a string": with_body(b'"keys"'),
    "an empty object": with_body(b"{}"),
    "no UTF-8": with_body(b'{"keys": "\xff"}'),
    "a name twice": with_body(b'{"keys": [], "keys": []}'),
    "deep nesting": with_body(b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "half": truncated,
    "too much": with_body(b" " * 600_000 + b"{}"),
    "no end": endless,
    "a gzip bomb": compressed,
    "a reset": reset,
    "no HTTP": not_http,
    "a slow answer": slow(3),
    "a dripping body": dripping,
    "dripping headers": dripping_headers,
}
KEY_FAULTS: dict[str, Fault] = {
    "an empty set": with_body(b'{"keys": []}'),
    "useless keys": with_body(
        b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "x"}, {"kty": "AKP"}, 1, null]}'
    ),
}
__all__ = ["ABSENT", "FAULTS", "KEY_FAULTS", "FaultIssuer"]
