"""The rules for everything we send out, the same on threads and on event loops.

A redirect is an answer like any other and is never followed (RFC 9700 §4.12); no body grows beyond what was
asked for, however it is encoded; every way to have no answer becomes `FetchFailed`, with words for the log.
The total time of an exchange is the driver's to keep.
"""

import ssl
import zlib
from functools import cache
from typing import Any

import httpx

from ticketgate.core.flow import FetchFailed, HttpRequest, Reply

COMPRESSED = {"gzip", "x-gzip", "deflate"}
ZLIB_OR_GZIP = 47


@cache
def tls_context() -> ssl.SSLContext:
    """The certificates we trust, loaded once: that takes tens of milliseconds."""
    return httpx.create_ssl_context()


def stream_arguments(request: HttpRequest) -> dict[str, Any]:
    """What a client's ``stream`` is called with."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": {"Accept-Encoding": "identity", "User-Agent": "ticketgate", **request.headers},
        "timeout": request.timeout,
        "follow_redirects": False,
    }


class Answer:
    """An answer as it arrives: refused as soon as it is too much, decoded when it is complete."""

    def __init__(self, response: httpx.Response, max_bytes: int) -> None:
        self._status = response.status_code
        self._headers = {name.lower(): value for name, value in response.headers.items()}
        self._max_bytes = max_bytes
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take what arrived.  Raises `FetchFailed` when that makes too much."""
        self._body += chunk
        self._check_size(self._body)

    def complete(self) -> Reply:
        """The reply, its content coding undone (RFC 9110 §8.4).  Raises `FetchFailed`."""
        return Reply(self._status, self._headers, self._decoded())

    def _decoded(self) -> bytes:
        coding = self._headers.get("content-encoding", "identity").strip().lower()
        if coding in {"identity", ""}:
            return bytes(self._body)
        if coding not in COMPRESSED:
            raise FetchFailed(f"the content coding {ascii(coding)[:40]} was not asked for")
        body = zlib.decompressobj(ZLIB_OR_GZIP).decompress(self._body, self._max_bytes + 1)
        self._check_size(body)
        return body

    def _check_size(self, body: bytes | bytearray) -> None:
        if len(body) > self._max_bytes:
            raise FetchFailed(f"the answer is larger than {self._max_bytes} bytes")


def failed(error: Exception) -> FetchFailed:
    """``error`` as a reason why there is no answer; what a stranger's server said is escaped and cut."""
    if isinstance(error, FetchFailed):
        return error
    return FetchFailed(f"{type(error).__name__}: {ascii(str(error))[1:-1][:200]}")


def too_slow(request: HttpRequest) -> FetchFailed:
    """There was no complete answer in time."""
    return FetchFailed(f"no complete answer within {request.timeout:g} seconds")
