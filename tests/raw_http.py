"""HTTP/1.1 by hand: any bytes may be sent, and what comes back is not interpreted for us."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Response:
    """A response as it came: header names in lower case, in order, with repeats."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(value for found, value in self.headers if found == name)


def request(
    url: str, target: str, *headers: tuple[bytes, bytes], method: str = "GET", timeout: float = 5
) -> Response:
    """The response to one request on a connection of its own."""
    parts = urlsplit(url)
    head = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + parts.netloc.encode(), b"Connection: close"]
    head += [name + b": " + value for name, value in headers]
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout) as connection:
        with suppress(ConnectionError):  # who refuses early may close before it has read everything
            connection.sendall(b"\r\n".join(head) + b"\r\n\r\n")
        return parse(read_all(connection))


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            received += chunk
    return bytes(received)


def parse(raw: bytes) -> Response:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    return Response(int(first.split()[1]), headers, body)
